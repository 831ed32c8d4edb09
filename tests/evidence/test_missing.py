"""What to ask for next, on made rows of which the right plan is known: what a perfect model would say of them is
written down here, for every set of modalities."""

from collections.abc import Callable

import numpy as np
import pytest
import tiny_models
import torch
from messages import says

from mm_hf.evidence.coalition_answers import Coalition, CoalitionAnswers, answering_heads, coalitions_of, look
from mm_hf.evidence.missing import Missing, Policy
from mm_hf.models.tasks import task_head_of
from mm_hf.tasks import task_of


def answers_of(
    values: dict[str, np.ndarray],
    labels: dict[str | None, np.ndarray],
    posterior: Callable[[dict[str, np.ndarray]], dict[str | None, np.ndarray]],
    present: np.ndarray | None = None,
) -> CoalitionAnswers:
    """What a model says that knows the truth as far as it can be known.

    Args:
        values: by modality what rows hold, `(N,)`; also the fused vector, 9 for what is not seen.
        labels: by task.
        posterior: from the values that are seen by task the logits, `(N, C)`.
        present: which modalities each row has; None: all.
    """
    rows, names = len(next(iter(values.values()))), list(values)
    pooled, logits = {}, {}
    for seen in coalitions_of(names):
        known = {name: values[name] if name in seen else None for name in names}
        vectors = [np.full(rows, 9.0) if held is None else held for held in known.values()]
        pooled[seen] = np.stack(vectors, 1).astype(np.float32)
        logits[seen] = {task: torch.tensor(value, dtype=torch.float32) for task, value in posterior(known).items()}
    present = np.ones((rows, len(names)), dtype=bool) if present is None else present
    truths = {task: torch.tensor(held) for task, held in labels.items()}
    return CoalitionAnswers(names, present, pooled, logits, truths)


def of_classes(column: str | None = None, classes: int = 2):
    return task_of("single_label_classification", [str(number) for number in range(classes)], column)


def heads_of(tasks: dict) -> dict:
    return {name: task_head_of(task.name)(len(task.names or [0])) for name, task in tasks.items()}


def learned(answers: CoalitionAnswers, tasks: dict | None = None) -> Missing:
    tasks = {None: of_classes()} if tasks is None else tasks
    return Missing(tasks, heads_of(tasks), answers)


def bits(count: int, rows: int = 300, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 2, (count, rows)))


def sure_of(answer: np.ndarray) -> np.ndarray:
    """Logits of a model that is sure."""
    return np.stack([8.0 * (answer == 0), 8.0 * (answer == 1)], 1)


def xor(rows: int = 300, seed: int = 0) -> CoalitionAnswers:
    """The class is whether two bits differ; a third modality is noise."""
    one, other, noise = bits(3, rows, seed)

    def posterior(seen):
        known = seen["one"] is not None and seen["other"] is not None
        return {None: sure_of(one ^ other) if known else np.zeros((rows, 2))}

    return answers_of({"one": one, "other": other, "noise": noise}, {None: one ^ other}, posterior)


def test_of_xor_neither_half_brings_anything_and_both_are_obtained():
    answers = xor()
    missing = learned(answers)
    nothing = Coalition()
    assert missing.gain(nothing, Coalition(["one"])).mean() == pytest.approx(0, abs=0.05)
    assert missing.gain(nothing, Coalition(["one", "other"])).mean() == pytest.approx(0.5, abs=0.08)
    followed = Policy(missing, missing.checked(None), until=0.95).follow(xor(seed=1), nothing)
    assert {frozenset(order) for order in map(tuple, followed.orders)} == {frozenset({"one", "other"})}
    assert followed.scores(missing.scores(xor(seed=1))).mean() == 1
    # Who has one half asks for the other, and for no more.
    half = Policy(missing, missing.checked(None)).follow(xor(seed=2), Coalition(["one"]))
    assert half.orders == [["other"]] * 300


