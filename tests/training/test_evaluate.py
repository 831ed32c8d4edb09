"""`training/evaluate.py` on a checkpoint that was trained a moment before: real encoders, real questions."""

import base64
import csv
import html
import json
import re
import shutil
import sys
from pathlib import Path

import datasets
import pytest
import torch
from datasets import ClassLabel, DatasetDict, Features, List, Value
from kill_and_resume import Run, arguments, command
from messages import says

from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.commands import evaluate
from mm_hf.data import Columns, load_splits
from mm_hf.evaluation import majority_accuracy
from mm_hf.training import exits, train


ROWS = {"train": 900, "validation": 60, "test": 301}
PNGS = {"reliability.png", "abstention.png", "confusion.png", "missing.png", "evidence.png", "mistakes.png"}
ODD = "<i>yes</i> 日本"  # what a class may be called


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, as the processes that are compared have, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


def call(main, script, *flags):
    """A script's `main` in this process, as `python training/<script> …` would run it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, flags)])
        exits.run_script(main)


def measure(model, *flags) -> dict:
    """What evaluate.py writes."""
    folder = Path(flags[flags.index("--output_dir") + 1]) if "--output_dir" in flags else model / "evaluation"
    call(evaluate.main, "evaluate.py", "--model", model, "--bootstrap_samples", 50, *flags)
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(easy_vqa, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "set"
    DatasetDict({name: part.select(range(ROWS[name])) for name, part in easy_vqa.items()}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def model(encoders, folder) -> Path:
    """A run of some seconds: far from perfect, and better than its floors."""
    keys = {"max_steps": 60, "per_device_train_batch_size": 60}
    call(train.main, "train.py", *arguments(encoders, folder, folder.parent / "run", **keys))
    return folder.parent / "run"


@pytest.fixture(scope="module")
def before(model) -> dict:
    """The files of the run before anyone measured it."""
    return {file: file.stat().st_mtime_ns for file in model.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def report(model, before) -> dict:
    return measure(model, "--missing", "--per_device_eval_batch_size", 40, "--bootstrap_samples", 300)


def test_what_is_written(model, report, before):
    written = {file.name for file in (model / "evaluation").iterdir()}
    assert written == {*PNGS, "report.html", "evaluation.json"}
    found = {file: file.stat().st_mtime_ns for file in model.rglob("*") if file.parent != model / "evaluation"}
    assert {file: time for file, time in found.items() if file.is_file()} == before
    page = (model / "evaluation/report.html").read_text(encoding="utf-8")
    embedded = {base64.b64decode(text) for text in re.findall(r'"data:image/png;base64,([^"]+)"', page)}
    assert embedded == {(model / "evaluation" / name).read_bytes() for name in PNGS}
    for text in ("set, part test", "MMFusionForQuestionAnswering", report["run"]["date"], "torchmetrics", "301"):
        assert text in page
    assert str(model.parent) not in page
    json.loads((model / "evaluation/evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_figures(folder, model, report):
    results = json.loads((model / "results.json").read_text())
    values = {name: found["value"] for name, found in report["metrics"].items()}
    assert values == pytest.approx(results["metrics"], abs=1e-6)
    assert {kind: found["value"] for kind, found in report["by_kind"].items()} == pytest.approx(
        results["by_kind"], abs=1e-6
    )
    for found in (*report["metrics"].values(), *report["floors"].values(), *report["by_kind"].values()):
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    test = datasets.load_from_disk(folder)["test"]
    assert report["rows"] == {"evaluated": 301, "labelled": 301, "bad": 0}
    assert sum(found["rows"] for found in report["by_kind"].values()) == 301
    assert report["intervals"]["groups"] == len(set(test["image_id"])) < 60
    matrix = torch.tensor(report["confusion"]["matrix"])
    assert matrix.sum() == 301
    assert matrix.diag().sum() / 301 == pytest.approx(values["accuracy"])
    assert matrix.sum(1).tolist() == torch.tensor(test["answer"][:]).bincount(minlength=13).tolist()
    assert report["calibration"]["accuracy"] == pytest.approx(values["accuracy"])


def test_floors(folder, report):
    floors = {name: found["value"] for name, found in report["floors"].items()}
    alone = {"this_model_vision_alone", "this_model_text_alone"}
    assert set(floors) == {"majority", "this_model_shuffled_pairs", *alone}
    splits = datasets.load_from_disk(folder)
    majority = majority_accuracy(splits["train"]["answer"], splits["test"]["answer"])
    assert floors["majority"] == pytest.approx(majority, abs=1e-6)
    assert report["floors"]["majority"]["from"] == "train"
    assert report["floors"]["this_model_shuffled_pairs"]["rows_that_kept_their_picture"] == 0
    assert report["metrics"]["accuracy"]["value"] > max(floors["majority"], floors["this_model_vision_alone"])


def test_missing(report):
    curves = report["missing"]["by_modality"]
    assert {name: [point["share"] for point in points] for name, points in curves.items()} == {
        "text": [0, 0.3, 0.5, 0.7, 1],
        "vision": [0, 0.3, 0.5, 0.7, 1],
    }
    score = report["metrics"]["accuracy"]
    for modality, other in (("text", "vision"), ("vision", "text")):
        points = [{key: point[key] for key in ("value", "low", "high")} for point in curves[modality]]
        assert points[0] == score
        assert points[-1] == {key: report["floors"][f"this_model_{other}_alone"][key] for key in points[-1]}
        assert len({point["value"] for point in points}) > 2
    assert curves["text"][-1]["value"] < curves["text"][2]["value"] < score["value"]


def test_mistakes(folder, report):
    test = datasets.load_from_disk(folder)["test"]
    names = test.features["answer"].names
    mistakes = report["mistakes"]
    wrong = 301 - round(report["metrics"]["accuracy"]["value"] * 301)
    assert len(mistakes) == min(24, wrong) > 0
    assert [mistake["loss"] for mistake in mistakes] == sorted((m["loss"] for m in mistakes), reverse=True)
    for mistake in mistakes:
        row = test[mistake["row"]]
        assert (mistake["text"], mistake["truth"]) == (row["question"], names[row["answer"]])
        assert mistake["answer"] != mistake["truth"]
        assert mistake["probability"] >= mistake["truth_probability"]


@pytest.mark.slow
def test_two_processes_are_one(model, report, tmp_path):
    """To the last digit that is written, though the last batches are uneven."""
    flags = ["--model", model, "--missing", "--per_device_eval_batch_size", 40, "--bootstrap_samples", 300]
    words = command("evaluate.py", 2, [*map(str, flags), "--output_dir", str(tmp_path / "two")])
    Run(words, tmp_path / "two").finish()
    found = json.loads((tmp_path / "two/evaluation.json").read_text(encoding="utf-8"))
    assert found["run"].pop("num_processes") == 2
    assert {**found, "run": None} == {**report, "run": None}


# A checkpoint that came without its run, and somebody's table


@pytest.fixture(scope="module")
def stranger(model, folder) -> Path:
    """The checkpoint alone, one of its classes with another name."""
    target = folder.parent / "stranger"
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("evaluation", "checkpoint-*", "*.json", "*.png"))
    for file in model.glob("*.json"):
        if file.name not in ("recipe.json", "rows.json", "results.json"):
            text = file.read_text(encoding="utf-8")
            if file.name == "config.json":  # the tokenizer's word of that name stays: another one is refused
                text = text.replace('"yes"', json.dumps(ODD))
            (target / file.name).write_text(text, encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def table(folder) -> Path:
    """One file of rows that have no parts, with the pictures beside it."""
    test = datasets.load_from_disk(folder)["test"].select(range(120))
    names = test.features["answer"].names
    table = folder.parent / "mine/table.csv"
    table.parent.mkdir()
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "text", "label", "session"])
        for row in test:
            photo = f"{row['image_id']}.png".replace("/", "-")
            row["image"].save(table.parent / photo)
            answer = names[row["answer"]].replace("yes", ODD)
            writer.writerow([photo, f"<b>é {row['question']}", answer, row["image_id"]])
    return table


def flags_of(table, **changes):
    keys = {"dataset": table, "image_column": "photo", "text_column": "text", "label_column": "label", **changes}
    return [word for key, value in keys.items() if value is not None for word in (f"--{key}", value)]


def test_a_checkpoint_without_a_recipe(stranger, table, capsys):
    found = measure(stranger, *flags_of(table))
    assert found["rows"]["evaluated"] == 120
    assert found["split"] == "train"  # the only part
    assert found["floors"]["majority"]["from"] == "the evaluated rows"
    assert found["intervals"]["unit"] == "rows of the same picture"
    assert found["missing"] is None
    assert ODD in found["labels"]
    page = (stranger / "evaluation/report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;é " in page
    assert "&lt;i&gt;yes&lt;/i&gt; 日本" in page
    assert "<b>" not in page
    assert "<i>" not in page
    printed = capsys.readouterr().out
    assert f"train accuracy {found['metrics']['accuracy']['value']:>31.4f}" in printed
    grouped = measure(stranger, *flags_of(table), "--group_column", "session", "--seed", 1)
    assert grouped["metrics"]["accuracy"]["value"] == found["metrics"]["accuracy"]["value"]
    assert grouped["intervals"]["unit"] == "rows of equal session"
    assert grouped["intervals"]["groups"] == found["intervals"]["groups"] < 20  # a session has one picture here


def test_only_a_few_rows(stranger, table):
    found = measure(stranger, *flags_of(table), "--max_rows", 30)
    assert found["rows"]["evaluated"] == 30
    texts = datasets.load_dataset("csv", data_files=str(table))["train"]["text"]
    assert found["mistakes"]
    assert [mistake["text"] for mistake in found["mistakes"]] == [texts[m["row"]] for m in found["mistakes"]]
    assert max(mistake["row"] for mistake in found["mistakes"]) > 30
    assert measure(stranger, *flags_of(table), "--max_rows", 30)["metrics"] == found["metrics"]
    assert measure(stranger, *flags_of(table), "--max_rows", 30, "--seed", 1)["mistakes"] != found["mistakes"]


def test_without_one_modality(stranger, table):
    found = measure(stranger, *flags_of(table, image_column=""), "--missing")
    assert set(found["floors"]) == {"majority"}
    assert found["intervals"] == {**found["intervals"], "unit": "rows", "groups": 120}
    assert set(found["missing"]["by_modality"]) == {"text"}  # at 100 % nothing is left to look at
    assert found["missing"]["by_modality"]["text"][-1]["value"] is not None


def test_bad_rows_are_left_out(stranger, table, tmp_path):
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[3] = re.sub(r"^test-\d+", "nowhere", lines[3])
    shutil.copytree(table.parent, tmp_path / "mine")
    (tmp_path / "mine/table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = [*flags_of(tmp_path / "mine/table.csv"), "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit, match=r"row 2 .*'train'.*\.png'"):
        measure(stranger, *flags)
    (tmp_path / "out").mkdir(exist_ok=True)
    own = tmp_path / "out/scatter.png"  # somebody's own: this evaluation draws none
    own.write_text("mine")
    found = measure(stranger, *flags, "--on_error", "skip")
    assert own.read_text() == "mine"
    assert found["rows"] == {"evaluated": 120, "labelled": 119, "bad": 1}
    assert "nowhere.png" in (tmp_path / "out/bad_rows.jsonl").read_text()
    measure(stranger, *flags_of(table), "--output_dir", tmp_path / "out", "--text_column", "")
    assert not (tmp_path / "out/bad_rows.jsonl").exists()


def test_classes_are_told_by_name(stranger, table):
    """A `ClassLabel` numbers its classes as it likes."""
    expected = measure(stranger, *flags_of(table))
    config = json.loads((stranger / "config.json").read_text(encoding="utf-8"))
    rows = datasets.load_dataset("csv", data_files=str(table))["train"]
    names = sorted(config["label2id"], reverse=True)
    rows = rows.cast(Features({**rows.features, "label": ClassLabel(names=names)}))
    DatasetDict(eval=rows).save_to_disk(table.parent / "saved")
    flags = [*flags_of(table.parent / "saved"), "--data_root", table.parent]
    found = measure(stranger, *flags)
    assert found["split"] == "test"  # eval is another word for it
    assert found["metrics"] == expected["metrics"]


def test_the_test_part_is_cut_as_in_training(stranger, table, tmp_path, capsys):
    model = tmp_path / "run"
    shutil.copytree(stranger, model)
    columns = {"image_column": ["photo"], "image_id_column": "session", "text_column": "text", "label_column": "label"}
    recipe = {"dataset": str(table), **columns, "group_column": None, "seed": 5}
    recipe |= {"validation_fraction": 0.1, "test_fraction": 0.3}
    splits = load_splits(
        table, Columns(image="photo", image_id="session", text="text", label="label"), test_fraction=0.3, seed=5
    )
    (model / "recipe.json").write_text(json.dumps(recipe))
    (model / "rows.json").write_text(json.dumps({"rows": {name: len(part) for name, part in splits.items()}}))
    found = measure(model, "--seed", 0)
    assert found["split"] == "test"
    assert found["rows"]["evaluated"] == len(splits["test"])
    assert {mistake["row"] for mistake in found["mistakes"]} <= set(splits["test"]["_source_row"])
    assert found["floors"]["majority"]["from"] == "train"
    with pytest.raises(SystemExit, match=r"image_id_column.*''.*'session'"):
        measure(model, "--image_id_column", "")
    (model / "rows.json").write_text(json.dumps({"rows": {"train": 7}}))
    with pytest.raises(SystemExit, match=r"'train': .*\{'train': 7\}.* test "):
        measure(model)
    # A file that the recipe does not name may hold what was learned, as this copy does.
    flags = flags_of(shutil.copy(table, table.parent / "copy.csv"))
    with pytest.raises(SystemExit, match=r"copy\.csv.*'train'.*recipe\.json.*--split train"):
        measure(model, *flags)
    assert measure(model, *flags, "--split", "train")["rows"]["evaluated"] == 120
    (model / "recipe.json").write_text(json.dumps({"dataset": str(table)}))
    with pytest.raises(SystemExit):
        measure(model)
    assert re.search(says("recipe.json", "image_column"), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_column": None, "label_column": None},
            r"^error: .*--text_column, --label_column\..*recipe\.json",
        ),
        ({"dataset": None}, "Missing: --dataset"),
        (
            {"label_column": "text"},
            r"row 0 .*'train'.*'text'.*'<b>.*\['circle', ",
        ),
        ({"group_column": "photo"}, r"group_column.*'photo'"),
        ({"text_column": "words"}, r"'words'.*text_column"),
        ({"group_column": "house"}, r"'house'.*group_column"),
        ({"split": "test"}, r"'test'.*--split.*\['train'\]"),
        ({"model": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_wrong_input_is_one_clear_line(changes, message, stranger, table):
    with pytest.raises(SystemExit, match=message) as caught:
        measure(stranger, *flags_of(table, **changes))
    assert "\n" not in str(caught.value)


def test_other_checkpoints_are_refused(encoders, table):
    with pytest.raises(SystemExit, match=r"BertModel.*mm_hf evaluate.*MMFusionForQ"):
        measure(encoders / "minilm-l6", *flags_of(table))


def test_help_and_wrong_flags(capsys):
    for flags, message in (
        (["--help"], "--missing"),
        ([], "required: --model"),
        (["--model", "x", "--bootstrap_samples", "0"], says("bootstrap_samples", 1, 0)),
        (["--model", "x", "--splits", "test"], "--splits"),
    ):
        with pytest.raises(SystemExit):
            call(evaluate.main, "evaluate.py", *flags)
        said = capsys.readouterr()
        assert re.search(message, said.out + said.err)


# Other problems


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_other_problems(problem_type, encoders, folder, tmp_path, capsys):
    """An untrained model of the real encoders: whatever it says, all of it can be measured."""
    names = ["square", "red", "<both>"]
    labels = {"problem_type": problem_type, "num_labels": 1}
    rows = datasets.load_from_disk(folder)["test"].select(range(60)).remove_columns("answer")
    if problem_type == "regression":
        rows = rows.add_column("answer", [float(len(text)) for text in rows["question"]])
    else:
        labels |= {"num_labels": 3, "id2label": dict(enumerate(names))}
        labels["label2id"] = {name: number for number, name in enumerate(names)}
        chosen = [[names[place] for place in range(3) if (row >> place) & 1] for row in range(60)]
        rows = rows.add_column("answer", chosen, feature=List(Value("string")))
    DatasetDict(train=rows.select(range(20)), test=rows.select(range(20, 60))).save_to_disk(tmp_path / "set")
    towers = {"vision": encoders / "mobilenet-v2", "text": encoders / "minilm-l6"}
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = MMFusionForClassification.from_encoders_pretrained(**towers, fusion_module_config=small, **labels)
    model.save_pretrained(tmp_path / "model")
    MMFusionProcessor.from_encoders_pretrained(**towers).save_pretrained(tmp_path / "model")
    columns = {"image_column": "image", "text_column": "question", "kind_column": "kind"}
    flags = flags_of(tmp_path / "set", **columns, label_column="answer", image_id_column="image_id")
    found = measure(tmp_path / "model", *flags, "--missing")
    written = {file.name for file in (tmp_path / "model/evaluation").iterdir()}
    own = {"regression": {"scatter.png"}, "multi_label_classification": {"reliability.png", "labels.png"}}
    assert written == {
        *own[problem_type],
        *PNGS - {"reliability.png", "abstention.png", "confusion.png"},
        "report.html",
        "evaluation.json",
    }
    page = (tmp_path / "model/evaluation/report.html").read_text(encoding="utf-8")
    assert html.escape(found["verdict"], quote=True).replace("&#x27;", "&#39;") in page
    assert capsys.readouterr().out.strip().splitlines()[-1] == found["verdict"]
    assert {entry["floor"] for entry in found["comparisons"]} == set(found["floors"])
    first = next(iter(found["metrics"].values()))
    points = found["missing"]["by_modality"]["vision"]
    assert {key: points[0][key] for key in first} == first
    assert points[-1]["value"] == found["floors"]["this_model_text_alone"]["value"]
    if problem_type == "regression":
        lengths = [float(len(text)) for text in rows["question"]]
        mean = sum(lengths[:20]) / 20
        expected = (sum((length - mean) ** 2 for length in lengths[20:]) / 40) ** 0.5
        assert found["floors"]["mean"]["value"] == pytest.approx(expected, abs=1e-4)
        median = sorted(lengths[:20])[9:11]
        expected = sum(abs(length - sum(median) / 2) for length in lengths[20:]) / 40
        assert found["floors"]["mae_of_median"]["value"] == pytest.approx(expected, abs=1e-4)
        assert found["missing"]["majority"] == found["floors"]["mean"]["value"]
        assert set(found["metrics"]) == {"rmse", "mae", "r2", "pearson", "spearman"}
        assert found["metrics"]["r2"]["value"] < 0  # it was never trained
        assert "does NOT beat the constant guess" in found["verdict"]
        assert len(found["mistakes"]) == 24
    else:
        assert set(found["label_scores"]) == set(names)
        assert 0 < found["calibration"]["ece"] < 1
        assert "&lt;both&gt;" in (tmp_path / "model/evaluation/report.html").read_text(encoding="utf-8")
