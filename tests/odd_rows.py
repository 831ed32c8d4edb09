"""Cases of odd rows from a seed, how they are run, and how they are judged.

A case is one odd thing (see `odd_things`) on one route: in a CSV, in JSON lines, in Parquet, in a stream, in rows in
memory, through the processor, or through a pipeline. Either it is answered, and the answer is that of the clean thing
that it means; or it is refused, and the error names the row (of a whole file the file, and the column if it is one's).
Anything else is a fault: a crash that names nothing, and above all another answer.
"""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiny_models
import torch
from odd_things import (
    ANY,
    CLEAN,
    EXACT,
    OBJECTS,
    RATE,
    ROUTES,
    WORDS,
    draw_picture,
    draw_text,
    files,
    forms_of,
    labels,
    pcm,
    saved,
)
from transformers import BertTokenizer, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import mm_hf
from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, Rows, StreamBatches, load_splits
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.series import SeriesScaler
from mm_hf.models.tabular import TableSchema, TabularConfig


TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ".", *WORDS]
NAMES = {"image": "photo", "path": "photo", "text": "text", "sound": "sound", "table": "age", "series": "readings"}
PARTS = {"image": "images", "path": "images", "text": "text", "sound": "audio", "table": "table", "series": "series"}
KEYS = {"image": "image", "path": "image", "text": "text", "sound": "audio", "table": "table", "series": "series"}
KINDS = ("image", "path", "text", "sound", "table", "series", "label", "file")


@dataclass
class Case:
    """One odd thing.

    Args:
        kind, form, route, seed: what tells it apart.
        odd: as the route takes it; of pictures and sounds in files the bytes, see `suffix`.
        means: the clean things, any of which it may be answered as; `ANY`: any finite answer; none: it is refused.
        refused: it may be refused, by its row.
        suffix: of its file.
        tolerance: of the logits.
        run: of labels and files, what is done; its result is one of `means`.
        names: of these, a word that a refusal names.
    """

    kind: str
    form: str
    route: str
    seed: int
    odd: Any = None
    means: list[Any] = field(default_factory=list)
    refused: bool = False
    suffix: str = ""
    tolerance: float = EXACT
    run: Callable[[Path], Any] | None = None
    names: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.form}-{self.route}-{self.seed}"


# The model that all are asked of


class World:
    """A tiny model of five modalities with its processor and pipeline, and its answers to clean things."""

    def __init__(self):
        small = tiny_models.SMALL
        vision, text = tiny_models.VISION_CONFIGS["vit"](), tiny_models.TEXT_CONFIGS["bert"]()
        text.vocab_size = len(TOKENS)
        config = MMFusionConfig(
            vision_config=vision,
            text_config=text,
            audio_config=tiny_models.AUDIO_CONFIGS["wav2vec2"](),
            tabular_config=TabularConfig(num_numerical=1, vocab_sizes=[4], hidden_size=16, initializer_range=0.5),
            series_config=RecurrentConfig(input_size=2, hidden_size=16),
            fusion_module_config=tiny_models.fusion_settings("concat", num_hidden_layers=1),
            num_labels=3,
            classifier_dropout=0.0,
        )
        torch.manual_seed(0)
        self.model = MMFusionForClassification(config).eval()
        with torch.no_grad():  # what goes in has to come out
            for name, parameter in self.model.named_parameters():
                if "series" in name or "tabular" in name:
                    parameter.mul_(3)
        size = {"height": tiny_models.IMAGE_SIZE, "width": tiny_models.IMAGE_SIZE}
        self.processor = MMFusionProcessor(
            ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
            BertTokenizer(vocab={token: number for number, token in enumerate(TOKENS)}, model_max_length=30),
            Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False, return_attention_mask=True),
            TableSchema({"age": (50.0, 25.0)}, {"town": ["Oslo", "Rome"]}),
            SeriesScaler([0.0, 1.0], [10.0, 10.0]),
        )
        if hasattr(self.processor, "image_background"):
            self.processor.image_background = "white"  # as `from_encoders_pretrained` writes it
        self.pipeline = mm_hf.pipeline("multimodal-classification", self.model, self.processor)
        generator = np.random.default_rng(99)
        self.companions = {"text": draw_text(generator), "image": draw_picture(generator)}
        assert small["hidden_size"] == vision.hidden_size

    def beside(self, kind: str) -> tuple[str, Any]:
        """What every row has beside the odd thing."""
        name = "image" if kind == "text" else "text"
        return name, self.companions[name]

    @torch.no_grad()
    def logits(self, kind: str, clean: Any) -> torch.Tensor:
        """The answer to a clean thing, `(C,)`; None is an absent one."""
        name, beside = self.beside(kind)
        inputs = {"images" if name == "image" else "text": [beside]}
        if clean is not None:
            inputs[PARTS[kind]] = [clean]
        if kind == "sound":
            inputs["sampling_rate"] = RATE
        return self.model(**self.processor(**inputs)).logits[0]


