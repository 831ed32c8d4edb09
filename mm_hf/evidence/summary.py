"""Summarises what the answers to many rows rest on: mean effects with intervals, and the shares of unique, redundant
and synergistic effects."""

from collections.abc import Sequence
from typing import Any

import torch

from ..evaluation.comparisons import figure
from ..evaluation.intervals import bootstrap


KINDS = ("unique", "redundant", "synergistic")


def summary_of(records: Sequence[dict[str, Any]], samples: int = 1000, seed: int = 0) -> dict[str, Any] | None:
    """The summary of all rows, by task; None if there are no rows.

    Returns:
        `modalities`: for each modality, the `mean` of its absolute Shapley values over the rows that have it, `low`
            and `high` of the 95 % interval (bootstrap over rows), the same figures for the signed values in `signed`,
            and the number of `rows`. `shares` of all absolute Möbius terms together. `unit` of the values.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for answer in record["answers"]:
            by_task.setdefault(answer["task"] or "", []).append(answer)
    return {task: summary_of_task(answers, samples, seed) for task, answers in by_task.items()} or None


def summary_of_task(answers: Sequence[dict[str, Any]], samples: int, seed: int) -> dict[str, Any]:
    """See `summary_of`."""
    names = list(dict.fromkeys(name for answer in answers for name in answer["modalities"]))
    modalities = {}
    for name in names:
        known = [answer["modalities"][name]["value"] for answer in answers if name in answer["modalities"]]
        values = torch.tensor(known, dtype=torch.float64)

        def means(rows: torch.Tensor, values=values) -> dict[str, float]:
            return {"mean": values[rows].abs().mean().item(), "signed": values[rows].mean().item()}

        figures = bootstrap(means, torch.arange(len(values)), samples, seed)
        absolute, signed = ({"mean": part["value"], **part} for part in (figures["mean"], figures["signed"]))
        for part in (absolute, signed):
            del part["value"]
        modalities[name] = {**absolute, "signed": signed, "rows": len(values)}
    amounts = {kind: sum(answer["shares"][kind] * answer["amount"] for answer in answers) for kind in KINDS}
    total = sum(amounts.values())
    return {
        "modalities": modalities,
        "shares": {kind: amount / total if total else 0.0 for kind, amount in amounts.items()},
        "rows": len(answers),
        "unit": answers[0]["unit"],
    }


def lines_of_summary(summary: dict[str, Any], task: str) -> list[str]:
    """The summary of one task, for the terminal."""
    title = f"{task}: " if task else ""
    lines = [f"{title}mean absolute Shapley value, {summary['unit']} ({summary['rows']:,} answers)"]
    for name, part in sorted(summary["modalities"].items(), key=lambda pair: -pair[1]["mean"]):
        interval = f"[{figure(part['low'])}, {figure(part['high'])}]"
        lines.append(f"  {name:<26}{figure(part['mean']):>8}  {interval}")
    shares = ", ".join(f"{kind} {summary['shares'][kind]:.0%}" for kind in KINDS)
    return [*lines, f"  shares: {shares}"]
