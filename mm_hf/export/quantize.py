"""Quantizes graphs to 8 bits: matrix products with int8 weights and inputs that are rounded at run time (dynamic
quantization, Jacob et al. 2018, section 2), and embedding tables. Convolutions stay in float32, because without
calibration rows they would lose more accuracy than they gain in speed."""

import logging
from pathlib import Path

from .tracing import ONNX, SUFFIXES


# `Gather` is a look-up in an embedding table. Such tables are a large part of a small text encoder.
OPERATIONS = ("MatMul", "Gemm", "Gather", "LSTM")


def quantize_graphs(folder: Path, names: list[str], calibration: object = None):
    """Quantizes ONNX graphs in place.

    Args:
        folder: the folder of the graphs.
        names: of the graphs.
        calibration: rows with which convolutions could be quantized too; not used yet.

    Raises:
        NotImplementedError: a graph has more than 2 GB of weights.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # hides the advice to pre-process the graph, which the exporter has done
    try:
        for name in names:
            path = folder / f"{name}{SUFFIXES[ONNX]}"
            if path.with_name(f"{path.name}.data").exists():
                raise NotImplementedError(
                    f"{path.name} has over 2 GB of weights, too many for int8: leave --int8 out."
                )
            small = path.with_suffix(".int8")
            quantize_dynamic(
                path, small, op_types_to_quantize=list(OPERATIONS), weight_type=QuantType.QInt8, per_channel=False
            )
            small.replace(path)
    finally:
        root.setLevel(level)
