"""Pictures for the results of an evaluation."""

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from .diagnostics import SHOWN_CLASSES


if TYPE_CHECKING:
    from matplotlib.figure import Figure


NO_PICTURE = "(no image)"
BLUE, RED, GREY, GREEN, ORANGE = "#2f6db3", "crimson", "#777777", "#1a7f37", "#d98a1f"
# By the name of a line of `cost_curve`, its style and its label.
COST_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "random_order": ({"color": GREY, "linestyle": "--"}, "in random order"),
    "same_for_all": ({"color": RED, "marker": "^"}, "the same for all rows"),
    "fixed_order": (
        {"color": GREEN, "marker": "s", "linewidth": 4, "alpha": 0.5},
        "one order for all, each row stops by itself",
    ),
    "plan": ({"color": BLUE, "marker": "o"}, "each row asks for its next modality"),
    "bound": ({"color": "black", "linestyle": ":"}, "upper bound"),
}


def new_figure(width: float, height: float) -> "Figure":
    """A figure with this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def drawable(text: str, width: int = 150) -> str:
    """A text that a figure can show: one line, without unprintable characters, and not too long."""
    text = "".join(filter(str.isprintable, " ".join(text.split())))
    return text if len(text) <= width else f"{text[: width - 1]}…"


def save_figure(figure: "Figure", path: str | os.PathLike | io.BytesIO, dpi: int = 120):
    """Writes a PNG. A character that the font lacks becomes a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=dpi, format="png")


