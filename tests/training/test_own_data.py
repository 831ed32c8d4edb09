"""People's own data through the scripts, one command each: what it prints and leaves, what it says of bad rows."""

import csv
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image as PILImage

import mm_hf
from mm_hf.training import exits
from mm_hf.training.open_run import open_run as open_the_run
from mm_hf.training.run import Run


REPOSITORY = Path(__file__).parents[2]
PICTURES = 16
COLUMNS = {"image_column": "photo", "text_column": "question", "label_column": "answer"}
BROKEN = [
    ("photos/broken.png", "photo", "cannot be read"),
    ("photos/nowhere.png", "photo", "there is no such file"),
    ("../secret.png", "photo", "leads out of"),
    (None, "question", "the text is empty"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def questions() -> list[dict]:
    """Rows of some pictures of easy-VQA, with the pictures' bytes."""
    folder = Path(importlib.util.find_spec("easy_vqa").origin).parent / "data/train"
    found = [row for row in json.loads((folder / "questions.json").read_text()) if row[2] < PICTURES]
    return [
        {
            "photo": f"photos/{n}.png",
            "question": text,
            "answer": answer,
            "bytes": (folder / f"images/{n}.png").read_bytes(),
        }
        for text, answer, n in sorted(found, key=lambda row: row[2])
    ]


def write_pictures(folder: Path, rows: list[dict]):
    for row in rows:
        file = folder / row["photo"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["bytes"])


def parts_of(rows: list[dict]) -> dict[str, list[dict]]:
    """Three parts, cut by row; answers that train lacks do not come in the others."""
    parts = {"train": [row for place, row in enumerate(rows) if place % 8 > 1]}
    known = {row["answer"] for row in parts["train"]}
    for place, name in enumerate(("validation", "test")):
        parts[name] = [row for row in rows[place::8] if row["answer"] in known]
    return parts


def without_bytes(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "bytes"} for row in rows]


def write_csv(file: Path, rows: list[dict]):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = without_bytes(rows)
    with open(file, "w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_own_csv(folder: Path, rows: list[dict], broken: bool) -> Path:
    """A table as people have it: one picture is absent and, if so asked, one is broken, one missing, one elsewhere and
    one text empty. The other rows of each of their pictures are left as they are."""
    write_pictures(folder, rows)
    rows = [dict(row) for row in rows]
    rows[1]["photo"] = ""
    if broken:
        secret = folder.parent / "secret.png"
        secret.write_bytes(rows[0]["bytes"])
        (folder / "photos/broken.png").write_bytes(rows[0]["bytes"][:60])
        for place, (file, column, _) in enumerate(BROKEN):
            rows[20 * (place + 1)][column] = "  " if file is None else file
    write_csv(folder / "my.csv", rows)
    return folder / "my.csv"


@dataclass
class Ran:
    """What a run left: the job, its lines, its folder."""

    job: Run
    out: str
    err: str
    folder: Path

    @property
    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text())

    @property
    def bad_rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "bad_rows.jsonl").read_text().splitlines()]


def flags_of(encoders: Path, dataset, output_dir: Path, **keys) -> list[str]:
    """The command line behind the script's name; a key that is None is left out."""
    flags = {
        **COLUMNS,
        "vision_encoder": encoders / "mobilenet-v2",
        "text_encoder": encoders / "minilm-l6",
        "image_size": 64,
        "freeze_encoders": "true",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "max_steps": 2,
        "eval_steps": 2,
        "floors": "false",
        "report_to": "none",
        **keys,
    }
    words = ["--dataset", dataset, "--output_dir", output_dir]
    for key, value in flags.items():
        if value is not None:
            words += [f"--{key}", *(value if isinstance(value, list) else [value])]
    return list(map(str, words))


