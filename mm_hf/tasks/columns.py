"""Numbers in the columns that `mm_hf predict` writes."""

import numpy as np
import pyarrow as pa


NUMBER = pa.float32()


def short(values: np.ndarray) -> list[float]:
    """Numbers of float32, written with as few digits as possible without loss."""
    return [float(str(value)) for value in values]
