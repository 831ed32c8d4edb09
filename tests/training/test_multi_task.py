"""Several tasks through the scripts: real encoders, real questions, with labels that some rows lack."""

import csv
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Value, load_from_disk
from kill_and_resume import call, command, seeded_kills, survive
from messages import says
from PIL import Image
from safetensors.torch import load_file

import mm_hf
from mm_hf import MMFusionForMultiTask
from mm_hf.commands import evaluate
from mm_hf.training import finetune, loop, train


ROWS = {"train": 300, "validation": 60, "test": 61}
SHADE = {"red": 0.3, "green": 0.6, "blue": 0.1, "teal": 0.5, "yellow": 0.9, "black": 0.0, "gray": 0.5, "brown": 0.4}
METRICS = {
    *("score", "answer_accuracy", "answer_macro_f1", "kind_accuracy", "kind_macro_f1"),
    *("shade_rmse", "shade_mae", "shade_r2", "shade_pearson", "shade_spearman"),
}


def labelled(split: Dataset) -> Dataset:
    """easy-VQA with two more questions about each row: of which kind its question is, and, for those whose answer is
    a colour, how bright that is."""
    names = split.features["answer"].names
    shades = [SHADE.get(names[answer]) for answer in split["answer"]]
    trust = [None if shade is None else 0.5 + shade for shade in shades]
    return split.add_column("shade", shades).add_column("trust", trust).cast_column("shade", Value("float32"))


@pytest.fixture(scope="module")
def dataset(easy_vqa, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "set"
    parts = {name: labelled(easy_vqa[name].select(range(rows))) for name, rows in ROWS.items()}
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    """Writes a recipe of three tasks."""

    def write(output_dir, **keys) -> Path:
        values = {
            "vision_encoder": str(encoders / "mobilenet-v2"),
            "text_encoder": str(encoders / "minilm-l6"),
            "dataset": str(dataset),
            "output_dir": str(output_dir),
            "image_column": "image",
            "image_id_column": "image_id",
            "text_column": "question",
            "label_column": ["answer", "kind", "shade"],
            "weight_column": {"shade": "trust"},
            "fusion_hidden_size": 32,
            "fusion_layers": 1,
            "fusion_heads": 2,
            "image_size": 64,
            "vision_feature_layer": [4, 11],
            "freeze_encoders": True,
            "learning_rate": 5e-3,
            "max_steps": 40,
            "eval_steps": 10,
            "per_device_train_batch_size": 50,
            "report_to": "none",
            **keys,
        }
        values = {key: value for key, value in values.items() if value is not None}
        file = tmp_path_factory.mktemp("recipe") / "tasks.yaml"
        file.write_text(json.dumps(values))  # which is YAML too
        return file

    return write


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder, task_weights={"shade": 2.0}))
    return folder


