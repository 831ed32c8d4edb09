"""A run keeps the features of frozen encoders on disk: the next one, and its evaluation, encode nothing."""

import json

import pytest
from datasets import DatasetDict, load_from_disk

from mm_hf.data.feature_store import FeatureStore
from mm_hf.models.modeling_mm_fusion import MMFusionModel
from mm_hf.training import features
from mm_hf.training.open_run import open_run
from mm_hf.training.recipe import parse_arguments


@pytest.fixture(scope="module")
def few_rows(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few_rows") / "set"
    parts = load_from_disk(tiny_folder)
    DatasetDict({name: part.select(range(24)) for name, part in parts.items()}).save_to_disk(folder)
    return folder


@pytest.fixture
def opened(encoders, few_rows, tmp_path, monkeypatch, capsys):
    """Opens a run with these flags; gives it, how often an encoder ran, and what was said."""
    calls: list[int] = []
    encode = MMFusionModel.encode

    def counted(self, indices=None, encoder_states=None, **inputs):
        calls.extend([1] if any(value is not None for value in inputs.values()) else [])
        return encode(self, indices, encoder_states, **inputs)

    monkeypatch.setattr(MMFusionModel, "encode", counted)
    monkeypatch.setenv("MM_HF_CACHE", str(tmp_path / "cache"))
    words = ["--dataset", few_rows, "--image_column", "image", "--text_column", "question", "--label_column", "answer"]
    words += ["--vision_encoder", encoders / "mobilenet-v2", "--text_encoder", encoders / "minilm-l6"]
    words += ["--freeze_encoders", "true", "--fusion", "concat", "--report_to", "none"]

    def start(name, *flags):
        calls.clear()
        capsys.readouterr()
        run = open_run("", "train.py", list(map(str, [*words, "--output_dir", tmp_path / name, *flags])))
        return run, len(calls), capsys.readouterr().out

    return start


def test_the_second_run_encodes_nothing(opened, tmp_path):
    first, calls, _ = opened("first")
    assert calls > 0
    assert sorted(first.collator.cache.modalities) == ["text", "vision"]
    assert len(FeatureStore(tmp_path / "cache").sets()) == 2
    assert "cache_dir" not in json.loads((tmp_path / "first/recipe.json").read_text())
    second, calls, _ = opened("second", "--seed", 1)  # whatever else the recipe says
    assert calls == 0
    row = first.rows("train")[0]
    one, other = (run.collator([row])["encoder_states"] for run in (first, second))
    assert all((one[name].levels[0] == other[name].levels[0]).all() for name in one)
    _, calls, _ = opened("third", "--cache_dtype", "float16")
    assert calls > 0
    _, calls, _ = opened("fourth", "--max_text_length", 4)  # of the texts alone
    assert calls == 1
    _, calls, _ = opened("fifth", "--cache_dir", "none")
    assert calls > 0


def test_what_changes_is_not_kept(opened, tmp_path):
    run, _, _ = opened("run", "--augment", "flip", "--freeze_encoders", "[vision]")
    assert run.collator.cache is None
    assert FeatureStore(tmp_path / "cache").sets() == []


def test_a_run_of_before_keeps_them_in_memory(opened, tmp_path):
    run, calls, _ = opened("run", "--defaults_version", 2)
    assert calls > 0
    assert run.processor.image_draft is None
    assert run.collator.cache.size() > 0
    assert FeatureStore(tmp_path / "cache").sets() == []


def test_a_full_disk(opened, tmp_path):
    run, _, said = opened("run", "--cache_limit", 1e-6)
    assert "cache_limit is 1e-06 GB" in said
    assert run.collator.cache.size() > 0  # in memory


def test_keys(few_rows, capsys):
    def data_args(*flags):
        return parse_arguments("", ["--dataset", str(few_rows), *flags])[2]

    assert data_args().cache_dir is None
    for word in ("none", "false", "None"):
        assert data_args("--cache_dir", word).cache_dir == features.NO_FOLDER
    for flags, message in [
        (("--cache_limit", "0"), "cache_limit must be above 0"),
        (("--cache_dtype", "int8"), "int8"),
        (("--encoding_workers", "-1"), "encoding_workers"),
    ]:
        with pytest.raises(SystemExit):
            data_args(*flags)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("word", ["none", "'false'"])
def test_no_folder_in_yaml(tmp_path, word):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"cache_dir: {word}\n")
    assert parse_arguments("", [str(recipe)])[2].cache_dir == features.NO_FOLDER
