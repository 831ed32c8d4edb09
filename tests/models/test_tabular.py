"""A table as a modality: what its columns mean, its tokens, missing values, and rows that have no table."""

import math
import re
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import tiny_models as tiny
import torch
from transformers import AutoModel

from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.models.table_schema import MISSING, UNKNOWN, TableSchema
from mm_hf.models.tabular import TabularConfig, TabularModel


NAN = float("nan")
TABLE = {
    "age": [20, 30, None, 40],
    "height": [1.5, 1.5, 1.5, NAN],
    "town": ["Rome", "Rome", "Oslo", None],
    "member": [True, False, True, False],
    "code": [7, 7, 9, 9],
}


@pytest.fixture(scope="module")
def schema() -> TableSchema:
    return TableSchema.fit(TABLE, categories=["code"])


def rows() -> list[dict]:
    return [{name: values[place] for name, values in TABLE.items()} for place in range(4)]


def table(**changes) -> dict[str, torch.Tensor]:
    """Four rows of two columns of numbers and two of categories."""
    generator = torch.Generator().manual_seed(3)
    inputs = {
        "numerical_values": torch.randn(4, 2, generator=generator),
        "categorical_ids": torch.randint(0, 5, (4, 2), generator=generator),
    }
    inputs["numerical_values"][1, 0] = NAN
    return {**inputs, **changes}


def build(cls=MMFusionForClassification, **kwargs):
    config = TabularConfig(num_numerical=2, vocab_sizes=[5, 6], hidden_size=16)
    return tiny.model(cls, **{"vision": None, "tabular_config": config, **kwargs})


def test_numbers_are_standardised_and_values_numbered(schema):
    assert schema.columns == ["age", "height", "code", "member", "town"]
    assert schema.categorical == {"town": ["Rome"], "member": ["False", "True"], "code": ["7", "9"]}
    found = schema(rows())
    ages = found["numerical_values"][:, 0]
    torch.testing.assert_close(ages[[0, 1, 3]], torch.tensor([-1.2247, 0.0, 1.2247]), atol=1e-4, rtol=0)
    assert math.isnan(ages[2])
    assert found["numerical_values"][0, 1] == 0  # all alike
    assert found["categorical_ids"].tolist() == [[2, 3, 2], [2, 2, 2], [3, 3, UNKNOWN], [3, 2, MISSING]]
    assert schema([{"town": "Lima"}])["categorical_ids"].tolist() == [[MISSING, MISSING, UNKNOWN]]
    assert schema.vocab_sizes == [4, 4, 3]


def test_numbers_of_numpy_and_whole_numbers_as_floats():
    """A CSV file gives floats where some ids are missing; pandas gives numbers of numpy."""
    schema = TableSchema.fit({"id": [7.0, None, 7.0, 8.0, 8.0], "age": np.float32([20, 30, NAN, 40, 50])}, ["id"])
    assert schema.categorical == {"id": ["7", "8"]}
    assert schema.numerical["age"][0] == 35
    own, other = schema([{"id": 7, "age": 40}]), schema([{"id": np.float64(7), "age": np.int64(40)}])
    torch.testing.assert_close(own, other)
    assert own["categorical_ids"].tolist() == [[2]]
    assert schema([{"id": np.float32(NAN), "age": np.float32(NAN)}])["categorical_ids"].tolist() == [[MISSING]]
    assert schema([{"id": 7.5}, {"id": math.inf}])["categorical_ids"].tolist() == [[UNKNOWN], [UNKNOWN]]


