"""Measures how sure runs are, on test rows: the coverage of sets and intervals compared with the requested coverage,
and the calibration error before and after the temperature.

    python benchmarks/confidence.py runs/easy_vqa runs/openmoji runs/recommend runs/houses

Each folder is a run of `mm_hf train`, with any budget: the question is not how good the run is, but whether it knows
how good it is. Everything is learned on its validation part and measured on its test part; the folders do not change.
The results go into `results/confidence.json`:

- `coverages`: for each coverage, the share of covered test rows, its binomial interval, and the range that contains
  95 % of such shares by chance, given the numbers of validation and test rows (see `expected_range`);
- `by_rows`: the same, learned twenty times on random subsets of the validation rows: how much the calibration error
  and the negative log-likelihood change. It shows whether calibration on few rows does harm.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mm_hf.commands.evaluate import predict_rows
from mm_hf.evaluation import calibration, how_sure, learn_confidence, rounded
from mm_hf.evaluation.calibration import negative_log_likelihood
from mm_hf.training.calibrate import VALIDATION
from mm_hf.training.provenance import commit_or_version
from mm_hf.training.reopen import open_checkpoint, parse_arguments
from mm_hf.training.run_folder import write_json


REPORT = Path(__file__).parent / "results/confidence.json"
COVERAGES = (0.8, 0.9, 0.95)
ROWS = (20, 50, 100, 200)
DRAWS = 20
MEASURED = 3000  # test rows for measuring the effect of few validation rows


def answers_of(run: Path, part: str, words: list[str]) -> Any:
    """The evaluator of a run, and its predictions for a part."""
    args, data_args, recipe = parse_arguments("", words=[str(run), "--split", part, *words])
    args.output_dir = str(Path(tempfile.gettempdir(), "mm_hf_confidence", run.name))  # not into the run's folder
    opened, name, _ = open_checkpoint(args, data_args, recipe)
    return opened, predict_rows(opened, opened.rows(name), f"{run.name}, {part}")


def measure(run: Path, words: list[str]) -> dict[str, Any]:
    """The results of a run, by its columns of labels."""
    opened, validation = answers_of(run, VALIDATION, words)
    _, test = answers_of(run, "test", words)
    found = {}
    for alone in opened.alone():
        parts = [(one.logits, one.labels) for one in (validation, test)]
        if opened.several:
            parts = [(logits[alone.label], labels[alone.label]) for logits, labels in parts]
        known = [alone.task.has_label(labels) for _, labels in parts]
        rows = [(logits[keep], labels[keep]) for keep, (logits, labels) in zip(known, parts)]
        found[alone.label] = figures(alone.task, *rows)
    return found


def figures(task: Any, validation: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, Any]:
    """The results of one task, from logits and labels of both parts."""
    started = time.perf_counter()
    sure = calibrated(task, *validation)
    seconds = time.perf_counter() - started
    reports = {coverage: how_sure(sure, *test, coverage, {}) for coverage in COVERAGES}
    first = reports[0.9]
    found = {
        "task": task.name,
        "validation_rows": len(validation[1]),
        "test_rows": len(test[1]),
        "metric": task.measure(*test)["metrics"],
        "temperature": first["temperature"],
        "seconds": seconds,
        **{name: first[name] for name in ("ece_before", "ece", "nll_before", "nll")},
        "coverages": {f"{coverage:g}": covered(report) for coverage, report in reports.items()},
        "aurc": first["abstention"] and {name: first["abstention"][name] for name in ("error", "aurc")},
    }
    return found | ({} if first["ece"] is None else {"by_rows": by_rows(task, validation, test)})


def covered(report: dict[str, Any]) -> Any:
    """The results for one coverage: all rows, and the group with the lowest coverage; or why there is no result."""
    if report["coverage"] is None:
        return report["too_few"]
    groups = report["coverage"]["groups"]
    least = min(groups, key=lambda name: groups[name]["covered"], default=None)
    kept = {key: value for key, value in report["coverage"].items() if not key.startswith("groups")}
    return {**kept, "least_covered_group": least and {"group": least, **groups[least]}}


def calibrated(task: Any, logits: Any, labels: Any) -> Any:
    """The task with a confidence learned from these rows, not the one in the checkpoint."""
    head = replace(task.head_for(logits), confidence=None)
    task = replace(task, model_head=head)
    return replace(task, model_head=replace(head, confidence=learn_confidence(task, logits, labels)))


def by_rows(task: Any, validation: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, Any]:
    """The effect on test of a temperature fitted to few rows: means over the draws, and how often it is worse."""
    logits, labels = validation
    logits_of_test, labels_of_test = (values[:MEASURED] for values in test)
    before = errors_of(task, logits_of_test, labels_of_test)
    generator, found = torch.Generator().manual_seed(0), {}
    for rows in (rows for rows in ROWS if rows <= len(labels)):
        changes = []
        for _ in range(DRAWS):
            chosen = torch.randperm(len(labels), generator=generator)[:rows]
            temperature = task.fit_temperature(logits[chosen], labels[chosen])
            after = errors_of(task, logits_of_test / temperature, labels_of_test)
            changes.append([new - old for new, old in zip(after, before)])
        ece, nll = torch.tensor(changes, dtype=torch.float64).T
        found[rows] = {
            "ece_change": ece.mean().item(),
            "nll_change": nll.mean().item(),
            "worst_nll_change": nll.max().item(),
            "share_of_draws_with_worse_nll": (nll > 1e-9).double().mean().item(),
        }
    return found


def errors_of(task: Any, logits: Any, labels: Any) -> tuple[float, float]:
    """The calibration error, and the negative log-likelihood."""
    plain = replace(task, model_head=None)
    return calibration(*plain.chances_and_truths(logits, labels))["ece"], negative_log_likelihood(logits, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument(
        "--note", action="append", default=[], metavar="RUN=TEXT", help="a note about a run, such as its budget"
    )
    args, words = parser.parse_known_args()
    notes = dict(note.split("=", 1) for note in args.note)
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {"runs": {}}
    for run in args.runs:
        by_task = rounded(measure(run, words))
        report["runs"][run.name] = {"commit": commit_or_version(), "note": notes.get(run.name), "tasks": by_task}
        write_json(REPORT, report)
        for name, found in by_task.items():
            errors = "" if found["ece"] is None else f", ECE {found['ece_before']:.4f} → {found['ece']:.4f}"
            print(f"{run.name}, {name}: {found['validation_rows']} validation rows, T {found['temperature']}{errors}")
            for asked, coverage in found["coverages"].items():
                if isinstance(coverage, str):
                    print(f"  {coverage}")
                    continue
                (low, high), share = coverage["expected"], coverage["covered"]
                interval = f"[{coverage['low']:.4f}, {coverage['high']:.4f}]"
                print(
                    f"  {asked} asked: {share:.4f} {interval}, threshold alone {coverage['within_threshold']:.4f}, "
                    f"by chance {low:.4f} … {high:.4f}, {coverage['measure']}: {coverage['size']}"
                )


if __name__ == "__main__":
    main()
