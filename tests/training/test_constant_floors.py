"""The constant guess of every kind of task: learned from the training part, measured on the test part."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

from mm_hf.commands import results as show_results
from mm_hf.data import BadRows, Columns, label_tensor
from mm_hf.evaluation import compare, verdict
from mm_hf.tasks import task_of
from mm_hf.training.evaluator import Evaluator
from mm_hf.training.finish import STREAMED_LABELS, constant_floors
from mm_hf.training.model_arguments import RETRIEVAL


NAMES = ["a", "b", "c"]
LABEL2ID = {name: number for number, name in enumerate(NAMES)}


def asked(label, problem_type, label2id):
    """The tasks of columns of labels, whose problem types and numbers of classes are dicts where there are several."""
    if isinstance(label, list):
        return [task_of(problem_type[name], label2id[name], name) for name in label]
    return [task_of(problem_type, label2id, label)]


SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"
TEXTS = ["one two", "three", "one two", "four five six", None]


class Writer:
    """Texts by number, in place of a collator with a tokenizer."""

    known = [text for text in dict.fromkeys(TEXTS) if text]

    def targets(self, rows, bad=None):
        numbers = [self.known.index(row["text"]) if row["text"] in self.known else -100 for row in rows]
        return torch.tensor([[number, -100] for number in numbers])

    def texts_of(self, tokens):
        return [None if row[0] == -100 else self.known[row[0]] for row in tokens.tolist()]


def job_of(train, test, label, label2id, problem_type, stream=False, collator=None) -> Evaluator:
    """What measures these labels, of which nothing but the labels is looked at."""
    parts = {"train": train.to_iterable_dataset() if stream else train, "test": test}
    here = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True)
    return Evaluator(
        name="x",
        output_dir=None,
        accelerator=here,
        columns=Columns(label=label),
        splits=parts,
        tasks=asked(label, problem_type, label2id),
        processor=None,
        collator=collator,
        bad_rows=BadRows(1.0, "raise"),
        batch_size=1,
        num_workers=0,
    )


def columns(values, feature=None):
    return Dataset.from_dict({"y": values}, features=None if feature is None else Features({"y": feature}))


CASES = {
    "classes": (
        columns([2, 2, 0, 1, 2, -1], ClassLabel(names=NAMES)),
        columns([2, 0, 2, 1, -1], ClassLabel(names=NAMES)),
        (LABEL2ID, SINGLE),
        {"majority": ("accuracy", 2 / 4)},
    ),
    "names": (
        columns(["b", "b", "a", None]),
        columns(["b", "c", "c"]),
        (LABEL2ID, SINGLE),
        {"majority": ("accuracy", 1 / 3)},
    ),
    "several labels": (
        columns([["a"], ["a", "b"], ["c"], []], List(Value("string"))),
        columns([["a"], ["b"]], List(Value("string"))),
        (LABEL2ID, SEVERAL),
        # a alone has 2·.5/(1+1) = .5 on train, a with another 2·.75/(2+1) = .5, all 2·1/(3+1) = .5: the first
        {"majority": ("f1_micro", 2 * 1 / (2 + 2))},
    ),
    "numbers": (
        columns([1.0, 2.0, 9.0, None]),
        columns([2.0, 6.0]),
        (None, "regression"),
        {"mean": ("rmse", ((2**2 + 2**2) / 2) ** 0.5), "mae_of_median": ("mae", (0 + 4) / 2)},
    ),
    "whole numbers": (
        columns([100_000, 200_000, 900_000]),
        columns([200_000, 600_000]),
        (None, "regression"),
        {"mean": ("rmse", 200_000), "mae_of_median": ("mae", 200_000)},
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_each_kind(case, stream):
    train, test, (label2id, problem_type), expected = CASES[case]
    job = job_of(train, test, "y", label2id, problem_type, stream)
    rows = [{**row, "row_id": place, "split": "test"} for place, row in enumerate(test)]
    labels = label_tensor(rows, "y", label2id, problem_type)
    outputs = 1 if label2id is None else len(label2id)
    predictions = SimpleNamespace(logits=torch.randn(len(test), outputs), labels=labels)
    found = constant_floors(job, predictions)
    assert {name: (metric, pytest.approx(value)) for name, metric, value in found} == expected


def test_several_tasks():
    """Each has its own, and all together have the one that counts first."""
    train = Dataset.from_dict({"kind": ["a", "b", "b"], "price": [1.0, None, 3.0]})
    problem_types = {"kind": SINGLE, "price": "regression"}
    label2id = {"kind": LABEL2ID, "price": None}
    job = job_of(train, train, ["kind", "price"], label2id, problem_types)
    labels = {"kind": torch.tensor([1, 0, 1, 1, -100]), "price": torch.tensor([2.0, 4.0, 0.0, float("nan"), 2.0])}
    predictions = SimpleNamespace(logits={"kind": torch.randn(5, 3), "price": torch.randn(5, 1)}, labels=labels)
    found = {name: (metric, value) for name, metric, value in constant_floors(job, predictions)}
    assert found == {
        "constant_guess": ("score", pytest.approx((0.75 + 0) / 2)),  # R² of the mean of the test part is 0
        "kind_majority": ("kind_accuracy", 0.75),
        "price_mean": ("price_rmse", pytest.approx(2**0.5)),
        "price_mae_of_median": ("price_mae", pytest.approx(1)),
    }


@pytest.mark.parametrize("stream", [False, True])
def test_texts(stream):
    train = Dataset.from_dict({"text": TEXTS})
    job = job_of(train, train, "text", None, "generation", stream, collator=Writer())
    labels = Writer().targets([{"text": text} for text in ("one two", "three", None, "three")])
    found = {name: (metric, value) for name, metric, value in constant_floors(job, SimpleNamespace(labels=labels))}
    assert found["wer_of_majority"] == ("wer", pytest.approx((0 + 2 + 2) / 4))
    metric, value = found["majority"]
    assert metric == "chrf"
    assert 1 / 3 <= value < 0.6


def test_search():
    ids = {"text": torch.arange(20), "image": torch.arange(20)}
    job = job_of(None, None, None, None, RETRIEVAL)
    found = constant_floors(job, SimpleNamespace(labels=ids))
    assert found == [("chance_mean_recall", "mean_recall", pytest.approx((1 + 5 + 10) / 20 / 3))]


def test_of_a_long_stream_the_first_rows_count():
    values = np.concatenate([np.zeros(STREAMED_LABELS), np.full(STREAMED_LABELS, 7.0)])
    job = job_of(columns(values), None, "y", None, "regression", stream=True)
    predictions = SimpleNamespace(logits=torch.zeros(2, 1), labels=torch.tensor([3.0, 3.0]))
    assert constant_floors(job, predictions)[0] == ("mean", "rmse", 3.0)


def test_labels_that_cannot_be_read_again_do_not_stop_a_trained_model(capsys):
    def broken():
        raise OSError("the server is gone")
        yield {}

    job = job_of(columns([1.0]), None, "y", None, "regression")
    job.splits["train"] = job.splits["train"].to_iterable_dataset().map(lambda row: next(broken()))
    predictions = SimpleNamespace(logits=torch.zeros(2, 1), labels=torch.tensor([3.0, 3.0]))
    assert constant_floors(job, predictions) == []
    assert "OSError: the server is gone" in capsys.readouterr().out
    assert "No floor (baseline) was measured" in verdict([])


@pytest.mark.parametrize("metric", ["rmse", "accuracy"])
def test_the_table_of_a_run_ends_with_it(metric, tmp_path, capsys, monkeypatch):
    comparisons = compare({metric: 0.5}, [("mean", metric, 0.5)])
    results = {
        "metrics": {metric: 0.5},
        "floors": {"mean": 0.5},
        "verdict": verdict(comparisons),
        "recipe": {"fusion": "concat", "name": "mine"},
        "seed": 0,
        "seconds": {"train": 1},
        "hardware": {"cores": 2},
    }
    for told in (True, False):  # runs of before do not tell
        (tmp_path / "results.json").write_text(json.dumps(results))
        monkeypatch.setattr(sys, "argv", ["show_results.py", str(tmp_path)])
        show_results.script()
        out = capsys.readouterr().out
        assert ("NOT beat" in out.strip().splitlines()[-1]) == told
        assert ("0.5000" if metric == "rmse" else "50.00 %") in out
        results.pop("verdict", None)
