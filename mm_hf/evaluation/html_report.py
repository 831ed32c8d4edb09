"""Pages of HTML that hold all that an evaluation or a comparison found, pictures included."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparisons import figure, gap


TEMPLATES = Path(__file__).parent

# By the name of its file, the title of each picture and how to read it.
PICTURES = {
    "reliability.png": (
        "Calibration",
        "A bar at 0.8 that is 0.6 high says that of what the model gave a probability of 80 %, 60 % was so: below the "
        "dashed line it is too sure of itself, above it too modest. The lower part says how many predictions each bar "
        "rests on; the calibration error (ECE) is the mean distance from the line, weighted by them.",
    ),
    "abstention.png": (
        "Accuracy where only sure answers are given",
        "From the left on more and more rows are answered, the surest first: the higher the line is on the left, the "
        "better the model knows when it is right. A level line says that its probabilities do not tell. AURC is the "
        "mean share of wrong answers over the line: the lower the better.",
    ),
    "confusion.png": (
        "Confusion matrix",
        "Each row is a true class and each column an answer: the diagonal is right, and the darker a cell, the larger "
        "its share of that class. A dark cell beside the diagonal is a class that the model takes for another.",
    ),
    "labels.png": (
        "F1 of each label",
        "F1 is high where a label is both found and not invented; the labels that fare worst come first. A short bar "
        "beside few rows may be chance, beside many it is a weakness.",
    ),
    "scatter.png": (
        "Answer against truth",
        "Each point is a row, and on the dashed line the answer is the truth. Points that lie flatter than the line "
        "say that the model keeps to the middle.",
    ),
    "missing.png": (
        "What a missing modality costs",
        "Each line is the metric as more and more rows lose one modality, drawn at random, with its 95 % interval; at "
        "100 % the model does without it. A level line is a modality that the model hardly uses, and a line that "
        "reaches the dashed floor has lost all that was learned.",
    ),
    "evidence.png": (
        "What the answers rest on",
        "The bar of a modality is how far it moves the answer on average, its exact Shapley value, when in its place "
        "stand items of other rows, or the token of an absent one; the line is the 95 % interval. Below: what one "
        "modality gives by itself (unique), what several say alike (redundant), and what is there only together "
        "(synergistic). A modality near zero is one that this model hardly looks at, whatever it holds.",
    ),
    "cost_curve.png": (
        "What to ask for next",
        "How good answers are at which price, as `mm_hf explain RUN --missing` measured it: the blue line shows rows "
        "one modality after the other, each the one that is expected to bring most for its price, until no other is "
        "worth its own. The higher a line is on the left, the less has to be paid. Where it is level, what more could "
        "be bought brings nothing.",
    ),
    "mistakes.png": (
        "Worst mistakes",
        "The mistakes with the highest loss, the worst first, where there are classes each with the probability of "
        "the answer and of the truth. Look for labels that are wrong in the data, and for what the rows have in "
        "common.",
    ),
}


def embedded(file: str | os.PathLike) -> str:
    """A PNG as the address of a picture that is in the page itself."""
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()


def write_page(
    path: str | os.PathLike,
    title: str,
    facts: dict[str, Any],
    report: dict[str, Any],
    pictures: Sequence[str | os.PathLike],
):
    """Writes the page; names, texts and labels of the data are escaped.

    Args:
        path: the HTML to write. It needs no other file.
        facts: what was measured, and with what, by name.
        report: `metrics`, `by_kind` and `floors`, each by name `value`, `low` and `high` (`by_kind` also `rows`,
            `floors` also `meaning`); `verdict` and `comparisons`, if it has them; `confusion` (None, or its `pairs`)
            and `mistakes`, see `diagnostics`, each with its `row` and `text`.
        pictures: files named as in `PICTURES`, in their order.
    """
    shown = [(*PICTURES[Path(file).name], embedded(file)) for file in pictures]
    write_html(path, "page.html", title=title, facts=facts, report=report, pictures=shown)


def write_html(path: str | os.PathLike, template: str, folder: Path = TEMPLATES, **values: Any):
    """Fills a template; what it is filled with is escaped.

    Args:
        path: the HTML to write. It needs no other file.
        template: the name of its file.
        folder: that it lies in.
        values: that it asks for.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(folder)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    environment.filters |= {"figure": figure, "gap": gap}
    page = environment.get_template(template).render(**values)
    Path(path).write_text(page, encoding="utf-8", errors="replace")
