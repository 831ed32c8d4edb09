"""HTML pages with all results of an evaluation or a comparison, including pictures."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparisons import figure, gap


TEMPLATES = Path(__file__).parent

# By file name, the title of each picture and how to read it.
PICTURES = {
    "reliability.png": (
        "Calibration",
        "A bar at 0.8 with height 0.6 means: of the predictions with a probability of 80 %, 60 % were right. Below "
        "the dashed line the model is too sure, above it not sure enough. The lower part shows how many predictions "
        "each bar has. The calibration error (ECE) is the mean distance from the line, weighted by these numbers.",
    ),
    "abstention.png": (
        "Accuracy if only sure answers are given",
        "From left to right more rows are answered, the surest first. A line that is high on the left means that the "
        "model knows when it is right. A flat line means that its probabilities do not show this. AURC is the mean "
        "share of wrong answers along the line; lower is better.",
    ),
    "confusion.png": (
        "Confusion matrix",
        "Each row is a true class and each column an answer. The diagonal is right. The darker a cell, the larger its "
        "share of the true class. A dark cell off the diagonal shows a class that the model takes for another one.",
    ),
    "labels.png": (
        "F1 of each label",
        "F1 is high if a label is found where it is true, and only there. The labels with the lowest F1 come first. A "
        "short bar with few rows may be chance; with many rows it is a weakness.",
    ),
    "scatter.png": (
        "Answer against truth",
        "Each point is a row. On the dashed line the answer equals the truth. If the points form a flatter band than "
        "the line, the model avoids extreme answers.",
    ),
    "missing.png": (
        "The cost of a missing modality",
        "Each line is the metric when a growing random share of rows loses one modality, with its 95 % interval. At "
        "100 % no row has the modality. A flat line means that the model hardly uses the modality. A line that falls "
        "to the dashed floor (baseline) means that the model can do nothing without it.",
    ),
    "evidence.png": (
        "What the answers rest on",
        "The bar of a modality shows how much it changes the answer on average (exact Shapley value), compared with "
        "items of other rows or the token of an absent item. The thin line is the 95 % interval. Below are shares of "
        "all effects: unique (from one modality alone), redundant (from several modalities that agree), and "
        "synergistic (only from several together). This model hardly uses a modality near "
        "zero, whatever the modality contains.",
    ),
    "cost_curve.png": (
        "What to ask for next",
        "Quality of answers against price, as measured by `mm_hf explain RUN --missing`. For the blue line, each row "
        "gets one modality after another, each time the one with the highest expected gain for its price, until no "
        "gain is worth its price. A line that is high on the left needs a lower price. Where it is flat, paying more "
        "does not improve answers.",
    ),
    "mistakes.png": (
        "Worst mistakes",
        "The mistakes with the highest loss, the worst first. For classes, each has the probability of the answer and "
        "of the truth. Look for wrong labels in the data, and for what the rows have in common.",
    ),
}


def embedded(file: str | os.PathLike) -> str:
    """A PNG as a data URI, which embeds it in the page."""
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()


def write_page(
    path: str | os.PathLike,
    title: str,
    facts: dict[str, Any],
    report: dict[str, Any],
    pictures: Sequence[str | os.PathLike],
):
    """Writes the page. Names, texts and labels of the data are escaped.

    Args:
        path: the HTML to write. It needs no other file.
        title: the title of the page.
        facts: what was measured, and how, by name.
        report: `metrics`, `by_kind` and `floors`, each by name with `value`, `low` and `high` (`by_kind` also `rows`,
            `floors` also `meaning`); optionally `verdict` and `comparisons`; `confusion` (None, or its `pairs`) and
            `mistakes`, see `diagnostics`, each with its `row` and `text`.
        pictures: files with the names in `PICTURES`, in this order.
    """
    shown = [(*PICTURES[Path(file).name], embedded(file)) for file in pictures]
    write_html(path, "page.html", title=title, facts=facts, report=report, pictures=shown)


def write_html(path: str | os.PathLike, template: str, folder: Path = TEMPLATES, **values: Any):
    """Fills a template. All values are escaped.

    Args:
        path: the HTML to write. It needs no other file.
        template: the file name of the template.
        folder: the folder of the template.
        values: the values for the template.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(folder)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    environment.filters |= {"figure": figure, "gap": gap}
    page = environment.get_template(template).render(**values)
    Path(path).write_text(page, encoding="utf-8", errors="replace")