# How a case is run


@dataclass
class Outcome:
    """What came of a case: the answer (of labels and files the result), or the error's text."""

    answer: Any = None
    error: str | None = None


def columns_of(kind: str) -> Columns:
    """The columns that the rows of a kind have."""
    beside = {"image": "photo", "text": "text"}
    parts = {
        "image": beside,
        "path": beside,
        "text": beside,
        "sound": {"audio": "sound", "text": "text"},
        "table": {"table": ["age", "town"], "text": "text"},
        "series": {"series": "readings", "text": "text"},
    }
    return Columns(**parts[kind])


def cell(case: Case, folder: Path, place: int) -> dict[str, Any]:
    """The odd cells of a row: of a file its path, or its bytes."""
    if case.kind in ("image", "sound"):
        if case.route in ("parquet", "memory"):
            return {NAMES[case.kind]: {"bytes": case.odd, "path": None}}
        name = f"{case.kind}{place}{case.suffix}"
        (folder / name).write_bytes(case.odd)
        return {NAMES[case.kind]: name}
    if case.kind == "path":
        if case.route != "memory":
            return {"photo": case.odd}
        return {"photo": None if case.odd is None else {"bytes": None, "path": case.odd}}
    return dict(case.odd) if case.kind == "table" else {NAMES[case.kind]: case.odd}


