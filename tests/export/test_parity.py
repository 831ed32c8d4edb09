"""The exported graphs give the model's own numbers: for every fusion, every pattern of presence, and at sizes that no
graph was traced with."""

import itertools
import math

import numpy as np
import pytest
import tiny_models as tiny
import torch

from mm_hf.export.graphs import FUSE, graphs_of
from mm_hf.export.runtime import BACKENDS
from mm_hf.export.tracing import ONNX, SUFFIXES, TORCH, inputs_of_graphs, write_graph
from mm_hf.models.modality import modality_of
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.tabular import TabularConfig


BOUND = 1e-4
FUSIONS = (
    *("concat", "sum", "gated", "deep_cross", "late", "linear"),
    *("cross_attention", "co_attention", "merged_attention", "bottleneck"),
)
QUICK = ("cross_attention",)  # the longest way through the code; the others in `make test-slow`
EXAMPLES = ((3, 4, 5, 4), (2, 1, 3, 2))  # items, size of them, rows, tokens written; see `inputs_of_graphs`


def items_of(name: str, config, count: int, size: int) -> dict[str, torch.Tensor]:
    """Random items of a modality, longer ones where `size` is larger."""
    draw = torch.Generator().manual_seed(10 * count + size)
    lengths = [1 + (size + row) % (size + 2) for row in range(count)]
    if name == "vision":
        return tiny.images(count, seed=size)
    if name == "text":
        return tiny.texts(lengths, seed=size)
    if name == "audio":
        kind = {"mm_fusion_recurrent": "lstm"}.get(config.model_type, config.model_type)
        one_size = kind == "whisper"
        return tiny.sounds(kind, [4 * length for length in lengths], pad_to=20 if one_size else 4 * max(lengths))
    if name == "series":
        values = torch.randn(count, max(lengths), config.input_size, generator=draw)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return {"series_values": values, "series_attention_mask": mask.long()}
    numbers = torch.randn(count, config.num_values, generator=draw)
    numbers[0, 0] = math.nan
    ids = torch.stack([torch.randint(0, size, (count,), generator=draw) for size in config.vocab_sizes], dim=1)
    return {"numerical_values": numbers, "categorical_ids": ids}


