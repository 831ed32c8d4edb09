"""Analyses a model's answers: one dict of figures, pictures and a table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..models.text import Text
from .comparisons import LINE, compare, constant_of, figure, verdict
from .diagnostics import worst_mistakes
from .intervals import CONFIDENCE, metrics_with_intervals
from .paired import paired_metrics
from .plots import (
    NO_PICTURE,
    plot_abstention,
    plot_cost_curve,
    plot_evidence,
    plot_missing,
    plot_predictions,
    plot_reliability,
)


def analyse(
    task: Any,
    logits: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    kinds: list | None = None,
    floors: dict[str, tuple[torch.Tensor, dict[str, Any]]] | None = None,
    curves: dict[str, list[tuple[float, torch.Tensor]]] | None = None,
    samples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Analyses the answers for rows that all have a label.

    Args:
        task: what the labels mean, see `mm_hf.tasks.Task`.
        logits: `(N, C)`. For written texts, the numbers of the texts, `(N,)`, see `Task.readable`.
        labels: as for `measure_rows`. For texts, the numbers of the texts.
        groups: `(N,)` int64, rows that belong together, see `group_codes`.
        kinds: the kind of each row, by which metrics are split; None: they are not.
        floors: by name, other answers to these rows (see `Task.answers`) and notes about them. The note `metric` names
            the metric of the floor, if it is not the first one.
        curves: by modality, pairs of the share of rows that lost this modality and the answers of the model.
        samples: number of resamples for the intervals.
        seed: the seed of the resamples.
        progress: show progress bars.

    Returns:
        `metrics` and `by_kind` (see `metrics_with_intervals`), `floors` (the metric of each), `comparisons` and
        `verdict` (see the functions `compare` and `verdict`), `intervals` (how they were made), `calibration`,
        `confusion`, `label_scores`, `missing` (None if there is none) and `mistakes` (see `worst_mistakes`).
    """
    answers, targets = task.answers(logits), task.targets(labels)
    common: dict[str, Any] = {"groups": groups, "samples": samples, "seed": seed}
    outputs = 0 if task.writes else logits.shape[1]

    def measured(said: torch.Tensor, title: str, **more) -> dict[str, Any]:
        shown = f"intervals: {title}" if progress else None
        return metrics_with_intervals(task, said, targets, outputs, title=shown, **common, **more)

    def score(said: torch.Tensor, title: str, metric: str | None = None) -> dict[str, float | None]:
        return next(iter(measured(said, title, only=metric or first)["metrics"].values()))

    analysis = measured(answers, "metrics", kinds=kinds)
    first = next(iter(analysis["metrics"]))
    analysis["floors"] = {
        name: {**score(said, name, notes.get("metric")), **notes} for name, (said, notes) in (floors or {}).items()
    }
    analysis["comparisons"] = compare(
        {name: value["value"] for name, value in analysis["metrics"].items()},
        [(name, floor.get("metric", first), floor["value"]) for name, floor in analysis["floors"].items()],
        {name: (value["low"], value["high"]) for name, value in analysis["metrics"].items()},
    )
    for beside in analysis["comparisons"]:
        if floors and beside["floor"] == LINE:  # row by row, because the difference has less noise than either score
            pair = answers, floors[LINE][0]
            by_row = paired_metrics(task, pair, targets, outputs, first_only=True, **common)
            beside |= {"paired": by_row["metrics"][first], "keeps_line": task.keeps_line}
    analysis["verdict"] = verdict(analysis["comparisons"])
    analysis["intervals"] = {
        "confidence": CONFIDENCE,
        "samples": samples,
        "groups": int(groups.max()) + 1,
        "method": "percentiles of the torchmetrics results over resamples, drawn with replacement",
    }
    analysis |= {"calibration": None, "confusion": None, "label_scores": None, "missing": None}
    analysis |= task.diagnostics(logits, labels)
    if curves:
        analysis["missing"] = {
            "metric": first,
            "majority": next(
                (floor["value"] for name, floor in analysis["floors"].items() if constant_of(name)), None
            ),
            "by_modality": {
                modality: [
                    {"share": share, **score(said, f"{share:.0%} without {modality}")} for share, said in points
                ]
                for modality, points in curves.items()
            },
        }
    analysis["mistakes"] = worst_mistakes(task, logits, labels)
    return analysis


