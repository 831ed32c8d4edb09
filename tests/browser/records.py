"""Records of evidence made of real things, with maps from plain functions: what pages of evidence are tried on."""

import functools

import numpy as np
from PIL import Image

from mm_hf.data.modalities.sound import WIDE, picture_of_sound
from mm_hf.data.shown import (
    shown_frames,
    shown_other,
    shown_picture,
    shown_series,
    shown_sound,
    shown_table,
    shown_text,
)


HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<svg onload=window.hacked=3> {{ 7 * 7 }} javascript:window.hacked=4 &lt;b&gt; \u202eright to left\u202c "
    "שלום עולם 👩‍👩‍👧 \x00 \ud800 \u2028 ' \" ` \\"
)
RATE = 8000


def picture(name: str, side: int = 640) -> Image.Image:
    """A photograph that scikit-image brings."""
    from skimage import data

    photo = Image.fromarray(getattr(data, name)())
    photo.thumbnail((side, side))
    return photo


def hill(rows: int, columns: int, y: float, x: float, width: float = 1.5) -> list[list[float]]:
    """A map with its top at a cell."""
    down, across = np.mgrid[:rows, :columns]
    return np.exp(-((down - y) ** 2 + (across - x) ** 2) / (2 * width**2)).round(4).tolist()


def spans_of(text: str) -> list[list[int]]:
    """Where the words of a text are."""
    starts = [place for place in range(len(text)) if text[place] != " " and (place == 0 or text[place - 1] == " ")]
    return [[start, start + len(text[start:].split(" ")[0])] for start in starts]


def sound() -> np.ndarray:
    """Two seconds: a tone that rises, and a click."""
    seconds = np.arange(2 * RATE) / RATE
    samples = 0.4 * np.sin(2 * np.pi * (200 * seconds + 350 * seconds**2)) * np.hanning(len(seconds))
    samples[RATE : RATE + 80] += 0.5
    return samples


@functools.cache
def item_of(kind: str, text: str = "Is the cat on the left looking at the camera?") -> tuple[dict, dict]:
    """An item of a kind, and a map of it."""
    if kind == "picture":
        shown, modality, column = shown_picture(picture("chelsea")), "vision", "photo"
        part = {"method": "occlusion", "signed": False, "values": hill(7, 9, 2, 3)}
    elif kind == "video":
        frames = [picture("coffee").rotate(4 * turn) for turn in range(5)]
        shown, modality, column = shown_frames(frames, [0.0, 0.4, 0.8, 1.2, 1.6]), "vision", "clip"
        values = [(0.3 * turn * np.array(hill(6, 8, 3, 1 + turn))).tolist() for turn in range(5)]
        part = {"method": "occlusion", "signed": False, "values": values}
    elif kind == "text":
        shown, modality, column, spans = shown_text(text), "text", "question", spans_of(text)
        values = [round(float(np.sin(2 * place)), 4) for place in range(len(spans))]
        part = {"method": "integrated_gradients", "signed": True, "values": values, "spans": spans}
    elif kind == "sound":
        samples = sound()
        shown = shown_sound(samples, RATE, picture_of_sound(samples, RATE, WIDE))
        modality, column = "audio", "noise"
        times = [[0.1 * step, 0.1 * step + 0.1] for step in range(20)]
        values = hill(1, 20, 0, 10, 3)[0]
        part = {"method": "occlusion", "signed": False, "values": values, "times": times}
    elif kind == "series":
        steps = np.cumsum(np.random.default_rng(0).normal(size=(120, 3)), axis=0)
        steps[40:50, 1] = np.nan
        shown, modality, column = shown_series(steps), "series", "readings"
        times = [[10 * step, 10 * step + 10] for step in range(12)]
        values = [round(float(np.cos(step)), 4) for step in range(12)]
        part = {"method": "occlusion", "signed": True, "values": values, "times": times}
    elif kind == "table":
        columns = ["rooms", "area in square metres", "street", "built"]
        shown = shown_table(columns, {"rooms": 4, "area in square metres": 102.5, "street": "5th street"})
        modality, column = "tabular", ", ".join(columns)
        part = {"method": "shapley", "signed": True, "values": [0.8, 1.9, -0.6, 0.02]}
    else:
        shown, modality, column, part = shown_other("52.5 north, 13.4 east"), "place", "latitude, longitude", None
    return {"modality": modality, "column": column, "place": 0, **shown}, part


def answer_of(names: list[str], seed: int = 0, task: str | None = None, right: bool | None = True) -> dict:
    """An answer with what the modalities gave; that of the first is the largest for an even seed."""
    generator = np.random.default_rng(seed)
    values = generator.uniform(-0.6, 0.9, len(names))
    values[seed % len(names)] = 2.1
    probability = float(1 / (1 + np.exp(0.4 - values.sum())))
    modalities = {
        name: {
            "value": round(float(value), 4),
            "with": probability,
            "without": float(1 / (1 + np.exp(0.4 - values.sum() + value))),
            "alone": float(1 / (1 + np.exp(0.4 - value))),
        }
        for name, value in zip(names, values)
    }
    pairs = [[names[0], name] for name in names[1:]]
    kinds = ["synergistic", "redundant", "none"]
    interactions = [
        {"of": pair, "value": [0.71, -0.32, 0.0][place % 3], "kind": kinds[place % 3]}
        for place, pair in enumerate(pairs)
    ]
    return {
        "task": task,
        "answer": ["yes", "no"][seed % 2],
        "truth": None if right is None else ["yes", "no"][(seed + (not right)) % 2],
        "right": right,
        "probability": probability,
        "confidence": None,
        "explained": f"log odds of {['yes', 'no'][seed % 2]!r}",
        "value": float(values.sum() - 0.4),
        "base": -0.4,
        "modalities": modalities,
        "interactions": interactions,
        "shares": {"unique": 0.62, "redundant": 0.13, "synergistic": 0.25},
        "parts": [],
    }