@pytest.mark.slow  # the second way, see test_craft.py
def test_the_trainer_and_learned_weights(recipe, tmp_path):
    folder = tmp_path / "run"
    call(finetune.main, recipe(folder, task_weighting="uncertainty", floors=False))
    check_run(folder)
    model = MMFusionForMultiTask.from_pretrained(folder)
    assert (model.task_weighting.log_variances.abs() > 1e-3).all()  # they have learned
    logged = json.loads((max(folder.glob("checkpoint-*")) / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in logged if "eval_score" in entry]
    assert len(evaluations) == 4
    for entry in evaluations:
        parts = [entry[f"eval_{task}_loss"] for task in ("answer", "kind", "shade")]
        assert entry["eval_loss"] == pytest.approx(sum(parts))


def test_a_run(trained):
    check_run(trained)
    model = MMFusionForMultiTask.from_pretrained(trained)
    assert model.task_weighting is None
    assert model.config.tasks["shade"]["weight"] == 2.0
    results = json.loads((trained / "results.json").read_text())
    floors = results["floors"]
    guesses = {"constant_guess", "answer_majority", "kind_majority", "shade_mean", "shade_mae_of_median"}
    assert {"image_only", "text_only", "shuffled_pairs", *guesses} <= set(floors)
    assert set(floors) == {found["floor"] for found in results["comparisons"]}
    assert guesses == {found["floor"] for found in results["comparisons"] if found["constant"]}
    assert floors["constant_guess"] < results["metrics"]["score"]
    assert results["verdict"] in (trained / "README.md").read_text()
    assert floors["kind_shuffled_pairs"] > floors["kind_image_only"]


def check_run(folder: Path):
    """What both scripts leave."""
    results = json.loads((folder / "results.json").read_text())
    metrics = results["metrics"]
    assert set(metrics) == METRICS
    assert next(iter(metrics)) == "score"
    assert metrics["kind_accuracy"] > 0.9  # the words of a question say its kind
    assert metrics["answer_accuracy"] > 0.3
    for name in ("curves.png", "predictions.png"):
        with Image.open(folder / name) as plot:
            assert min(plot.size) > 300
    card = (folder / "README.md").read_text()
    assert "Task `kind`: one of 3 labels: color, shape, yes/no." in card
    assert "Task `shade`: a number." in card
    assert f"| shade rmse | {metrics['shade_rmse']:.4f} |" in card
    assert f"| answer accuracy | {metrics['answer_accuracy']:.4f} |" in card
    model = MMFusionForMultiTask.from_pretrained(folder)
    assert list(model.config.tasks) == ["answer", "kind", "shade"]


def test_curves_of_each_task(trained):
    checkpoint = max(trained.glob("checkpoint-*"))
    history = json.loads((checkpoint / "progress.json").read_text())["history"]
    tasks = ("answer", "kind", "shade")
    assert {f"loss {task}" for task in tasks} <= set(history)
    assert {"validation answer_accuracy", "validation kind_accuracy", "validation shade_rmse"} <= set(history)
    for (step, total), *parts in zip(history["loss"], *(history[f"loss {task}"] for task in tasks)):
        assert total == pytest.approx(sum(value for _, value in parts), rel=1e-5), step


@pytest.mark.slow
def test_evaluation_of_each_task(trained, dataset):
    call(evaluate.main, "--model", trained, "--bootstrap_samples", 20, "--missing")
    results = json.loads((trained / "results.json").read_text())
    folder = trained / "evaluation"
    assert {path.name for path in folder.iterdir()} == {"answer", "kind", "shade"}
    rows = {
        "answer": 61,
        "kind": 61,
        "shade": 61 - sum(s is None for s in load_from_disk(str(dataset))["test"]["shade"]),
    }
    for task, count in rows.items():
        report = json.loads((folder / task / "evaluation.json").read_text())
        assert report["label_column"] == task
        assert report["rows"]["labelled"] == count
        assert set(report["missing"]["by_modality"]) == {"vision", "text"}
        assert (folder / task / "report.html").exists()
        for name, values in report["metrics"].items():
            assert values["value"] == pytest.approx(results["metrics"][f"{task}_{name}"], abs=1e-5)
    # Some of the tasks, from data that has no more.
    table = trained.parent / "rows.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "kind"])
        writer.writerows([["what color is the shape?", "color"], ["is there a circle?", "yes/no"]])
    columns = ("--image_column", "", "--image_id_column", "", "--kind_column", "", "--label_column", "kind")
    output = trained.parent / "part"
    flags = ("--dataset", table, "--split", "train", *columns, "--output_dir", output, "--bootstrap_samples", 5)
    call(evaluate.main, "--model", trained, *flags)
    report = json.loads((output / "kind" / "evaluation.json").read_text())
    assert report["rows"]["labelled"] == 2


def test_answers_through_the_pipeline(trained):
    answers = mm_hf.pipeline(model=trained)({"text": "what color is the shape?"}, top_k=1)
    assert set(answers) == {"answer", "kind", "shade"}
    assert answers["kind"][0]["label"] == "color"


@pytest.mark.slow  # part of `make reliability`
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path, monkeypatch):
    """With the losses of each task that no point of a curve holds yet."""
    file = recipe(tmp_path / "run", task_weights={"shade": 2.0}, save_steps=5, floors=False)
    make_step = loop.Training.make_step

    def until_the_18th(training, window):
        if training.progress.step == 17:
            raise OSError("the machine went away")
        return make_step(training, window)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "make_step", until_the_18th)
        with pytest.raises(SystemExit, match="went away"):
            call(train.main, file)
    call(train.main, file)
    files = [folder / "model.safetensors" for folder in (tmp_path / "run", trained)]
    assert files[0].read_bytes() == files[1].read_bytes()
    histories = [
        json.loads((folder / "checkpoint-40/progress.json").read_text())["history"]
        for folder in (tmp_path / "run", trained)
    ]
    assert histories[0] == histories[1]