def rounded(value: Any) -> Any:
    """The same with rounded floats: six digits after the point, or six significant digits for values below 1, because
    scores in the unit of the labels may be very small."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")
    return value


def draw(
    folder: str | os.PathLike,
    task: Any,
    analysis: dict[str, Any],
    answers: torch.Tensor,
    targets: torch.Tensor,
    pictures: Sequence[Image.Image | None],
    no_picture: str = NO_PICTURE,
) -> list[Path]:
    """Draws all pictures of an analysis.

    Args:
        folder: where the pictures are written.
        task: see `analyse`.
        analysis: the result of `analyse`, with a `text` in each of its `mistakes`.
        answers, targets: the answers and targets that were analysed.
        pictures: a picture for each mistake; None if it has none.
        no_picture: the text for a mistake without a picture.

    Returns:
        the files, with the names in `html_report.PICTURES`.
    """
    folder, files = Path(folder), []

    def file(name: str) -> Path:
        files.append(folder / name)
        return files[-1]

    if analysis["calibration"]:
        plot_reliability(analysis["calibration"], file("reliability.png"))
    sure = analysis.get("confidence")
    if sure and sure["abstention"]:
        plot_abstention(sure["abstention"], file("abstention.png"))
    for name, plot in task.plots(analysis, answers, targets).items():
        plot(file(name))
    if analysis["missing"]:
        plot_missing(analysis["missing"], file("missing.png"))
    if analysis.get("evidence"):
        plot_evidence(analysis["evidence"], file("evidence.png"))
    if analysis.get("cost_curve"):
        plot_cost_curve(analysis["cost_curve"], file("cost_curve.png"))
    samples = []
    for mistake, picture in zip(analysis["mistakes"], pictures):
        answer, truth, right = task.caption(mistake)
        samples.append((picture, mistake[Text.name], answer, truth, right))
    if samples:
        plot_predictions(samples, file("mistakes.png"), note=task.note, no_picture=no_picture)
    return files


def table(analysis: dict[str, Any], part: str) -> str:
    """The score and its floors as lines for the terminal. `analysis` is the result of `analyse`, `part` is the name of
    the measured part."""
    lines = {f"{part} {name}": values for name, values in analysis["metrics"].items()}
    lines |= {f"  {name}": values for name, values in analysis["by_kind"].items()}
    lines |= {f"floor: {name.replace('_', ' ')}": values for name, values in analysis["floors"].items()}
    for modality, points in analysis["missing"]["by_modality"].items() if analysis["missing"] else []:
        lines |= {f"{point['share']:.0%} without {modality}": point for point in points if point["share"]}
    texts = []
    for name, values in lines.items():
        value, low, high = ("-" if values[key] is None else figure(values[key]) for key in ("value", "low", "high"))
        texts.append(f"{name:<38}{value:>8}  [{low}, {high}]")
    evidence: dict[str, Any] = analysis.get("evidence") or {}
    for name, of_modality in evidence.get("modalities", {}).items():
        mean, low, high = (figure(of_modality[key]) for key in ("mean", "low", "high"))
        texts.append(f"{f'rests on {name}':<38}{mean:>8}  [{low}, {high}]")
    if analysis["calibration"]:
        texts.append(f"{'calibration error':<38}{analysis['calibration']['ece']:8.4f}")
    return "\n".join(["", *texts, *sure_lines(analysis.get("confidence"))])


def sure_lines(sure: dict[str, Any] | None) -> list[str]:
    """The result of `how_sure` as lines of the table."""
    if sure is None:
        return []
    texts, coverage = [], sure["coverage"]
    if sure["temperature"] not in (None, 1) and sure["ece_before"] is not None:
        texts.append(f"{'  before the temperature':<38}{sure['ece_before']:8.4f}")
    if coverage:
        name = f"coverage, {coverage['asked']:g} asked"
        texts.append(f"{name:<38}{coverage['covered']:8.4f}  [{coverage['low']:.4f}, {coverage['high']:.4f}]")
        texts.append(f"{'  ' + coverage['measure'].split(',')[0]:<38}{figure(coverage['size']):>8}")
    if sure["too_few"]:
        texts.append(sure["too_few"])
    if sure["abstention"]:
        texts.append(f"{'risk over shares answered (AURC)':<38}{sure['abstention']['aurc']:8.4f}")
    if costs := sure.get("costs"):
        name = f"cost per row, {costs['answered']:.0%} answered"
        others = f"always the likeliest class: {figure(costs['always'])}, never any: {figure(costs['never'])}"
        texts.append(f"{name:<38}{figure(costs['cost']):>8}  ({others})")
    return texts
