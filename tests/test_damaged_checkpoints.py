"""Every file of a checkpoint gone, cut, changed by a bit, or of another run: it is refused by name, told by name, or
answers as before. There is no fourth outcome, and nothing is written while loading."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionModel,
    MMFusionProcessor,
    TabularConfig,
)
from mm_hf.models.checksums import checksum_of
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.series import SeriesScaler
from mm_hf.models.strict_loading import CheckpointError, check_loaded
from mm_hf.models.tabular import TableSchema


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(115))]
HEADS = {"classes": MMFusionForClassification, "table": MMFusionForClassification}
HEADS["writes"] = MMFusionForConditionalGeneration


def processor_of(head: str, run: int = 0) -> MMFusionProcessor:
    if head == "table":
        schema = TableSchema(numerical={"beds": (3.0 + run, 1.5)}, categorical={"kind": ["old", "new"]})
        return MMFusionProcessor(table_schema=schema, series_scaler=SeriesScaler([0.0 + run, 1.0], [1.0, 2.0]))
    words = [*WORDS[:5], *WORDS[: 4 if run else None : -1 if run else 1]][: len(WORDS)] if run else WORDS
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=30 + run)
    mean = [0.5, 0.4, 0.3 + 0.1 * run]
    return MMFusionProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=mean), tokenizer)


def model_of(head: str, run: int = 0):
    torch.manual_seed(run)
    names = {number: f"class {number} of run {run}" for number in range(3)}
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}, "num_labels": 3}
    if head == "table":
        table, series = TabularConfig(num_numerical=1, vocab_sizes=[4]), RecurrentConfig(input_size=2, hidden_size=32)
        config = tiny.config(vision=None, text=None, tabular_config=table, series_config=series, **labels)
    else:
        words = {**tiny.WORDS, "vocab_size": len(WORDS)}
        ends = {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
        decoder = {"decoder_config": BertConfig(**words), **ends} if head == "writes" else {}
        config = tiny.config(**labels, **decoder)
        config.text_config.vocab_size = len(WORDS)
    return tiny.open_gates(HEADS[head](config)).eval()


def save(head: str, folder: Path, run: int = 0):
    model_of(head, run).save_pretrained(folder)
    processor_of(head, run).save_pretrained(folder)


def ask(head: str, folder: Path) -> torch.Tensor:
    """What a checkpoint answers, to two rows."""
    processor = MMFusionProcessor.from_pretrained(folder)
    model = HEADS[head].from_pretrained(folder)
    if head == "table":
        table = [{"beds": 3, "kind": "old"}, {"beds": None, "kind": "new"}]
        batch = processor(table=table, series=[np.ones((4, 2)), np.zeros((3, 2))])
    else:
        picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
        batch = processor(images=[picture, None], text=["word3 word9 word77", "word1"])
    with torch.no_grad():
        if head == "writes":
            return model(**batch, decoder_input_ids=torch.tensor([[2, 8, 9], [2, 7, 3]])).logits
        return model(**batch).logits


def flip(path: Path, place: int):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def put_nan(path: Path):
    """NaN in place of the first number of a JSON file, or of a tensor; the line of the file is brought up to date."""
    if path.suffix != ".safetensors":
        text = path.read_text()
        path.write_text(re.sub(r" [0-9.]+(?=[,\n])", " NaN", text, count=1))
        return
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    write_line(path)


def write_line(path: Path):
    """Makes the checksums of a folder believe a file."""
    lines = json.loads((path.parent / "checksums.json").read_text())
    lines["xxh3_64"][path.name] = checksum_of(path)
    (path.parent / "checksums.json").write_text(json.dumps(lines))


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "removed": lambda path, other: path.unlink(),
    "emptied": lambda path, other: path.write_bytes(b""),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bit at the start": lambda path, other: flip(path, 9),
    "bit at the middle": lambda path, other: flip(path, path.stat().st_size // 2),
    "bit at the end": lambda path, other: flip(path, path.stat().st_size - 3),
    "of another run": lambda path, other: shutil.copy(other / path.name, path),
}


def always(ways, *outcomes: str) -> dict[str, tuple[str, ...]]:
    """The same outcomes, one of which has to come, of several ways."""
    return dict.fromkeys(ways, outcomes)


REFUSED, TOLD, SAME = "refused by name", "told by name", "as before"
BITS = ("bit at the start", "bit at the middle", "bit at the end")
WAYS = (*DAMAGES, "NaN inside")
# A bit of a JSON file may be one of a name, of a number or of a bracket: all are seen, in one way or the other.
JSON = {**always(WAYS, REFUSED), **always(BITS, REFUSED, TOLD)}
# What may come of each file; a file that both runs have alike answers as before.
OUTCOMES = {
    "model.safetensors": always(WAYS, REFUSED),
    "config.json": {**JSON, "of another run": (TOLD,)},
    "generation_config.json": {**always(DAMAGES, TOLD), "of another run": (SAME,), "NaN inside": (REFUSED,)},
    "processor_config.json": {**JSON, "of another run": (REFUSED, TOLD)},
    "tokenizer.json": {**JSON, "NaN inside": (REFUSED, TOLD)},
    "tokenizer_config.json": {**JSON, "of another run": (TOLD,)},
    "checksums.json": {
        **always(DAMAGES, TOLD),
        **always(BITS, TOLD, SAME, REFUSED),
        "removed": (SAME,),
        "of another run": (REFUSED,),
        "NaN inside": (SAME,),
    },
    "README.md": always(WAYS, SAME),
}
FILES = {
    "classes": {*OUTCOMES} - {"generation_config.json"},
    "table": {*OUTCOMES} - {"generation_config.json", "tokenizer.json", "tokenizer_config.json"},
    "writes": {*OUTCOMES},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Of each head two, of two runs, in folders of their names."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for head in HEADS:
        for run in (0, 1):
            save(head, folder / f"{head}-{run}", run)
    return folder


def outcome(head: str, folder: Path, name: str, expected: torch.Tensor, caplog) -> str:
    """What comes of a damaged file, of which nothing else may come."""
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    caplog.clear()
    try:
        answer = ask(head, folder)
    except (OSError, ValueError) as error:
        message = str(error).strip()
        named = (name in message or str(folder) in message) and "\n" not in message
        found = REFUSED if named else f"REFUSED, AND NOT BY NAME: {message}"
    else:
        times = sum(name in record.getMessage() for record in caplog.records)
        found = "OTHER ANSWERS, AND NOT A WORD" if times == 0 else f"TOLD {times} TIMES"
        found = TOLD if times == 1 else SAME if times == 0 and torch.equal(answer, expected) else found
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before
    return found


def damage(folder: Path, name: str, way: str, other: Path):
    if way == "NaN inside":
        put_nan(folder / name)
    else:
        DAMAGES[way](folder / name, other)


@pytest.mark.parametrize("head", [pytest.param(h, marks=pytest.mark.slow if h == "writes" else ()) for h in HEADS])
def test_every_file_damaged_in_every_way(head, checkpoints, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    good, other = checkpoints / f"{head}-0", checkpoints / f"{head}-1"
    expected = ask(head, good)
    assert not torch.equal(expected, ask(head, other))
    assert not caplog.records
    assert {file.name for file in good.iterdir() if file.suffix != ".py"} == FILES[head]
    found = {}
    for name in sorted(FILES[head]):
        for way in WAYS:
            folder = tmp_path / way.replace(" ", "-") / name.replace(".", "-")
            shutil.copytree(good, folder)
            damage(folder, name, way, other)
            found[name, way] = outcome(head, folder, name, expected, caplog)
    wrong = {key: value for key, value in found.items() if value not in OUTCOMES[key[0]][key[1]]}
    assert not wrong
    assert {value for (_, way), value in found.items() if way in BITS} == {REFUSED, TOLD, SAME}


@pytest.mark.parametrize("file", ["modeling_mm_fusion.py", "finite.py"])
def test_code_that_was_changed_is_told(file, checkpoints, tmp_path, caplog):
    """Gone, it is not missed: the package has its own, and without it the library says what it needs."""
    shutil.copytree(checkpoints / "classes-0", tmp_path / "changed")
    shutil.copytree(checkpoints / "classes-0", tmp_path / "gone")
    flip(tmp_path / "changed" / file, 200)
    (tmp_path / "gone" / file).unlink()
    expected = ask("classes", checkpoints / "classes-0")
    assert outcome("classes", tmp_path / "changed", file, expected, caplog) == TOLD
    assert outcome("classes", tmp_path / "gone", file, expected, caplog) == SAME


# --- Tensors, without checksums: as of before, or from elsewhere


def without(name: str) -> Callable[[dict], dict]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], dict]:
    return lambda tensors: {**tensors, name: change(tensors[name])}


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return put


WORD = "model.encoders.text.embeddings.word_embeddings.weight"
TENSORS = {
    "missing": (without(WORD), WORD),
    "not known": (lambda tensors: {**tensors, "model.stranger": torch.ones(2)}, "model.stranger"),
    "int": (changed(WORD, lambda tensor: tensor.to(torch.int32)), WORD),
    "bool": (changed(WORD, lambda tensor: tensor > 0), WORD),
    "float8": (changed(WORD, lambda tensor: tensor.to(torch.float8_e4m3fn)), WORD),
    "another size": (changed(WORD, lambda tensor: tensor[:-1].clone()), WORD),
    "turned": (changed(WORD, lambda tensor: tensor.T.contiguous()), WORD),
    "NaN": (changed(WORD, with_value(float("nan"))), WORD),
    "infinite": (changed(WORD, with_value(float("inf"))), WORD),
    "infinite below": (changed(WORD, with_value(-float("inf"))), WORD),
    "NaN in 16 bits": (changed(WORD, lambda tensor: with_value(float("nan"))(tensor).half()), WORD),
}


@pytest.fixture
def folder(checkpoints, tmp_path) -> Path:
    """A checkpoint as of before: nothing in it knows what it was."""
    shutil.copytree(checkpoints / "classes-0", tmp_path / "checkpoint")
    (tmp_path / "checkpoint/checksums.json").unlink()
    return tmp_path / "checkpoint"


def rewrite(folder: Path, change: Callable[[dict], dict]):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("fault", TENSORS)
def test_tensors_that_are_not_those_of_the_model(fault, shards, folder):
    change, name = TENSORS[fault]
    rewrite(folder, change)
    if shards > 1:
        cut(folder, shards)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as raised:
        MMFusionForClassification.from_pretrained(folder)
    assert "\n" not in str(raised.value)
    assert "1 " in str(raised.value)
    assert "output_loading_info=True" in str(raised.value)
    if fault not in ("another size", "turned"):  # sizes that differ are refused by the library
        MMFusionForClassification.from_pretrained(folder, output_loading_info=True)


def cut(folder: Path, shards: int):
    """The weights in several files, as the library writes them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-{n % shards + 1:05}-of-{shards:05}.safetensors" for n, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        save_file({n: tensors[n] for n in tensors if names[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_width_is_no_other_type(dtype, folder):
    whole = MMFusionForClassification.from_pretrained(folder)
    rewrite(folder, lambda tensors: {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()})
    loaded = MMFusionForClassification.from_pretrained(folder)
    assert loaded.dtype is torch.float32  # as the config says
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-2, atol=1e-2)
    assert MMFusionForClassification.from_pretrained(folder, dtype=dtype).dtype is dtype


