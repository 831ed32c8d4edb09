"""The evidence page: one HTML file that contains everything it shows, and loads nothing."""

import base64
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.shown import TEXT, embedded_picture
from ..evaluation.html_report import write_html


HERE = Path(__file__).parent
THUMBNAIL = 144  # pixels per side
CAPTION = 160  # characters
# Both scales are perceptually even, and suit colour-blind people. Sizes use viridis. Signs use purple (against an
# answer) to orange (for it), ColorBrewer's PuOr, https://colorbrewer2.org.
SIZES = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"]
SIGNS = ["#542788", "#8073ac", "#b2abd2", "#f7f7f7", "#fdb863", "#e08214", "#b35806"]
ABSENCE = {
    "other_rows": "A removed modality is replaced by items of {background} other rows, and answers are averaged.",
    "token": "A removed modality is replaced by the learned token for an absent item.",
}


def write_page(evidence: Mapping[str, Any], folder: Path) -> Path:
    """Writes `index.html`, which shows a record of evidence.

    The page works from a disk and from a server. Its Content-Security-Policy allows only its own script and style, and
    no network. So nothing in the data can run or be loaded. Rows are stored as JSON. A row becomes visible elements
    when the reader opens it.

    Args:
        evidence: see `evidence.json` in docs/evidence.md.
        folder: an existing folder.

    Returns:
        the file.

    Raises:
        ValueError: a number is not finite.
    """
    from markupsafe import Markup

    page, missing = Path(folder) / "index.html", evidence.get("missing") or {}
    lacking = {row["row"]: row for row in missing.get("rows", ())}
    rows = [{**row, "missing": lacking[row["row"]]} if row["row"] in lacking else row for row in evidence["rows"]]
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("maps.js", "items.js", "page.js"))
    style = (HERE / "page.css").read_text(encoding="utf-8")
    about = {
        "summary": evidence.get("summary"),
        "failed": failed_checks(evidence),
        "colors": {"sizes": SIZES, "signs": SIGNS},
        "index": [index_entry(row) for row in rows],
        "prices": missing.get("prices"),
    }
    absence = str(evidence.get("absence"))
    write_html(
        page,
        "page.html",
        folder=HERE,
        policy=f"default-src 'none'; img-src data:; media-src data:; script-src {source_of(script)}; "
        f"style-src {source_of(style)}; base-uri 'none'; form-action 'none'",
        script=Markup(script),
        style=Markup(style),
        run=evidence.get("run", ""),
        absence=ABSENCE.get(absence, absence).format(background=evidence.get("background")),
        warnings=[*(evidence.get("warnings") or []), *missing.get("warnings", ())],
        checks=evidence.get("checks"),
        about=Markup(embedded_json(about)),
        rows=[Markup(embedded_json(row)) for row in rows],
    )
    return page


def source_of(code: str) -> str:
    """The name of a script or style in a Content-Security-Policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def embedded_json(value: Any) -> str:
    """JSON for an HTML element. No content of it can close the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def failed_checks(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks that failed, each with its `name`."""
    checks = evidence.get("checks") or {}
    return [{"name": name, **check} for name, check in checks.items() if not check["passed"]]


def decided_by(answer: Mapping[str, Any]) -> str | None:
    """The modality with the largest absolute effect on an answer; None if no modality has an effect."""
    values = {name: abs(about.get("value") or 0.0) for name, about in (answer.get("modalities") or {}).items()}
    most = max(values.values(), default=0.0)
    return next(name for name, value in values.items() if value == most) if most > 0 else None


def index_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of one row in the index."""
    items = row.get("items") or []
    answers = [
        {
            **{key: answer.get(key) for key in ("task", "answer", "truth", "right", "probability")},
            "decided": decided_by(answer),
        }
        for answer in row.get("answers") or []
    ]
    thumbnail = next((small for item in items if (small := thumbnail_of(item["shown"]))), None)
    caption = next((text for item in items if (text := caption_of(item["shown"]))), "")
    return {"row": row["row"], "answers": answers, "thumbnail": thumbnail, "caption": caption}


def thumbnail_of(shown: Mapping[str, Any]) -> str | None:
    """A small picture of an item, or of its spectrogram or first frame; None if there is no picture."""
    sources: Sequence[str] = [shown.get("spectrogram") or shown.get("src") or "", *(shown.get("frames") or [])]
    source = next((source for source in sources if source.startswith("data:image/")), None)
    return None if source is None else reduced(source)


@functools.lru_cache(maxsize=64)  # rows share pictures
def reduced(source: str) -> str | None:
    """A small version of the picture in a data URI; None if it is broken."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) as image:
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))  # a JPEG is decoded at a fraction of its size
            return embedded_picture(image, THUMBNAIL)
    except (OSError, ValueError):
        return None  # the row itself shows that it is broken


def caption_of(shown: Mapping[str, Any]) -> str:
    """The beginning of the text or table of an item; empty if it has neither."""
    text = shown.get(TEXT) or ", ".join(f"{n} {v}" for n, v in zip(shown.get("columns", ()), shown.get("values", ())))
    words = " ".join(text[: 4 * CAPTION].split())
    return words if len(words) <= CAPTION else f"{words[: CAPTION - 1]}…"
