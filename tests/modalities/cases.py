"""One case of each modality: tiny encoders, raw items, the same items in the cells of a data set, and bad ones."""

import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import tiny_models as tiny
import torch
from PIL import Image
from transformers import BertTokenizer, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import MMFusionForClassification, MMFusionProcessor, SeriesScaler, TableSchema
from mm_hf.data import Columns
from mm_hf.models.modality import Modality, modality_of
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.tabular import TabularConfig


RATE = 16000
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "what", "is", "it", "no"]
BESIDE = (6, 4, 7, 5, 3)  # lengths of the texts of five rows


def example():
    """`examples/custom_modality.py`, which a fixture has imported."""
    return sys.modules["mm_hf.data.imported.custom_modality"]


def file_of(save: Callable[[io.BytesIO], Any]) -> dict[str, Any]:
    """A file in memory, as a cell of a data set holds it."""
    save(buffer := io.BytesIO())
    return {"bytes": buffer.getvalue(), "path": None}


@dataclass
class Case:
    """What the suite has to know of a modality.

    Args:
        name: of the modality.
        settings: the key of `tiny.config` for a tiny encoder, by the kind of encoder. The first one reads what `part`
            makes.
        tensors: the model's inputs of three items, of a kind of encoder, padded to a length where `padded` says so.
        part: makes the part of the processor.
        items: three raw ones, all different.
        cells: the values of an item in the columns of a data set.
        columns: of the data set, which hold one item.
        field: of `Columns`, which names them.
        bad: a raw item that is none, and what the error says of it.
        bad_cells: the same in a data set.
        padded: kinds of encoders whose items may have any length.
        forms: other forms that an item may have.
    """

    name: str
    settings: dict[str, Callable[[], Any]]
    tensors: Callable[[str, int], dict[str, torch.Tensor]]
    part: Callable[[], Any]
    items: list[Any]
    cells: Callable[[Any], tuple]
    columns: tuple[str, ...]
    field: str
    bad: tuple[Any, str]
    bad_cells: tuple
    padded: tuple[str, ...] = ()
    forms: tuple[Callable[[Any], Any], ...] = ()

    @property
    def modality(self) -> Modality:
        return modality_of(self.name)

    @property
    def several_places(self) -> bool:
        return self.name not in ONE_PLACE

    @property
    def index(self) -> str:
        return f"{self.name}_index"

    @property
    def places(self) -> dict[str, Any]:
        """Arguments of a config for two places."""
        return {"num_images": 2} if self.name == "vision" else {"places": {self.name: 2}}

    def model(self, encoder: str | None = None, cls=MMFusionForClassification, alone: bool = False, **kwargs):
        """A tiny model of this modality and of texts, or of texts and pictures, or of nothing else."""
        beside = {} if alone else {"vision": "vit"} if self.name == "text" else {"text": "bert"}
        key, value = self.settings[encoder or next(iter(self.settings))]()
        return tiny.model(cls, **{"vision": None, "text": None, **beside, key: value, **kwargs})

    def inputs(self, encoder: str | None = None, pad_to: int = 0) -> dict[str, torch.Tensor]:
        """Of three items."""
        return self.tensors(encoder or next(iter(self.settings)), pad_to)

    def beside(self, rows: int = 5) -> dict[str, torch.Tensor]:
        """Inputs of what stands beside it in each row of a model."""
        return tiny.images(rows) if self.name == "text" else tiny.texts(BESIDE[:rows])

    def processor(self, **kwargs) -> MMFusionProcessor:
        """One that has its part, and a tokenizer."""
        part = {"extra_parts": {self.name: self.part()}} if self.modality.extra else {self.modality.part: self.part()}
        return MMFusionProcessor(**{"tokenizer": tokenizer(), **part, **kwargs})

    def data_columns(self, places: int = 1, **kwargs) -> Columns:
        """Which columns of a data set hold it, in so many places."""
        names = [f"{name}{'_2' * place}" for place in range(places) for name in self.columns]
        return Columns(**{"extra": {self.name: names}} if self.modality.extra else {self.field: names}, **kwargs)

    def row(self, *items: Any, cells: tuple | None = None, **more) -> dict[str, Any]:
        """A row of a data set: None for a place without an item, `BAD` for one with a bad one."""
        found = {}
        for place, item in enumerate(items):
            values = self.bad_cells if item is BAD else (None,) * len(self.columns)
            values = values if item is None or item is BAD else self.cells(item)
            found.update({f"{name}{'_2' * place}": value for name, value in zip(self.columns, values)})
        return {"row_id": 0, "split": "train", **found, **more}

    def rows(self, *rows: Any, **columns: list) -> list[dict[str, Any]]:
        """Rows of one item each, or of a tuple of them in several places."""
        found = []
        for number, items in enumerate(rows):
            more = {name: values[number] for name, values in columns.items()}
            found.append(self.row(*(items if type(items) is Places else (items,)), row_id=number, **more))
        return found


def table_config() -> TabularConfig:
    return TabularConfig(num_numerical=1, vocab_sizes=[4], hidden_size=16)


