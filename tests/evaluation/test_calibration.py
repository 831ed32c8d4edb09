"""How sure answers are, on made rows whose truth is known: temperatures, sets, intervals, and whether to answer."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from messages import says

from mm_hf.evaluation import how_sure, learn_confidence, with_how_sure
from mm_hf.evaluation.abstention import Costs, read_costs, risk_coverage
from mm_hf.evaluation.calibration import fit_temperature, negative_log_likelihood
from mm_hf.evaluation.conformal import binomial_interval, expected_range
from mm_hf.models.confidence import COVERAGES, Confidence, conformal_thresholds
from mm_hf.tasks import task_of


SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"


def classes(rows: int, count: int, too_sure: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a model whose probabilities would be right, were they not multiplied; and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, count, generator=generator) * 1.5
    labels = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
    return logits * too_sure, labels


def several(rows: int, too_sure: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator) * 2
    return logits * too_sure, (torch.rand(rows, 3, generator=generator) < logits.sigmoid()).float()


def numbers(rows: int, seed: int = 0, spread: float = 10.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    answers = 50 * torch.randn(rows, 1, generator=generator)
    return answers, answers[:, 0] + spread * torch.randn(rows, generator=generator)


def calibrated(task, logits, labels):
    """The task, with what these rows say."""
    head = replace(task.head_for(logits), confidence=learn_confidence(task, logits, labels))
    return replace(task, model_head=head)


# ---- Temperature


@pytest.mark.parametrize("too_sure", [0.4, 1.0, 3.0])
def test_the_temperature_is_what_logits_were_multiplied_by(too_sure):
    assert fit_temperature(*classes(4000, 5, too_sure)) == pytest.approx(too_sure, rel=0.06)
    assert fit_temperature(*several(3000, too_sure)) == pytest.approx(too_sure, rel=0.06)


def test_rows_that_are_all_right_do_not_make_it_sure_of_everything():
    labels = torch.arange(200) % 4
    logits = 3 * torch.eye(4)[labels]
    temperature = fit_temperature(logits, labels)
    assert 0.3 < temperature < 1
    assert (logits / temperature).softmax(-1).max() < 0.999


def test_a_temperature_that_helps_no_other_row_is_none():
    """Ten rows of a model that is sure as it should be: what fits them best, fits others worse."""
    found = [fit_temperature(*classes(10, 3, 1.0, seed)) for seed in range(40)]
    assert sum(value == 1 for value in found) > 10
    _, labels = classes(50, 3, 1.0)
    assert fit_temperature(torch.zeros(50, 3), labels) == 1  # a constant


def test_one_class_alone_has_none():
    assert fit_temperature(torch.ones(20, 1), torch.zeros(20, dtype=torch.int64)) == 1


def test_likelihood():
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    value = negative_log_likelihood(logits, torch.tensor([0, 0]))
    assert value == pytest.approx(-(math.log(0.9) + math.log(0.2)) / 2, rel=1e-6)


def test_answers_stay_and_errors_shrink():
    task = task_of(SINGLE, list("abcde"), "letter")
    sure = calibrated(task, *classes(1000, 5, 2.5))
    logits, labels = classes(3000, 5, 2.5, seed=1)
    assert torch.equal(sure.answers(logits), task.answers(logits))
    report = how_sure(sure, logits, labels, 0.9, {})
    assert report["ece_before"] > 0.15
    assert report["ece"] < 0.04
    assert report["nll"] < report["nll_before"]
    assert sure.diagnostics(logits, labels)["calibration"]["ece"] == pytest.approx(report["ece"])
    ((name, said), *_) = sure.values(logits[:1])
    chances = (logits[0] / sure.model_head.confidence.temperature).softmax(-1)
    assert (name, said) == ("abcde"[chances.argmax()], pytest.approx(chances.max().item(), abs=1e-6))


def test_several_labels():
    task = task_of(SEVERAL, list("abc"), "marks")
    sure = calibrated(task, *several(1500, 3.0))
    logits, labels = several(3000, 3.0, seed=1)
    report = how_sure(sure, logits, labels, 0.8, {})
    assert report["ece"] < 0.03 < 0.1 < report["ece_before"]
    assert report["coverage"]["covered"] == pytest.approx(0.8, abs=0.04)
    assert report["abstention"] is None
    # A set holds all labels that a row has, in so many rows.
    sets = sure.model_head.answer_set(logits, 0.8)
    whole = (sets | (labels == 0)).all(1).float().mean().item()
    assert report["coverage"]["covered"] == pytest.approx(whole, abs=1e-6)
    assert [set(names) for (names,) in sure.set_values(logits[:50], 0.8)] == [
        {name for name, chosen in zip("abc", row) if chosen} for row in sets[:50].tolist()
    ]


# ---- Sets and intervals


def test_thresholds_are_order_statistics():
    """Of 9 rows ⌈10 · 0.9⌉ = 9: the largest; a higher coverage has none."""
    scores = torch.tensor([5.0, 1, 2, 3, 4, 9, 8, 7, 6])
    confidence = Confidence(9, 1.0, conformal_thresholds(scores))
    assert confidence.threshold(0.9) == pytest.approx(9, rel=2e-4)
    assert confidence.threshold(0.8) == pytest.approx(8, rel=2e-4)
    assert confidence.threshold(0.5) == pytest.approx(5, rel=2e-4)
    assert confidence.threshold(0.51) == confidence.threshold(0.505) == pytest.approx(6, rel=2e-4)
    assert confidence.highest == 0.9
    with pytest.raises(ValueError, match=says(0.91, 11, 9, 0.9)):
        confidence.threshold(0.91)
    with pytest.raises(ValueError, match=says("coverage", 0.5, 0.999, 1.0)):
        confidence.threshold(1.0)
    assert Confidence(1, 1.0, conformal_thresholds(torch.tensor([2.0]))).highest == 0.5


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.95, 19), (0.99, 99), (0.995, 199), (0.999, 999)])
def test_rows_that_a_coverage_needs(coverage, least):
    """1 / alpha - 1, and not one fewer."""
    for rows, enough in ((least, True), (least - 1, False)):
        thresholds = conformal_thresholds(torch.arange(float(rows)))
        assert (len(thresholds) > COVERAGES.index(coverage)) == enough


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("kind", [SINGLE, SEVERAL, NUMBER])
def test_coverage_is_what_was_asked(kind, coverage):
    """Over many draws of validation and test rows: the mean is what was asked, and at most 1 / (n + 1) above."""
    names = None if kind == NUMBER else list("abcde" if kind == SINGLE else "abc")
    made = {SINGLE: lambda n, seed: classes(n, 5, 2.0, seed), SEVERAL: lambda n, seed: several(n, 2.0, seed)}
    draw = made.get(kind, numbers)
    covered = []
    for seed in range(40):
        task = calibrated(task_of(kind, names, "x"), *draw(99, 2 * seed))
        covered.append(task.covered(*draw(300, 2 * seed + 1), coverage).double().mean().item())
    assert sum(covered) / 40 == pytest.approx(coverage, abs=0.02)


def test_the_answer_is_in_every_set():
    """A model that is right in 99 of 100 rows, asked for 90: no set is empty."""
    labels = torch.arange(1000) % 3
    logits = 4 * torch.eye(3)[labels] + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    task = calibrated(task_of(SINGLE, list("abc"), "x"), logits, labels)
    assert (task.set_sizes(logits, 0.9) == 1).all()
    report = how_sure(task, logits, labels, 0.9, {})["coverage"]
    assert report["covered"] > report["expected"][1] > 0.9
    assert report["alone"] == 1


def test_rows_that_are_alike_stay_in_though_a_digit_changes():
    """All rows have the same logits, as in a table of few categories: the threshold is the score of all."""
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(100, 1)
    labels = torch.tensor([0] * 61 + [1] * 31 + [2] * 8)
    task = calibrated(task_of(SINGLE, list("abc"), "x"), logits, labels)
    other = logits * (1 + 1e-6)
    assert task.set_values(other[:1], 0.9) == [[["a", "b"]]]


def test_intervals():
    task = calibrated(task_of(NUMBER, None, "price"), *numbers(199))
    logits, labels = numbers(2000, seed=1)
    low, high = task.model_head.interval(logits, 0.9)
    assert ((low[:, 0] <= labels) & (labels <= high[:, 0])).double().mean() == pytest.approx(0.9, abs=0.04)
    assert (high - low).unique().numel() < 20  # but for rounding all are as wide: absolute errors
    width = (high - low).mean().item()
    assert width == pytest.approx(2 * 1.645 * 10, rel=0.15)
    report = how_sure(task, logits, labels, 0.9, {})
    assert report["ece"] is report["abstention"] is None
    assert report["coverage"]["size"] == pytest.approx(width, rel=1e-4)
    assert list(report["coverage"]["groups"]) == [
        f"{name} quarter of the answers" for name in ("lowest", "second", "third", "highest")
    ]
    assert list(task.set_columns(1)) == ["prediction_low", "prediction_high"]
    assert list(task.set_columns(2)) == [f"prediction_{place}_{end}" for place in (1, 2) for end in ("low", "high")]
    assert task.set_values(logits[:1], 0.9)[0] == pytest.approx([low[0, 0].item(), high[0, 0].item()], rel=1e-5)


def test_several_numbers_lie_in_their_intervals_together():
    """In units that differ by a thousand; each is measured in its own."""
    task = task_of(NUMBER, None, "sizes")
    head = replace(task.head_for(torch.zeros(1, 2)), label_mean=(0.0, 0.0), label_scale=(1.0, 1000.0))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 2, generator=generator) * torch.tensor([1.0, 1000.0])
    labels = logits + torch.randn(4000, 2, generator=generator) * torch.tensor([0.5, 500.0])
    task = replace(task, model_head=head)
    task = replace(task, model_head=replace(head, confidence=learn_confidence(task, logits[:1000], labels[:1000])))
    low, high = task.model_head.interval(logits[1000:], 0.9)
    inside = (low <= labels[1000:]) & (labels[1000:] <= high)
    assert inside.all(1).double().mean() == pytest.approx(0.9, abs=0.03)
    assert inside.double().mean(0).tolist() == pytest.approx([0.95, 0.95], abs=0.03)


def test_groups_and_intervals_of_shares():
    task = calibrated(task_of(SINGLE, list("abcde"), "x"), *classes(500, 5, 2.0))
    logits, labels = classes(600, 5, 2.0, seed=1)
    groups = {"odd": torch.arange(600) % 2 == 1, "few": torch.arange(600) < 9}
    found = how_sure(task, logits, labels, 0.9, groups)["coverage"]
    assert list(found["groups"]) == [*"abcde", "odd"]
    assert found["groups_left_out"] == 1
    assert sum(found["groups"][name]["rows"] for name in "abcde") == 600
    assert found["groups"]["odd"]["covered"] == task.covered(logits, labels, 0.9)[1::2].double().mean()
    assert binomial_interval(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)  # as in tables of Clopper and Pearson
    low, high = expected_range(0.9, 99, 100_000)
    assert (low, high) == pytest.approx((0.833, 0.950), abs=2e-3)  # Beta(90, 10)


def test_labels_that_are_missing_do_not_count():
    task = task_of(SINGLE, ["no", "yes"], "x")
    logits, labels = classes(200, 2, 2.0)
    labels[:150] = -100
    assert learn_confidence(task, logits, labels).rows == 50
    number = task_of(NUMBER, None, "x")
    answers, truth = numbers(200)
    truth[::2] = math.nan
    assert learn_confidence(number, answers, truth).rows == 100
    with pytest.raises(ValueError, match=says("x", 10, 9)):
        learn_confidence(task, logits[:159], labels[:159])
    with pytest.raises(ValueError, match="x"):
        learn_confidence(number, answers * math.inf, truth)


def test_a_class_of_one_validation_row():
    """And one of none."""
    logits, labels = classes(300, 4, 2.0)
    labels[labels == 3] = 2
    labels[0] = 3
    task = calibrated(task_of(SINGLE, list("abcde"), "x"), torch.cat([logits, -9 * torch.ones(300, 1)], 1), labels)
    report = how_sure(task, torch.cat([logits, -9 * torch.ones(300, 1)], 1), labels, 0.9, {})
    assert set(report["coverage"]["groups"]) == {"a", "b", "c"}
    assert report["coverage"]["groups_left_out"] == 2


def test_nobody_looked_at_validation_rows():
    task = task_of(SINGLE, list("abcde"), "x")
    logits, labels = classes(100, 5, 2.0)
    report = how_sure(task, logits, labels, 0.9, {})
    assert report["temperature"] is report["validation_rows"] is report["coverage"] is None
    assert report["ece"] == report["ece_before"]
    assert report["abstention"]["points"][-1]["share"] == 1
    assert how_sure(task_of(NUMBER, None, "x"), *numbers(100), 0.9, {}) is None
    with pytest.raises(ValueError, match=says(0.9, "--calibrate")):
        task.covered(logits, labels, 0.9)


def test_too_few_validation_rows_are_said():
    task = calibrated(task_of(SINGLE, list("abcde"), "x"), *classes(12, 5, 2.0))
    report = how_sure(task, *classes(100, 5, 2.0), 0.95, {})
    assert report["coverage"] is None
    assert re.search(says(0.95, 19, 12), report["too_few"])


# ---- Whether to answer


def test_risk_over_shares():
    """The surest first: right, right, wrong, right, wrong."""
    found = risk_coverage(torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6]), torch.tensor([False, True, True, False, True]))
    assert found["error"] == pytest.approx(2 / 5)
    assert found["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    at = {round(point["share"], 3): point for point in found["points"]}
    assert at[0.4] == pytest.approx({"share": 0.4, "accuracy": 1.0, "above": 0.8})
    assert at[0.8] == pytest.approx({"share": 0.8, "accuracy": 0.75, "above": 0.6})


def test_rows_that_are_equally_sure_have_no_order():
    right = torch.tensor([True] * 30 + [False] * 10)
    same = torch.full((40,), 0.7)
    for order in (torch.arange(40), torch.arange(40).flip(0)):
        found = risk_coverage(same, right[order])
        assert found["aurc"] == pytest.approx(0.25)
        assert all(point["accuracy"] == pytest.approx(0.75) for point in found["points"])


def test_costs_decide():
    """By hand. To miss "ill" costs 10: at 20 % of it that is the cheaper answer, and none is cheaper still."""
    costs = Costs((1.0, 10.0), 0.9)  # well, ill
    answers, abstains, expected = costs.decide(torch.tensor([[0.99, 0.01], [0.8, 0.2], [0.05, 0.95], [0.9, 0.1]]))
    assert answers.tolist() == [0, 1, 1, 1]
    assert abstains.tolist() == [False, False, False, False]
    assert expected.tolist() == pytest.approx([0.1, 0.8, 0.05, 0.9], abs=1e-6)
    assert Costs((1.0, 10.0), 0.5).decide(torch.tensor([[0.8, 0.2]]))[1].tolist() == [True]


def test_what_was_paid():
    """By hand: the answers are well, ill, and none, where well, well and ill were the truth."""
    costs = Costs((1.0, 10.0), 0.5)
    chances = torch.tensor([[0.99, 0.01], [0.02, 0.98], [0.9, 0.1]])
    paid = costs.measure(chances, torch.tensor([0, 0, 1]))
    assert paid == {
        "cost": pytest.approx((0 + 1 + 0.5) / 3),
        "expected": pytest.approx((0.1 + 0.02 + 0.5) / 3, rel=1e-6),
        "answered": pytest.approx(2 / 3),
        "always": pytest.approx((0 + 1 + 10) / 3),
        "never": 0.5,
    }


def test_tables_of_costs(tmp_path):
    names = {None: ["well", "ill"]}
    csv, dump = tmp_path / "costs.csv", tmp_path / "costs.json"
    csv.write_text("class,cost\nill,10\nabstain,0.5\nwell,1\n")
    dump.write_text(json.dumps({"wrong": {"ill": 10, "well": 1}, "abstain": 0.5}))
    assert read_costs(str(csv), names) == read_costs(str(dump), names) == {None: Costs((1.0, 10.0), 0.5)}
    dump.write_text(json.dumps({"wrong": 2, "abstain": 1}))
    assert read_costs(str(dump), names) == {None: Costs((2.0, 2.0), 1.0)}
    dump.write_text(json.dumps({"state": {"wrong": 2, "abstain": 1}}))
    assert read_costs(str(dump), {"state": ["well", "ill"], "tone": ["a"]}) == {"state": Costs((2.0, 2.0), 1.0)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class,cost\nill,10\nabstain,1\n", ["well"]),
        ("class,cost\nill,10\nwel,1\nabstain,1\n", ["wel", "well"]),
        ("class,cost\nill,10\nwell,1\n", ["abstain", "None"]),
        ("class,cost\nill,many\nwell,1\nabstain,1\n", ["ill", "None"]),
        ("class,cost\nill,-1\nwell,1\nabstain,1\n", ["ill", "-1.0"]),
        ("class,cost\nill,1\nill,2\nwell,1\nabstain,1\n", ["ill"]),
        ("name,price\nill,1\n", ["class", "cost", "name"]),
        ("", ["class", "cost"]),
    ],
)
def test_tables_of_costs_that_are_refused(text, said, tmp_path):
    file = tmp_path / "costs.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=says(*said)):
        read_costs(str(file), {None: ["well", "ill"]})


def test_the_section_of_a_card():
    sure = how_sure(
        calibrated(task_of(SINGLE, list("abcde"), "x"), *classes(300, 5, 2.0)), *classes(300, 5, 2.0), 0.9, {}
    )
    plain = "# Name\n\n## Use\n\nso\n\n## Training\n\nRows.\n\n## Limits\n\nNone.\n"
    once = with_how_sure(plain, {"x": sure})
    assert [line for line in once.splitlines() if line.startswith("#")] == [
        *("# Name", "## Use", "## How sure", "## Training", "## Limits")
    ]
    assert f"{sure['coverage']['covered']:.1%}" in once
    assert with_how_sure(once, {"x": sure}) == once
    assert with_how_sure("# Name\n", {"x": sure, "y": None}).startswith("# Name\n\n## How sure\n\n`x`: ")


def test_records_of_rows():
    logits, labels = classes(99, 3, 2.0)
    task = task_of(SINGLE, list("abc"), "x")
    assert task.set_records(logits) is None
    task = calibrated(task, logits, labels)
    first = task.set_records(logits, 0.9)[0]
    assert first == {"coverage": 0.9, "prediction_set": task.set_values(logits, 0.9)[0][0]}
    assert task.set_records(logits, 0.995) is None