@pytest.fixture
def start(encoders, tmp_path, monkeypatch, capsys):
    """Runs a script in this process, which saves its imports, as `python training/<script>.py …` would; None sets up
    the run and stops before the training."""

    def run(dataset, script: str | None = "train", output_dir=tmp_path / "run", **keys) -> Ran:
        jobs = []
        open_run = lambda *words: jobs.append(open_the_run(*words)) or jobs[-1]  # noqa: E731
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags_of(encoders, dataset, output_dir, **keys)])
        if script is None:
            open_run("", "train.py")
        else:
            module = importlib.import_module(f"mm_hf.training.{script}")
            monkeypatch.setattr(module, "open_run", open_run)
            exits.run_script(module.main)
        said = capsys.readouterr()
        return Ran(jobs[-1], said.out, said.err, output_dir)

    return run


def launch(script: str, words: list[str], **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [sys.executable, f"training/{script}", *words],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def trained(ran: Ran) -> str:
    """The name of the score, of a run that came to its end and whose checkpoint loads."""
    assert f"written: {ran.folder}" in ran.out
    model = type(ran.job.model).from_pretrained(ran.folder)
    assert model.config.problem_type == ran.job.problem_type
    return next(iter(ran.results["metrics"]))


# A table of one's own


def test_a_csv_is_one_command(encoders, questions, tmp_path):
    """Nothing but flags; and what it leaves answers in another process."""
    table = write_own_csv(tmp_path / "mine", questions, broken=False)
    done = launch("train.py", flags_of(encoders, table, tmp_path / "run", max_steps=4, floors="true"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    card = (tmp_path / "run/README.md").read_text()
    assert str(tmp_path) not in card
    assert str(encoders) not in card
    assert "name: my.csv" in card
    with PILImage.open(tmp_path / "run/predictions.png") as plot:
        assert min(plot.size) > 300
    assert not (tmp_path / "run/bad_rows.jsonl").exists()
    answer = mm_hf.pipeline(model=tmp_path / "run")
    found = answer({"image": str(tmp_path / "mine/photos/3.png"), "question": questions[0]["question"]}, top_k=2)
    assert len(found) == 2
    assert {entry["answer"] for entry in found} <= {row["answer"] for row in questions}
    for name in ("text_only", "image_only", "shuffled_pairs", "majority"):
        assert f"floor: {name.replace('_', ' ')}" in done.stdout


def test_says_what_it_understood(start, questions, tmp_path):
    """Columns, absent rates, sizes, lengths, classes and their balance, before it builds a model."""
    write_pictures(tmp_path, questions)
    parts = parts_of(questions)
    for name, rows in parts.items():
        write_csv(tmp_path / f"{name}.csv", [{**row, "photo": "" if row is rows[0] else row["photo"]} for row in rows])
    said = start(tmp_path, None).out
    understood = said[: said.index("parameters")]
    rows = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
    absent = ", ".join(f"{name} {1 / len(part):.1%}" for name, part in parts.items())
    words = sorted(len(row["question"].split()) for row in parts["train"])
    answers = [row["answer"] for row in parts["train"]]
    counts = sorted((answers.count(answer) for answer in set(answers)), reverse=True)
    for line in (
        f"  rows      {rows}\n",
        f"  image     photo (image), absent: {absent}\n",
        "  text      question (string)\n",
        "  label     answer (string)\n",
        "min / median / max 64×64 / 64×64 / 64×64",
        f"words {words[len(words) // 2]} / ",
        f"single label classification, {len(counts)} classes, most to least frequent {counts[0] / counts[-1]:.1f} : 1",
        f"yes {answers.count('yes')}",
    ):
        assert line in understood


def test_bad_row_stops_the_run_before_training(start, questions, tmp_path, capsys):
    table = write_own_csv(tmp_path / "mine", questions, broken=True)
    with pytest.raises(SystemExit) as stop:
        start(table, freeze_encoders="false")  # frozen ones see every picture beforehand
    said = str(stop.value)
    assert said.startswith("error: row ")
    assert "\n" not in said
    named = [n for n, (file, column, why) in enumerate(BROKEN) if why in said and f"column {column!r}" in said]
    assert len(named) == 1
    file = BROKEN[named[0]][0]
    assert f"(row {20 * (named[0] + 1)} of the data)" in said
    assert file is None or f"file {file!r}" in said
    assert "training:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "frozen"),
    [("train", "true"), pytest.param("train", "false", marks=pytest.mark.slow), ("finetune", "true")],
)
def test_bad_rows_are_skipped_and_listed(start, questions, tmp_path, script, frozen):
    """Each of them, whether features are kept or pictures are read again and again, and in a part that was measured
    alone."""
    table = write_own_csv(tmp_path / "mine", questions, broken=True)
    ran = start(
        table, script, on_error="skip", max_bad_fraction=0.5, max_steps=8, eval_steps=8, freeze_encoders=frozen
    )
    trained(ran)
    listed = {entry["source_row"]: entry for entry in ran.bad_rows}
    assert sorted(listed) == [20, 40, 60, 80]
    for place, (file, column, why) in enumerate(BROKEN):
        entry = listed[20 * (place + 1)]
        assert set(entry) == {"split", "row", "column", "file", "reason", "source_row"}
        assert (entry["column"], entry["file"]) == (column, file)
        assert why in entry["reason"]
        row = ran.job.splits[entry["split"]][entry["row"]]
        assert row["question"] == ("  " if file is None else questions[entry["source_row"]]["question"])
    assert ran.results["bad_rows"] == 4


def test_too_many_bad_rows_stop_the_run(start, questions, tmp_path):
    table = write_own_csv(tmp_path / "mine", questions, broken=True)
    with pytest.raises(SystemExit, match=r"^error: \d of \d+ .*'.*max_bad_fraction.*0\.001") as stop:
        start(table, on_error="skip", max_bad_fraction=0.001)
    assert "\n" not in str(stop.value)
    file = tmp_path / "run/bad_rows.jsonl"
    assert str(file) in str(stop.value)
    assert {json.loads(line)["source_row"] for line in file.read_text().splitlines()} >= {40, 60, 80}


def test_no_picture_on_both_sides(start, questions, tmp_path):
    ran = start(write_own_csv(tmp_path / "mine", questions, broken=False), None)
    paths = {name: {row["photo"]["path"] for row in part if row["photo"]} for name, part in ran.job.splits.items()}
    assert set(paths) == {"train", "validation", "test"}
    assert sum(map(len, paths.values())) == len(set().union(*paths.values())) == PICTURES
    assert sum(map(len, ran.job.splits.values())) == len(questions)


def test_no_group_on_both_sides(start, questions, tmp_path):
    rows = [{**row, "patient": f"p{int(row['photo'][7:-4]) % 8}"} for row in questions]
    write_pictures(tmp_path / "mine", rows)
    write_csv(tmp_path / "mine/my.csv", rows)
    ran = start(tmp_path / "mine/my.csv", script=None, group_column="patient")
    patients = {
        name: {rows[place]["patient"] for place in part["_source_row"]} for name, part in ran.job.splits.items()
    }
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 8


# Other forms


def json_lines(folder, rows):
    write_pictures(folder, rows)
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without_bytes(rows)))
    return folder / "my.jsonl"


