"""Scores every text with every image: MMFusionForRetrieval.score_pairs compared with BlipForImageTextRetrieval, in
turn in one process.

    python benchmarks/pair_scoring.py --output benchmarks/results/pair_scoring.json

Base size: ViT-B/16, BERT-base, default fusion with 4 layers; BLIP base has the same number of parameters within 10 %.
Three ways are timed in turn: ours, for all pairs of 100 texts and 100 images, including encoding; BLIP's own forward,
in batches of eight pairs; and BLIP with image states that are computed once by hand (not counted), so that only its
text encoder runs for each pair. Pictures are photographs, and texts are real questions. Weights are random, since the
time does not depend on them; only the gates of the fusion are opened, so that its outputs are not zero. The scores of
`score_pairs` are compared with one forward per pair.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BlipConfig, BlipForImageTextRetrieval, ViTConfig
from transformers.utils import logging


sys.path.insert(0, str(Path(__file__).resolve().parent))

from step_cost import real_inputs

from mm_hf import MMFusionConfig, MMFusionForRetrieval


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--items", type=int, default=100, help="texts, and images; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--blip_pairs", type=int, default=64, help="pairs of BLIP a round; default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all, %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file for the figures and all samples")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    inputs = real_inputs(arguments.items)
    ours = MMFusionForRetrieval(MMFusionConfig(vision_config=ViTConfig(), text_config=BertConfig())).eval()
    for name, parameter in ours.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(0.5)
    config = BlipConfig()
    config.vision_config.image_size = 224
    blip = BlipForImageTextRetrieval(config).eval()
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in (("mm_hf", ours), ("blip", blip))}

    generator = torch.Generator().manual_seed(0)
    samples: dict[str, list[float]] = {"mm_hf": [], "blip": [], "blip_reused": []}
    scores = None
    with torch.no_grad():
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            scores = ours.score_pairs(**inputs)
            samples["mm_hf"].append((time.perf_counter() - started) / scores.numel())

            pairs = torch.randint(arguments.items, (2, arguments.blip_pairs), generator=generator)
            texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            started = time.perf_counter()
            for text, image in zip(*(rows.split(8) for rows in pairs)):
                asked = {name: values[text] for name, values in texts.items()}
                blip(**asked, pixel_values=inputs["pixel_values"][image])
            samples["blip"].append((time.perf_counter() - started) / arguments.blip_pairs)

            used = pairs[1].unique()
            states = blip.vision_model(pixel_values=inputs["pixel_values"][used]).last_hidden_state
            started = time.perf_counter()
            for text, image in zip(*(rows.split(8) for rows in pairs)):
                seen = states[torch.searchsorted(used, image)]
                asked = {name: values[text] for name, values in texts.items()}
                attended = blip.text_encoder(
                    **asked,
                    encoder_hidden_states=seen,
                    encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
                ).last_hidden_state
                blip.itm_head(attended[:, 0])
            samples["blip_reused"].append((time.perf_counter() - started) / arguments.blip_pairs)
            print({name: f"{1000 * times[-1]:.1f} ms a pair" for name, times in samples.items()}, flush=True)

        difference = 0.0
        for text, image in torch.randint(arguments.items, (16, 2), generator=generator).tolist():
            length = int(inputs["attention_mask"][text].sum())
            one = {name: inputs[name][text : text + 1, :length] for name in ("input_ids", "attention_mask")}
            fused = ours.model(**one, pixel_values=inputs["pixel_values"][image : image + 1], return_tokens=False)
            naive = ours.matching(fused.pooler_output)[0, 0]
            difference = max(difference, (naive - scores[text, image]).abs().item())

    ratios = {
        name: [theirs / mine for theirs, mine in zip(samples[name], samples["mm_hf"])]
        for name in ("blip", "blip_reused")
    }
    report = {
        "median_ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratios": ratios,
        "seconds_a_pair": samples,
        "difference_from_one_forward_a_pair": difference,
        "spread_of_scores": scores.std().item(),
        "parameters": sizes,
        "threads": arguments.threads,
        "items": arguments.items,
        "blip_pairs_a_round": arguments.blip_pairs,
        "torch": torch.__version__,
    }
    print(
        json.dumps({key: report[key] for key in ("median_ratio", "difference_from_one_forward_a_pair", "parameters")})
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
