"""Which training choices matter on easy-VQA: class imbalance, batch size, schedule, structure, few data. This script
makes the runs for docs/guide.md and writes its tables.

    python benchmarks/training_choices.py --data data/easy_vqa --encoders data/encoders
    python benchmarks/training_choices.py --only "imbalance, 13 rows"
    python benchmarks/training_choices.py --write_guide

Each run is `mm_hf train` in its own process, on one thread. The JSON is written after every run and keeps all runs, so
the script may be stopped: runs in the file are not repeated. Everything takes about one and a half hours of CPU time.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import Dataset, DatasetDict, disable_progress_bars, load_from_disk


ROOT = Path(__file__).resolve().parent.parent
RARE = "teal"
RARER = 50
BEGIN, END = "<!-- runs: {} -->", "<!-- end of runs -->"

# Every run has these keys, except the keys that its choice changes; None leaves a key out.
BASE: dict[str, Any] = {
    "image_column": "image",
    "image_id_column": "image_id",
    "text_column": "question",
    "label_column": "answer",
    "kind_column": "answer_name",  # accuracy by answer is the recall of each
    "fusion": "concat",
    "fusion_hidden_size": 128,
    "fusion_layers": 2,
    "fusion_heads": 4,
    "fusion_dropout": 0.0,
    "vision_feature_layer": [4, 11],
    "image_size": 64,
    "freeze_encoders": True,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "num_train_epochs": 16,
    "per_device_train_batch_size": 310,
    "per_device_eval_batch_size": 1000,
}
# No run needs checkpoints, curves or floors.
QUIET = {"floors": False, "report_to": "none", "save_steps": 1_000_000, "defaults_version": 2}


@dataclass(frozen=True)
class Variant:
    """The training data of a run. The test part is always the official one.

    Args:
        train, validation: number of pictures to keep, each with all its questions; None keeps all.
        rare: only one row in 50 with this answer is kept in both parts.
    """

    train: int | None = None
    validation: int | None = None
    rare: str | None = None


VARIANTS = {
    "quarter": Variant(train=900),
    "rare": Variant(train=900, rare=RARE),
    "rare_full": Variant(rare=RARE),
    "few": Variant(train=200, validation=50),
    "fewer": Variant(train=50, validation=50),
}


@dataclass(frozen=True)
class Choice:
    """One row of a table: keys that differ from BASE, and a variant of the data."""

    section: str
    label: str
    variant: str
    keys: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self):  # a key with the same value as in BASE does not make another run
        object.__setattr__(self, "keys", {key: value for key, value in self.keys.items() if value != BASE.get(key)})


IMBALANCE = ("class_weights", "focal_loss", "balanced_sampler", "logit_adjustment")
CROSS = {"fusion": "cross_attention", "num_train_epochs": 8}
NO_IMAGE = dict.fromkeys(("image_column", "vision_feature_layer", "image_size"))
FEW = {"per_device_train_batch_size": 62, "learning_rate": 1.3e-3, "num_train_epochs": 20}
SINGLE = {"image_id_column": None}
UNCACHED = {"cache_features": False, "num_train_epochs": 1}

CHOICES = [
    *(
        Choice(section, label, variant, more | keys, (0, 1, 2))
        for section, variant, more in (
            ("imbalance, 13 rows", "rare_full", {"num_train_epochs": 4}), ("imbalance, 3 rows", "rare", {}),
            ("imbalance, 13 rows, 2 epochs", "rare_full", {"num_train_epochs": 2}),
        )
        for label, keys in (("plain", {}), *((name, {"imbalance": name}) for name in IMBALANCE))
    ),
    Choice("imbalance, 13 rows", "balanced_sampler, single rows", "rare_full",
           SINGLE | {"imbalance": "balanced_sampler", "num_train_epochs": 4}, (0,)),
    Choice("imbalance, 3 rows", "balanced_sampler, single rows", "rare",
           SINGLE | {"imbalance": "balanced_sampler"}),
    Choice("few", "frozen encoders, concat", "few", FEW),
    Choice("few", "weight decay 0.3", "few", FEW | {"weight_decay": 0.3}),
    Choice("few", "dropout 0.3", "few", FEW | {"fusion_dropout": 0.3}),
    Choice("few", "label smoothing 0.1", "few", FEW | {"label_smoothing_factor": 0.1}),
    Choice("few", "mixup 0.2", "few", FEW | {"mixup_alpha": 0.2}),
    Choice("few", "EMA 0.99", "few", FEW | {"ema_decay": 0.99}),
    Choice("few", "modality dropout 0.1", "few", FEW | {"modality_dropout": 0.1}),
    Choice("few", "twice the epochs", "few", FEW | {"num_train_epochs": 40}),
    Choice("few", "twice the epochs, stop after 4 without gain", "few",
           FEW | {"num_train_epochs": 40, "early_stopping_patience": 4}),
    Choice("few", "augmentation: crop, flip", "few", FEW | {"augment": ["crop", "flip"]}),
    Choice("few", "augmentation: color", "few", FEW | {"augment": ["color"]}),
    Choice("few", "cross_attention, 2 layers", "few", FEW | {"fusion": "cross_attention"}),
    Choice("few", "50 pictures, four times the epochs", "fewer", FEW | {"num_train_epochs": 80}),
    # Equal epochs; the base rate, and the base rate times the square root of the ratio of batch sizes.
    *(
        Choice("batch", f"{size} rows, rate {rate:g}", "quarter", keys)
        for size, rate in (
            (62, 3e-3), (62, 1.3e-3), (155, 2.1e-3), (310, 3e-3), (1240, 3e-3), (1240, 6e-3)
        )
        for keys in [{"per_device_train_batch_size": size, "learning_rate": rate}]
    ),
    Choice("schedule", "cosine, warm-up 0.05", "quarter"),
    Choice("schedule", "linear, warm-up 0.05", "quarter", {"lr_scheduler_type": "linear"}),
    Choice("schedule", "constant, warm-up 0.05", "quarter", {"lr_scheduler_type": "constant_with_warmup"}),
    Choice("schedule", "cosine, no warm-up", "quarter", {"warmup_ratio": 0.0}),
    Choice("schedule", "cosine, warm-up 0.2", "quarter", {"warmup_ratio": 0.2}),
    Choice("schedule", "cosine, rate 0.0003", "quarter", {"learning_rate": 3e-4}),
    Choice("schedule", "cosine, rate 0.001", "quarter", {"learning_rate": 1e-3}),
    Choice("schedule", "cosine, rate 0.01", "quarter", {"learning_rate": 1e-2}),
    Choice("structure", "concat", "quarter", {"num_train_epochs": 8}),
    Choice("structure", "concat, 16 epochs", "quarter"),
    *(
        Choice("structure", f"cross_attention, fusion_layers {n}", "quarter", CROSS | {"fusion_layers": n}, (0,))
        for n in (1, 2, 4)
    ),
    Choice("structure", "concat, layer 4 alone, 16 epochs", "quarter", {"vision_feature_layer": [4]}),
    Choice("structure", "concat, layer 11 alone, 16 epochs", "quarter", {"vision_feature_layer": [11]}),
    Choice("structure", "question alone, 16 epochs", "quarter", NO_IMAGE),
    Choice("structure", "image alone, 16 epochs", "quarter", {"text_column": None}),
    Choice("grouping", "batches of whole pictures", "quarter", UNCACHED, (0,)),
    Choice("grouping", "batches of single rows", "quarter", UNCACHED | SINGLE, (0,)),
    Choice("few", "LoRA on both encoders", "few", FEW | {"lora": "encoders", "encoder_learning_rate": 1e-3}, (0,)),
    Choice("few", "all weights train", "few", FEW | {"freeze_encoders": False, "encoder_learning_rate": 1e-4}, (0,)),
]  # fmt: skip


def keep_pictures(rows: Dataset, count: int | None) -> Dataset:
    """Some pictures, drawn with seed 0, each with all its rows; None keeps all."""
    if count is None:
        return rows
    ids = rows["image_id"][:]
    kept = set(random.Random(0).sample(list(dict.fromkeys(ids)), count))
    return rows.select([row for row, name in enumerate(ids) if name in kept])


def make_rare(rows: Dataset, answer: str) -> Dataset:
    """Keeps one row in 50 of one answer, at least one, drawn with seed 0, and every other row."""
    labels, rare = rows["answer"][:], rows.features["answer"].str2int(answer)
    places = [row for row, label in enumerate(labels) if label == rare]
    kept = set(random.Random(0).sample(places, max(1, round(len(places) / RARER))))
    return rows.select([row for row, label in enumerate(labels) if label != rare or row in kept])


def build_variant(full: DatasetDict, variant: Variant) -> DatasetDict:
    """The three parts of a variant, with the name of the answer as an additional column."""
    parts = {
        "train": keep_pictures(full["train"], variant.train),
        "validation": keep_pictures(full["validation"], variant.validation),
    }
    if variant.rare is not None:
        parts = {name: make_rare(part, variant.rare) for name, part in parts.items()}
    parts["test"] = full["test"]
    named = {}
    for name, part in parts.items():
        answers = part.features["answer"].int2str(part["answer"][:])
        named[name] = part.add_column("answer_name", answers)
    return DatasetDict(named)


def flags(keys: dict[str, Any], encoders: Path) -> list[str]:
    """A run's keys as arguments of `train.py`. If a column is left out, its encoder is left out too."""
    keys = {**BASE, **keys, **QUIET}
    for column, encoder, folder in (
        ("image_column", "vision_encoder", "mobilenet-v2"), ("text_column", "text_encoder", "minilm-l6")
    ):  # fmt: skip
        keys[encoder] = None if keys[column] is None else encoders / folder
    words = []
    for key, value in keys.items():
        if value is not None:
            words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def run_once(choice: Choice, seed: int, data: Path, encoders: Path) -> dict[str, Any]:
    """One training in its own process, on one thread.

    Raises:
        subprocess.CalledProcessError: it failed; its output is in the exception.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    with tempfile.TemporaryDirectory(prefix="training_choices_") as folder:
        command = [sys.executable, str(ROOT / "training/train.py"), *flags(choice.keys, encoders)]
        command += ["--dataset", str(data / choice.variant), "--output_dir", folder, "--seed", str(seed)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        results = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
        last = next(Path(folder).glob("checkpoint-*")) / "progress.json"
        progress = json.loads(last.read_text(encoding="utf-8"))
    return {
        "variant": choice.variant,
        "keys": choice.keys,
        "seed": seed,
        "accuracy": results["metrics"]["accuracy"],
        "macro_f1": results["metrics"]["macro_f1"],
        "recall": results["by_kind"],
        "validation": progress["best"],
        "best_step": progress["best_step"],
        "steps": progress["step"],
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "train_seconds": results["seconds"]["train"],
        "commit": results["commit"],
    }


def runs_of(choice: Choice, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs with a choice's data, keys and seeds."""
    return [
        run
        for run in runs
        if (run["variant"], run["keys"]) == (choice.variant, choice.keys) and run["seed"] in choice.seeds
    ]


