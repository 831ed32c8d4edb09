"""How far to believe a map: what has to hold of one that says what the model looks at."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .methods import BATCH, METHODS, Job, NoMap, distances, gradients_along, hide_tokens, input_distances
from .parts import Answer, EncodedRows, PartMap


FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7)  # of the parts that are taken away
RANDOM_ORDERS = 2
SAME = 0.5  # rank correlation up to which maps of other weights count as others
AGREE = 0.3  # rank correlation from which two methods agree
COMPLETE = 0.05  # of the sum that may be missed
LEAST = 4  # parts, of which an order means something

Check = dict[str, Any]


def check_parts(
    rows: EncodedRows, answer: Answer, modality: str, method: str, maps: list[PartMap] | None = None, seed: int = 0
) -> dict[str, Check]:
    """Checks the maps of one modality.

    Args:
        rows: some of the data.
        answer: what is explained.
        modality: whose parts.
        method: which made the maps, see `METHODS`.
        maps: those, where they are at hand.
        seed: of random orders and weights.

    Returns:
        by name `value`, `bound`, `passed` and what it `says`, as `checks` of `evidence.json` has it: `deletion` and
        `insertion` (both signs of the protocol of Chefer et al. 2021, section 4), `weights_drawn_anew` (Adebayo et
        al. 2018), `agreement` of two methods, and `completeness` of integrated gradients. What cannot be checked is
        left out: maps of fewer than four parts; the last two, which need captum, where that is not installed, and of
        maps that were made before the encoder.
    """
    maps = METHODS[method](rows, answer, modality) if maps is None else maps
    maps = [part for part in maps if part.parts.count >= LEAST]
    if not maps:
        return {}
    checks = perturbation(rows, answer, modality, maps, seed)
    fusion = rows.model.explained_base.fusion
    if any(True for _ in fusion.parameters()):  # a comparison has none
        with redrawn(fusion, seed):
            others = METHODS[method](rows, answer, modality)
        value = mean_correlation(maps, others)
        same = f"of {modality} have a rank correlation of {value:.2f}"
        checks["weights_drawn_anew"] = check(
            value,
            SAME,
            value <= SAME,
            f"With the weights of the fusion drawn anew the maps {same} with these; at most {SAME} is another map.",
        )
    if method == "input_occlusion":  # what is mixed behind the encoder has no other map to be held against
        return checks
    other = "integrated_gradients" if method != "integrated_gradients" else "occlusion"
    with contextlib.suppress(ImportError, NoMap):
        value = mean_correlation(maps, METHODS[other](rows, answer, modality))
        checks["agreement"] = check(
            value,
            AGREE,
            value >= AGREE,
            f"The maps of {modality} by {other} have a rank correlation of {value:.2f} with these; at least {AGREE} "
            "is wanted.",
        )
        attributions, missed = gradients_along(rows, answer, modality)
        value = float((missed.abs() / attributions.abs().sum(1).clamp(min=1e-9)).mean())
        checks["completeness"] = check(
            value,
            COMPLETE,
            value <= COMPLETE,
            f"Integrated gradients of {modality} miss {value:.1%} of what they should add up to; at most "
            f"{COMPLETE:.0%} is allowed.",
        )
    return checks


def check(value: float, bound: float, passed: bool, says: str) -> Check:
    """One check as the record has it."""
    return {"value": float(value), "bound": float(bound), "passed": bool(passed), "says": says}


def perturbation(
    rows: EncodedRows, answer: Answer, modality: str, maps: list[PartMap], seed: int = 0, batch_size: int = BATCH
) -> dict[str, Check]:
    """Whether the answer changes sooner when the parts are taken away in the order of the map, the first ones first,
    than in a random order (`deletion`), and later when the last ones go first, which is to put the first ones back
    first (`insertion`).

    What is compared is the mean change of the answer over `FRACTIONS` of the parts, as a share of the larger of the
    two; a check is passed where the difference from random order is above chance.
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
        ("deletion", first - chance, "Taking away what the map marks changes the answer"),
        ("insertion", chance - last, "Keeping what the map marks keeps the answer"),
    ):
        shares = gain / largest
        error = 1.96 * float(shares.std()) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
        value = float(shares.mean())
        more = "more" if value - error > 0 else "no more"
        results[name] = check(
            value,
            0.0,
            value - error > 0,
            f"{words} {more} than parts of {modality} in random order: by {value:.2f} ± {error:.2f} of the change.",
        )
    return results


def mean_correlation(maps: list[PartMap], others: list[PartMap]) -> float:
    """The mean rank correlation (Spearman's) of maps of the same items; of signed ones the absolute values count."""
    other_of = {(part.row, part.place): part for part in others}
    pairs = [(part, other_of[part.row, part.place]) for part in maps if (part.row, part.place) in other_of]
    flat = [tuple(p.values.abs().flatten() for p in pair) for pair in pairs]  # of unsigned ones they are their own
    values = [rank_correlation(one, other) for one, other in flat]
    return sum(values) / len(values) if values else 0.0


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's, equal values with their mean rank; 0 where all are equal."""
    ranks = [mean_ranks(values) for values in (one, other)]
    ranks = [values - values.mean() for values in ranks]
    size = float(ranks[0].norm() * ranks[1].norm())
    return float(ranks[0] @ ranks[1]) / size if size else 0.0


def mean_ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each value, `(N,)` float64, that of equal ones the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]


@contextlib.contextmanager
def redrawn(module: torch.nn.Module, seed: int = 0) -> Iterator[None]:
    """Draws the weights of a module anew for as long as the context lasts: each tensor's own values in another order,
    so that they are as large as they were, and no gate is shut that was open."""
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
