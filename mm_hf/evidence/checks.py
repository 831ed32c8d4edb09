"""Checks how far a map can be trusted: properties that a map must have if it shows what the model uses."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .methods import BATCH, METHODS, Job, NoMap, distances, gradients_along, hide_tokens, input_distances
from .parts import Answer, EncodedRows, PartMap


FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7)  # shares of the parts that are removed
RANDOM_ORDERS = 2
SAME = 0.5  # up to this rank correlation, maps with other weights count as different
AGREE = 0.3  # from this rank correlation on, two methods agree
COMPLETE = 0.05  # allowed error of the sum, as a share
LEAST = 4  # least number of parts for which an order is meaningful

Check = dict[str, Any]


def check_parts(
    rows: EncodedRows, answer: Answer, modality: str, method: str, maps: list[PartMap] | None = None, seed: int = 0
) -> dict[str, Check]:
    """Checks the maps of one modality.

    Args:
        rows: some rows of the data.
        answer: the explained answer.
        modality: the modality of the parts.
        method: the method of the maps, see `METHODS`.
        maps: the maps, if they exist already.
        seed: of random orders and weights.

    Returns:
        by name of the check: `value`, `bound`, `passed` and the sentence `says`, as in `checks` of `evidence.json`.
            The checks are `deletion` and `insertion` (both signs of the protocol of Chefer et al. 2021, section 4),
            `weights_drawn_anew` (Adebayo et al. 2018), `agreement` of two methods, and `completeness` of integrated
            gradients. Checks that are not possible are left out: all checks for maps of fewer than four parts; the
            last two if captum is not installed, or if the maps were made before the encoder.
    """
    maps = METHODS[method](rows, answer, modality) if maps is None else maps
    maps = [part for part in maps if part.parts.count >= LEAST]
    if not maps:
        return {}
    checks = perturbation(rows, answer, modality, maps, seed)
    fusion = rows.model.explained_base.fusion
    if any(True for _ in fusion.parameters()):  # a comparison of embeddings has no parameters
        with redrawn(fusion, seed):
            others = METHODS[method](rows, answer, modality)
        value = mean_correlation(maps, others)
        same = f"of {modality} and the maps with random weights have a rank correlation of {value:.2f}"
        checks["weights_drawn_anew"] = check(
            value,
            SAME,
            value <= SAME,
            f"The maps {same}. At most {SAME} is allowed: a map must depend on the weights of the fusion.",
        )
    if method == "input_occlusion":  # the encoder mixes the parts, so no second method can be compared
        return checks
    other = "integrated_gradients" if method != "integrated_gradients" else "occlusion"
    with contextlib.suppress(ImportError, NoMap):
        value = mean_correlation(maps, METHODS[other](rows, answer, modality))
        checks["agreement"] = check(
            value,
            AGREE,
            value >= AGREE,
            f"The maps of {modality} by {other} have a rank correlation of {value:.2f} with these maps. At least "
            f"{AGREE} is required.",
        )
        attributions, missed = gradients_along(rows, answer, modality)
        value = float((missed.abs() / attributions.abs().sum(1).clamp(min=1e-9)).mean())
        checks["completeness"] = check(
            value,
            COMPLETE,
            value <= COMPLETE,
            f"The sum of the integrated gradients of {modality} is wrong by {value:.1%}. At most {COMPLETE:.0%} is "
            "allowed.",
        )
    return checks


def check(value: float, bound: float, passed: bool, says: str) -> Check:
    """One check, as it is in the record."""
    return {"value": float(value), "bound": float(bound), "passed": bool(passed), "says": says}


def perturbation(
    rows: EncodedRows, answer: Answer, modality: str, maps: list[PartMap], seed: int = 0, batch_size: int = BATCH
) -> dict[str, Check]:
    """Compares the order of the map with a random order of removing parts.

    `deletion`: the parts with the largest values are removed first. The answer must change sooner than in random
        order.
    `insertion`: the parts with the smallest values are removed first, which keeps the largest ones longest. The answer
    must change later than in random order.

    The compared figure is the mean change of the answer over `FRACTIONS` of the parts, as a share of the largest of
    the changes. A check passes if the difference from the random order is significant.
    """
    generator = torch.Generator().manual_seed(seed)
    before = any(part.method == "input_occlusion" for part in maps)
    index = rows.tokens[modality].index
    of_row = rows.rows if index is None else index
    jobs: list[Job] = []
    for part in maps:
        size = part.parts.count
        ranked = part.values.abs().flatten()
        ranked = (ranked + 1e-12 * torch.rand(size, generator=generator)).argsort(descending=True)  # ties by chance
        orders = [ranked, ranked.flip(0), *(torch.randperm(size, generator=generator) for _ in range(RANDOM_ORDERS))]
        for order in orders:
            for fraction in FRACTIONS:
                hidden = torch.zeros(size, dtype=torch.bool)
                hidden[order[: max(1, round(fraction * size))]] = True
                item = part.row if before else int(of_row[part.row])
                jobs.append(Job(item, part.place, len(jobs), part.row, part.parts, hidden))
    if before:
        changes = input_distances(rows, answer, modality, jobs, batch_size)
    else:
        changes = distances(rows, answer, modality, jobs, hide_tokens(rows, modality), batch_size)
    changes = changes.reshape(len(maps), -1, len(FRACTIONS)).mean(-1)  # (maps, orders)
    first, last, chance = changes[:, 0], changes[:, 1], changes[:, 2:].mean(1)
    results = {}
    largest = torch.maximum(torch.maximum(first, last), chance).mean().clamp(min=1e-12)
    for name, gain, words in (
        ("deletion", first - chance, "Removing the parts that the map marks changes the answer"),
        ("insertion", chance - last, "Keeping the parts that the map marks preserves the answer"),
    ):
        shares = gain / largest
        error = 1.96 * float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        value = float(shares.mean())
        more = "more" if value - error > 0 else "no more"
        results[name] = check(
            value,
            0.0,
            value - error > 0,
            f"{words} {more} than a random order of the parts of {modality}: by {value:.2f} ± {error:.2f} of the "
            "change.",
        )
    return results


def mean_correlation(maps: list[PartMap], others: list[PartMap]) -> float:
    """The mean rank correlation (Spearman's) of maps of the same items. For signed maps, absolute values are used."""
    other_of = {(part.row, part.place): part for part in others}
    pairs = [(part, other_of[part.row, part.place]) for part in maps if (part.row, part.place) in other_of]
    flat = [tuple(p.values.abs().flatten() for p in pair) for pair in pairs]  # unsigned values do not change
    values = [rank_correlation(one, other) for one, other in flat]
    return sum(values) / len(values) if values else 0.0


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's rank correlation. Equal values get their mean rank; the result is 0 if all values are equal."""
    ranks = [mean_ranks(values) for values in (one, other)]
    ranks = [values - values.mean() for values in ranks]
    size = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / size if size else 0.0


def mean_ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each value, `(N,)` float64. Equal values get the mean of their ranks."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]


@contextlib.contextmanager
def redrawn(module: torch.nn.Module, seed: int = 0) -> Iterator[None]:
    """Randomises the weights of a module inside the context. The values of each tensor are put in random order, so
    they keep their size, and open gates stay open."""
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for value in module.parameters():
                order = torch.randperm(value.numel(), generator=generator).to(value.device)
                value.copy_(value.flatten()[order].view_as(value))
        yield
    finally:
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(before[name])
