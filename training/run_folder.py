"""Writes the folder that a run leaves behind."""

import glob
import json
import os
import platform
import random
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset

from mm_hf.data import BadRowError, MultimodalCollator, Rows, label_tensor
from mm_hf.data.collator import decode_image
from mm_hf.evaluation import model_card, plot_curves, plot_predictions
from mm_hf.models.configuration_mm_fusion import CUSTOM_PIPELINES


HUB_TASKS = {"visual-question-answering"}


def git_commit(root: Path) -> str | None:
    """The commit that the code is at, with `-dirty` where files were changed; None outside of a checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("torch", "transformers", "datasets", "accelerate", "safetensors", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def hardware() -> dict:
    """What the run ran on."""
    found = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def write_run(output_dir: Path, root: Path, model, collator: MultimodalCollator, splits, logits, results, history):
    """Writes results, pictures and card beside the checkpoint.

    Args:
        output_dir: holds the checkpoint already.
        root: of the repository, which holds the card's template.
        model, collator, splits: the run's.
        logits: `(N, C)` of the test part.
        results: what goes into `results.json`.
        history: see `plot_curves`.
    """
    (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot_curves(history, output_dir / "curves.png")
    plot_predictions(sample_predictions(model, collator, splits["test"], logits), output_dir / "predictions.png")
    recipe = results["recipe"]
    card = model_card(
        root / "model_cards" / "TEMPLATE.md",
        results,
        name=recipe["name"],
        dataset=Path(recipe["dataset"]).name if glob.glob(recipe["dataset"]) else recipe["dataset"],
        # Of the pipelines' names this one is a task of the Hub.
        pipeline_tag=next((tag for tag in CUSTOM_PIPELINES[type(model).__name__] if tag in HUB_TASKS), None),
        base_models=model.config.base_models,
        model_class=type(model).__name__,
        encoders={key: Path(recipe[key]).name for key in ("vision_encoder", "text_encoder") if recipe[key]},
        parameters=round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        labels=list(model.config.id2label.values()),
        rows={split: len(part) if isinstance(part, Dataset) else "streamed" for split, part in splits.items()},
    )
    card.save(output_dir / "README.md")
    print(summary(results))
    print(f"written: {output_dir}")


def sample_predictions(model, collator: MultimodalCollator, split, logits, count: int = 12) -> list[tuple]:
    """Test rows drawn at random, up to a third of them wrong ones if there are, as `plot_predictions` takes them."""
    columns, id2label = collator.columns, model.config.id2label
    single = model.config.problem_type == "single_label_classification"
    order = list(range(len(split)))
    random.Random(0).shuffle(order)
    chosen = order[:count]
    if single:
        rows = Rows(split.select_columns([columns.label]), "test").__getitems__(order)
        labels = label_tensor(rows, columns.label, collator.label2id, collator.problem_type, bad=[])
        order = [row for row, label in zip(order, labels.tolist()) if label != -100]
        right = (logits[order].argmax(-1) == labels[labels != -100]).tolist()
        wrong = [row for row, good in zip(order, right) if not good][: count // 3]
        chosen = wrong + [row for row, good in zip(order, right) if good][: count - len(wrong)]
    samples = []
    for row in Rows(split, "test").__getitems__(chosen):
        truth = row[columns.label]
        truth = id2label.get(truth, truth) if isinstance(truth, int) else truth
        answer = id2label[logits[row["row_id"]].argmax().item()] if single else f"{logits[row['row_id']].tolist()}"
        try:
            there = [column for column in columns.images if row[column]]
            picture = decode_image(row, there[0], collator.root) if there else None
        except BadRowError:  # skipped in the run, or it would not have come this far
            picture = None
        samples.append((picture, row[columns.text] if columns.text else None, answer, str(truth)))
    return samples


def summary(results: dict) -> str:
    """The score beside its floors, as a table for the terminal."""
    metric = next(iter(results["metrics"]))
    rows = [(f"test {metric}", results["metrics"][metric])]
    rows += [(f"  {kind}", value) for kind, value in results["by_kind"].items()]
    rows += [(f"floor: {name.replace('_', ' ')}", value) for name, value in results["floors"].items()]
    lines = [f"{name:<28}{value:8.4f}" for name, value in rows]
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    return "\n".join(["", *lines, seconds])
