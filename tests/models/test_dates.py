"""Dates and times in a table: how they are written, their parts as numbers, and one token for each column."""

import json
import math
from collections import Counter
from datetime import date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
import torch
from messages import says
from transformers import AutoModel

from mm_hf.models.dates import FORMATS, ISO, AmbiguousDatesError, DateColumn, format_of_dates, read_date
from mm_hf.models.table_schema import TableError, TableSchema
from mm_hf.models.tabular import TabularConfig, TabularModel


NAN = float("nan")
DAYS = [date(2024, 1, 1) + timedelta(days=9 * place) for place in range(40)]  # of more than a year
# How a column writes its dates, and the format that is to be read.
WRITTEN = {
    "iso": ("%Y-%m-%d", ISO),
    "iso with times": ("%Y-%m-%d %H:%M:%S", ISO),
    "iso of Greenwich": ("%Y-%m-%dT%H:%M:%SZ", ISO),
    "iso with a zone": ("%Y-%m-%dT%H:%M:%S.250+02:00", ISO),
    "German": ("%d.%m.%Y", "%d.%m.%Y"),
    "German with times": ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"),
    "German, short": ("%d.%m.%y", "%d.%m.%y"),
    "American": ("%m/%d/%Y", "%m/%d/%Y"),
    "American with times": ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S"),
    "British": ("%d/%m/%Y", "%d/%m/%Y"),
    "in words": ("%d %B %Y", "%d %B %Y"),
    "in words, American": ("%b %d, %Y", "%b %d, %Y"),
    "Oracle": ("%d-%b-%Y", "%d-%b-%Y"),
    "half days": ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"),
}


def texts_of(values) -> Counter:
    return Counter(map(str, values))


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_column_of_dates_is_read_as_it_is_written(kind):
    written, form = WRITTEN[kind]
    moments = [datetime(each.year, each.month, each.day, 14, 30) for each in DAYS]
    texts = [f"{each:{written}}" for each in moments]
    assert format_of_dates("day", texts_of(texts)) == form
    schema = TableSchema.fit({"day": texts})
    assert (schema.columns, list(schema.dates), schema.numerical) == (["day"], ["day"], {})
    hours = "%H" in written or "%I" in written
    assert (schema.dates["day"].format, schema.dates["day"].hours) == (form, hours)
    # The same numbers as of the dates themselves, and of the same dates in ISO.
    typed = TableSchema.fit({"day": moments if hours else DAYS})
    read = schema([{"day": text} for text in texts])["numerical_values"]
    torch.testing.assert_close(
        read,
        typed([{"day": each} for each in moments if hours] or [{"day": each} for each in DAYS])["numerical_values"],
        atol=1e-5,
        rtol=0,
    )
    iso = [f"{each:%Y-%m-%d %H:%M}" if hours else f"{each:%Y-%m-%d}" for each in moments]
    if "zone" not in kind:
        torch.testing.assert_close(schema([{"day": text} for text in iso])["numerical_values"], read)


NO_DATES = {
    "versions": ["2.4.1", "2.4.11", "1.2.30"],
    "addresses": ["10.0.0.1", "10.0.0.2"],
    "digits": ["20240601", "20240602"],
    "numbers": ["12.5", "3.25"],
    "words": ["May", "June"],
    "no such day": ["2024-13-01", "2024-02-31"],
    "some words among dates": ["2024-01-01"] * 8 + ["soon"] * 2,
}


@pytest.mark.parametrize("kind", NO_DATES)
def test_what_is_no_date_stays_what_it_was(kind):
    assert format_of_dates("a", Counter(NO_DATES[kind])) is None
    assert not TableSchema.fit({"a": NO_DATES[kind] * 2}).dates


