"""Graphs in 8 bits: matrix products with weights of int8 whose inputs are rounded as they come (dynamic quantization,
Jacob et al. 2018, section 2), and tables of embeddings. Convolutions stay as they are, in float32: rounded without
calibration rows they lose more than they gain."""

import logging
from pathlib import Path

from .tracing import ONNX, SUFFIXES


# `Gather` is a look-up in a table of embeddings, which are a large part of a small text encoder.
OPERATIONS = ("MatMul", "Gemm", "Gather", "LSTM")


def quantize_graphs(folder: Path, names: list[str], calibration: object = None):
    """Quantizes ONNX graphs in place.

    Args:
        folder: that holds them.
        names: of the graphs.
        calibration: rows by which convolutions could be quantized too; nobody gives any yet.

    Raises:
        NotImplementedError: a graph of more than 2 GB.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # that it could be pre-processed, which the exporter has done
    try:
        for name in names:
            path = folder / f"{name}{SUFFIXES[ONNX]}"
            if path.with_name(f"{path.name}.data").exists():
                raise NotImplementedError(f"{path.name} has over 2 GB of weights, too many for int8: leave it out.")
            small = path.with_suffix(".int8")
            quantize_dynamic(
                path, small, op_types_to_quantize=list(OPERATIONS), weight_type=QuantType.QInt8, per_channel=False
            )
            small.replace(path)
    finally:
        root.setLevel(level)
