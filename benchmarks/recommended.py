"""Would the buyer recommend it? The recipe `sentiment` on another label of its reviews, compared with published
results.

    python benchmarks/recommended.py --seconds 120
    python benchmarks/recommended.py --seconds 240 --text_encoder data/encoders/minilm-l6

Measures text and table together, each alone, and the constant answer `yes`, by F1 of `yes` and by average precision
(the area under the precision-recall curve), with 95 % bootstrap intervals. Writes `results/recommended.json`.
Published for text alone: F1 .968, PR-AUC .995.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score

from mm_hf.evaluation import bootstrap
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.recipe_files import read_recipe
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/recommended.json"
PUBLISHED = {"f1": 0.968, "average_precision": 0.995}


def scores(sure: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Both metrics with their intervals, from the probability of `yes`, `(N,)`, and labels, which are 1 for `yes`."""

    def of_rows(rows: torch.Tensor) -> dict[str, float]:
        return {
            "f1": binary_f1_score(sure[rows], labels[rows]).item(),
            "average_precision": binary_average_precision(sure[rows], labels[rows]).item(),
        }

    return bootstrap(of_rows, torch.arange(len(labels)), 1000, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=120, help="seconds of training for each (default: %(default)s)")
    parser.add_argument("--text_encoder", help="a frozen encoder instead of the recipe's LSTM")
    arguments = parser.parse_args()
    path = ROOT / "training/recipes/sentiment.yaml"
    recipe = read_recipe(path)
    words = [str(path), "--label_column", "recommended", "--report_to", "none"]
    words += ["--output_dir", str(ROOT / "runs/recommended"), "--overwrite_output_dir", "true"]
    words += ["--max_train_seconds", str(arguments.seconds)]
    words += ["--table_columns", *(name for name in recipe["table_columns"] if name != "recommended")]
    if arguments.text_encoder is not None:
        words += ["--text_encoder", arguments.text_encoder, "--freeze_encoders", "true"]
    run = open_run(__doc__.split("\n")[0], "train.py", words)
    yes = run.label2id["yes"]
    encoder = Path(run.model_args.text_encoder).name
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    report["published, text alone"] = PUBLISHED
    labels = (run.labels("test") == yes).long()
    report["everybody recommends"] = scores(torch.ones(len(labels)), labels)
    for name, absent in {"text + table": [], "text": ["tabular"], "table": ["text"]}.items():
        print(f"== {name}, {encoder}", flush=True)
        set_seed(run.train_args.seed)
        model, collator = run.build(), replace(run.collator, absent=dict.fromkeys(absent))
        fit(run, model, collator, run.train_args)
        predictions, _ = evaluate(run, model, collator, "test")
        key = name if name == "table" else f"{name}, {encoder}"
        report[key] = {
            **scores(predictions.logits.softmax(-1)[:, yes], (predictions.labels == yes).long()),
            "seconds": arguments.seconds,
            "commit": commit_or_version(),
            "hardware": hardware(),
        }
        write_json(REPORT, report)
    for name, metrics in report.items():
        values = {key: metrics[key]["value"] if isinstance(metrics[key], dict) else metrics[key] for key in PUBLISHED}
        print(f"{name:<32}" + "".join(f"{key} {value:.3f}   " for key, value in values.items()))


if __name__ == "__main__":
    main()