def test_what_pandas_has_for_numbers():
    schema = TableSchema.fit(
        {
            "small": np.array([20, 30, 200, 250], dtype=np.uint8),
            "gap": pd.Series([1, 2, None, 4], dtype="Int64"),
            "price": [Decimal("1.50"), Decimal("2.25"), None, Decimal("2.25")],
        }
    )
    assert list(schema.numerical) == ["gap", "price", "small"]
    assert schema.numerical["small"][0] == 125
    found = schema([{"gap": pd.NA, "price": Decimal("2"), "small": np.uint8(250)}])["numerical_values"][0]
    torch.testing.assert_close(found, torch.tensor([NAN, 0.0, 1.2302]), equal_nan=True, rtol=1e-3, atol=1e-3)
    for huge in (1e39, 10**400, Decimal("Infinity")):
        with pytest.raises(ValueError, match=r"'small': .*finite"):
            schema([{"small": huge}])
    with pytest.raises(ValueError, match=r"'day'.*date, .*datetime"):
        TableSchema.fit({"day": [date(2020, 1, 1)]}, formats=False)
    with pytest.raises(ValueError, match=r"'time'.*timedelta, .*datetime"):
        TableSchema.fit({"time": [timedelta(hours=1)]})


AGES = [*range(20, 60)]
WORDS = [str(age) for age in AGES]
# What a column holds, whether it is one of numbers, and what it knows: the mean of its numbers, or its categories.
KINDS = {
    "numbers": (AGES, True, 39.5),
    "one word": ([*AGES, "old"], True, 39.5),
    "one word among five": ([1, 2, 3, 4, "old"], True, 2.5),
    "one word among four": ([1, 1, "old", "old"], False, ["1", "old"]),
    "a word in twenty": ([*AGES, "old", "old"], True, 39.5),
    "two words in twenty": ([*AGES, *["old"] * 4], False, ["old"]),
    "one that is not finite": ([*AGES, math.inf], True, 39.5),
    "one beyond float32": ([*AGES, 1e39], True, 39.5),
    "text that spells numbers, and a word": ([*WORDS, "old"], True, 39.5),
    "text that spells fractions": ([f"{age}.5" for age in AGES], True, 40.0),
    "numbers and text that spells them": ([*AGES, *WORDS], True, 39.5),
    "a number formatted for people": ([*AGES, "1,234"], True, 39.5),
    "strings of digits": (["7", "7", "8", "8"], False, ["7", "8"]),
    "codes": (["007", "007", "08", "08", "12", "12"], False, ["007", "08", "12"]),
    "a code with and without zeros": (["01", "01", "1", "1"], False, ["01", "1"]),
    "truth values": ([True, False] * 5, False, ["False", "True"]),
    "numbers and truth values": ([1, 2, 3, True, True], False, ["True"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_column_holds(kind):
    values, numbers, known = KINDS[kind]
    schema = TableSchema.fit({"a": values}, on_error="skip")
    assert list(schema.numerical) == (["a"] if numbers else [])
    if numbers:
        assert schema.numerical["a"][0] == known
        good = [value for value in values if isinstance(value, int) or str(value).replace(".", "").isdigit()]
        for value in values:
            if value not in good:
                with pytest.raises(ValueError, match=rf"'a': .*finite.*{re.escape(repr(value))}"):
                    schema.check({"a": value})
        mean, std = schema.numerical["a"]
        expected = torch.tensor([(float(value) - mean) / std for value in good])
        torch.testing.assert_close(schema([{"a": value} for value in good])["numerical_values"][:, 0], expected)
    else:
        assert schema.categorical["a"] == known


def test_words_in_other_parts_say_that_digits_are_numbers():
    assert TableSchema.fit({"a": WORDS}, min_count=1).categorical["a"] == WORDS
    assert TableSchema.fit({"a": WORDS}, numbers=["a"]).numerical["a"][0] == 39.5
    assert TableSchema.fit({"a": ["01", *WORDS]}, numbers=["a"], min_count=1).categorical["a"] == ["01", *WORDS]
    assert TableSchema.fit({"a": WORDS}, categories=["a"], numbers=["a"], min_count=1).categorical["a"] == WORDS


def test_extreme_values_are_clipped_where_the_schema_says_so(tmp_path):
    """A schema of before, which has no such key, answers as before."""
    new = TableSchema.fit({"a": [0.0, 2.0], "code": ["007", "007"]})
    assert (new.farthest, new.as_written) == (1e4, True)
    old = TableSchema({"a": (1.0, 1.0)}, {"code": ["7"]})
    assert list(old.to_dict()) == ["numerical", "categorical"]
    for schema, far in ((new, 1e4), (old, 1e20)):
        MMFusionProcessor(table_schema=schema).save_pretrained(tmp_path)
        schema = MMFusionProcessor.from_pretrained(tmp_path).table_schema
        values = schema([{"a": 1e20}, {"a": -1e20}, {"a": 3.0}, {"a": None}])["numerical_values"][:, 0]
        torch.testing.assert_close(values, torch.tensor([far, -far, 2.0, NAN]), equal_nan=True)
    with pytest.raises(ValueError, match=r"finite.*1e\+31"):
        new([{"a": 1e31}])
    # "007" was the number 7 when schemas of before were fitted; now they are two.
    assert old([{"code": "007"}, {"code": 7}, {"code": "8"}])["categorical_ids"].tolist() == [[2], [2], [UNKNOWN]]
    assert new([{"code": "007"}, {"code": 7}, {"code": "7"}])["categorical_ids"].tolist() == [
        [2],
        [UNKNOWN],
        [UNKNOWN],
    ]


def test_extreme_values_train():
    """Whatever is let through, loss and gradients are finite, and half precision holds it."""
    schema = TableSchema.fit({"a": [0.0, 1.0], "b": [0.0, 1e-3]})
    values = schema([{"a": 9e29, "b": -9e29}] * 4)["numerical_values"]
    assert values.half().isfinite().all()
    config = TabularConfig(num_numerical=2, hidden_size=16)
    model = tiny.model(MMFusionForClassification, vision=None, text=None, tabular_config=config).train()
    loss = model(numerical_values=values, labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_as_before():
    """For a run that began when one word made categories of a column."""
    schema = TableSchema.fit({"a": [7, 7, "old", "old"], "b": [1.0, 3.0, None, 2.0]}, as_before=True)
    assert schema == TableSchema({"b": (2.0, (2 / 3) ** 0.5)}, {"a": ["7", "old"]})


def test_a_row_of_gaps_alone_is_no_row(schema):
    processor = MMFusionProcessor(table_schema=schema)
    batch = processor(table=[{"age": None, "town": NAN}, {"age": 20}, {}])
    assert batch["tabular_index"].tolist() == [-1, 0, -1]
    assert len(batch["numerical_values"]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TableSchema.fit({"a": [None, NAN]}), "'a' .*value"),
        (lambda: TableSchema.fit({"a": [1.0, math.inf]}), r"'a' .*finite: inf .* 1\b"),
        (lambda: TableSchema.fit({"a": [1.0, 2.0, 1e39]}), r"'a' .*finite: 1e\+39 .* 2\b"),
        (lambda: TableSchema.fit({"a": [*range(30), "old"]}), r"'a' .*numbers: 'old' .* 30\b"),
        (
            lambda: TableSchema.fit({"a": [f"{n} %" for n in range(30)] + ["$5"]}),
            "'a' .*'0 %'.*1234.5.*category_columns",
        ),
        (lambda: TableSchema.fit({"a": [1]}, categories=["b"]), r"\['b'\].*\['a'\]"),
        (lambda: TableSchema(), r"table.*\[\], \[\]"),
        (lambda: TableSchema({"a": (0, 1)}, {"a": ["x"]}), r"table.*\['a', 'a'\], \['a'\]"),
        (lambda: TabularModel(TabularConfig()), r"num_numerical 0 .*vocab_sizes"),
        (lambda: TabularConfig(vocab_sizes=[0]), r"\b1\b.*vocab_sizes.*\[0\]"),
    ],
)
def test_what_is_no_table(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_row_of_the_table(schema):
    processor = MMFusionProcessor(table_schema=schema)
    torch.testing.assert_close(dict(processor(table=rows())), schema(rows()), equal_nan=True)
    assert set(processor(table={"age": 20})) == {"numerical_values", "categorical_ids"}
    for wrong, message in (
        ({"size": 3}, r"Row 1: .*'size': .*\['age'"),
        ({"age": "old"}, "Row 1: .*'age': .*finite.*'old'"),
        ({"age": math.inf}, r"Row 1: .*'age': .*finite.*\binf\b"),
        ({"age": True}, "Row 1: .*'age': .*finite.*True"),
        ("old", "Row 1: .*dict.*'old'"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(table=[{}, wrong])


def test_each_column_is_a_token():
    config = TabularConfig(num_numerical=2, vocab_sizes=[5, 6], hidden_size=16)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config).eval()
    assert type(encoder) is TabularModel
    inputs = table()
    tokens = encoder(**inputs).last_hidden_state
    assert tokens.shape == (4, 4, 16)
    value = inputs["numerical_values"][0, 1]
    torch.testing.assert_close(tokens[0, 1], value * encoder.weights[1] + encoder.biases[1])
    torch.testing.assert_close(tokens[1, 0], encoder.missing[0] + encoder.biases[0])
    number = inputs["categorical_ids"][2, 1]
    torch.testing.assert_close(tokens[2, 3], encoder.embeddings[1].weight[number] + encoder.biases[3])
    for wrong, message in (
        ({"numerical_values": None}, r"numerical_values.*\b2 .*None"),
        ({"categorical_ids": inputs["categorical_ids"][:, :1]}, r"categorical_ids.*\b2 .*\(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(**{**inputs, **wrong})


@torch.no_grad()
def test_every_column_counts():
    model, texts, inputs = build(), tiny.texts((6, 4, 7, 5)), table()
    before = model(**texts, **inputs).logits
    for name, place in (("numerical_values", 1), ("categorical_ids", 0)):
        changed = inputs[name].clone()
        changed[2, place] = changed[2, place] * 0 + 3
        moved = (model(**texts, **{**inputs, name: changed}).logits - before).abs().amax(1)
        assert moved[2] > 1e-3
        assert moved[[0, 1, 3]].max() <= 1e-5


def test_it_starts_from_random_weights_and_is_never_frozen_with_the_others():
    model = MMFusionForClassification.from_encoders_pretrained(
        tabular_config=TabularConfig(num_numerical=3), num_labels=2, freeze_encoders=True
    )
    assert model.config.modalities == ["tabular"]
    assert model.config.frozen_encoders == []
    assert all(p.requires_grad for p in model.parameters())
    weights = model.base_model.encoders["tabular"].weights
    assert 0.5 < weights.std().item() * 8 < 1.5  # 64 wide
    assert MMFusionForClassification.from_encoders_pretrained(
        tabular_config=TabularConfig(num_numerical=3), freeze_encoders=["tabular"]
    ).config.frozen_encoders == ["tabular"]
    with pytest.raises(
        ValueError,
        match=r"\['vision', 'text', 'audio'\].*\['tabular_config', 'series_config', 'extra_configs'\]",
    ):
        MMFusionForClassification.from_encoders_pretrained()


def test_an_empty_cell_is_missing_however_it_is_read():
    """A reader of CSV gives None, `csv.DictReader` and `keep_default_na=False` give an empty text."""
    schema = TableSchema.fit({"age": [1.0, 2.0, 3.0, ""], "town": ["Ulm", "Ulm", " ", ""]})
    assert schema.categorical == {"town": ["Ulm"]}
    empty, none = schema([{"age": "", "town": " "}]), schema([{"age": None, "town": None}])
    assert all(torch.equal(empty[name].nan_to_num(9), none[name].nan_to_num(9)) for name in none)
    before = TableSchema({"age": (2.0, 1.0)}, {"town": ["Ulm"]})  # to which it was a town that is not known
    assert before([{"town": ""}])["categorical_ids"].tolist() == [[1]]
    with pytest.raises(ValueError, match="''"):
        before([{"age": ""}])