def rule(rows: int = 400, seed: int = 0, known: bool = True) -> CoalitionAnswers:
    """`switch` says whether the class is that of `left` or that of `right`; both are without it half of the matter."""
    switch, left, right = bits(3, rows, seed)
    truth = np.where(switch == 0, left, right)

    def posterior(seen):
        logits = np.zeros((rows, 2))
        shown = {name: held is not None for name, held in seen.items()}
        if shown["switch"]:
            sides = [shown["left"] & (switch == 0), shown["right"] & (switch == 1)]
            logits = np.where((sides[0] | sides[1])[:, None], sure_of(truth), logits)
        return {None: logits}

    return answers_of({"switch": switch, "left": left, "right": right}, {None: truth}, posterior)


@pytest.fixture(scope="module")
def switched() -> Missing:
    return learned(rule())


def test_what_the_first_one_shows_decides_about_the_second(switched):
    missing, new = switched, rule(seed=1)
    followed = Policy(missing, missing.checked(None), until=0.95).follow(new, Coalition())
    switch = new.pooled[Coalition(["switch"])][:, 0]
    assert [order[0] for order in followed.orders] == ["switch"] * 400
    assert [order[1] for order in followed.orders] == ["left" if value == 0 else "right" for value in switch]
    assert {len(order) for order in followed.orders} == {2}
    assert followed.scores(missing.scores(new)).mean() == 1


def test_the_plan_never_looks_at_what_it_has_not_obtained(switched):
    missing, new, other = switched, rule(seed=1), rule(seed=1)
    shuffled = np.random.default_rng(5).permutation(400)
    followed = Policy(missing, missing.checked(None), until=0.95).follow(new, Coalition())
    # Whatever holds a modality that a row did not obtain gets the values of other rows.
    for seen in other.pooled:
        changed = np.array([not seen <= end for end in followed.ends])
        other.pooled[seen] = np.where(changed[:, None], other.pooled[seen][shuffled], other.pooled[seen])
        moved = other.logits[seen][None][torch.from_numpy(shuffled)]
        other.logits[seen][None] = torch.where(torch.from_numpy(changed)[:, None], moved, other.logits[seen][None])
    other.labels = None
    again = Policy(missing, missing.checked(None), until=0.95).follow(other, Coalition())
    assert again.orders == followed.orders


def twice(rows: int = 300, seed: int = 0) -> CoalitionAnswers:
    """Two modalities hold the same, which is the class."""
    (truth,) = bits(1, rows, seed)

    def posterior(seen):
        known = any(held is not None for held in seen.values())
        return {None: sure_of(truth) if known else np.zeros((rows, 2))}

    return answers_of({"near": truth, "far": truth}, {None: truth}, posterior)


@pytest.mark.parametrize(("prices", "first"), [({"near": 1, "far": 5}, "near"), ({"near": 5, "far": 1}, "far")])
def test_of_two_that_bring_the_same_the_cheaper_one_is_obtained_alone(prices, first):
    missing = learned(twice())
    followed = Policy(missing, missing.checked(prices)).follow(twice(seed=1), Coalition())
    assert followed.orders == [[first]] * 300
    assert followed.paid.tolist() == [1] * 300


def test_what_costs_more_than_it_is_worth_is_not_obtained():
    missing = learned(twice())
    policy = Policy(missing, {"near": 1, "far": 1}, worth=1.2)  # .5 to gain, .6 to pay
    assert policy.follow(twice(seed=1), Coalition()).orders == [[]] * 300


def half_known(rows: int = 400, seed: int = 0) -> CoalitionAnswers:
    """`first` settles half of the rows, and says which; `second` settles all."""
    first, truth = bits(2, rows, seed)

    def posterior(seen):
        known = np.full(rows, seen["second"] is not None)
        if seen["first"] is not None:
            known |= first == 1
        return {None: np.where(known[:, None], sure_of(truth), 0.0)}

    return answers_of({"first": first * (1 + truth), "second": truth}, {None: truth}, posterior)


