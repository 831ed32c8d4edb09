"""What every task has to know, and one from outside the package that knows it."""

import json
from dataclasses import dataclass
from itertools import product

import pyarrow as pa
import pytest
import torch

from mm_hf.commands.evaluate import constant_floors
from mm_hf.commands.prediction.answers import Answer, Summary
from mm_hf.evaluation import analyse, draw, lower_is_better, measure_rows, multi_task_metrics, table, worst_mistakes
from mm_hf.evaluation.comparisons import CONSTANTS, IN_UNITS, LOWER_IS_BETTER
from mm_hf.evaluation.outcomes import MeasuredRows, Outcome, compare_outcomes
from mm_hf.evaluation.paired import counted
from mm_hf.tasks import TASKS, Constant, Task, classification_metrics, register_task, task_of


NAMES = ["a b", "c", "d e f"]
LABELS = {
    "single_label_classification": torch.tensor([0, 1, 1, 2, 1, -100]),
    "multi_label_classification": torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [float("nan")] * 3]),
    "regression": torch.tensor([1.0, 2.5, 40.0, float("nan"), -7.0]),
    "generation": torch.tensor([0, 1, 1, 2, 1, -100]),
    "ctc": torch.tensor([0, 1, 1, 2, 1, -100]),
}
LABELLED = [name for name, task in TASKS.items() if task.needs_labels]


def case(name):
    """A task, labels, and the logits of a model that is always right."""
    task, labels = task_of(name, NAMES, "column"), LABELS[name]
    known = torch.where(labels.isnan() | (labels == -100), 0, labels)
    if task.writes:
        return task, labels, known
    logits = torch.nn.functional.one_hot(known, 3).float() if labels.ndim == 1 and task.names else known.float()
    return task, labels, logits.reshape(len(labels), -1) if task.names is None else 18 * logits - 9


def test_every_task_is_tried():
    assert set(LABELLED) == set(LABELS)
    assert {task.name for task in TASKS.values()} == set(TASKS)
    assert all(task.heads for task in TASKS.values())


def test_an_unknown_task():
    with pytest.raises(ValueError, match=r"'regresion'.*'regression'"):
        task_of("regresion")


@pytest.mark.parametrize("name", LABELLED)
def test_metrics(name):
    """Of answers that are all right each is the best that it can be, and so is the score beside other tasks."""
    task, labels, logits = case(name)
    present = task.has_label(labels)
    assert present.sum() == len(labels) - 1
    answers, targets = task.answers(logits[present]), task.targets(labels[present])
    metrics = {metric: function(answers, targets).item() for metric, function in task.metrics(3).items()}
    assert next(iter(metrics)) == task.first_metric
    best = {metric: 0.0 if lower_is_better(metric) else 1.0 for metric in metrics}
    assert metrics == pytest.approx(best)
    assert task.score(metrics, answers, targets) == pytest.approx(1)
    assert task.row_losses(logits[present], labels[present]).tolist() == pytest.approx([0] * len(targets), abs=1e-3)
    scores = task.row_scores(answers, targets)
    others = task.row_scores(answers.flip(0), targets)
    assert scores.dtype == torch.float64
    assert (scores >= others).all()
    assert scores.sum() > others.sum()
    counts = counted(task, (answers, answers.flip(0)), targets, (scores, others))
    assert counts.pop("differ") > 0
    assert sum(counts.values()) == len(targets)


@pytest.mark.parametrize("name", LABELLED)
def test_no_other_constant_is_better(name):
    """By the metric that a constant is said to be the best for; a text is the most frequent one, whatever it is by."""
    task, labels, _ = case(name)
    targets = task.targets(labels[task.has_label(labels)])
    if task.names is None:
        candidates = list(torch.linspace(-10, 50, 101)[:, None])
    elif targets.ndim == 1:
        candidates = list(torch.arange(3))
    else:
        candidates = [torch.tensor(answer) for answer in product((0, 1), repeat=3)]
    first, *_ = guesses = list(task.constants(labels, 3).values())
    assert first.metric == task.first_metric
    for guess in guesses:
        metric, sign = task.metrics(3)[guess.metric], -1 if lower_is_better(guess.metric) else 1

        def score(answer, metric=metric, sign=sign):
            return sign * metric(answer.expand(len(targets), *answer.shape), targets).item()

        assert guess.answer.shape == targets.shape[1:]
        assert score(guess.answer) >= max(map(score, candidates)) - 1e-6


