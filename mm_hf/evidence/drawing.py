"""Draws evidence as pictures, one per row: the items with their maps, and the contributions of the modalities."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.shown import PICTURE, SERIES, SOUND, TABLE, TEXT, VIDEO
from ..evaluation.plots import GREY, drawable, new_figure, save_figure
from .page import SIGNS, SIZES


if TYPE_CHECKING:
    from matplotlib.axes import Axes


FOR, AGAINST = SIGNS[-2], SIGNS[0]
ACROSS = 90  # characters per line of text
LINES = 5
FRAMES = 6


def draw_rows(evidence: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes one PNG per row.

    Args:
        evidence: see `write_page`.
        folder: an existing folder.

    Returns:
        the files, `row-00017.png` for row 17.
    """
    return [draw_row(row, Path(folder) / f"row-{row['row']:05}.png") for row in evidence["rows"]]


def draw_row(row: Mapping[str, Any], file: Path) -> Path:
    """Writes a PNG. At the top are the contributions of the modalities to each answer. Below is each item, with its
    first map if it has one."""
    answers, items = row.get("answers") or [], row.get("items") or []
    heights = [1.2 + 0.3 * len(answer.get("modalities") or {}) for answer in answers]
    heights += [HEIGHTS.get(item["kind"]) or height_of_words(item["shown"]) for item in items]
    figure = new_figure(7.5, max(1.0, sum(heights)))
    panels = figure.subplots(max(1, len(heights)), 1, squeeze=False, height_ratios=heights or None)[:, 0]
    for axes, answer in zip(panels, answers):
        draw_modalities(axes, answer)
    parts = [part for answer in answers for part in answer.get("parts") or []]
    for place, (axes, item) in enumerate(zip(panels[len(answers) :], items)):
        part = next((part for part in parts if part["item"] == place), None)
        title = f"{item['modality']}, {item['column']}" + (f": {part['method'].replace('_', ' ')}" if part else "")
        axes.set_title(drawable(title, 90), loc="left", fontsize=9, parse_math=False)
        DRAW.get(item["kind"], draw_words)(axes, item["shown"], part)
    if not heights:
        panels[0].axis("off")
    save_figure(figure, file, dpi=100)
    return file


def draw_modalities(axes: "Axes", answer: Mapping[str, Any]):
    """Bars of the contributions of the modalities to an answer."""
    known = (answer.get("modalities") or {}).items()
    values = {name: about["value"] for name, about in known if about.get("value") is not None}
    said = drawable(str(answer.get("answer")), 60)
    said = f"{drawable(answer['task'], 30)}: {said}" if answer.get("task") else said
    if answer.get("probability") is not None:
        said += f"  ({100 * answer['probability']:.1f} %)"
    if answer.get("truth") is not None and answer.get("right") is not True:
        said += f"  (truth: {drawable(str(answer['truth']), 40)})"
    axes.set_title(said, loc="left", fontsize=11, parse_math=False)
    if answer.get("explained"):
        axes.set_xlabel(drawable(answer["explained"], 90), fontsize=8, parse_math=False)
    draw_bars(axes, list(values), list(values.values()))


def draw_bars(axes: "Axes", names: list[str], values: list[float]):
    """Horizontal bars: positive values to the right of zero, negative values to the left."""
    places, colors = range(len(names)), [FOR if value >= 0 else AGAINST for value in values]
    axes.barh(places, values, color=colors, height=0.7)
    axes.set_yticks(places, [drawable(name, 30) for name in names], fontsize=8, parse_math=False)
    for place, value in zip(places, values):
        axes.annotate(f" {value:+.3g} ", (value, place), va="center", ha="left" if value >= 0 else "right", fontsize=8)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def colored(part: Mapping[str, Any], values: Any, most: float | None = None) -> tuple[np.ndarray, Any]:
    """The colours of a map's values, as RGBA. Smaller values are more transparent.

    Args:
        values: all values of the map, or some of them.
        most: the largest absolute value of the map; None: the largest of these values.
    """
    from matplotlib.colors import LinearSegmentedColormap

    given = np.array(values, dtype=float)
    most = largest(given) if most is None else most
    shares = np.nan_to_num(given / (most or 1.0))
    colors = LinearSegmentedColormap.from_list("map", SIGNS if part["signed"] else SIZES)
    painted = colors((shares + 1) / 2 if part["signed"] else shares)
    strength = np.abs(shares) ** 0.7
    painted[..., 3] = 0.7 * (strength if part["signed"] else 0.2 + 0.8 * strength)
    return painted, most


def largest(values: Any) -> float:
    """The largest absolute value in a map; 0 if it is empty."""
    return float(np.nanmax(np.abs(np.append(np.asarray(values, dtype=float), 0.0))))