def row_of(kinds: list[str], number: int = 0, tasks: tuple = (None,), right: bool | None = True, **more) -> dict:
    """A row with an item of each kind, and an answer of each task."""
    pairs = [item_of(kind, **more) for kind in kinds]
    names = list(dict.fromkeys(item["modality"] for item, _ in pairs))
    parts = [{"item": place, **part} for place, (_, part) in enumerate(pairs) if part is not None]
    answers = [
        {**answer_of(names, number + k, task, right), "parts": [dict(part) for part in parts]}
        for k, task in enumerate(tasks)
    ]
    return {"row": number, "items": [item for item, _ in pairs], "answers": answers}


def evidence_of(rows: list[dict], **more) -> dict:
    """A record of rows."""
    record = {"version": 1, "run": "houses", "absence": "other_rows", "background": 16, "warnings": [], "checks": None}
    return {**record, "summary": None, "rows": rows, **more}


CHECKS = {
    "deletion": {"value": 0.41, "bound": 0.1, "passed": True, "says": "Without what counts most the answer falls."},
    "random_weights": {
        "value": 0.93,
        "bound": 0.5,
        "passed": False,
        "says": "The map stays nearly the same when the fusion's weights are drawn anew.",
    },
}
SUMMARY = {
    "offer": {
        "modalities": {
            "vision": {"mean": 0.82, "low": 0.71, "high": 0.93},
            "text": {"mean": 1.34, "low": 1.2, "high": 1.47},
            "tabular": {"mean": -0.11, "low": -0.2, "high": -0.03},
        },
        "shares": {"unique": 0.62, "redundant": 0.13, "synergistic": 0.25},
    }
}
ALL_KINDS = ["picture", "text", "sound", "series", "table", "video", "other"]


def all_kinds() -> dict:
    """One row that has everything, of two tasks, the second wrong."""
    row = row_of(ALL_KINDS, tasks=("offer", "street"))
    row["answers"][1] |= {"right": False, "truth": "yes"}
    signed = {"item": 0, "method": "integrated_gradients", "signed": True}
    signed["values"] = (np.array(hill(7, 9, 2, 3)) - 0.8 * np.array(hill(7, 9, 5, 7))).round(4).tolist()
    row["answers"][0]["parts"] = [*row["answers"][0]["parts"], signed]
    warning = "The model was trained without modality dropout: its tokens for what is absent mean little."
    return evidence_of([row], warnings=[warning], checks=CHECKS, summary=SUMMARY)


def many(count: int = 300) -> dict:
    """Rows of pictures with questions, in two tasks, right, wrong and without a truth."""
    patterns = [row_of(["picture", "text"], k, ("offer", "street"), (True, False, None)[k % 3]) for k in range(6)]
    rows = [{**patterns[number % 6], "row": number} for number in range(count)]
    return evidence_of(rows, summary=SUMMARY)


def lacking() -> dict:
    """Rows that lack modalities: of one a plan says what to ask for, of one nothing is worth its price, and one lacks
    nothing."""
    plan = {"next": "audio", "order": [{"modality": "audio", "chance": 1.0}, {"modality": "vision", "chance": 0.3}]}
    told = [
        {
            **{"missing": ["vision", "audio"], "sure": 0.62, "gains": {"vision": 0.21, "audio": 0.13}, **plan},
            "together": [{"of": ["vision", "audio"], "gain": 0.31}],
            **{"price": 2.5, "score": 0.84, "reason": None},
        },
        {
            **{"missing": ["vision"], "sure": 0.97, "gains": {"vision": None}, "together": [], "next": None},
            **{"order": [], "price": 0, "score": 0.97, "reason": "not worth it"},
        },
        {"missing": [], "sure": 0.9, "gains": {}, "together": [], "next": None, "order": [], "reason": "complete"},
    ]
    rows = [row_of(["text"], number) for number in range(3)]
    missing = {
        "prices": {"vision": 5, "audio": 1, "text": 1},
        "warnings": ["Of 42 validation rows little can be learned."],
        "rows": [{"row": number, **of_row} for number, of_row in enumerate(told)],
    }
    return evidence_of(rows, missing=missing)


def incomplete() -> dict:
    """Rows that lack whatever may be lacking."""
    rows = [row_of(["picture", "text", "sound", "series", "table", "video"], right=None) for _ in range(5)]
    rows[0]["answers"][0] |= {"parts": [], "probability": None, "modalities": {}, "interactions": [], "shares": None}
    rows[1]["answers"][0] |= dict.fromkeys(("answer", "explained", "value", "base", "confidence", "modalities"))
    rows[1]["answers"][0] |= dict.fromkeys(("parts", "interactions", "shares"))
    rows[2] |= {"items": [], "answers": []}
    for part in rows[3]["answers"][0]["parts"]:
        part["values"] = []
    for about in rows[3]["answers"][0]["modalities"].values():
        about |= dict.fromkeys(("with", "without", "alone"))
    rows[4]["answers"] = []
    return evidence_of([{**row, "row": number} for number, row in enumerate(rows)], background=0)