def plot_predictions(
    samples: Sequence[tuple],
    path: str | os.PathLike,
    columns: int = 4,
    note: str | None = None,
    no_picture: str = NO_PICTURE,
):
    """Draws pictures with question, answer and truth. Wrong answers are red.

    Args:
        samples: (picture, text, answer, truth) each. A fifth value says whether the answer is right; None if unknown.
            Without it, the answer is right if it equals the truth. A text None is shown as absent, a truth None as no
            label.
        path: the PNG to write.
        columns: pictures per row.
        note: a line below the pictures, for instance how numbers are marked.
        no_picture: the text that replaces a missing picture.
    """
    rows = -(-len(samples) // columns)
    figure = new_figure(3 * columns, 3.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels:
        axes.axis("off")
    for axes, (picture, text, answer, truth, *judged) in zip(panels, samples):
        if picture is not None:
            axes.imshow(picture, interpolation="nearest")
        elif no_picture:
            axes.text(0.5, 0.5, no_picture, ha="center", va="center", fontsize=10, color=GREY, parse_math=False)
        right = judged[0] if judged else answer == truth
        if truth is None:
            right, beside = None, "  (no label)"
        else:
            beside = "" if answer == truth else f"  (truth: {drawable(truth, 60)})"
        said = drawable(answer, 60) + beside
        axes.set_title(
            "\n".join([*textwrap.wrap(drawable("(no text)" if text is None else text), 30), *textwrap.wrap(said, 34)]),
            fontsize=9,
            color=RED if right is False else "black",
            parse_math=False,  # a text may contain dollar signs
        )
    if note:
        figure.supxlabel("\n".join(textwrap.wrap(note, 40 * columns)), fontsize=9, parse_math=False)
    save_figure(figure, path, dpi=110)


def plot_finds(
    searches: Sequence[tuple[str | Image.Image | None, Sequence[tuple[Image.Image | None, str, bool | None]]]],
    path: str | os.PathLike,
):
    """Draws searches as a contact sheet. Each line has one query and then its results, the best first.

    Args:
        searches: for each, the query (a text or a picture) and its results: picture, caption and whether it is right,
            None if unknown.
        path: the PNG to write.
    """
    columns = 1 + max(len(finds) for _, finds in searches)
    figure = new_figure(1.9 * columns, 2.2 * len(searches))
    for line, (query, finds) in zip(figure.subplots(len(searches), columns, squeeze=False), searches):
        for axes in line:
            axes.axis("off")
        if isinstance(query, str):
            words = "\n".join(textwrap.wrap(drawable(query, 120), 22))
            line[0].text(0.5, 0.5, words, ha="center", va="center", fontsize=10, parse_math=False)
        elif query is not None:
            line[0].imshow(query)
        for axes, (picture, caption, right) in zip(line[1:], finds):
            if picture is not None:
                axes.imshow(picture)
            else:
                axes.text(0.5, 0.5, NO_PICTURE, ha="center", va="center", fontsize=8, color=GREY)
            color = "black" if right is None else GREEN if right else RED
            lines = textwrap.wrap(drawable(caption, 60), 24)
            axes.set_title("\n".join(lines), fontsize=8, color=color, parse_math=False)
    save_figure(figure, path, dpi=110)


def plot_reliability(calibration: dict[str, Any], path: str | os.PathLike):
    """Draws accuracy against confidence, above a histogram of the confidence; see `diagnostics.calibration`."""
    figure = new_figure(5, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = calibration["bins"]
    filled = [place for place in bins if place["rows"]]
    sides = {"width": bins[0]["high"], "align": "edge", "edgecolor": "white"}
    upper.bar([place["low"] for place in filled], [place["accuracy"] for place in filled], color=BLUE, **sides)
    upper.plot([0, 1], [0, 1], linestyle="--", color=GREY, label="perfect calibration")
    points = [[place[key] for place in filled] for key in ("confidence", "accuracy")]
    upper.plot(*points, linestyle="", marker="o", markersize=4, color=RED, label="mean of each bin")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right", title=f"ECE {calibration['ece']:.4f}")
    upper.legend(loc="upper left", fontsize=8)
    lower.bar([place["low"] for place in bins], [place["rows"] for place in bins], color=GREY, **sides)
    lower.set(xlabel="probability given by the model", ylabel="count")
    save_figure(figure, path)


def plot_abstention(abstention: dict[str, Any], path: str | os.PathLike):
    """Draws accuracy if only the surest answers are given; see `risk_coverage`."""
    figure = new_figure(5, 4)
    axes = figure.subplots()
    points = [[point[key] for point in abstention["points"]] for key in ("share", "accuracy")]
    axes.plot(*points, marker="o", markersize=4, color=BLUE, label=f"AURC {abstention['aurc']:.4f}")
    axes.axhline(1 - abstention["error"], linestyle="--", color=GREY, label="all rows answered")
    axes.set(xlim=(0, 1.02), ylim=(None, 1.02), xlabel="share of rows answered, the surest first", ylabel="accuracy")
    axes.legend(loc="lower left", fontsize=8)
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_confusion(matrix: list[list[int]], names: list[str], path: str | os.PathLike):
    """Draws a confusion matrix (see `diagnostics.confusion`): counts, coloured by the share of the true class."""
    counts = np.array(matrix)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    side = max(4.0, 0.42 * len(names) + 2)
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [drawable(name, 18) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)
    axes.set(xlabel="answer", ylabel="truth")
    for truth, row in enumerate(matrix):
        for answer, count in enumerate(row):
            if count:
                dark = shares[truth, answer] > 0.6
                axes.text(answer, truth, str(count), ha="center", va="center", fontsize=7, color="w" if dark else "k")
    save_figure(figure, path)


def plot_label_scores(scores: dict[str, dict[str, float]], path: str | os.PathLike):
    """Draws the F1 of each label, or of the 30 labels with the lowest F1; see `diagnostics.label_scores`."""
    worst = sorted(scores, key=lambda name: scores[name]["f1"])[:SHOWN_CLASSES]
    figure = new_figure(6, 1.2 + 0.28 * len(worst))
    axes = figure.subplots()
    axes.barh(range(len(worst)), [scores[name]["f1"] for name in worst], color=BLUE)
    labels = [f"{drawable(name, 24)} ({scores[name]['rows']:,})" for name in worst]
    axes.set_yticks(range(len(worst)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="F1 (in brackets: rows that have the label)")
    save_figure(figure, path)


def plot_scatter(answers: torch.Tensor, targets: torch.Tensor, path: str | os.PathLike):
    """Draws answers of a regression against the truth, both `(N, C)` or `(N,)`."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    said, true = answers.flatten().tolist(), targets.flatten().tolist()
    axes.scatter(true, said, s=8, alpha=0.3, color=BLUE, linewidths=0)
    ends = [min(said + true), max(said + true)]
    axes.plot(ends, ends, linestyle="--", color=GREY)
    axes.set(xlabel="truth", ylabel="answer")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_evidence(evidence: dict[str, Any], path: str | os.PathLike):
    """Draws what answers depend on: the mean absolute Shapley value of each modality with its interval, and the shares
    of unique, redundant and synergistic effects.

    Args:
        evidence: `modalities`, `shares` and `unit`, see `mm_hf.evidence.summary`.
        path: the PNG to write.
    """
    ordered = sorted(evidence["modalities"].items(), key=lambda pair: pair[1]["mean"])
    figure = new_figure(6, 1.9 + 0.4 * len(ordered))
    upper, lower = figure.subplots(2, 1, height_ratios=(0.7 + len(ordered), 1))
    means = [part["mean"] for _, part in ordered]
    ends = [[part["mean"] - part["low"] for _, part in ordered], [part["high"] - part["mean"] for _, part in ordered]]
    upper.barh(range(len(ordered)), means, xerr=np.clip(ends, 0, None), color=BLUE, ecolor=GREY, capsize=3)
    upper.set_yticks(range(len(ordered)), [drawable(name, 24) for name, _ in ordered], parse_math=False)
    upper.set_xlabel(drawable(f"mean absolute Shapley value, {evidence['unit']}"), parse_math=False)
    left = 0.0
    looks = ((BLUE, ""), (GREY, "//"), (ORANGE, ".."))
    for (kind, share), (color, hatch) in zip(evidence["shares"].items(), looks):
        lower.barh([0], [share], left=left, color=color, hatch=hatch, edgecolor="white", label=f"{kind} {share:.0%}")
        left += share
    lower.set(xlim=(0, 1), yticks=[], xticks=[])
    lower.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_missing(missing: dict[str, Any], path: str | os.PathLike):
    """Draws the metric as modalities are removed: one line per modality with its interval, and the constant guess.

    Args:
        missing: `metric`; `by_modality`: by name a list of `share`, `value`, `low`, `high`; `majority`: a value or
            None.
        path: the PNG to write.
    """
    figure = new_figure(6, 4.2)
    axes = figure.subplots()
    for modality, points in missing["by_modality"].items():
        shares = [100 * point["share"] for point in points]
        low, value, high = (
            [float("nan") if point[key] is None else point[key] for point in points]
            for key in ("low", "value", "high")
        )
        (line,) = axes.plot(shares, value, marker="o", label=f"without {modality}")
        axes.fill_between(shares, low, high, alpha=0.2, color=line.get_color())
    if missing["majority"] is not None:
        axes.axhline(missing["majority"], linestyle="--", color=GREY, label="constant guess")
    axes.set(xlabel="rows without it, %", ylabel=missing["metric"])
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


def plot_cost_curve(curve: dict[str, Any], path: str | os.PathLike, says: str = "score"):
    """Draws the quality of answers against their price; see `evidence.cost_curve`. `says` is the name of the score."""
    figure = new_figure(6, 4.2)
    axes = figure.subplots()
    for name, (look, meaning) in COST_LINES.items():
        points = curve["lines"].get(name)
        if points:
            prices, scores = ([point[key] for point in points] for key in ("price", "score"))
            axes.plot([100 * price for price in prices], scores, markersize=4, label=meaning, **look)
    given = f" ({', '.join(curve['start'])} given)" if curve["start"] else ""
    axes.set(xlabel=f"price, % of the price of everything{given}", ylabel=says)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