def test_large_weights_whose_sum_is_infinite_are_finite(folder):
    rewrite(folder, changed(WORD, lambda tensor: torch.full_like(tensor, 3e38)))
    assert MMFusionForClassification.from_pretrained(folder).get_input_embeddings().weight.max() == 3e38
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight.*dtype"):
        MMFusionForClassification.from_pretrained(folder, dtype=torch.float16)


def test_other_ways_to_load_are_as_before(folder):
    rewrite(folder, without(WORD))
    state = load_file(folder / "model.safetensors")
    config = MMFusionForClassification.config_class.from_pretrained(folder)
    MMFusionForClassification.from_pretrained(None, config=config, state_dict=state)
    MMFusionForClassification.from_pretrained(folder, ignore_mismatched_sizes=True)
    MMFusionModel.from_pretrained(folder)  # of another class: it has no head


def test_sizes_of_a_config_are_refused_before_memory_is_spent(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 1000
    (folder / "config.json").write_text(json.dumps(config))

    def no_more(*args, **kwargs):
        raise AssertionError("weights are made")

    monkeypatch.setattr(MMFusionForClassification, "_initialize_missing_keys", no_more)
    monkeypatch.setattr(MMFusionForClassification, "_move_missing_keys_from_meta_to_device", no_more)
    with pytest.raises(CheckpointError, match=r"48000.*ignore_mismatched_sizes"):
        MMFusionForClassification.from_pretrained(folder)


def test_tied_weights_and_names_of_before_are_no_faults(tmp_path):
    """A decoder that writes with its embeddings, and a ViT under the names of earlier releases of the library."""
    model = model_of("writes")
    model.save_pretrained(tmp_path / "new")
    model.save_pretrained(tmp_path / "old", save_original_format=True)
    names = [set(load_file(tmp_path / age / "model.safetensors")) for age in ("new", "old")]
    assert names[0] != names[1]
    assert len(names[0]) < len(model.state_dict())
    for age in ("new", "old"):
        loaded = MMFusionForConditionalGeneration.from_pretrained(tmp_path / age).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_check_loaded_names_what_is_not_finite():
    model = model_of("table")
    check_loaded(model)
    name, parameter = next(iter(model.named_parameters()))
    parameter.data.view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        check_loaded(model)


# --- Checksums


def lines_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "checksums.json").read_text())["xxh3_64"]


