"""Checks the evidence of modalities on data with a known truth, and measures its cost compared with one prediction.

    python benchmarks/explain.py --output benchmarks/results/explain.json      # a few minutes on two cores

Generated data: a table and a series; the label is their exclusive or, their sum, one of them, or copies of one number.
Cost: a random ViT-base, BERT-base and Whisper-base with cross_attention, 12 tokens of text, one row at a time. Each
round makes a prediction and then the same prediction with evidence.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, ViTConfig, WhisperConfig

from mm_hf import MMFusionConfig, MMFusionForClassification, TabularConfig
from mm_hf.evidence.rows import candidates, choose_rows, representative, rows_that_stand_in, standardised, vectors_of
from mm_hf.evidence.summary import summary_of
from mm_hf.models.coalitions import Pool, coalition_values, encode_batch
from mm_hf.models.evidence import evidence_of
from mm_hf.models.recurrent import RecurrentConfig


ROWS, STEPS = 256, 300
# Functions that make the target of a regression, or the class, from the two numbers of a row.
MADE = {
    "exclusive or": lambda a, b: ((a > 0) ^ (b > 0)).long(),
    "sum": lambda a, b: a + b,
    "one alone": lambda a, b: (a > 0).long(),
    "copies": lambda a, b: a,
}


def made(kind: str, rows: int = ROWS, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs and targets. The table has three numbers, and only the first one matters; the series has one channel, and
    only its level matters. Each pair of signs is equally frequent."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(rows // 4, 1)
    a, b = (signs * (0.5 + torch.rand(signs.shape, generator=generator))).T
    if kind == "copies":
        b = a
    noise = torch.randn(rows, 2, generator=generator)
    series = b[:, None, None] + 0.1 * torch.randn(rows, 4, 1, generator=generator)
    inputs = {"numerical_values": torch.cat([a[:, None], noise], dim=1), "series_values": series}
    inputs["categorical_ids"] = torch.zeros(rows, 0, dtype=torch.int64)
    return inputs, MADE[kind](a, b)


def learn(kind: str, seed: int = 0, steps: int = STEPS, modality_dropout: float = 0.0) -> MMFusionForClassification:
    """A small model with the default fusion, trained on generated rows."""
    torch.manual_seed(seed)
    numbers = made(kind)[1].is_floating_point()
    config = MMFusionConfig(
        tabular_config=TabularConfig(num_numerical=3, hidden_size=16),
        series_config=RecurrentConfig(input_size=1, hidden_size=16),
        fusion_module_config={
            **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.0},
            **{"modality_dropout": modality_dropout, "output_norm": True},
        },
        num_labels=1 if numbers else 2,
        classifier_dropout=0.0,
        problem_type="regression" if numbers else "single_label_classification",
    )
    model = MMFusionForClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):  # each step uses new rows, so nothing can be memorised
        inputs, targets = made(kind, 64, seed=1000 * (seed + 1) + step)
        loss = model(**inputs, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def explained(model: MMFusionForClassification, kind: str, absence: str, rows: int = 64) -> list[dict[str, Any]]:
    """Evidence for new rows. The number and choice of the training rows that replace items are the usual ones."""
    with torch.no_grad():
        states = encode_batch(model, made(kind, rows, seed=99)[0])
        background = None
        if absence == "other_rows":
            wanted = rows_that_stand_in(2)
            drawn = choose_rows(ROWS, candidates(wanted))
            inputs = {name: values[drawn] for name, values in made(kind)[0].items()}
            drawn_rows = Pool.of(model.base_model, encode_batch(model, inputs), with_absent=False)
            chosen = representative(standardised(vectors_of(model, drawn_rows)), wanted)
            pool = encode_batch(model, {name: values[chosen] for name, values in inputs.items()})
            background = Pool.of(model.base_model, pool, with_absent=False)
    values = coalition_values(model, states, background, rows_at_once=4096)
    return [{"answers": evidence_of(model, row)} for row in values]


def of_made_data(seed: int = 0) -> dict[str, Any]:
    """The shares for each kind of generated data, and by modality its part of the unique share."""
    results: dict[str, Any] = {}
    for kind in MADE:
        absences = ["other_rows", "token"] if kind == "copies" else ["other_rows"]
        model = learn(kind, seed, modality_dropout=0.3 if kind == "copies" else 0.0)
        for absence in absences:
            records = explained(model, kind, absence)
            (summary,) = (summary_of(records) or {}).values()
            answers = [answer for record in records for answer in record["answers"]]
            unique = {
                name: sum(answer["modalities"][name]["unique"] for answer in answers)
                / sum(answer["amount"] for answer in answers)
                for name in summary["modalities"]
            }
            gap = max(
                abs(sum(part["value"] for part in a["modalities"].values()) - a["value"] + a["base"]) for a in answers
            )
            means = {name: part["mean"] for name, part in summary["modalities"].items()}
            kinds = [answer["interactions"][0]["kind"] for answer in answers]
            results[f"{kind}, {absence}"] = {
                "shares": summary["shares"],
                "unique": unique,
                "mean": means,
                "kind": statistics.mode(kinds),
                "completeness": gap,
            }
    return results


def base_size(third: str) -> tuple[MMFusionForClassification, dict[str, torch.Tensor]]:
    """A random model of base size and one row of it: a picture, a text of 12 tokens, and a sound or a table."""
    torch.manual_seed(0)
    if third == "audio":
        heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 8)
        config = {"audio_config": WhisperConfig(d_model=512, encoder_layers=6, **heads)}
        inputs = {"input_features": torch.randn(1, 80, 3000)}
    else:
        config = {"tabular_config": TabularConfig(num_numerical=10, hidden_size=768)}
        inputs = {"numerical_values": torch.randn(1, 10), "categorical_ids": torch.zeros(1, 0, dtype=torch.int64)}
    model = MMFusionForClassification(
        MMFusionConfig(vision_config=ViTConfig(), text_config=BertConfig(), num_labels=10, **config)
    ).eval()
    inputs["input_ids"] = torch.randint(1000, 20000, (1, 12))
    return model, {**inputs, "pixel_values": torch.randn(1, 3, 224, 224)}


@torch.no_grad()
def cost(third: str, rounds: int) -> dict[str, float]:
    """CPU seconds of a prediction and of a prediction with evidence, in turn, and the median of their ratios. The rows
    that replace items are encoded once per run, and this is not counted."""
    model, row = base_size(third)
    stands_in = rows_that_stand_in(3)
    other = {name: values.expand(stands_in, *values.shape[1:]).clone() for name, values in row.items()}
    background = Pool.of(model.base_model, encode_batch(model, other), with_absent=False)
    seconds: dict[str, list[float]] = {"prediction": [], "with_evidence": []}
    for _ in range(rounds + 1):
        began = time.process_time()
        model(**row)
        between = time.process_time()
        states = encode_batch(model, row)
        model(encoder_states=states)
        coalition_values(model, states, background)
        seconds["prediction"].append(between - began)
        seconds["with_evidence"].append(time.process_time() - between)
    ratios = [b / a for a, b in zip(seconds["prediction"][1:], seconds["with_evidence"][1:])]  # the first one warms up
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {**medians, "ratio": statistics.median(ratios), "rows_that_stand_in": stands_in, "rounds": rounds}


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/explain.json"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    results = {
        "made": {str(seed): of_made_data(seed) for seed in range(args.seeds)},
        "cost": {third: cost(third, args.rounds) for third in ("tabular", "audio")} if args.rounds else {},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
