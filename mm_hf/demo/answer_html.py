"""The answer to a row as HTML: probabilities or numbers, bars of the contribution of each modality, and maps.

All data are escaped. The style is `demo.css`, which takes its colours from the theme of the page.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ..data.shown import PICTURE, TABLE, TEXT, VIDEO, embedded_picture
from ..evidence.drawing import colored, largest, opened
from ..models.tasks import CLASSES, NUMBERS, SEVERAL, TEXTS
from .answering import Answered, Said
from .fields import Field


SHOWN_FRAMES = 4
LEAST_PIXELS = 256  # of the longer side of a picture with its map
LEAST_SHARE = 0.05  # words below this share of the strongest tint are not tinted
STARTING = '<div class="mm-empty">The answer will appear here.</div>'


def page_of(answered: Answered, fields: Sequence[Field]) -> str:
    """All answers to a row, with notes."""
    labels = {field.column: field.label for field in fields}
    several = len(answered.said) > 1
    sections = [section_of(said, answered.items, fields, labels, several) for said in answered.said]
    notes = "".join(f"<p>{escaped(note)}</p>" for note in answered.notes)
    notes = f'<details class="mm-notes"><summary>How to read this</summary>{notes}</details>' if notes else ""
    return f'<div class="mm-answer" aria-live="polite">{"".join(sections)}{notes}</div>'


def message(lines: str) -> str:
    """Error messages about the inputs, one paragraph per line."""
    said = "".join(f"<p>{escaped(line)}</p>" for line in lines.splitlines())
    return f'<div class="mm-message" role="alert">{said}</div>'


def section_of(
    said: Said, items: Sequence[dict[str, Any]], fields: Sequence[Field], labels: Mapping[str, str], several: bool
) -> str:
    """The answer for one task."""
    title = f'<h3 class="mm-task">{escaped(str(said.task))}</h3>' if several else ""
    return f'<section class="mm-said">{title}{answer_of(said)}{evidence_of(said, items, fields, labels)}</section>'


def answer_of(said: Said) -> str:
    """The best answer in large letters, and the others below."""
    if not said.answers:
        return '<p class="mm-best">no answer</p>'
    best, score = said.answers[0]
    if said.kind == NUMBERS:
        rows = "".join(f"<tr><th>{escaped(name)}</th><td>{number(value)}</td></tr>" for name, value in said.answers)
        if len(said.answers) > 1:
            return f'<table class="mm-numbers">{rows}</table>'
        return f'<p class="mm-best">{number(score)}<small>{escaped(best)}</small></p>'
    if said.kind == TEXTS:
        sure = "" if score is None else f'<p class="mm-quiet">probability of this text: {percent(score)}</p>'
        return f'<p class="mm-best mm-text">{escaped(best) or "(an empty text)"}</p>{sure}'
    bars = "".join(
        f"<li{' class=mm-first' if (place == 0 if said.kind == CLASSES else (value or 0) > 0.5) else ''}>"
        f'<span class="mm-name">{escaped(name)}</span>{bar(value or 0)}<span class="mm-value">{percent(value)}</span>'
        "</li>"
        for place, (name, value) in enumerate(said.answers)
    )
    heading = escaped(best)
    if said.kind == SEVERAL:
        heading = ", ".join(escaped(name) for name, value in said.answers if (value or 0) > 0.5) or "none of them"
    return f'<p class="mm-best">{heading}</p><ol class="mm-bars" aria-label="Probabilities">{bars}</ol>'


def evidence_of(
    said: Said, items: Sequence[dict[str, Any]], fields: Sequence[Field], labels: Mapping[str, str]
) -> str:
    """The contribution of each modality, as bars to the right and to the left, and maps of its items."""
    given = (said.evidence or {}).get("modalities") or {}
    maps = "".join(map_of(items[part["item"]], part, labels) for part in said.parts)
    if len(given) < 2:  # a single modality contributes everything
        return f'<div class="mm-evidence"><h4>What this answer rests on</h4>{maps}</div>' if maps else ""
    most = max((abs(about["value"]) for about in given.values()), default=0.0) or 1.0
    rows = "".join(modality_row(name, about, most, said, fields) for name, about in given.items())
    if said.kind == NUMBERS:
        how = (
            f"A bar to the right raised the number, a bar to the left lowered it. The unit is that of {said_of(said)}."
        )
    else:
        how = f"A bar to the right speaks for {said_of(said)}, a bar to the left against it."
    bars = f'<ol class="mm-bars mm-signed">{rows}</ol><p class="mm-quiet">{how}</p>'
    return f'<div class="mm-evidence"><h4>What this answer rests on</h4>{bars}{maps}</div>'


def said_of(said: Said) -> str:
    """The name of the explained answer, as part of a sentence."""
    name = said.answers[0][0] if said.answers else ""
    if said.kind == NUMBERS:
        return escaped(str(said.evidence["explained"])) if said.evidence else escaped(name)
    return "this text" if said.kind == TEXTS else f"“{escaped(name)}”"


def modality_row(name: str, about: Mapping[str, Any], most: float, said: Said, fields: Sequence[Field]) -> str:
    """The contribution of one modality: a bar, and the answer without the modality."""
    value, without = about["value"], about.get("without")
    columns = [field.label for field in fields if field.modality == name]
    title = ", ".join(columns[:3]) + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")
    shown = ""
    if without is not None:
        shown = number(without) if said.kind in (NUMBERS, TEXTS) else percent(without)
        shown = percent(without) if said.kind == TEXTS and 0 <= without <= 1 else shown
        shown = f'<span class="mm-without">without it {shown}</span>'
    side = "mm-for" if value >= 0 else "mm-against"
    width = 50 * min(1.0, abs(value) / most)
    left = 50 if value >= 0 else 50 - width
    drawn = f'<span class="mm-bar"><i class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
    return (
        f'<li data-modality="{escaped(name)}"><span class="mm-name">{escaped(title)}</span>{drawn}'
        f'<span class="mm-value">{signed(value)}</span>{shown}</li>'
    )


def map_of(item: Mapping[str, Any], part: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """The map of an item: over a picture, some frames, the words of a text, or the columns of a table."""
    draw = MAPS.get(item["kind"])
    if draw is None or not part.get("values"):
        return ""
    name = labels.get(item["column"], item["column"])
    drawn = draw(item["shown"], part)
    how = "orange speaks for the answer, purple against it" if part["signed"] else "brighter parts mattered more"
    if item["kind"] == TEXT and not part["signed"]:
        how = "words with a stronger colour mattered more"
    if item["kind"] == TABLE:
        name, how = "the columns", "a bar to the right speaks for the answer, or raises the number"
    caption = f"<figcaption>Which parts of {escaped(name)} mattered: {how}.</figcaption>"
    return f'<figure class="mm-map" data-kind="{item["kind"]}">{drawn}{caption}</figure>' if drawn else ""


def picture_map(shown: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A picture under its map."""
    return image(over(opened(shown["src"]), part, part["values"]), "the picture with a map of the parts that mattered")