@pytest.mark.parametrize("name", LABELLED)
def test_words(name):
    task, labels, logits = case(name)
    targets = task.targets(labels)[:2]
    said = [task.spell(target) for target in targets]
    assert len(set(said)) == 2
    assert all(said)
    found = task.judged(logits, labels)
    assert [right for _, _, right in found].count(None) == 1
    assert {right for _, _, right in found} == {True, None}
    present = task.has_label(labels)
    logits, labels = logits[present], labels[present]
    assert worst_mistakes(task, logits, labels) == []
    mistakes = worst_mistakes(task, logits.flip(0), labels)
    assert [mistake["loss"] for mistake in mistakes] == sorted((one["loss"] for one in mistakes), reverse=True)
    for mistake in mistakes:
        answer, truth, _ = task.caption(mistake)
        assert answer.startswith(mistake["answer"])
        assert truth.startswith(mistake["truth"])
    found = analyse(task, logits, labels, torch.arange(len(labels)), samples=5, progress=False)
    assert {"calibration", "confusion", "label_scores"} <= set(found)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", LABELLED)
def test_columns_of_predictions(name, every):
    task, _, logits = case(name)
    outputs, said = (1, NAMES) if task.writes else (logits.shape[1], logits)
    answer = Answer("", task, outputs, "x_", top_k=2, every=every)
    rows, good = answer.rows(said)
    assert all(good)
    columns = {column: pa.array(values, answer.types[column]) for column, values in zip(answer.types, zip(*rows))}
    assert list(columns) == list(answer.types)
    assert all(column.startswith("x_") for column in columns)
    assert len(columns["x_prediction"]) == len(said)
    summary = Summary([answer])
    assert summary.lines() == ["nothing was predicted"]
    for row in rows:
        summary.add(answer, row)
    kept = json.loads(json.dumps(summary.state))  # as a prediction that was killed finds it
    assert Summary([answer], kept).lines() == summary.lines() != ["nothing was predicted"]


@pytest.mark.parametrize("name", ["generation", "ctc"])
def test_texts_are_read_from_tokens(name):
    def texts_of(tokens):
        return [NAMES[row[0]] if row[0] >= 0 else None for row in tokens.tolist()]

    tokens, labels = torch.tensor([[2], [0]]), torch.tensor([[2], [-100]])
    task, (said, true) = task_of(name).readable([tokens, labels], texts_of)
    assert [task.names[number] for number in said.tolist()] == ["d e f", "a b"]
    assert true.tolist() == [said[0].item(), -100]
    assert task_of(name).measure(tokens, labels, None, texts_of)["metrics"]["exact_match"] == 1
    assert task_of(name).measure(labels, labels, generated=False)["metrics"] == {"token_accuracy": 1}
    assert task.problem_type == "generation"
    assert task.classes is None


def test_a_search():
    task, ids = task_of("retrieval"), {"text": torch.arange(20), "image": torch.arange(20)}
    metrics = task.measure({name: torch.eye(20) for name in ids}, ids)["metrics"]
    assert metrics[task.first_metric] == 1
    compared, shown = task.chance(ids)
    assert compared == [("chance_mean_recall", "mean_recall", pytest.approx(16 / 60))]
    assert shown["chance_recall_at_5"] == 5 / 20


@dataclass
class Stars(Task):
    """Ordered classes, as a stranger may write it: how many of the thresholds between them a row is above."""

    name = "stars"
    heads = ("stars",)
    ordered = True
    row_score = "how many classes it is off, with a minus"
    lower_is_better = in_units = ("rank_error",)
    guesses = {"middle": "the middle class for every row"}

    def answers(self, logits):
        return (logits > 0).sum(-1)

    def metrics(self, outputs, validate=True):
        return {"rank_error": lambda answers, targets: (answers - targets).abs().double().mean()}

    def score(self, metrics, answers, targets):
        return 1 - metrics["rank_error"] / (len(self.names) - 1)

    def constants(self, labels, outputs):
        return {"middle": Constant(labels[self.has_label(labels)].median(), "rank_error", "the middle class")}

    def row_scores(self, answers, targets):
        return -(answers - targets).abs().double()


