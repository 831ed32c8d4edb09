"""Which numbers can be trained on, and which texts spell one."""

import pytest
import torch

from mm_hf.models.finite import (
    LARGEST_IN_LOSS,
    are_numbers,
    by_number,
    is_code,
    is_written_number,
    kind_of_texts,
    mark_of,
    read_marked,
    read_number,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("12", 12), ("-0.5", -0.5), ("1e3", 1000), (".5", 0.5), ("5.", 5), ("+3", 3), (" 7 ", 7), ("007", 7)],
        *[
            (text, None)
            for text in ("", " ", "one", "1,234", "12 %", "$5", "1 2", "1_000", "0x10", "nan", "1.2.3", "٣")
        ],
    ],
)
def test_texts_that_spell_numbers(text, number):
    assert read_number(text) == number


def test_infinity_is_a_number_that_is_not_finite():
    assert read_number("-Infinity") == -float("inf")


@pytest.mark.parametrize(
    "text", ["1,234", "1.234.567", "1,234.50", "1.234,50", "12 %", "12%", "$5", "5 €", "1 234", "0,5", "-$1,000"]
)
def test_numbers_formatted_for_people(text):
    assert is_written_number(text)
    assert read_number(text) is None


@pytest.mark.parametrize(
    "text", ["12", "1.5", "12.05.2020", "2020-01-01", "1.2.3", "10:30", "5 kg", "A4", "%", "$", ""]
)
def test_what_is_no_number_formatted_for_people(text):
    assert not is_written_number(text)


def test_codes():
    assert [text for text in ("0", "00", "007", "-01", "0.5", "10", "1e05", "") if is_code(text)] == [
        "00",
        "007",
        "-01",
    ]


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("007", ["7", "8"], "7"),
        ("7.0", ["7", "8"], "7"),
        ("1e3", ["1000"], "1000"),
        ("9", ["7", "8"], None),
        ("7.5", ["7"], None),
        ("007", ["7", "08"], None),  # where zeros tell classes apart, they do for this one too
        ("seven", ["7"], None),
        ("inf", ["7"], None),
    ],
)
def test_names_that_were_numbers(text, names, found):
    assert by_number(text, names) == found


@pytest.mark.parametrize(
    ("numbers", "others", "found"),
    [
        (0, 0, False),
        (1, 0, True),
        (3, 1, False),
        (4, 1, True),
        (38, 2, True),
        (37, 2, False),
        (95, 5, True),
        (94, 6, False),
    ],
)
def test_how_many_may_be_bad(numbers, others, found):
    assert are_numbers(numbers, others) == found


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ({"1": 5, "2": 5}, "digits"),
        ({"1": 5, "2.5": 5}, "numbers"),
        ({"1": 95, "old": 5}, "numbers"),
        ({"1": 90, "old": 10}, "names"),
        ({"1": 95, "007": 1}, "names"),
        ({"1": 95, "1,234": 5}, "numbers"),
        ({"999": 50, "1,234": 50}, "written"),
        ({"10 %": 19, "none": 1}, "written"),
        ({"a": 1}, "names"),
        ({}, "names"),
    ],
)
def test_kinds_of_texts(texts, kind):
    assert kind_of_texts(texts) == kind


def test_the_largest_label_has_a_finite_square_loss():
    labels = torch.full((100,), LARGEST_IN_LOSS, dtype=torch.float32, requires_grad=True)
    loss = (labels**2).sum()
    loss.backward()
    assert loss.isfinite()
    assert labels.grad.isfinite().all()
    assert not (torch.full((100,), LARGEST_IN_LOSS * 100, dtype=torch.float32) ** 2).sum().isfinite()


@pytest.mark.parametrize(
    ("texts", "mark", "numbers"),
    [
        (["12 %", "7.5 %", "100%"], ".%", [12, 7.5, 100]),
        (["12\u202f%", "7,5\xa0%", "100%"], ",%", [12, 7.5, 100]),
        (["-$5", "$ 1,234.50", "$7", " "], ".$", [-5, 1234.5, 7, None]),
        (["5 €", "1.402,15 €"], ",€", [5, 1402.15]),
        (["12 %", "30 %", "7"], ".%", [12, 30, 7]),  # one cell without the sign is in the unit of the others
        (["12 %", *"3456789"], None, [None, *range(3, 10)]),  # most cells say no unit: this one is a bad row
        (["$5", "5 €", "7 €"], None, [None] * 3),  # two units
        (["12 kg", "15 kg"], None, [None] * 2),
        (["5 %", "a lot", "some", "none"], None, [None] * 4),
    ],
)
def test_numbers_of_one_unit(texts, mark, numbers):
    found = mark_of("share", dict.fromkeys(texts, 1))
    assert found == mark
    assert [read_marked(text, found) for text in texts] == numbers


def test_a_unit_does_not_tell_what_a_comma_means():
    with pytest.raises(ValueError, match="--decimal"):
        mark_of("rent", {"$1,402": 3, "$2,568": 2})
    assert mark_of("rent", {"$1,402": 3, "$2,568": 2}, ".") == ".$"
