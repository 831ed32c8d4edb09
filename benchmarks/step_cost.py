"""The cost of the default fusion in a training step: ViT-B/16 and BERT-base with 4 layers of cross-attention, compared
with the two encoders alone (transformers' VisionTextDualEncoderModel). Steps of both are timed in turn in one process.

    python benchmarks/step_cost.py --output benchmarks/results/step_cost.json

A step is forward, backward and AdamW. Pictures are photographs, and texts are real questions. Weights are random,
since the time does not depend on them. The claim in the README: the median of the ratios of paired steps is at most
1.12.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig
from transformers.utils import logging

from mm_hf import MMFusionConfig, MMFusionForQuestionAnswering


def real_inputs(batch_size: int) -> dict[str, torch.Tensor]:
    """Photographs of scikit-image at 224 pixels, and questions of easy-VQA as tokens of BERT's vocabulary."""
    from datasets import load_from_disk
    from skimage import data
    from transformers import AutoTokenizer

    photos = [
        Image.fromarray(photo()).convert("RGB").resize((224, 224))
        for photo in (data.chelsea, data.coffee, data.rocket)
    ]
    pixels = np.stack([np.asarray(photos[i % len(photos)], dtype=np.float32) for i in range(batch_size)])
    questions = load_from_disk("data/easy_vqa")["train"].unique("question")[:batch_size]
    encoded = AutoTokenizer.from_pretrained("data/encoders/minilm-l6")(questions, padding=True, return_tensors="pt")
    return {
        "pixel_values": torch.from_numpy(pixels / 127.5 - 1).permute(0, 3, 1, 2).contiguous(),
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=9, help="pairs of steps that are measured; default: %(default)s")
    parser.add_argument("--batch_size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all, %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file for the results and all samples")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    inputs = real_inputs(arguments.batch_size)
    towers = VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig(vision_config=ViTConfig().to_dict(), text_config=BertConfig().to_dict())
    )
    fused = MMFusionForQuestionAnswering(
        MMFusionConfig(vision_config=ViTConfig(), text_config=BertConfig(), num_labels=13)
    )
    steps = {
        "towers": (towers.train(), {**inputs, "return_loss": True}),
        "fused": (fused.train(), {**inputs, "labels": torch.arange(arguments.batch_size) % 13}),
    }
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for name, (model, _) in steps.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for pair in range(arguments.pairs + 1):
        # The order changes from pair to pair, so that drift of the machine favours neither.
        for name in sorted(steps, reverse=pair % 2 == 0):
            model, batch = steps[name]
            started = time.perf_counter()
            model(**batch).loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if pair:  # the first pair warms up
                samples[name].append(time.perf_counter() - started)
    ratios = [fused / alone for fused, alone in zip(samples["fused"], samples["towers"])]
    report = {
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "seconds_median": {name: statistics.median(values) for name, values in samples.items()},
        "seconds": samples,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, (model, _) in steps.items()},
        "batch_size": arguments.batch_size,
        "text_tokens": inputs["input_ids"].shape[1],
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    print(
        json.dumps(
            {key: report[key] for key in ("ratio_median", "seconds_median", "parameters", "text_tokens")}, indent=2
        )
    )
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