def opened(source: str) -> Image.Image:
    """The picture of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))).convert("RGB")


def draw_picture(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """A picture under its map."""
    draw_over(axes, opened(shown["src"]), part, None if part is None else part["values"])


def draw_over(axes: "Axes", picture: Image.Image, part: Any, values: Any, most: float | None = None):
    """A picture, and over it the cells of a map. The map may cover only an `area` of the picture."""
    width, height = picture.size
    axes.imshow(picture, extent=(0, width, height, 0))
    if values:
        top, left, bottom, right = part.get("area") or (0, 0, 1, 1)
        extent = (left * width, right * width, bottom * height, top * height)
        axes.imshow(colored(part, values, most)[0], extent=extent, interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")


def draw_video(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """Some frames side by side, under their maps."""
    axes.axis("off")
    frames = shown["frames"]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    most = None if part is None else max((largest(values) for values in part["values"]), default=0.0)
    for place, number in enumerate(chosen):
        panel = axes.inset_axes((place / FRAMES, 0, 0.97 / FRAMES, 1))
        values = part["values"][number] if part is not None and number < len(part["values"]) else None
        draw_over(panel, opened(frames[number]), part, values, most)


def draw_sound(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """A spectrogram, and under it the map on the same axis of time."""
    seconds = shown["seconds"]
    axes.imshow(opened(shown["spectrogram"]), extent=(0, seconds, 0, 1), aspect="auto")
    draw_bands(axes, part, seconds, low=-0.25, high=-0.05)
    axes.set_ylim(-0.25, 1)
    axes.set_yticks([])
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)


def draw_series(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """The channels, each scaled from its smallest to its largest value, over the map."""
    every = shown.get("every", 1)
    steps = max([1, *(len(channel) for channel in shown["values"])]) * every
    draw_bands(axes, part, steps, low=-0.05, high=len(shown["values"]))
    for place, channel in enumerate(shown["values"]):
        values = np.array(channel, dtype=float)
        if np.isfinite(values).any():
            low, high = np.nanmin(values), np.nanmax(values)
            scaled = 0.9 * (values - low) / (high - low or 1.0)
            axes.plot((np.arange(len(values)) + 0.5) * every, len(shown["values"]) - 1 - place + scaled, "k", lw=0.8)
    axes.set_xlim(0, steps)
    axes.set_yticks([])
    axes.set_xlabel("steps", fontsize=8)
    axes.tick_params(labelsize=8)


def draw_bands(axes: "Axes", part: Mapping[str, Any] | None, whole: float, low: float, high: float):
    """The time spans of a map, as coloured bands between `low` and `high`."""
    if part is None:
        return
    colors = colored(part, part["values"])[0]
    for (start, end), color in zip(part.get("times") or [], colors):
        if start < whole:
            axes.fill_between((start, min(end, whole)), low, high, color=color, linewidth=0)
    axes.set_xlim(0, whole)


def draw_table(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """The columns with their values, and bars of the map."""
    names = [f"{name}: {value}" for name, value in zip(shown["columns"], shown["values"])]
    if part is None:
        draw_words(axes, {TEXT: "; ".join(names)}, None)
    else:
        pairs = [(name, value) for name, value in zip(names, part["values"]) if value is not None]
        draw_bars(axes, [name for name, _ in pairs], [value for _, value in pairs])


def beginning(shown: Mapping[str, Any]) -> str:
    """The beginning of a text, up to the length that is drawn."""
    return str(shown.get(TEXT) or "")[: ACROSS * LINES]


def height_of_words(shown: Mapping[str, Any]) -> float:
    """The height of a text, in inches."""
    return 0.45 + 0.2 * -(-len(beginning(shown)) // ACROSS)


def draw_words(axes: "Axes", shown: Mapping[str, Any], part: Mapping[str, Any] | None):
    """The beginning of a text, its words tinted."""
    axes.axis("off")
    text = beginning(shown)
    tints = np.zeros((len(text), 4))
    if part is not None and part.get("spans"):
        for (start, end), color in zip(part["spans"], colored(part, part["values"])[0]):
            tints[start:end] = color
    axes.set_xlim(0, ACROSS)
    axes.set_ylim(max(1, -(-len(text) // ACROSS)), 0)
    for place, letter in enumerate(text):
        line, column = divmod(place, ACROSS)
        if tints[place, 3]:
            axes.fill_between((column, column + 1), line + 0.1, line + 0.9, color=tints[place], linewidth=0)
        if letter.isprintable() and not letter.isspace():
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "family": "monospace"}
            drawn = axes.text(column + 0.5, line + 0.5, letter, parse_math=False, **style)
            drawn.set_in_layout(False)  # measuring every letter takes seconds


HEIGHTS = {PICTURE: 3.2, VIDEO: 1.5, SOUND: 1.9, SERIES: 2.2, TABLE: 2.0}
DRAW = {PICTURE: draw_picture, VIDEO: draw_video, SOUND: draw_sound, SERIES: draw_series, TABLE: draw_table}