def expected_lines(folder: Path) -> dict[str, str]:
    others = ("checksums.json", "README.md")
    return {file.name: checksum_of(file) for file in folder.iterdir() if file.name not in others}


@pytest.mark.parametrize("first", ["model", "processor"])
def test_every_file_that_was_saved_has_its_line(first, tmp_path):
    saved = [model_of("classes"), processor_of("classes")]
    for part in saved if first == "model" else saved[::-1]:
        part.save_pretrained(tmp_path)
    assert lines_of(tmp_path) == expected_lines(tmp_path)
    assert {"model.safetensors", "config.json", "tokenizer.json", "finite.py"} <= set(lines_of(tmp_path))


def test_saving_anew_leaves_no_stale_line_and_blesses_nothing(tmp_path, caplog):
    save("classes", tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    flip(tmp_path / "tokenizer.json", 300)
    model_of("classes", 1).save_pretrained(tmp_path, max_shard_size="60KB")
    lines = lines_of(tmp_path)
    assert "model.safetensors" not in lines
    assert "notes.txt" not in lines
    assert sum(name.endswith(".safetensors") for name in lines) > 2
    assert not (tmp_path / "model.safetensors").exists()  # it would be loaded, and not the new ones
    right = expected_lines(tmp_path)
    assert [name for name in lines if lines[name] != right[name]] == ["tokenizer.json"]
    loaded = MMFusionForClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, model_of("classes", 1).get_input_embeddings().weight)
    processor_of("classes").save_pretrained(tmp_path)
    assert lines_of(tmp_path)["tokenizer.json"] == checksum_of(tmp_path / "tokenizer.json")
    loaded.save_pretrained(tmp_path)  # over the files that its weights are read from
    assert lines_of(tmp_path) == {name: line for name, line in expected_lines(tmp_path).items() if name != "notes.txt"}
    caplog.clear()
    ask("classes", tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("file", ["model-00002-of-00003.safetensors", "model.safetensors.index.json"])
def test_every_shard_is_checked(file, checkpoints, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoints / "classes-0", folder)
    cut(folder, 3)
    for shard in folder.glob("*.safetensors*"):
        write_line(shard)
    MMFusionForClassification.from_pretrained(folder)
    if file.endswith(".json"):
        (folder / file).write_text((folder / file).read_text() + " ")
    else:
        flip(folder / file, -1)
    with pytest.raises(CheckpointError, match=file):
        MMFusionForClassification.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=file):  # a base without its head is as damaged
        MMFusionModel.from_pretrained(folder)
    MMFusionForClassification.from_pretrained(folder, output_loading_info=True)