def test_day_and_month_that_change_places_are_refused_or_told():
    texts = Counter(["03/01/2025", "04/02/2025"])
    with pytest.raises(AmbiguousDatesError, match=says("listed", "03/01/2025", "2025-03-01", "2025-01-03")):
        format_of_dates("listed", texts)
    with pytest.raises(ValueError, match=says("listed", "--date_format", "category_columns")):
        TableSchema.fit({"listed": list(texts)})
    schema = TableSchema.fit({"listed": list(texts)}, date_format="%d/%m/%Y")
    assert schema.dates["listed"].read("03/01/2025") == datetime(2025, 1, 3)
    # One row of many tells, though it stands in another part of the data.
    more = {"listed": {**texts, "25/02/2025": 1}}
    assert TableSchema.fit({"listed": list(texts)}, texts=more).dates["listed"].format == "%d/%m/%Y"


def test_the_parts_of_a_date():
    column = DateColumn(ISO, mean=19723.0, std=10.0)  # 2024-01-01
    trend, *circle = column.numbers(datetime(2024, 1, 11))
    assert trend == 1.0
    turn = 2 * math.pi * 10 / 365.25
    week = 2 * math.pi * 3 / 7  # a Thursday
    np.testing.assert_allclose(circle, [math.sin(turn), math.cos(turn), math.sin(week), math.cos(week)], atol=1e-9)
    timed = DateColumn(ISO, 19723.0, 10.0, hours=True)
    six, evening = timed.numbers(datetime(2024, 1, 11, 6)), timed.numbers(datetime(2024, 1, 11, 18))
    np.testing.assert_allclose(six[5:], [1, 0], atol=1e-9)
    np.testing.assert_allclose(evening[5:], [-1, 0], atol=1e-9)
    # A zone moves the trend, and not the clock.
    east = datetime(2024, 1, 11, 6, tzinfo=timezone(timedelta(hours=2)))
    assert timed.numbers(east)[1:] == six[1:]
    assert timed.numbers(east)[0] == pytest.approx(six[0] - 2 / 24 / 10)


def test_dates_of_all_types_are_one():
    moment = datetime(2024, 3, 5, 6, 7, 8)
    for value in (moment, pd.Timestamp(moment), np.datetime64(moment, "ns"), "2024-03-05 06:07:08"):
        assert read_date(value) == moment
    for value in (date(2024, 3, 5), np.datetime64("2024-03-05"), "2024-03-05"):
        assert read_date(value) == datetime(2024, 3, 5)
    schema = TableSchema.fit({"day": pd.Series(pd.date_range("2024-01-01", periods=5)), "n": [1, 2, 3, 4, 5]})
    assert (schema.columns, schema.date_sizes) == (["n", "day"], [5])
    for missing in (None, pd.NaT, np.datetime64("NaT"), "", NAN):
        values = schema([{"n": 1, "day": missing}])["numerical_values"]
        assert values.shape == (1, 6)
        assert values[0, 1:].isnan().all()
        assert not values[0, :1].isnan().any()


def test_a_date_that_is_none_is_a_bad_value():
    texts = [f"{each:%d.%m.%Y}" for each in DAYS]
    with pytest.raises(ValueError, match=says("'day'", "%d.%m.%Y", "unknown", 40)):
        TableSchema.fit({"day": [*texts, "unknown"]})
    schema = TableSchema.fit({"day": [*texts, "unknown"]}, on_error="skip")
    with pytest.raises(TableError, match=says("'day'", "%d.%m.%Y", "'31.02.2024'")):
        schema([{"day": "31.02.2024"}])
    with pytest.raises(TableError, match=says("'day'", 7)):
        schema([{"day": 7}])


def test_categories_and_runs_of_before_keep_dates_as_they_were():
    texts = ["2024-01-01", "2024-01-01", "2024-01-02"]
    for schema in (
        TableSchema.fit({"day": texts}, categories=["day"]),
        TableSchema.fit({"day": texts}, formats=False),
        TableSchema.fit({"day": texts}, as_before=True),
    ):
        assert (schema.categorical, schema.dates) == ({"day": ["2024-01-01"]}, {})
        assert not {"dates", "marks"} & set(schema.to_dict())


