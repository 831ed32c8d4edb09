"""Rows of which it is known what decides them: see `benchmarks/explain.py`, whose small models these are."""

import pytest

from benchmarks import explain
from mm_hf.evidence.summary import summary_of


def shares_of(kind: str, absence: str = "other_rows", **settings):
    records = explain.explained(explain.learn(kind, **settings), kind, absence)
    answers = [answer for record in records for answer in record["answers"]]
    total = sum(answer["amount"] for answer in answers)
    unique = {name: sum(a["modalities"][name]["unique"] for a in answers) / total for name in ("tabular", "series")}
    kinds = [answer["interactions"][0]["kind"] for answer in answers]
    return summary_of(records)[""]["shares"], unique, kinds


@pytest.mark.slow
def test_an_exclusive_or_is_interaction():
    shares, _, kinds = shares_of("exclusive or")
    assert shares["synergistic"] >= 0.9
    assert set(kinds) == {"synergistic"}


@pytest.mark.slow
def test_a_sum_is_none():
    shares, unique, _ = shares_of("sum")
    assert shares["synergistic"] + shares["redundant"] <= 0.1
    assert unique["tabular"] == pytest.approx(unique["series"], abs=0.1)


@pytest.mark.slow
def test_one_alone_is_unique():
    _, unique, kinds = shares_of("one alone")
    assert unique["tabular"] >= 0.95 > 10 * unique["series"]
    assert kinds.count("none") > len(kinds) / 2


@pytest.mark.slow
def test_copies_are_redundant():
    """Where the model has learned to do without either, and is told that one is missing."""
    shares, _, kinds = shares_of("copies", "token", modality_dropout=0.3)
    assert shares["redundant"] >= 0.8
    assert kinds.count("redundant") > 0.9 * len(kinds)


def test_made_rows_are_balanced():
    inputs, targets = explain.made("exclusive or", 64)
    assert targets.double().mean() == 0.5
    signs = inputs["numerical_values"][:, 0].sign() * inputs["series_values"].mean((1, 2)).sign()
    assert ((signs < 0).long() == targets).all()