def test_who_stops_halfway_leaves_weights_without_a_line(tmp_path, monkeypatch):
    save("classes", tmp_path)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model_of("classes", 1).save_pretrained(tmp_path)
    assert "model.safetensors" not in lines_of(tmp_path)
    assert "tokenizer.json" in lines_of(tmp_path)


def test_without_xxhash_nothing_is_checked_and_no_line_is_stale(tmp_path, monkeypatch):
    save("classes", tmp_path)
    monkeypatch.setattr("mm_hf.models.checksums.xxhash", None)
    flip(tmp_path / "model.safetensors", -1)
    MMFusionForClassification.from_pretrained(tmp_path)
    save("classes", tmp_path, 1)
    assert lines_of(tmp_path) == {}
    save("classes", tmp_path / "new")
    assert not (tmp_path / "new/checksums.json").exists()


def test_only_the_first_process_writes_checksums(tmp_path):
    model_of("table").save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "checksums.json").exists()


# --- Who loads, and from where


@pytest.mark.parametrize("damaged", [False, True])
def test_a_checkpoint_of_the_hub_out_of_its_cache(damaged, checkpoints, tmp_path, monkeypatch, caplog):
    """Offline, and with the files that a model needs alone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0" * 39 + "1"
    repository = tmp_path / "models--me--checkpoint"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "checksums.json"):
        shutil.copy(checkpoints / "classes-0" / name, snapshot / name)
    if damaged:
        flip(snapshot / "model.safetensors", -1)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            MMFusionForClassification.from_pretrained("me/checkpoint", cache_dir=tmp_path)
        (snapshot / "checksums.json").unlink()  # as of before
    MMFusionForClassification.from_pretrained("me/checkpoint", cache_dir=tmp_path)
    assert not [record for record in caplog.records if "has changed" in record.getMessage()]


@pytest.mark.slow
def test_code_of_the_checkpoint_alone(checkpoints, tmp_path):
    """In a process that does not know the package."""
    for name in ("whole", "damaged"):
        shutil.copytree(checkpoints / "table-0", tmp_path / name)
    flip(tmp_path / "damaged/model.safetensors", -1)
    code = (
        "import sys; from transformers import AutoModelForSequenceClassification as Model, AutoProcessor\n"
        "AutoProcessor.from_pretrained('whole', trust_remote_code=True)\n"
        "Model.from_pretrained('whole', trust_remote_code=True)\n"
        "assert 'mm_hf' not in sys.modules; print('loaded')\n"
        "Model.from_pretrained('damaged', trust_remote_code=True)"
    )
    done = run(code, tmp_path)
    assert "loaded" in done.stdout, done.stderr
    assert "CheckpointError: model.safetensors in damaged" in done.stderr


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_auto_classes_and_subfolders(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "classes-0", tmp_path / "inner")
    expected = MMFusionForClassification.from_pretrained(checkpoints / "classes-0").state_dict()
    for load in (
        lambda: AutoModelForSequenceClassification.from_pretrained(tmp_path / "inner"),
        lambda: MMFusionForClassification.from_pretrained(tmp_path, subfolder="inner"),
        lambda: MMFusionForClassification.from_pretrained(tmp_path / "inner", device_map="cpu"),
    ):
        found = load().state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    flip(tmp_path / "inner/model.safetensors", -1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "inner")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        MMFusionForClassification.from_pretrained(tmp_path, subfolder="inner")


# --- Memory, and real encoders


MEASURED = """
import sys
from pathlib import Path
from mm_hf import MMFusionForClassification
if len(sys.argv) > 1:
    try:
        MMFusionForClassification.from_pretrained(sys.argv[1])
    except (OSError, ValueError) as error:
        print(error)
    else:
        print("loaded")
