"""An export answers as the pipeline does, with each head: in its own process, where torch, transformers and mm_hf
cannot be imported."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch
from messages import says
from modality_cases import tokenizer, wave
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

import mm_hf
from mm_hf import MMFusionProcessor, TableSchema
from mm_hf.cli import main
from mm_hf.export import export_model
from mm_hf.export.check import check_export, load_runtime
from mm_hf.models.confidence import Confidence
from mm_hf.models.tabular import TabularConfig


STORED = Path(__file__).parents[1] / "data/checkpoints"
HEADS = sorted(path.name for path in (STORED / "heads").iterdir())
QUICK = ("ctc",)  # beside "classification", which a fixture exports
# Stands in front of a script: an import of what an export must not need is an error.
WITHOUT = """
import sys
for name in ("torch", "transformers", "mm_hf", "datasets", "safetensors", "scipy", "huggingface_hub"):
    sys.modules[name] = None
"""
ASK = """
import json
from pathlib import Path
import runtime
rows = json.loads(Path(sys.argv[1]).read_text())
for row in rows:
    if "audio" in row:
        import numpy
        row["audio"] = {**row["audio"], "array": numpy.array(row["audio"]["array"], "float32")}
print(json.dumps(runtime.Model()(rows, batch_size=3)))
"""


def rows_of(head: str) -> list[dict]:
    """As JSON has them: all there, one alone, items that rows share."""
    if head == "ctc":
        sounds = [(np.sin(np.arange(n) * 0.03) / 2).tolist() for n in (16000, 9000, 12000)]
        return [{"audio": {"array": sound, "sampling_rate": 16000}} for sound in sounds]
    if head == "regression":
        table = [{"beds": 3, "kind": "old"}, {"beds": None, "kind": "new"}, {"beds": 9, "kind": "ruin"}]
        series = [np.cumsum(np.ones((length, 2)), 0).tolist() for length in (4, 7, 5)]
        both = [{"table": row, "series": steps} for row, steps in zip(table, series)]
        return [*both, {"table": table[0]}, {"series": series[1]}]
    with open(STORED / "rows/rows.csv") as file:
        chosen = list(csv.DictReader(file))[3:8]
    photos = [str(STORED / "rows" / row["photo"]) if row["photo"] else None for row in chosen]
    rows = [{"image": photo, "text": row["text"]} for photo, row in zip(photos, chosen)]
    return [*rows, {"text": "what is red ?"}, {"image": photos[0]}]


def for_pipeline(row: dict) -> dict:
    """A row of JSON as a pipeline takes it."""
    if "audio" not in row:
        return row
    return {"audio": {**row["audio"], "array": np.array(row["audio"]["array"], np.float32)}}


def load(head: str):
    folder = STORED / "heads" / head
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(mm_hf, architecture).from_pretrained(folder).eval()
    return model, MMFusionProcessor.from_pretrained(folder)


def pipeline_of(model, processor):
    """The usual pipeline of a model."""
    return mm_hf.pipeline(model=model, processor=processor, device=torch.device("cpu"))


def ask(folder: Path, rows: list[dict], script: str = ASK) -> list:
    """What the export answers in a process of its own."""
    (file := folder.parent / "rows.json").write_text(json.dumps(rows))
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    words = [sys.executable, "-c", WITHOUT + script, str(file)]
    done = subprocess.run(words, env=environment, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def assert_alike(found, expected):
    """The same answers, numbers to rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_alike(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    else:
        assert found == expected


def test_the_runtime_needs_no_torch(exported):
    model, processor = load("classification")
    model.set_confidence({None: Confidence(50, 1.5, (0.4, 0.5, 0.6))})
    rows = rows_of("classification")
    expected = pipeline_of(model, processor)(rows, batch_size=len(rows))
    assert_alike(ask(exported / "onnx", rows), expected)


def test_what_an_export_holds(exported):
    folder = exported / "onnx"
    names = {path.name for path in folder.iterdir()}
    graphs = {"encode_vision.onnx", "encode_text.onnx", "fuse.onnx"}
    assert names == {*graphs, "manifest.json", "runtime.py", "tokenizer.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["answers"]["tasks"][0]["labels"] == ["red", "green", "blue"]
    assert manifest["answers"]["tasks"][0]["temperature"] == 1.5
    assert manifest["versions"]["mm_hf"] == mm_hf.__version__
    assert str(exported) not in (folder / "manifest.json").read_text()


def test_the_command_line_of_an_export(exported):
    row = rows_of("classification")[0]
    words = [sys.executable, str(exported / "onnx/runtime.py"), json.dumps(row)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert [set(answer) for answer in json.loads(done.stdout)] == 3 * [{"score", "label"}]


def test_rows_that_cannot_be_read(exported):
    runtime = load_runtime(exported / "onnx")
    model = runtime.Model(exported / "onnx")
    good = rows_of("classification")[0]
    bad = [{"image": b"none"}, {"text": ""}, {}, {"image": None}, {"picture": "a"}, "a", {"text": ["a", "b"]}]
    for row in bad:
        with pytest.raises(runtime.RowError, match=says("Row", 1)):
            model([good, row])
    answers = model([good, *bad, good], on_error="skip", batch_size=2)
    assert [answer is None for answer in answers] == [False, *[True] * len(bad), False]
    assert_alike(answers[-1], answers[0])
    assert model([]) == []
    with pytest.raises(ValueError, match=says("on_error", "stop")):
        model(good, on_error="stop")
    with pytest.raises(TypeError, match=says("max_new_tokens")):
        model(good, max_new_tokens=3)


def test_equal_items_are_encoded_once(exported):
    runtime = load_runtime(exported / "onnx")
    model, loaded = runtime.Model(exported / "onnx"), {}
    rows = [{"text": "what"}, {"text": "red ?"}, {"text": "what"}]
    feeds = model.feeds([model.load(row, loaded) for row in rows])
    assert feeds["text_index"].tolist() == [0, 1, 0]
    assert len(feeds["text_level_0"]) == 2
    assert (feeds["vision_index"] == -1).all()


def test_a_turned_photo_has_the_answer_of_the_upright_one(exported, tmp_path):
    runtime = load_runtime(exported / "onnx")
    model = runtime.Model(exported / "onnx")
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    upright = Image.fromarray(noise).resize((48, 32), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    one, other = model([{"image": str(tmp_path / name)} for name in ("upright.png", "turned.png")])
    assert_alike(other, one)


def test_an_export_that_is_there_stays(exported, capsys):
    with pytest.raises(SystemExit, match=says("onnx", "--overwrite")):
        main(["export", str(exported)])
    (exported / "kept").mkdir()
    with pytest.raises(SystemExit, match=says("kept")):
        main(["export", str(exported), "-o", str(exported / "kept"), "--overwrite"])


def test_graphs_that_say_something_else_are_found(exported, tmp_path):
    model, processor = load("classification")
    assert check_export(model, processor, exported / "onnx") < 1e-5
    model.classifier.bias.data[0] += 0.1
    with pytest.raises(ValueError, match=says("0.001")):
        check_export(model, processor, exported / "onnx")


def test_an_export_of_other_versions(exported, tmp_path, recwarn):
    """It says so, and answers; one of these versions has nothing to say."""
    folder = shutil.copytree(exported / "onnx", tmp_path / "onnx")
    load_runtime(folder).Model()
    assert [str(one.message) for one in recwarn if "was tried with" in str(one.message)] == []
    manifest = json.loads((folder / "manifest.json").read_text())
    here = manifest["versions"]["onnxruntime"]
    manifest["versions"] |= {"onnxruntime": "0.9.1", "pillow": "1.0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=says("onnxruntime", "0.9.1", here)):
        model = load_runtime(folder).Model()
    assert model({"text": "a small red house"})
    del manifest["versions"]  # of before
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_runtime(folder).Model()({"text": "a small red house"})


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path):
    shutil.copytree(STORED / "heads/classification", tmp_path / "run")
    file = tmp_path / "run/processor_config.json"
    values = json.loads(file.read_text())
    values["image_processor"]["do_pad"] = True
    file.write_text(json.dumps(values))
    (tmp_path / "run/checksums.json").unlink(missing_ok=True)
    with pytest.raises(SystemExit, match=says("do_pad")):
        main(["export", str(tmp_path / "run")])
    assert not (tmp_path / "run/onnx").exists()


def test_words_of_the_command(capsys):
    for words, named in (
        (["--to", "coreml"], "coreml"),
        (["--to", "torch", "--int8"], "int8"),
    ):
        with pytest.raises(SystemExit):
            main(["export", "runs/none", *words])
        assert named in capsys.readouterr().err
    main(["export", "--help"])
    assert "--int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "head",
    [
        head if head in QUICK else pytest.param(head, marks=pytest.mark.slow)
        for head in HEADS
        if head != "classification"
    ],
)
def test_every_head_answers_as_its_pipeline(head, tmp_path):
    model, processor = load(head)
    main(["export", str(STORED / "heads" / head), "-o", str(tmp_path / "out")])
    rows = rows_of(head)
    expected = pipeline_of(model, processor)([for_pipeline(row) for row in rows], batch_size=len(rows))
    assert_alike(ask(tmp_path / "out", rows), expected)


@pytest.mark.slow
def test_what_is_written_is_what_generate_writes(tmp_path):
    """To the very token, also where the answer is cut."""
    model, processor = load("generation")
    main(["export", str(STORED / "heads/generation"), "-o", str(tmp_path / "out")])
    exported = load_runtime(tmp_path / "out").Model(tmp_path / "out")
    rows, loaded = rows_of("generation"), {}
    outputs = exported.graphs["fuse"](exported.feeds([exported.load(row, loaded) for row in rows]))
    photos = [row.get("image") for row in rows]
    batch = processor(images=photos, text=[row.get("text") for row in rows])
    for most in (1, 5, 24):
        ids, _ = exported.write(outputs, len(rows), most)
        expected = model.generate(**batch, max_new_tokens=most)[:, 1:]
        assert ids.tolist() == expected.tolist()
    with pytest.raises(ValueError, match=says("max_new_tokens", 25, 24)):  # as many positions as its decoder has
        exported.write(outputs, len(rows), 25)


@pytest.mark.slow
def test_eight_bits(tmp_path):
    """Smaller, and nearly the same numbers."""
    sizes = {}
    for name, flags in (("whole", []), ("small", ["--int8"])):
        main(["export", str(STORED / "heads/classification"), "-o", str(tmp_path / name), *flags])
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).glob("*.onnx"))
    assert sizes["small"] < sizes["whole"]
    rows = rows_of("classification")
    whole, small = (ask(tmp_path / name, rows) for name in ("whole", "small"))
    for one, other in zip(whole, small):
        by_label = {answer["label"]: answer["score"] for answer in other}
        assert all(by_label[answer["label"]] == pytest.approx(answer["score"], abs=0.05) for answer in one)
    shutil.rmtree(tmp_path / "small")


@pytest.mark.slow
def test_programs_of_torch_answer_too(tmp_path):
    model, processor = load("question_answering")
    main(["export", str(STORED / "heads/question_answering"), "-o", str(tmp_path / "out"), "--to", "torch"])
    rows = rows_of("question_answering")
    expected = pipeline_of(model, processor)(rows, batch_size=len(rows))
    assert_alike(load_runtime(tmp_path / "out").Model(tmp_path / "out")(rows), expected)


@pytest.mark.slow
def test_sounds_that_padding_would_change(tmp_path):
    """They go through their encoder by length; beside a table and windows of texts, with a row that lacks each."""
    words = tokenizer()
    words.model_max_length = 8
    schema = TableSchema(numerical={"age": (40.0, 10.0)}, categorical={"town": ["Oslo", "Rome"]})
    processor = MMFusionProcessor(
        tokenizer=words,
        feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=True),
        table_schema=schema,
        text_windows=2,
    )
    model = tiny.model(
        vision=None,
        fusion="concat",
        audio="wav2vec2",
        tabular_config=TabularConfig.from_schema(schema, hidden_size=16),
        places={"text": 2},
        encode_by_length=["audio"],
        id2label={number: f"class {number}" for number in range(5)},
    )
    export_model(model, processor, tmp_path)
    assert check_export(model, processor, tmp_path) < 1e-4
    sounds = [{"array": wave(length), "sampling_rate": 16000} for length in (4000, 6000, 5000, 6000)]
    rows = [{"audio": sound, "text": "what is it no it is what no is it what it is"} for sound in sounds]
    rows += [{"table": {"age": 30, "town": "Rome"}}, {"text": "no", "table": {"age": None, "town": "nowhere"}}]
    expected = pipeline_of(model, processor)(rows, batch_size=len(rows))
    assert_alike(load_runtime(tmp_path).Model(tmp_path)(rows), expected)