def video_map(shown: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """Some frames under their maps."""
    frames, maps = shown["frames"], part["values"]
    count = min(len(frames), len(maps))
    wanted = min(SHOWN_FRAMES, count)
    chosen = sorted({round(place * (count - 1) / max(1, wanted - 1)) for place in range(wanted)})
    most = max((largest(values) for values in maps), default=0.0)
    return "".join(image(over(opened(frames[k]), part, maps[k], most), f"frame {k + 1} with its map") for k in chosen)


def over(picture: Image.Image, part: Mapping[str, Any], values: Any, most: float | None = None) -> Image.Image:
    """A picture, and over it the cells of a map. The map may cover only an `area` of the picture."""
    if max(picture.size) < LEAST_PIXELS:  # otherwise the map would be as coarse as a small picture
        scale = LEAST_PIXELS / max(picture.size)
        picture = picture.resize((round(scale * picture.width), round(scale * picture.height)))
    painted = (255 * colored(part, values, most)[0]).round().astype("uint8")
    top, left, bottom, right = part.get("area") or (0, 0, 1, 1)
    width, height = picture.size
    size = max(1, round((right - left) * width)), max(1, round((bottom - top) * height))
    cells = Image.fromarray(painted, "RGBA").resize(size, Image.Resampling.BICUBIC)
    ground = picture.convert("RGBA")
    sheet = Image.new("RGBA", ground.size)
    sheet.paste(cells, (round(left * width), round(top * height)))
    return Image.alpha_composite(ground, sheet).convert("RGB")


def image(picture: Image.Image, words: str) -> str:
    """A picture that is embedded in the page."""
    return f'<img src="{embedded_picture(picture)}" alt="{words}">'


def text_map(shown: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """A text with tinted words."""
    text, spans = str(shown.get(TEXT) or ""), part.get("spans") or []
    most, written, end = largest(part["values"]) or 1.0, [], 0
    for (start, stop), value in sorted(zip(spans, part["values"]), key=lambda pair: pair[0]):
        if start < end or stop > len(text):
            continue
        share = 0.0 if value is None or not math.isfinite(value) else value / most
        side = "mm-against" if share < 0 else ("mm-for" if part["signed"] else "mm-size")
        word = escaped(text[start:stop])
        tinted = f'<mark class="{side}" style="--share:{abs(share):.2f}">{word}</mark>'
        written += [escaped(text[end:start]), tinted if abs(share) > LEAST_SHARE else word]
        end = stop
    return f'<p class="mm-words">{"".join(written)}{escaped(text[end:])}</p>'


def table_map(shown: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """Bars of the columns that have a value."""
    rows = [(name, value) for name, value in zip(shown["columns"], part["values"]) if value is not None]
    most = max((abs(value) for _, value in rows), default=0.0) or 1.0
    lines = []
    for name, value in rows:
        width = 50 * abs(value) / most
        left = 50 if value >= 0 else 50 - width
        side = "mm-for" if value >= 0 else "mm-against"
        drawn = f'<span class="mm-bar"><i class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
        value_said = f'<span class="mm-value">{signed(value)}</span>'
        lines.append(f'<li><span class="mm-name">{escaped(name)}</span>{drawn}{value_said}</li>')
    return f'<ol class="mm-bars mm-signed">{"".join(lines)}</ol>' if lines else ""


MAPS = {PICTURE: picture_map, VIDEO: video_map, TEXT: text_map, TABLE: table_map}


def bar(share: float) -> str:
    """A bar of a share."""
    width = 100 * min(1.0, max(0.0, share))
    return f'<span class="mm-bar"><i class="mm-size" style="left:0;width:{width:.1f}%"></i></span>'


def percent(share: float | None) -> str:
    """A share in percent. It is shown as 0 or 100 % only if it is exactly that."""
    if share is None:
        return ""
    if 0.9995 < share < 1:
        return "&gt; 99.9 %"
    return f"{100 * share:.1f} %" if share >= 0.0005 or share == 0 else "&lt; 0.1 %"


def number(value: float | None) -> str:
    """A number in a readable form."""
    if value is None:
        return ""
    return (f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}").replace("-", "\u2212")


def signed(value: float) -> str:
    """A contribution with its sign."""
    return f"{value:+,.2f}".replace("-", "\u2212") if abs(value) < 1e4 else f"{value:+,.0f}".replace("-", "\u2212")


def escaped(text: str) -> str:
    """A text, escaped for HTML."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd"))