def write_rows(rows: list[dict[str, Any]], route: str, folder: Path) -> Path:
    """The rows as a file of the route."""
    if route == "csv":
        file = folder / "rows.csv"
        with open(file, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif route == "parquet":
        file = folder / "rows.parquet"
        content = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        known = {"photo": content, "sound": content, "text": pa.string()}
        arrays = {
            name: pa.array([row[name] for row in rows], known.get(name, pa.list_(pa.list_(pa.float64()))))
            for name in rows[0]
        }
        pq.write_table(pa.table(arrays), file)
    else:
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def run_rows(cases: list[Case], world: World, folder: Path) -> tuple[list[Outcome], str | None]:
    """Cases of one kind and route as rows of one table, behind a clean one; bad rows are skipped.

    Returns:
        what came of each, and what is wrong with the clean row, None if nothing is.
    """
    kind, route = cases[0].kind, cases[0].route
    name, beside = world.beside(kind)
    own = folder
    companion: Any = beside
    (own / "beside.png").write_bytes(saved(world.companions["image"], "PNG"))
    if name == "image":
        content = {"bytes": saved(beside, "PNG"), "path": None}
        companion = "beside.png" if route in ("csv", "jsonl", "stream") else content
    clean = CLEAN[kind](np.random.default_rng(5))
    first = Case(kind, "clean", route, 0, clean)
    if kind in ("image", "path"):
        first.odd, first.suffix = saved(clean, "PNG"), ".png"
    if kind == "sound":
        first.odd, first.suffix = pcm(clean, 2), ".wav"
    column = "photo" if name == "image" else "text"
    cells = [cell(case, own, place) for place, case in enumerate(cases, start=1)]
    if kind == "path":
        (own / "clean.png").write_bytes(first.odd)
        first.odd = "clean.png"
    cells.insert(0, cell(first, own, 0))
    rows = [{**cells[place], column: companion} for place in range(len(cells))]
    columns = columns_of(kind)
    root = str(own)
    if route == "memory":
        batch = [{**row, "row_id": place, "split": "train"} for place, row in enumerate(rows)]
    else:
        options = {"validation_fraction": 0, "test_fraction": 0}
        file = write_rows(rows, route, own)
        splits = load_splits(file, columns, streaming=route == "stream", **options)
        if route == "stream":
            batch = next(iter(StreamBatches(splits["train"], "train", batch_size=len(rows))))
        else:
            batch = Rows(splits["train"], "train").__getitems__(range(len(rows)))
    collated = MultimodalCollator(world.processor, columns, on_error="skip", root=root)(batch)
    bad = {}
    for entry in collated.pop("bad_rows", []):
        bad.setdefault(entry["row"], []).append(entry)
    collated.pop("row_ids")
    collated.pop("stream_position", None)
    with torch.no_grad():
        logits = world.model(**collated).logits
    wanted = columns.table if kind == "table" else [NAMES[kind]]
    outcomes = []
    for place in range(1, len(rows)):
        entries = bad.get(place, [])
        if not entries:
            outcomes.append(Outcome(logits[place]))
        elif all(entry["column"] in wanted and entry["split"] == "train" and entry["reason"] for entry in entries):
            outcomes.append(Outcome(error=f"row {place}: {entries[0]['reason']}"))
        else:
            outcomes.append(Outcome(error=f"other entries: {entries}"))
    fault = None
    if 0 in bad or not torch.allclose(logits[0], world.logits(kind, clean), atol=EXACT):
        fault = f"the clean row of {kind}, {route}: {bad.get(0)}"
    return outcomes, fault


def run_object(case: Case, world: World) -> Outcome:
    """One case through the processor or a pipeline, between two clean rows."""
    name, beside = world.beside(case.kind)
    clean = CLEAN[case.kind](np.random.default_rng(5))
    values = [clean, case.odd, clean]
    if case.route == "processor":
        inputs = {"images" if name == "image" else "text": [beside] * 3, PARTS[case.kind]: values}
        if case.kind == "sound":
            inputs["sampling_rate"] = RATE
        with torch.no_grad():
            logits = world.model(**world.processor(**inputs)).logits
    else:
        rows = [{KEYS[case.kind]: value, name: beside} for value in values]
        answers = world.pipeline(rows, batch_size=3, top_k=None)
        labels = list(world.model.config.id2label.values())
        found = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        logits = torch.tensor([[scores[label] for label in labels] for scores in found]).log()
    expected = world.logits(case.kind, clean)
    if case.route == "pipeline":
        expected = expected.log_softmax(-1)
    if not torch.allclose(logits[[0, 2]], expected.expand(2, -1), atol=1e-3):
        return Outcome(error="the clean rows beside it are answered otherwise")
    return Outcome(logits[1])


# The plan: which cases there are, and which of them stand for the others


def forms(kind: str, route: str, seed: int, folder: Path) -> dict[str, Case]:
    """All cases of a kind on a route, with what the seed draws; files that they need are written into the folder."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "label":
        found = labels(generator)
    elif kind == "file":
        found = files(generator)
    else:
        found = forms_of(kind, route, generator, folder)
    return {form: Case(kind, form, route, seed, **{"means": [], **case}) for form, case in found.items()}


def plan(folder: Path, seed: int = 0) -> list[tuple[str, str, str, int]]:
    """All cases of a seed, as kind, form, route and seed: every form on every route that can carry it, those of a kind
    in an order that is drawn. Another seed draws other contents."""
    found = []
    for kind in KINDS:
        routes = ROUTES.get(kind, ("direct",))
        own = [(form, route) for route in routes for form in forms(kind, route, seed, scratch(folder, kind, route))]
        order = np.random.default_rng([7, seed]).permutation(len(own)).tolist()
        found += [(kind, *own[place], seed) for place in order]
    return found


def scratch(folder: Path, *names: Any) -> Path:
    """A new folder in a folder."""
    own = folder / "-".join(map(str, names)) / "own"
    own.mkdir(parents=True)
    return own


def some(entries: list[tuple[str, str, str, int]], count: int) -> list[tuple[str, str, str, int]]:
    """So many of the cases, of each kind in proportion."""
    return [entries[place * len(entries) // count] for place in range(count)]


def run(entries: list[tuple[str, str, str, int]], world: World, folder: Path) -> list[str]:
    """Runs cases, each table's together, and gives the faults, one line each."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for kind, form, route, seed in entries:
        groups.setdefault((kind, route, seed), []).append(form)
    faults = []
    for (kind, route, seed), chosen in groups.items():
        own = scratch(folder, kind, route, seed)
        known = forms(kind, route, seed, own)
        cases = [known[form] for form in chosen]
        if kind in ("label", "file") or route in OBJECTS[1:]:
            for number, case in enumerate(cases):
                faults += judge(case, attempt(case, world, scratch(own, number)), world)
            continue
        try:
            outcomes, fault = run_rows(cases, world, own)
        except Exception:  # one of them brings all down: which one?
            outcomes, fault = [], None
            for number, form in enumerate(chosen):
                alone = scratch(folder, kind, route, seed, number)
                case = forms(kind, route, seed, alone)[form]
                try:
                    (outcome,), fault_here = run_rows([case], world, alone)
                    fault = fault or fault_here
                except Exception as error:
                    outcome = Outcome(error=f"{type(error).__name__}: {error}")
                outcomes.append(outcome)
        faults += [fault] if fault else []
        for case, outcome in zip(cases, outcomes, strict=True):
            faults += judge(case, outcome, world)
    return faults


def attempt(case: Case, world: World, folder: Path) -> Outcome:
    """One case by itself."""
    try:
        return run_object(case, world) if case.run is None else Outcome(case.run(folder))
    except Exception as error:
        return Outcome(error=f"{type(error).__name__}: {error}")


def judge(case: Case, outcome: Outcome, world: World) -> list[str]:
    """What is wrong with the outcome of a case: nothing, or one line."""
    if outcome.error is not None:
        if not case.refused:
            return [f"{case}: refused, though it means something: {outcome.error:.200}"]
        named = case.names or (r"\brows?\W{0,3}1\b" if case.route in OBJECTS[1:] else r"^row \d+: |\brow 1\b")
        if not re.search(named, outcome.error, re.IGNORECASE):
            return [f"{case}: the error does not name it ({named}): {outcome.error:.300}"]
        return []
    if not case.means:
        return [f"{case}: answered, though it means nothing: {outcome.answer!r:.200}"]
    if case.run is not None:
        same = any(outcome.answer == means for means in case.means)
        return [] if same else [f"{case}: {outcome.answer!r:.200} in place of {case.means!r:.200}"]
    if not torch.isfinite(outcome.answer).all():
        return [f"{case}: the answer is not finite: {outcome.answer}"]
    if any(means is ANY for means in case.means):
        return []
    answers = [world.logits(case.kind, means) for means in case.means]
    if case.route == "pipeline":
        answers = [answer.log_softmax(-1) for answer in answers]
    tolerance = max(case.tolerance, 1e-3 if case.route == "pipeline" else 0)
    off = min((answer - outcome.answer).abs().max().item() for answer in answers)
    return [] if off <= tolerance else [f"{case}: SILENT CHANGE, off by {off:.4f}"]
