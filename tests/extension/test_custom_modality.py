"""The places of `examples/custom_modality.py`: what is near on the map is near for the model, and what is no place is
refused by its row."""

import json

import pytest
import torch
from kill_and_resume import call, recipe_writer
from transformers import BertConfig

import mm_hf
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


def tiny_model(example):
    torch.manual_seed(0)
    words = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = mm_hf.MMFusionConfig(
        text_config=BertConfig(**words, intermediate_size=48, max_position_embeddings=40),
        extra_configs={"place": example.PlaceConfig(hidden_size=16)},
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        num_labels=3,
    )
    return mm_hf.MMFusionForClassification(config).eval()


@torch.no_grad()
def test_a_model_reads_it(example, tmp_path):
    """Items are shared and absent, as of any modality; and what is saved is loaded."""
    model = tiny_model(example)
    assert model.config.modalities == ["text", "place"]
    inputs = {"input_ids": torch.arange(1, 13).reshape(3, 4), "place_values": torch.randn(2, 3)}
    logits = model(**inputs, place_index=torch.tensor([0, -1, 1])).logits
    repeated = {**inputs, "place_values": inputs["place_values"][[0, 0, 1]]}
    other = model(**repeated).logits
    assert torch.allclose(logits[[0, 2]], other[[0, 2]], atol=1e-6)
    assert (logits[1] - other[1]).abs().max() > 1e-4
    model.save_pretrained(tmp_path)
    again = mm_hf.MMFusionForClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs, place_index=torch.tensor([0, -1, 1])).logits, logits)


def test_its_encoder_trains(example):
    model = tiny_model(example).train()
    inputs = {"input_ids": torch.arange(1, 13).reshape(3, 4), "place_values": torch.randn(3, 3)}
    for present in (
        inputs,
        {"input_ids": inputs["input_ids"]},
    ):  # in a batch without places every parameter takes part
        model.zero_grad()
        model(**present, labels=torch.tensor([0, 1, 2])).loss.backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_the_processor_prepares_it(example, tmp_path):
    scaler = example.PlaceScaler.fit([(52.5, 13.4), (52.6, 13.5)])
    processor = mm_hf.MMFusionProcessor(extra_parts={"place": scaler})
    batch = processor(place=[(52.5, 13.4), None, (52.6, 13.5)])
    assert batch["place_index"].tolist() == [0, -1, 1]
    assert torch.equal(
        batch["place_values"], scaler([example.direction(p) for p in ((52.5, 13.4), (52.6, 13.5))])["place_values"]
    )
    assert processor(place=(52.5, 13.4))["place_values"].shape == (1, 3)
    with pytest.raises(ValueError, match=r"Row 1.*\(95, 0\)"):
        processor(place=[(52.5, 13.4), (95, 0)])
    processor.save_pretrained(tmp_path)
    again = mm_hf.MMFusionProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(place=[(52.5, 13.41)])["place_values"], processor(place=[(52.5, 13.41)])["place_values"])


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
