"""Traces graphs with `torch.export`, and writes them as ONNX or as torch programs.

Two examples are compared to find the dynamic dimensions of a graph. Dimensions that differ are dynamic; all others are
fixed, such as the size of pictures if the image processor gives only one size.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from ..models.modality import modality_of
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from .graphs import FUSE, STEP, Tensors


ONNX, TORCH = "onnx", "torch"
SUFFIXES = {ONNX: ".onnx", TORCH: ".pt2"}
LARGEST_FILE = 1.9 * 2**30  # bytes of weights that an ONNX file can hold
ROWS = (5, 3)  # number of rows in the two examples
WRITTEN = (4, 2)  # number of tokens before the token of a step


def inputs_of_graphs(
    model: MMFusionPreTrainedModel, graphs: dict[str, nn.Module], items: dict[str, Tensors], rows: int, written: int
) -> dict[str, Tensors]:
    """The inputs of each graph. Each graph runs on the outputs of the graphs before it.

    Args:
        graphs: see `graphs_of`.
        items: by modality, the model's inputs of distinct items, `(U, …)`.
        rows: number of rows, which use the items in turn; the last row lacks the first modality.
        written: number of tokens that a decoder has written before.
    """
    base: Any = model.base_model
    inputs: dict[str, Tensors] = {}
    states: Tensors = {}
    for place, name in enumerate(base.encoders):
        inputs[f"encode_{name}"] = items[name]
        states |= graphs[f"encode_{name}"](**items[name])
        count, places = len(next(iter(items[name].values()))), base.config.places_of(name)
        index = (torch.arange(rows * places) + place) % count
        index[-1] = -1 if place == 0 else index[-1]
        states[modality_of(name).index_name] = index.reshape(rows, places) if places > 1 else index
    if FUSE in graphs:
        inputs[FUSE] = {name: value for name, value in states.items() if not name.endswith("_embedding")}
    if STEP in graphs:
        memory = graphs[FUSE](**inputs[FUSE])
        decoder: Any = graphs[STEP].decoder
        cache = {
            name: torch.zeros(rows, *shape[:1], written, *shape[2:], dtype=decoder.dtype)
            for name, shape in cache_shapes(memory).items()
        }
        inputs[STEP] = {"decoder_input_ids": torch.zeros(rows, 1, dtype=torch.int64), **memory, **cache}
    return inputs


def cache_shapes(memory: Tensors) -> dict[str, tuple[int, int, int]]:
    """The shapes of a decoder's own keys and values, by name, for one row before the first token. They are as wide as
    the keys and values of its memory."""
    return {
        name.replace("cross_", "self_", 1): (value.shape[1], 0, value.shape[3])
        for name, value in memory.items()
        if name.startswith("cross_")
    }


def open_dimensions(one: Tensors, other: Tensors) -> dict[str, dict[int, Any]]:
    """For each input, the dimensions that differ between two examples."""
    return {
        name: {
            place: torch.export.Dim.DYNAMIC
            for place, (size, its) in enumerate(zip(value.shape, other[name].shape))
            if size != its
        }
        for name, value in one.items()
    }


@contextlib.contextmanager
def quiet():
    """Hides messages of exporters that do not help the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels, verbosity = [logger.level for logger in loggers], transformers_logging.get_verbosity()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextlib.contextmanager
def loops_of_recurrent_layers():
    """Traces recurrent layers as loops. By default, torch unrolls them to the number of steps of the example."""
    from torch.export._patches import register_gru_while_loop_decomposition, register_lstm_while_loop_decomposition

    with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        yield


@torch.no_grad()
def write_graph(graph: nn.Module, one: Tensors, other: Tensors, path: Path):
    """Traces a graph on an example, and writes it in the format of the path's suffix. Dimensions that differ in the
    other example are dynamic. transformers' exporters do the tracing, because they handle operations that torch or
    ONNX do not support."""
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    shapes, module = open_dimensions(one, other), cast(Any, graph)
    with quiet(), loops_of_recurrent_layers():
        if path.suffix == SUFFIXES[TORCH]:
            traced, _ = DynamoExporter().export_program(module, one, DynamoConfig(dynamic_shapes=shapes))
            torch.export.save(traced, path)
            return
        import onnx_ir

        program, _ = OnnxExporter().export_program(module, one, OnnxConfig(dynamic_shapes=shapes))
        if sum(parameter.nbytes for parameter in graph.parameters()) < LARGEST_FILE:
            onnx_ir.save(program, str(path))
        else:  # the weights go into a separate file
            OnnxExporter.save_program(program, path)
