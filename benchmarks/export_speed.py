"""An export beside the pipeline it came from: size, and processor time of one answer on one thread, from the row to
the spelled-out answer. Real encoders, a new head: what eight bits lose, only a trained run can tell.

    mm_hf prepare encoders data/encoders
    OMP_NUM_THREADS=1 python benchmarks/export_speed.py data/encoders

    MobileNetV2, MiniLM, cross_attention      MB   ms, one row   ms, eight rows
    pipeline, torch fp32                               52.4
    onnx                                     143.9     22.3          119.7
    onnx int8                                 44.2     15.5           90.1
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mm_hf import MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.export import export_model
from mm_hf.export.check import load_runtime
from mm_hf.models.pipelines_mm_fusion import MMFusionQuestionAnsweringPipeline


QUESTIONS = ["what colour is the shape?", "is it a circle?", "what is there?", "is there a red shape?"]
REPEATS = 15


def milliseconds(answer: Callable[..., object], rows: object, repeats: int = REPEATS) -> float:
    """The median of the processor time of a call, the first one aside."""
    answer(rows)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        answer(rows)
        times.append(time.process_time() - start)
    return 1000 * sorted(times)[repeats // 2]


@torch.no_grad()
def main(encoders: str):
    """The table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sources = {"vision": f"{encoders}/mobilenet-v2", "text": f"{encoders}/minilm-l6"}
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(**sources, num_labels=13).eval()
    processor = MMFusionProcessor.from_encoders_pretrained(**sources)
    pipeline = MMFusionQuestionAnsweringPipeline(model=model, processor=processor, device=torch.device("cpu"))
    draw = np.random.default_rng(0)
    noise = [Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(8)]
    rows = [
        {"image": picture.resize((120 + number, 90)), "question": QUESTIONS[number % len(QUESTIONS)]}
        for number, picture in enumerate(noise)
    ]
    print(f"pipeline, torch fp32    {milliseconds(pipeline, rows[0]):14.1f}")
    for int8 in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            export_model(model, processor, folder, int8=int8)
            size = sum(path.stat().st_size for path in Path(folder).glob("*.onnx")) / 1e6
            exported = load_runtime(Path(folder)).Model(folder, threads=1)
            one, eight = milliseconds(exported, rows[0]), milliseconds(exported, rows, 3)
            print(f"onnx{' int8' if int8 else '':<10}{size:10.1f}{one:14.1f}{eight:14.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