class Places(tuple):
    """The items of a row in several places."""


BAD = object()
ONE_PLACE = ("tabular", "place")


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=40)


def wave(length: int) -> np.ndarray:
    return (0.5 * np.sin(np.arange(length) * length / 9000)).astype(np.float32)


def table_tensors(*_) -> dict[str, torch.Tensor]:
    return {
        "numerical_values": torch.tensor([[0.5], [math.nan], [-1.5]]),
        "categorical_ids": torch.tensor([[2], [3], [1]]),
    }


def series_tensors(_, pad_to: int) -> dict[str, torch.Tensor]:
    """With noise behind the ends."""
    lengths, width = torch.tensor([6, 3, 4]), max(6, pad_to)
    values = torch.stack([torch.randn(50, 2, generator=torch.Generator().manual_seed(n))[:width] for n in range(3)])
    return {"series_values": values, "series_attention_mask": (torch.arange(width) < lengths[:, None]).long()}


CASES = [
    Case(
        name="vision",
        settings={kind: lambda kind=kind: ("vision", kind) for kind in ("vit", "resnet")},
        tensors=lambda *_: tiny.images(3),
        part=lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}),
        items=[Image.new("RGB", (40, 32), color) for color in ("red", "blue", "white")],
        cells=lambda item: (file_of(lambda file: item.save(file, "PNG")),),
        columns=("photo",),
        field="image",
        bad=(np.zeros(5), r"\(5,\)"),
        bad_cells=({"bytes": b"no picture", "path": None},),
    ),
    Case(
        name="text",
        settings={kind: lambda kind=kind: ("text", kind) for kind in ("bert", "lstm")},
        tensors=lambda kind, pad_to: tiny.texts((6, 4, 7), pad_to=pad_to),
        part=tokenizer,
        items=["what is it", "no", "it is"],
        cells=lambda item: (item,),
        columns=("words",),
        field="text",
        bad=(" ", "' '"),
        bad_cells=(" ",),
        padded=("bert", "lstm"),
    ),
    Case(
        name="audio",
        settings={kind: lambda kind=kind: ("audio", kind) for kind in ("wav2vec2", "whisper", "ast", "lstm")},
        tensors=lambda kind, pad_to: tiny.sounds(kind, pad_to=pad_to or 20),
        part=lambda: Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True),
        items=[wave(900), wave(700), wave(1100)],
        cells=lambda item: (file_of(lambda file: soundfile.write(file, item, RATE, "FLOAT", format="WAV")),),
        columns=("noise",),
        field="audio",
        bad=(np.zeros(0, np.float32), r"\(0,\)"),
        bad_cells=({"bytes": b"RIFF", "path": None},),
        padded=("wav2vec2", "lstm"),  # the others take sounds of one length
        forms=(np.ndarray.tolist, torch.from_numpy),
    ),
    Case(
        name="tabular",
        settings={
            "table": lambda: ("tabular_config", TabularConfig(num_numerical=1, vocab_sizes=[4], hidden_size=16))
        },
        tensors=table_tensors,
        part=lambda: TableSchema({"age": (40.0, 10.0)}, {"town": ["Oslo", "Rome"]}),
        items=[{"age": 30.0, "town": "Rome"}, {"age": 41.0, "town": "Oslo"}, {"age": 52.5, "town": "Rome"}],
        cells=lambda item: (item["age"], item["town"]),
        columns=("age", "town"),
        field="table",
        bad=({"age": "old"}, "'old'"),
        bad_cells=("old", "Rome"),
    ),
    Case(
        name="series",
        settings={
            kind: lambda kind=kind: ("series_config", RecurrentConfig(rnn_type=kind, input_size=2, hidden_size=16))
            for kind in ("lstm", "gru")
        },
        tensors=series_tensors,
        part=lambda: SeriesScaler([0.0, 1.0], [1.0, 2.0]),
        items=[[[1.0, 2.0], [3.0, 4.0]], [[0.5, 0.0]], [[2.0, 2.0], [0.0, 1.0], [4.0, 0.5]]],
        cells=lambda item: (item,),
        columns=("readings",),
        field="series",
        bad=(np.ones((3, 3)), r"\(3, 3\)"),
        bad_cells=([[1.0]],),
        padded=("lstm", "gru"),
        forms=(np.array, torch.tensor),
    ),
    # From outside the package.
    Case(
        name="place",
        settings={"place": lambda: ("extra_configs", {"place": example().PlaceConfig(hidden_size=16)})},
        tensors=lambda *_: {"place_values": torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, -0.7], [-0.6, 1.0, 0.0]])},
        part=lambda: example().PlaceScaler.fit([(52.5, 13.4), (52.6, 13.5)]),
        items=[(52.5, 13.4), (52.6, 13.5), (52.55, 13.3)],
        cells=lambda item: item,
        columns=("latitude", "longitude"),
        field="extra",
        bad=((95, 0), r"\(95, 0\)"),
        bad_cells=(95.0, 0.0),
    ),
]
OF_PLACES = [case for case in CASES if case.several_places]