def parquet(folder, rows):
    folder.mkdir()
    Dataset.from_list(
        [{**row, "photo": {"bytes": row["bytes"], "path": None}} for row in rows],
    ).remove_columns("bytes").to_parquet(folder / "my.parquet")
    return folder / "my.parquet"


def image_folder(folder, rows):
    write_pictures(folder, rows)
    named = [{"file_name": row["photo"], "question": row["question"], "answer": row["answer"]} for row in rows]
    write_csv(folder / "metadata.csv", named)
    return folder


def saved(folder, rows):
    file = parquet(folder, rows)
    load_dataset("parquet", data_files=str(file), split="train").save_to_disk(folder / "set")
    return folder / "set"


def three_tables(folder, rows):
    write_pictures(folder, rows)
    for name, part in parts_of(rows).items():
        write_csv(folder / f"{name}.csv", part)
    return folder


def shards(folder, rows):
    """WebDataset: a picture and a JSON file a row."""
    folder.mkdir()
    parts = parts_of(rows)
    files = {"train-0": parts["train"][::2], "train-1": parts["train"][1::2]}
    for name, part in (files | {"val-0": parts["validation"], "test-0": parts["test"]}).items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for place, row in enumerate(part):
                said = json.dumps({"question": row["question"], "answer": row["answer"]}).encode()
                for suffix, content in (("png", row["bytes"]), ("json", said)):
                    member = tarfile.TarInfo(f"{place:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


SHARDS = {"image_column": "png", "text_column": "json.question", "label_column": "json.answer"}


@pytest.mark.parametrize(
    ("write", "keys"),
    [
        pytest.param(json_lines, {}, marks=pytest.mark.slow),  # tests/data reads every form in no time
        pytest.param(parquet, {}, marks=pytest.mark.slow),
        (image_folder, {"image_column": "image"}),
        pytest.param(saved, {}, marks=pytest.mark.slow),
        (three_tables, {}),
        (shards, SHARDS),
    ],
)
def test_every_form_trains(start, questions, tmp_path, write, keys):
    ran = start(write(tmp_path / "mine", questions), **keys)
    assert trained(ran) == "accuracy"
    whole = parts_of(questions).values() if write in (three_tables, shards) else [questions]
    assert sum(map(len, ran.job.splits.values())) == sum(map(len, whole))
    image = keys.get("image_column", "photo")
    looked = [row[image] for row in ran.job.splits["test"]]
    assert all(looked)


@pytest.mark.parametrize("script", ["train", pytest.param("finetune", marks=pytest.mark.slow)])
def test_shards_stream(start, questions, tmp_path, script):
    """The training part is read while it trains; the others are stored first."""
    folder = shards(tmp_path / "mine", questions)
    ran = start(folder, script, streaming="true", max_steps=6, eval_steps=3, **SHARDS)
    assert trained(ran) == "accuracy"
    assert "a stream: all figures are of the first 1,000 rows" in ran.out
    train, *others = ran.job.splits.values()
    assert isinstance(train, datasets.IterableDataset)
    assert [len(part) for part in others] == [len(part) for part in list(parts_of(questions).values())[1:]]
    assert "streamed" in (tmp_path / "run/README.md").read_text()


def test_what_streaming_needs(start, questions, tmp_path):
    table = write_own_csv(tmp_path / "mine", questions, broken=False)
    with pytest.raises(SystemExit, match=r"validation .*test .*validation_fraction"):
        start(table, streaming="true")
    with pytest.raises(SystemExit, match=r"streaming.*max_steps.*eval_steps"):
        start(table, streaming="true", max_steps=None)


# Other columns


def test_a_class_that_was_cut_away_is_known(start, questions, tmp_path):
    """The only row of a class goes to the part that is measured: no fault of the data."""
    write_pictures(tmp_path / "mine", questions)
    rows = [{**row, "answer": row["photo"]} for row in questions]  # a class a picture
    write_csv(tmp_path / "mine/my.csv", rows)
    ran = start(tmp_path / "mine/my.csv")
    trained(ran)
    assert len(ran.job.label2id) == PICTURES
    assert f"{PICTURES} classes" in ran.out
    assert "no row of test" in ran.out


def test_two_pictures_a_row(start, questions, tmp_path):
    write_pictures(tmp_path / "mine", questions)
    rows = []
    for place, row in enumerate(questions):
        beside = int(Path(row["photo"]).stem) ^ 1
        rows.append({"front": row["photo"], "back": f"photos/{beside}.png" if place % 10 else "", **row})
    write_csv(tmp_path / "mine/my.csv", rows)
    ran = start(tmp_path / "mine/my.csv", image_column=["front", "back"])
    trained(ran)
    assert "  image     back (image), absent: train" in ran.out
    model = mm_hf.MMFusionForQuestionAnswering.from_pretrained(ran.folder).eval()
    assert model.config.num_images == 2
    batch = next(iter(ran.job.loader("test", replace(ran.job.collator, cache=None))))
    assert batch["vision_index"].shape[1] == 2
    inputs = {key: value for key, value in batch.items() if key != "row_ids"}
    with torch.no_grad():
        logits, kept = model(**inputs).logits, ran.job.model.eval()(**inputs).logits
    assert torch.equal(logits, kept)


def numbers(rows):
    return [{**row, "answer": len(row["question"]) / 7} for row in rows]


def name_lists(rows):
    return [{**row, "answer": sorted({row["answer"], row["question"].split()[0]})} for row in rows]


def classes(rows):
    return [{**row, "answer": len(row["question"].split())} for row in rows]


@pytest.mark.parametrize(
    ("change", "problem", "metric", "floors"),
    [
        (
            numbers,
            "regression: min / mean / max ",
            "rmse",
            {"mean", "mae_of_median", "text_only", "image_only", "shuffled_pairs", "linear"},
        ),
        (name_lists, "multi label classification, ", "f1_micro", set()),
        (classes, "single label classification, ", "accuracy", set()),
    ],
)
def test_other_labels(start, questions, tmp_path, change, problem, metric, floors):
    table = json_lines(tmp_path / "mine", change(questions))
    ran = start(table, task="classification", floors="true" if floors else "false")
    assert trained(ran) == metric
    assert f"  labels    {problem}" in ran.out
    assert f"test {metric}" in ran.out
    assert set(ran.results["floors"]) == floors
    config = ran.job.model.config
    assert config.fusion_module_config.output_norm
    assert (config.label_mean is None) == (metric != "rmse")
    if metric == "rmse":  # of the training rows alone
        labels = torch.tensor(ran.job.splits["train"]["answer"][:])
        assert config.label_mean == pytest.approx([labels.double().mean().item()], rel=1e-6)
        assert config.label_scale == pytest.approx([labels.double().std(correction=0).item()], rel=1e-6)
    assert ran.out.strip().splitlines()[-1] == ran.results["verdict"]  # the last line of the run
    assert f"beat the constant guess: {metric.replace('_', ' ')}" in ran.results["verdict"].replace("beats", "beat")
    assert {found["floor"] for found in ran.results["comparisons"] if not found["constant"]} <= floors
    assert ran.results["verdict"] in (ran.folder / "README.md").read_text()
    answer = mm_hf.pipeline(model=ran.folder)({"image": str(tmp_path / "mine/photos/3.png"), "text": "is it red?"})
    names = [entry["label"] for entry in answer]
    assert len(names) == 1 if metric == "rmse" else set(names) <= set(ran.job.label2id)


@pytest.mark.parametrize("missing", ["image", "text"])
def test_one_modality(start, questions, tmp_path, missing):
    table = write_own_csv(tmp_path / "mine", questions[:1] + questions[2:], broken=False)
    keys = {f"{missing}_column": None, f"{'vision' if missing == 'image' else 'text'}_encoder": None}
    keys |= {"image_size": None} if missing == "image" else {}
    ran = start(table, task="classification", floors="true", **keys)
    assert trained(ran) == "accuracy"
    assert set(ran.results["floors"]) == {"majority", "linear"}
    row = {"text": "what shape?"} if missing == "image" else {"image": str(tmp_path / "mine/photos/3.png")}
    assert mm_hf.pipeline(model=ran.folder)(row, top_k=1)[0]["label"] in ran.job.label2id


@pytest.mark.slow  # the second way, see test_craft.py
def test_finetune_is_one_command(encoders, questions, tmp_path):
    table = write_own_csv(tmp_path / "mine", questions, broken=True)
    words = flags_of(encoders, table, tmp_path / "run", on_error="skip", max_bad_fraction=0.5)
    done = launch("finetune.py", words)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (tmp_path / "run/README.md").exists()
    assert mm_hf.pipeline(model=tmp_path / "run")({"question": "is it red?"}, top_k=1)