def test_an_answer_that_is_sure_asks_for_nothing():
    missing, new = learned(half_known()), half_known(seed=1)
    followed = Policy(missing, missing.checked(None), until=0.95).follow(new, Coalition(["first"]))
    settled = new.pooled[Coalition(["first"])][:, 0] > 0
    assert [bool(order) for order in followed.orders] == (~settled).tolist()
    # As a row that lacks one comes: what is missing has not been there when the model looked.
    (plan, *_), (gains, *_) = (told([0, 1, 2]) for told in planned(missing, new, ["first"]))
    assert gains["missing"] == ["second"]
    sure = bool(settled[0])
    assert gains["gains"]["second"] == pytest.approx(0.0 if sure else 0.5, abs=0.12)
    assert plan["next"] == (None if sure else "second")


def planned(missing: Missing, answers: CoalitionAnswers, seen: list[str], **options):
    """Functions that give plan and gains of some rows as if they had these modalities alone."""
    coalition = Coalition(seen)

    def rows(places: list[int]) -> CoalitionAnswers:
        present = np.zeros((len(places), len(answers.modalities)), dtype=bool)
        present[:, [answers.modalities.index(name) for name in seen]] = True
        everything = Coalition(answers.modalities)
        logits = {None: answers.logits[coalition][None][places]}
        return CoalitionAnswers(
            answers.modalities, present, {everything: answers.pooled[coalition][places]}, {everything: logits}, None
        )

    return lambda places: missing.plan(rows(places), **options), lambda places: missing.gains(rows(places))


def test_a_row_is_told_what_will_follow_and_what_it_will_cost(switched):
    plan, gains = planned(switched, rule(seed=1), [], prices={"left": 2, "right": 4}, until=0.95)
    (told,), (gained,) = plan([0]), gains([0])
    assert told["next"] == "switch"
    assert told["reason"] is None
    assert told["order"][0]["modality"] == "switch"
    chances = {step["modality"]: step["chance"] for step in told["order"]}
    assert chances == pytest.approx({"switch": 1, "left": 0.5, "right": 0.5}, abs=0.1)
    assert told["price"] == pytest.approx(1 + 1 + 2, abs=0.4)
    assert told["score"] == pytest.approx(1, abs=0.06)
    assert gained["gains"] == pytest.approx(dict.fromkeys(["switch", "left", "right"], 0), abs=0.08)
    assert gained["together"][0]["of"] == ["switch", "left", "right"]
    assert gained["together"][0]["gain"] == pytest.approx(0.5, abs=0.08)


def test_a_row_that_has_everything_is_complete(switched):
    plan, gains = planned(switched, rule(seed=1), ["switch", "left", "right"])
    told = plan([3])[0]
    assert (told["next"], told["reason"], told["order"], told["price"]) == (None, "complete", [], 0)
    assert gains([3])[0]["missing"] == []
    assert gains([3])[0]["sure"] == pytest.approx(1, abs=0.01)


def prices_of_houses(rows: int = 300, seed: int = 0) -> CoalitionAnswers:
    """A number is the sum of two parts, one of them ten times the other; a third one says nothing."""
    draw = np.random.default_rng(seed)
    large, small, none = draw.normal(size=(3, rows)) * [[10], [1], [1]]

    def posterior(seen):
        known = [seen[name] for name in ("large", "small") if seen[name] is not None]
        return {None: np.sum([np.zeros(rows), *known], 0)[:, None]}

    held = {"large": large, "small": small, "none": none}
    return answers_of(held, {None: (large + small).astype(np.float32)}, posterior)