def spread(values: Sequence[float]) -> str:
    """The mean of shares in percent, and their range if there are several."""
    text = f"{100 * mean(values):.1f}"
    return text if len(values) == 1 else f"{text} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def table(section: str, runs: Sequence[dict[str, Any]]) -> str:
    """A section's runs in Markdown, one row per choice that was run."""
    rare = section.startswith("imbalance")
    names = ["seeds", "accuracy", "macro-F1", *([f"recall of {RARE}"] if rare else []), "steps", "CPU s"]
    lines = [f"| {' | '.join(['', *names])} |", "|---" * (len(names) + 1) + "|"]
    for choice in CHOICES:
        chosen = runs_of(choice, runs) if choice.section == section else []
        if chosen:
            cells = [choice.label, str(len(chosen))]
            cells += [spread([run[name] for run in chosen]) for name in ("accuracy", "macro_f1")]
            cells += [spread([run["recall"][RARE] for run in chosen])] if rare else []
            cells += [f"{mean(run[name] for run in chosen):.0f}" for name in ("steps", "cpu_seconds")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_tables(text: str, runs: Sequence[dict[str, Any]]) -> str:
    """The text with its tables replaced by the tables of the runs. Each table is between two markers.

    Raises:
        ValueError: a section has no markers, or markers have no section.
    """
    sections = {choice.section for choice in CHOICES}
    marked = re.findall(BEGIN.format("(.*?)"), text)
    if sorted(marked) != sorted(sections):
        raise ValueError(f"The guide must mark each of {sorted(sections)} once, it marks {sorted(marked)}.")
    for section in sections:
        begin = BEGIN.format(section)
        pattern = re.escape(begin) + r"\n.*?" + re.escape(END)
        text = re.sub(pattern, f"{begin}\n{table(section, runs)}\n{END}", text, count=1, flags=re.DOTALL)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data/easy_vqa", help="default: %(default)s")
    parser.add_argument("--encoders", type=Path, default=ROOT / "data/encoders", help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=ROOT / "data/training_choices", help="folder for the variants")
    parser.add_argument("--only", nargs="+", choices=list(dict.fromkeys(c.section for c in CHOICES)), help="sections")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/training_choices.json")
    parser.add_argument("--guide", type=Path, default=ROOT / "docs/guide.md")
    parser.add_argument("--write_guide", action="store_true", help="only write the tables of the guide")
    arguments = parser.parse_args()
    report = {"base": BASE, "threads": 1, "runs": []}
    if arguments.output.exists():
        report = json.loads(arguments.output.read_text(encoding="utf-8"))
        if report["base"] != BASE:
            sys.exit(f"error: {arguments.output} holds runs with other base keys: name another --output.")
    if arguments.write_guide:
        text = arguments.guide.read_text(encoding="utf-8")
        arguments.guide.write_text(write_tables(text, report["runs"]), encoding="utf-8")
        return

    disable_progress_bars()
    chosen = [choice for choice in CHOICES if arguments.only is None or choice.section in arguments.only]
    for name in sorted({choice.variant for choice in chosen}):
        if not (arguments.work / name / "dataset_dict.json").exists():
            build_variant(load_from_disk(arguments.data), VARIANTS[name]).save_to_disk(arguments.work / name)
    # Seed by seed, so that an unfinished table has complete seeds.
    wanted = sorted(((seed, place) for place, choice in enumerate(chosen) for seed in choice.seeds))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for number, (seed, place) in enumerate(wanted, start=1):
        choice = chosen[place]
        if any(run["seed"] == seed for run in runs_of(choice, report["runs"])):
            continue
        try:
            run = run_once(choice, seed, arguments.work, arguments.encoders.resolve())
        except subprocess.CalledProcessError as error:
            print(f"FAILED {choice.section}, {choice.label}, seed {seed}: {error.stderr[-1000:]}", flush=True)
            continue
        report["runs"].append(run)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(
            f"{number}/{len(wanted)} {choice.section}, {choice.label}, seed {seed}: accuracy {run['accuracy']:.4f}, "
            f"macro-F1 {run['macro_f1']:.4f}, {run['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    for section in dict.fromkeys(choice.section for choice in chosen):
        print(f"\n{section}\n{table(section, report['runs'])}")


if __name__ == "__main__":
    main()