# Not getrusage: what it tells of a process begins with the size of the one that started it.
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")))
"""


def peak_of(tmp_path: Path, *arguments: Path) -> tuple[str, float]:
    """What loading says, and the MiB that the process took at the most; without a folder it loads nothing."""
    code = f"import sys; sys.argv += {[str(argument) for argument in arguments]}{MEASURED}"
    done = run(code, tmp_path, PYTHONPATH=str(Path(__file__).parents[1]))
    *said, peak = done.stdout.strip().splitlines()
    return "\n".join(said), float(peak)


@pytest.mark.slow
def test_a_bad_load_takes_no_more_memory_than_a_good_one(tmp_path):
    """Of 32 million weights, 122 MiB: what they are, and what a config asks for."""
    config = tiny.config()
    config.text_config.vocab_size = 1_000_000
    good = tmp_path / "good"
    MMFusionForClassification(config).save_pretrained(good)
    _, empty = peak_of(tmp_path)
    said, peak = peak_of(tmp_path, good)
    assert said == "loaded"
    allowed = empty + 1.5 * (peak - empty)
    assert peak - empty > 100

    def larger(folder: Path):
        settings = json.loads((folder / "config.json").read_text())
        settings["text_config"]["vocab_size"] = 30_000_000
        (folder / "config.json").write_text(json.dumps(settings))

    def rewritten(change: Callable[[dict], dict]) -> Callable[[Path], None]:
        def harm(folder: Path):
            rewrite(folder, change)
            write_line(folder / "model.safetensors")

        return harm

    harms: dict[str, Callable[[Path], None]] = {
        "bit": lambda folder: flip(folder / "model.safetensors", -1),
        "NaN": lambda folder: put_nan(folder / "model.safetensors"),
        "missing": rewritten(without(WORD)),
        "int": rewritten(changed(WORD, lambda tensor: tensor.to(torch.int32))),
        "cut": lambda folder: os.truncate(folder / "model.safetensors", 10**8),
        "larger": larger,
    }
    found = {}
    for name, harm in harms.items():
        shutil.copytree(good, tmp_path / "bad")
        harm(tmp_path / "bad")
        said, found[name] = peak_of(tmp_path, tmp_path / "bad")
        assert said != "loaded"
        shutil.rmtree(tmp_path / "bad")
    print({name: round((value - empty) / (peak - empty), 2) for name, value in found.items()})
    assert max(found.values()) <= allowed, (empty, peak, found)


@pytest.mark.slow
def test_a_real_checkpoint_damaged_in_every_way(encoders, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    sources = {"vision": encoders / "mobilenet-v2", "text": encoders / "minilm-l6"}
    picture = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))

    def answer(folder: Path) -> torch.Tensor:
        processor = MMFusionProcessor.from_pretrained(folder)
        model = MMFusionForClassification.from_pretrained(folder)
        with torch.no_grad():
            return model(**processor(images=[picture, None], text=["what is it?", "who?"])).logits

    for run_of in (0, 1):
        torch.manual_seed(run_of)
        names = {number: f"{number} of run {run_of}" for number in range(3)}
        labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        model = tiny.open_gates(MMFusionForClassification.from_encoders_pretrained(**sources, **labels))
        model.save_pretrained(tmp_path / str(run_of))
        settings = {"image_size": 64} if run_of else {}
        MMFusionProcessor.from_encoders_pretrained(**sources, **settings).save_pretrained(tmp_path / str(run_of))
    expected = answer(tmp_path / "0")
    found = {}
    for name in sorted(FILES["classes"]):
        for way in WAYS:
            folder = tmp_path / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for file in (tmp_path / "0").iterdir():
                shared = file.suffix == ".safetensors" and name != file.name
                (os.link if shared else shutil.copy)(file, folder / file.name)
            damage(folder, name, way, tmp_path / "1")
            caplog.clear()
            try:
                same = torch.equal(answer(folder), expected)
            except (OSError, ValueError) as error:
                found[name, way] = REFUSED if name in str(error) or str(folder) in str(error) else str(error)
            else:
                told = any(name in record.getMessage() for record in caplog.records)
                found[name, way] = TOLD if told else SAME if same else "OTHER ANSWERS, AND NOT A WORD"
    alike = ("tokenizer.json", "tokenizer_config.json")  # both runs have one text encoder
    found = {key: value for key, value in found.items() if not (key[0] in alike and key[1] == "of another run")}
    assert not {key: value for key, value in found.items() if value not in OUTCOMES[key[0]][key[1]]}