@pytest.mark.slow  # part of `make reliability`
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_killed_and_started_again(script, recipe, tmp_path):
    """Ends with the weights of a run that was left alone."""
    for name, kills in (("alone", []), ("killed", seeded_kills(11, 2, longest=0.2))):
        file = recipe(tmp_path / name, task_weighting="uncertainty", floors=False)
        met = survive(command(script, 1, [str(file)]), tmp_path / name, kills)
        assert all(what is not None for _, what in met)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "killed"))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_two_processes_learn_as_one(script, recipe, encoders, dataset, tmp_path):
    """Global counts of each task's labels: five steps of SGD without dropout, half of the rows on each process."""
    still = {"optim": "sgd", "fusion_dropout": 0.0, "classifier_dropout": 0.0, "max_steps": 5, "eval_steps": 5}
    still |= {"task_weighting": "uncertainty", "floors": False, "warmup_ratio": 0.0, "learning_rate": 0.05}
    ends = {}
    for processes in (1, 2):
        file = recipe(tmp_path / str(processes), **still, per_device_train_batch_size=50 // processes)
        survive(command(script, processes, [str(file)]), tmp_path / str(processes), [])
        results = json.loads((tmp_path / str(processes) / "results.json").read_text())
        assert results["num_processes"] == processes
        ends[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    assert ends[1]["task_weighting.log_variances"].abs().min() > 1e-4
    assert max((ends[1][name] - ends[2][name]).abs().max().item() for name in ends[1]) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label_column": ["answer", "answer"]}, says("label_column", "['answer', 'answer']")),
        ({"label_column": ["shade", "colour"]}, says("'colour'", "label_column")),
        ({"weight_column": {"answers": "trust"}}, says("weight", "['answers']", "['answer', 'kind', 'shade']")),
        ({"weight_column": {"shade": "trusted"}}, says("'trusted'", "weight_column")),
        ({"task_weights": {"shades": 2.0}}, says("task_weights", "['shades']", "['answer', 'kind', 'shade']")),
        ({"task_weights": {"shade": -2.0}}, says("'shade'", "weight", 0, "-2.0")),
        (
            {"task_weights": {"shade": 2.0}, "task_weighting": "uncertainty"},
            says("task_weighting", "'uncertainty'", "['shade']"),
        ),
        ({"task": "classification"}, says("task", "classification", "label_column", "['answer', 'kind', 'shade']")),
        ({"imbalance": "balanced_sampler"}, says("balanced_sampler", "label_column", "['answer', 'kind', 'shade']")),
        ({"problem_type": {"shades": "regression"}}, says("problem_type", "['shades']")),
        (
            {"label_column": "answer", "weight_column": None, "task_weighting": "uncertainty"},
            says("task_weighting", "label_column"),
        ),
        ({"label_column": "answer"}, says("weight_column", "label_column", "'answer'")),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert re.search(message, str(stopped.value))
    assert "\n" not in str(stopped.value)


def test_weights_by_task_are_a_flag_too(recipe, tmp_path):
    with pytest.raises(SystemExit, match=r"task_weights.*\['shades'\]"):
        call(train.main, recipe(tmp_path / "run"), "--task_weights", "{shades: 2.0}")


def test_a_bad_label_of_one_task(recipe, dataset, encoders, tmp_path):
    """Names row and column, or is left out with all labels of its row."""
    broken = load_from_disk(str(dataset))
    kinds = ["" if row == 7 else kind for row, kind in enumerate(broken["train"]["kind"])]
    broken["train"] = broken["train"].remove_columns("kind").add_column("kind", kinds)
    broken.save_to_disk(tmp_path / "set")
    with pytest.raises(SystemExit, match=r"row 7 .*'train'.*'kind'.*''.*list"):
        call(train.main, recipe(tmp_path / "run", dataset=str(tmp_path / "set")))
    keys = {"dataset": str(tmp_path / "set"), "on_error": "skip", "max_steps": 10, "floors": False}
    call(train.main, recipe(tmp_path / "run", **keys))
    entries = [json.loads(line) for line in (tmp_path / "run/bad_rows.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["column"]) for entry in entries] == [(7, "kind")]
