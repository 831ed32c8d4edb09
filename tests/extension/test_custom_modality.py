"""The places of `examples/custom_modality.py`: what is near on the map is near for the model, and what is no place is
refused by its row."""

import json

import pytest
import torch
from kill_and_resume import call, recipe_writer

from mm_hf.training import train


@pytest.fixture(scope="module")
def example(imported):
    return imported("custom_modality")


def test_a_circle_closes_and_a_pole_is_one_point(example):
    def far(one, other):
        return (example.direction(one) - example.direction(other)).norm().item()

    assert far((10, 180), (10, -180)) < 1e-12
    assert far((90, 0), (90, 123)) < 1e-12
    assert far((0, 0), (0, 180)) == pytest.approx(2)
    assert far((52.5, 13.4), (52.6, 13.4)) == pytest.approx(far((0, 13.4), (0, 13.5)), rel=1e-6)


@pytest.mark.parametrize("place", [(91, 0), (0, 181), (float("nan"), 0), ("north", 0), (1,), (1, 2, 3), "12", 5, None])
def test_what_is_no_place_is_refused(example, place):
    with pytest.raises(ValueError, match="-90"):
        example.direction(place)


def test_it_learns_where_the_rows_are(example):
    places = [(52.5, 13.4), (52.6, 13.5), ("52.4", "13.3"), (None, None), (99, 0)]
    scaler = example.PlaceScaler.fit(places)
    values = scaler([example.direction(place) for place in places[:3]])["place_values"]
    assert values.dtype == torch.float32
    assert values.mean(0).abs().max() < 1e-6
    assert values.norm(dim=1).max().item() == pytest.approx(1)
    assert example.PlaceScaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler
    with pytest.raises(ValueError, match="place"):
        example.PlaceScaler.fit([(None, None)])


def test_a_bad_row_is_named(encoders, homes_csv, imported, tmp_path, tmp_path_factory):
    lines = homes_csv.read_text().splitlines()
    lines[8] = "95.0," + lines[8].split(",", 1)[1]
    table = tmp_path / "homes.csv"
    table.write_text("\n".join(lines) + "\n")
    keys = {
        "dataset": table,
        "columns": {"place": ["latitude", "longitude"]},
        "label_column": "walls",
        "fusion_hidden_size": 16,
        "fusion_layers": 1,
        "max_steps": 2,
        "floors": False,
    }
    recipe = recipe_writer(tmp_path_factory, keys)
    with pytest.raises(SystemExit, match=r"row 7 .*95\.0"):
        call(train.main, recipe(tmp_path / "run"))
    call(train.main, recipe(tmp_path / "skipping", on_error="skip"))
    (line,) = (tmp_path / "skipping/bad_rows.jsonl").read_text().splitlines()
    assert "95" in json.loads(line)["reason"]