def test_of_numbers_the_gain_is_the_share_of_the_error_that_goes():
    missing = learned(prices_of_houses(), {None: task_of("regression")})
    nothing = Coalition()
    gains = {name: missing.gain(nothing, Coalition([name])).mean() for name in missing.modalities}
    # E|x| of a normal is .8 of its deviation: of an error of 8.0 the large part leaves .8, the small one 7.98.
    assert gains == pytest.approx({"large": 0.9, "small": 0.01, "none": 0.0}, abs=0.03)
    assert missing.scores.units[None] == pytest.approx(8.0, abs=0.8)
    followed = Policy(missing, missing.checked(None)).follow(prices_of_houses(seed=1), nothing)
    assert {frozenset(order) for order in map(tuple, followed.orders)} == {frozenset({"large", "small"})}
    enough = Policy(missing, missing.checked(None), until=0.8).follow(prices_of_houses(seed=1), nothing)
    assert enough.orders == [["large"]] * 300


def test_of_several_tasks_the_gain_is_the_mean():
    rows = 300
    bit, part = bits(1, rows)[0], np.random.default_rng(3).normal(size=rows)

    def posterior(seen):
        known = np.zeros((rows, 2)) if seen["bit"] is None else sure_of(bit)
        return {"kind": known, "size": (np.zeros(rows) if seen["part"] is None else part)[:, None]}

    size = part.astype(np.float32)
    size[:50] = np.nan  # some have no label of it
    answers = answers_of({"bit": bit, "part": part}, {"kind": bit, "size": size}, posterior)
    missing = learned(answers, {"kind": of_classes("kind"), "size": task_of("regression", None, "size")})
    gains = {name: np.nanmean(missing.gain(Coalition(), Coalition([name]))) for name in ("bit", "part")}
    labelled = 250 / 300
    right = max(bit.mean(), 1 - bit.mean())
    assert gains["bit"] == pytest.approx((1 - right) * (1 - labelled / 2), abs=0.06)
    assert gains["part"] == pytest.approx(labelled / 2, abs=0.06)


def test_rows_that_lack_some_by_themselves_teach_what_they_can():
    answers = half_known()
    answers.present[:100, 1] = False  # `second` was never there
    missing = learned(answers)
    assert np.isfinite(missing.gain(Coalition(["first"]), Coalition(["second"]))).sum() == 300
    assert np.isfinite(missing.sureness(Coalition(["first"]))).all()


def test_a_modality_that_no_row_had_is_not_guessed_about():
    answers = half_known()
    answers.present[:, 1] = False
    missing = learned(answers)
    plan, gains = planned(missing, half_known(seed=1), ["first"])
    assert gains([0])[0]["gains"] == {"second": None}
    assert plan([0])[0]["next"] is None


def test_few_rows_are_told():
    assert learned(xor(rows=60)).warnings
    assert not learned(xor(rows=200)).warnings


@pytest.mark.parametrize(("prices", "said"), [({"depth": 1}, ["depth", "one"]), ({"one": -1}, ["one", -1])])
def test_prices_that_make_no_sense_are_refused(prices, said):
    with pytest.raises(ValueError, match=says(*said)):
        learned(xor(rows=60)).checked(prices)


def test_the_model_is_asked_with_the_rest_absent():
    model, batch = tiny_models.model().eval(), tiny_models.batch()
    tiny_models.open_gates(model)
    batch |= {"text_index": torch.tensor([0, 1, 2, -1]), "vision_index": torch.tensor([1, -1, 0, 2])}
    answers = look(model, [{**batch, "labels": torch.tensor([0, 1, 2, 0]), "row_ids": torch.arange(4)}])
    assert answers.present.T.tolist() == [(batch[f"{name}_index"] >= 0).tolist() for name in answers.modalities]
    assert answers.labels[None].tolist() == [0, 1, 2, 0]
    assert len(answers.logits) == 4
    for seen, logits in answers.logits.items():
        absent = {f"{name}_index": torch.full((4,), -1) for name in answers.modalities if name not in seen}
        with torch.no_grad():
            torch.testing.assert_close(logits[None], model(**{**batch, **absent}).logits)
    assert answers.of_row(3) == {"vision"}


def test_models_that_give_neither_classes_nor_numbers_are_refused():
    with pytest.raises(ValueError, match=says("Searcher")):
        answering_heads(type("Searcher", (), {"last_layers": dict})())