def test_a_schema_with_dates_comes_back_from_json():
    schema = TableSchema.fit({"day": DAYS, "n": range(40), "town": ["Ulm"] * 40})
    again = TableSchema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    row = {"day": "2024-07-01", "n": 3, "town": "Ulm"}
    torch.testing.assert_close(again([row]), schema([row]), rtol=0, atol=0)


DAMAGED = {
    "no dict": (7, ("'day'", 7)),
    "a key too many": ({"format": ISO, "mean": 0, "std": 1, "month": 2}, ("'day'", "month")),
    "a key missing": ({"format": ISO, "mean": 0}, ("'day'", "std")),
    "an unknown format": ({"format": "%Q", "mean": 0, "std": 1}, ("'day'", "%Q", FORMATS[0])),
    "no deviation": ({"format": ISO, "mean": 0, "std": 0}, ("'day'", "std", 0)),
    "no finite mean": ({"format": ISO, "mean": NAN, "std": 1}, ("'day'", "mean")),
    "hours that are no truth value": ({"format": ISO, "mean": 0, "std": 1, "hours": "no"}, ("'day'", "'no'")),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_schema_is_refused(kind):
    value, values = DAMAGED[kind]
    with pytest.raises(ValueError, match=says(*values)):
        TableSchema(dates={"day": value})


def test_the_parts_of_a_date_share_a_token():
    torch.manual_seed(0)
    schema = TableSchema.fit(
        {
            "day": DAYS,
            "time": [datetime(2024, 1, 1, hour % 24) for hour in range(40)],
            "n": range(40),
            "town": ["Ulm"] * 40,
        }
    )
    config = TabularConfig.from_schema(schema, hidden_size=16)
    assert (config.num_numerical, config.date_sizes, config.num_values) == (1, [5, 7], 13)
    model = TabularModel(config).eval()
    rows = [{"n": 1, "day": "2024-05-01", "time": "2024-01-01 09:00", "town": "Ulm"}]
    rows += [{**rows[0], "day": "2025-05-01"}, {**rows[0], "time": None}]
    with torch.no_grad():
        tokens = model(**schema(rows)).last_hidden_state
    assert tokens.shape == (3, 4, 16)  # n, day, time, town
    changed = (tokens[1:] != tokens[0]).any(-1)
    assert changed.tolist() == [[False, True, False, False], [False, False, True, False]]
    torch.testing.assert_close(tokens[2, 2], model.date_missing[1] + model.biases[2])
    tokens = model(**schema(rows)).last_hidden_state
    tokens.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in model.parameters()
        if parameter is not model.missing
    )


def test_a_table_of_dates_alone_is_saved_and_loaded(tmp_path):
    schema = TableSchema.fit({"day": DAYS})
    model = TabularModel(TabularConfig.from_schema(schema, hidden_size=8)).eval()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    inputs = schema([{"day": "2024-05-01"}])
    torch.testing.assert_close(again(**inputs).last_hidden_state, model(**inputs).last_hidden_state, rtol=0, atol=0)
    with pytest.raises(ValueError, match=says(5, 4)):
        model(numerical_values=torch.zeros(1, 4))


def test_a_config_without_dates_is_written_as_before():
    assert "date_sizes" not in TabularConfig(num_numerical=1).to_dict()
    assert "date_sizes" not in json.loads(TabularConfig(num_numerical=1).to_json_string())
    assert [name for name, _ in TabularModel(TabularConfig(num_numerical=1, vocab_sizes=[3])).named_parameters()] == [
        "weights",
        "missing",
        "biases",
        "embeddings.0.weight",
    ]
    with pytest.raises(ValueError, match=says("date_sizes", 0)):
        TabularConfig(date_sizes=[0])
