"""Floors (baselines) for the recipe `recommend`: three ways to predict ratings of MovieLens-100k without any text.

    python benchmarks/movielens_floors.py [data/movielens]

They are: the mean of all training ratings; the mean plus biases of viewer and film; and matrix factorisation with
biases (Koren et al. 2009, equations 4 and 5) by stochastic gradient descent, with width and penalty chosen on the
validation part. The RMSE on the test part goes into `results/movielens_floors.json`.
"""

import argparse
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk

from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
WIDTHS, PENALTIES = (0, 8, 32), (0.02, 0.05, 0.1)
EPOCHS, PATIENCE, BATCH, RATE = 60, 3, 512, 0.01


def tensors(part: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Viewers, films and ratings, `(N,)` each."""
    return torch.tensor(part["user"][:]), torch.tensor(part["movie"][:]), torch.tensor(part["rating"][:])


class Factors(torch.nn.Module):
    """Mean, biases and, if the width is above 0, factors."""

    def __init__(self, users: int, movies: int, width: int, mean: float):
        super().__init__()
        self.mean, self.width = mean, width
        self.biases = torch.nn.ModuleList(torch.nn.Embedding(count, 1) for count in (users, movies))
        self.factors = torch.nn.ModuleList(torch.nn.Embedding(count, max(1, width)) for count in (users, movies))
        for table in self.biases:
            torch.nn.init.zeros_(table.weight)
        for table in self.factors:
            torch.nn.init.normal_(table.weight, std=0.05)

    def forward(self, users: torch.Tensor, movies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The predicted ratings, and the sum of squares of the parameters used for each."""
        rows = [table(ids) for table, ids in zip(self.biases, (users, movies))]
        rating, squares = self.mean + (rows[0] + rows[1]).squeeze(1), rows[0].square() + rows[1].square()
        if self.width:
            factors = [table(ids) for table, ids in zip(self.factors, (users, movies))]
            rating = rating + (factors[0] * factors[1]).sum(1)
            squares = squares + factors[0].square().sum(1, True) + factors[1].square().sum(1, True)
        return rating, squares.squeeze(1)


def fit(parts: dict, width: int, penalty: float, seed: int = 0) -> tuple[float, float]:
    """RMSE on validation at the best epoch, and RMSE on test at this epoch."""
    torch.manual_seed(seed)
    users, movies, ratings = parts["train"]
    counts = [max(int(part[place].max()) for part in parts.values()) + 1 for place in (0, 1)]
    model = Factors(*counts, width, ratings.mean().item())
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    best, since = (float("inf"), float("inf")), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(ratings)).split(BATCH):
            said, squares = model(users[rows], movies[rows])
            loss = ((said - ratings[rows]) ** 2 + penalty * squares).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            errors = [
                (model(*parts[name][:2])[0].clamp(1, 5) - parts[name][2]).square().mean().sqrt().item()
                for name in ("validation", "test")
            ]
        since = 0 if errors[0] < best[0] else since + 1
        best = min(best, (errors[0], errors[1]))
        if since == PATIENCE:
            break
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", nargs="?", default=str(ROOT / "data/movielens"), help="default: %(default)s")
    parts = {name: tensors(part) for name, part in load_from_disk(parser.parse_args().dataset).items()}
    mean = parts["train"][2].mean()
    floors = {"mean": (parts["test"][2] - mean).square().mean().sqrt().item()}
    biases = min((*fit(parts, 0, penalty), penalty) for penalty in PENALTIES)
    factors = min((*fit(parts, width, penalty), width, penalty) for width in WIDTHS[1:] for penalty in PENALTIES)
    floors |= {"biases": biases[1], "matrix_factorisation": factors[1]}
    chosen = {"biases": {"penalty": biases[2]}, "matrix_factorisation": {"width": factors[2], "penalty": factors[3]}}
    report = {"rmse": floors, "chosen": chosen, "commit": commit_or_version(), "hardware": hardware()}
    write_json(ROOT / "benchmarks/results/movielens_floors.json", report)
    for name, value in floors.items():
        print(f"{name:<24}{value:.4f}")


if __name__ == "__main__":
    main()