@pytest.fixture
def stars():
    """The task of five stars, known for as long as a test takes."""
    register_task(Stars)
    yield task_of("stars", ["awful", "bad", "so so", "good", "great"], "rating")
    del TASKS["stars"]
    LOWER_IS_BETTER.discard("rank_error")
    IN_UNITS.discard("rank_error")
    del CONSTANTS["middle"]


def above(stars: list[int]) -> torch.Tensor:
    """Logits of the four thresholds between five classes."""
    return (torch.tensor(stars)[:, None] > torch.arange(4)) * 2.0 - 1


def test_a_task_from_outside_is_analysed(stars, tmp_path):
    labels = torch.tensor([0, 1, 2, 3, 4, 4, 2, -100])
    logits = above([0, 1, 2, 3, 4, 0, 3, 2])
    assert measure_rows(stars, logits, labels)["metrics"] == {"rank_error": pytest.approx(5 / 7)}
    assert classification_metrics(logits, labels, "stars", ["x"] * 8)["by_kind"] == {"x": pytest.approx(5 / 7)}
    logits, labels = logits[:7], labels[:7]
    floors = constant_floors(stars, labels, None, 4)
    assert floors["middle"][0].tolist() == [2] * 7
    found = analyse(stars, logits, labels, torch.arange(7), floors=floors, samples=20, progress=False)
    (held,) = found["comparisons"]
    assert (held["better"], held["beaten"], held["constant"]) == ("lower", True, True)
    assert (held["value"], held["score"]) == (pytest.approx(8 / 7), pytest.approx(5 / 7))
    assert "the middle class for every row" in found["verdict"]
    assert [(one["answer"], one["truth"]) for one in found["mistakes"]] == [("awful", "great"), ("good", "so so")]
    for mistake in found["mistakes"]:
        mistake["text"] = "x"
    files = draw(tmp_path, stars, found, stars.answers(logits), labels, [None, None])
    assert [file.name for file in files] == ["mistakes.png"]
    assert "rank_error" in table(found, "test")


def test_a_task_from_outside_is_compared(stars):
    labels = torch.tensor([0, 1, 2, 3, 4] * 6)
    known = torch.ones(30, dtype=torch.bool)
    one, other = (Outcome(stars, answers, labels, known) for answers in (labels, labels.flip(0)))
    about = MeasuredRows(list(range(30)), list(range(30)), "rows")
    found = compare_outcomes("rating", one, other, ("A", "B"), about, samples=50)
    assert found["metrics"]["rank_error"]["winner"] == "a"
    assert found["verdict"].startswith("A is better than B by 2.4000 of rank error")
    assert found["score"] == Stars.row_score
    assert found["differing"][0]["b"] in ("awful", "great")
    turned = Outcome(task_of("stars", stars.names[::-1], "rating"), labels, labels, known)
    with pytest.raises(ValueError, match="'great', 'good'"):  # the numbers of its classes mean something
        compare_outcomes("rating", one, turned, ("A", "B"), about, samples=5)


def test_a_task_from_outside_stands_beside_another(stars, monkeypatch):
    price, labels = task_of("regression", None, "price"), {"rating": torch.tensor([0, 4]), "price": torch.ones(2)}
    logits = {"rating": above([1, 4]), "price": torch.ones(2, 1)}
    found = multi_task_metrics([stars, price], logits, labels)["metrics"]
    assert found["score"] == pytest.approx((1 + (1 - 0.5 / 4)) / 2)
    assert found["rating_rank_error"] == 0.5
    answer = Answer("rating", stars, 4)
    rows, _ = answer.rows(logits["rating"])
    assert list(answer.types) == ["rating_prediction"]
    assert rows == [["bad"], ["great"]]
    monkeypatch.delattr(Stars, "score")
    with pytest.raises(NotImplementedError, match=r"rank_error.*Stars\.score"):
        multi_task_metrics([stars, price], logits, labels)