class Exported:
    """A model and its graphs in onnxruntime, those that are wanted; the model's own stand in for the others."""

    def __init__(self, model, folder, wanted=None, to=ONNX):
        self.model, self.config = model, model.config
        self.own = graphs_of(model)
        with torch.no_grad():
            one, other = (
                inputs_of_graphs(model, self.own, self.items(count, size), rows, written)
                for count, size, rows, written in EXAMPLES
            )
        self.graphs, self.one = {}, one
        for name in wanted or self.own:
            path = folder / f"{name}{SUFFIXES[to]}"
            write_graph(self.own[name], one[name], other[name], path)
            self.graphs[name] = BACKENDS[path.suffix](path, list(one[name]), 1)

    def items(self, count: int, size: int):
        names = self.config.modalities
        return {name: items_of(name, self.config.encoder_config(name), count, size) for name in names}

    @torch.no_grad()
    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A graph, or in its place the part of the model that it was made of."""
        if name in self.graphs:
            return self.graphs[name](inputs)
        outputs = self.own[name](**{key: torch.from_numpy(value) for key, value in inputs.items()})
        return {key: value.numpy() for key, value in outputs.items()}

    def feeds(self, present, items, indices) -> dict[str, np.ndarray]:
        """What goes into `fuse`: a modality that no row has is one item of zeros."""
        feeds = {}
        for name in self.config.modalities:
            if name in present:
                inputs = {key: value.numpy() for key, value in items[name].items()}
                feeds |= self.run(f"encode_{name}", inputs)
            else:
                for key, value in self.one[FUSE].items():
                    if key.startswith((f"{name}_level", f"{name}_mask")):
                        one = np.ones if key.endswith("mask") else np.zeros
                        feeds[key] = one((1, *value.shape[1:]), value.numpy().dtype)
            feeds[modality_of(name).index_name] = indices[name].numpy()
        return feeds

    def check(self, rows: int, count: int, size: int, bound: float = BOUND):
        """Compares the logits for every pattern of presence."""
        names = self.config.modalities
        draw = torch.Generator().manual_seed(rows)
        for present in (each for n in range(1, len(names) + 1) for each in itertools.combinations(names, n)):
            items, indices = self.items(count, size), {}
            for name in names:
                places = self.config.places_of(name)
                shape = (rows, places) if places > 1 else (rows,)
                low = -1 if len(present) > 1 or places > 1 else 0
                indices[name] = torch.randint(low, count, shape, generator=draw)
                if name not in present:
                    indices[name] = torch.full(shape, -1)
            inputs = {key: value for name in present for key, value in items[name].items()}
            given = {modality_of(name).index_name: index for name, index in indices.items()}
            with torch.no_grad():
                expected = self.model(**inputs, **given).logits.numpy()
            found = self.run(FUSE, self.feeds(present, items, indices))["logits"]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= bound, (present, rows)
            assert np.ptp(expected) > 100 * bound  # there is something to compare


def three(fusion: str, **kwargs):
    """A tiny model of pictures, texts and a table."""
    table = TabularConfig(num_numerical=2, vocab_sizes=[4], hidden_size=16)
    return tiny.model(fusion=fusion, tabular_config=table, **kwargs)


@pytest.mark.parametrize(
    "fusion", [fusion if fusion in QUICK else pytest.param(fusion, marks=pytest.mark.slow) for fusion in FUSIONS]
)
def test_every_fusion_at_every_pattern_of_presence(fusion, tmp_path):
    exported = Exported(three(fusion), tmp_path, [FUSE])
    exported.check(rows=7, count=4, size=6)
    exported.check(rows=1, count=1, size=1)


SEVERAL = {"num_images": 2, "places": {"text": 3}}


@pytest.mark.parametrize("fusion", ["linear", pytest.param("cross_attention", marks=pytest.mark.slow)])
def test_several_places(fusion, tmp_path):
    exported = Exported(tiny.model(fusion=fusion, **SEVERAL), tmp_path, [FUSE])
    exported.check(rows=6, count=5, size=3)
    exported.check(rows=1, count=1, size=1)


def test_an_export_sees_rows_as_they_are_where_torch_finds_the_distinct_ones():
    """What stands in for `unique`, which a graph cannot have, and eager code keeps."""
    model = tiny.model(fusion="concat", **SEVERAL)
    index = torch.tensor([[0, 1], [0, 1], [1, -1]])
    inputs = {**tiny.images(2), "vision_index": index, **tiny.texts((3, 4, 5))}
    with torch.no_grad():
        states = model.model.encode({"vision": index, "text": None}, **inputs)
        assert len(model.model.project(states)["vision"].tokens) == 2


ENCODERS = {
    "mobilenet_v2": lambda: {"vision": "mobilenet_v2"},  # a feature map
    "swin": lambda: {"vision": "swin"},
    "distilbert": lambda: {"text": "distilbert"},
    "roberta": lambda: {"text": "roberta"},
    "modernbert": lambda: {"text": "modernbert"},
    "t5": lambda: {"text": "t5"},
    "lstm": lambda: {"text": "lstm"},
    "wav2vec2": lambda: {"text": None, "audio": "wav2vec2"},
    "whisper": lambda: {"text": None, "audio": "whisper"},
    "series": lambda: {"text": None, "series_config": RecurrentConfig(rnn_type="gru", input_size=2, hidden_size=16)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind, tmp_path):
    model = tiny.model(fusion="concat", **ENCODERS[kind]())
    exported = Exported(model, tmp_path, [name for name in graphs_of(model) if name != FUSE])
    exported.check(rows=4, count=4, size=7)
    exported.check(rows=1, count=1, size=2)


@pytest.mark.slow
def test_programs_of_torch(tmp_path):
    exported = Exported(three("bottleneck"), tmp_path, to=TORCH)
    exported.check(rows=7, count=4, size=6)
    exported.check(rows=1, count=1, size=1)
