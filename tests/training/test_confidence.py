"""How sure answers are, from a run to its report and its predictions: `--calibrate`, `--coverage`, `--abstain_below`,
`--costs`."""

import csv
import json
import math
import random
import shutil
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from messages import says

from mm_hf.commands import compare, evaluate, predict
from mm_hf.training import exits, train


REPOSITORY = Path(__file__).parents[2]
STORED = REPOSITORY / "tests/data/checkpoints"
WORDS = STORED / "encoders/text"
KINDS = ["old", "new", "ruin"]


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


def call(main, *words):
    """A verb in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", *map(str, words)])
        exits.run_script(main)


def refused(main, *words) -> str:
    """What a verb says where it ends in a fault."""
    with pytest.raises(SystemExit) as stopped:
        call(main, *words)
    return str(stopped.value.code)


def homes(rows: int, seed: int) -> pd.DataFrame:
    """Homes whose mood hangs on their kind and whose price on their size, with noise; a third has no advert, some no
    mood or no price."""
    draw = random.Random(seed)
    table = []
    for number in range(rows):
        kind, size = draw.choice(KINDS), draw.randint(20, 120)
        mood = "glad" if draw.random() < {"old": 0.15, "new": 0.9, "ruin": 0.4}[kind] else "sad"
        advert = None if number % 3 == 0 else f"the {draw.choice(['big', 'small'])} house"
        price = None if number % 17 == 0 else round(3 * size + draw.gauss(0, 30), 1)
        table.append([advert, size, kind, None if number % 19 == 0 else mood, price])
    return pd.DataFrame(table, columns=["advert", "size", "kind", "mood", "price"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("homes")
    for seed, (part, rows) in enumerate({"train": 500, "validation": 240, "test": 400}.items()):
        homes(rows, seed).to_csv(folder / f"{part}.csv", index=False)
    return folder


def flags(data: Path, out: Path, **keys) -> list:
    """Of a run of some seconds."""
    settings = {
        **{"text_column": "advert", "text_encoder": WORDS, "fusion": "concat", "fusion_hidden_size": 16},
        **{"defaults_version": 2, "max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 64},
        **{"floors": "false", "report_to": "none", "output_dir": out, "seed": 0, **keys},
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value) if value is not None]
    return [data, *words, "--table_columns", "size", "kind"]


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    """Calibrated at the end of training, both tasks."""
    out = tmp_path_factory.mktemp("runs") / "homes"
    call(train.main, *flags(folder, out, calibrate="true"), "--label_column", "mood", "price")
    return out


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory) -> Path:
    """One task, and nobody looked."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    call(train.main, *flags(folder, out), "--label_column", "mood")
    return out


def cells(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_calibrated(run, folder):
    config = json.loads((run / "config.json").read_text())
    table = pd.read_csv(folder / "validation.csv")
    for task in ("mood", "price"):
        assert config["tasks"][task]["confidence"]["rows"] == table[task].notna().sum()
    assert config["tasks"]["price"]["confidence"]["temperature"] == 1
    results = json.loads((run / "results.json").read_text())
    assert results["recipe"]["calibrate"] is True
    mood, price = results["confidence"]["mood"], results["confidence"]["price"]
    assert mood["coverage"]["covered"] == pytest.approx(0.9, abs=0.06)
    assert price["coverage"]["covered"] == pytest.approx(0.9, abs=0.06)
    assert price["ece"] is None
    card = (run / "README.md").read_text()
    assert "## How sure" in card
    for number in (f"{mood['coverage']['covered']:.1%}", f"{price['coverage']['covered']:.1%}"):
        assert number in card
    sums = json.loads((run / "checksums.json").read_text())["xxh3_64"]
    from mm_hf.models.checksums import checksum_of

    assert sums["config.json"] == checksum_of(run / "config.json")


def test_packaged_runs_stay_as_they_were(plain):
    assert "confidence" not in json.loads((plain / "config.json").read_text())
    assert "confidence" not in json.loads((plain / "results.json").read_text())
    assert "calibrate" not in json.loads((plain / "recipe.json").read_text())
    assert "## How sure" not in (plain / "README.md").read_text()


def test_a_run_that_exists_is_calibrated(plain, folder, tmp_path, capsys):
    run, rows = tmp_path / "run", folder / "test.csv"
    shutil.copytree(plain, run)
    before = tmp_path / "before.csv"
    call(predict.main, run, rows, "-o", before)
    call(evaluate.main, run, "--calibrate", "--coverage", 0.8, "--group_column", "kind", "--bootstrap_samples", 20)
    said = capsys.readouterr().out
    report = json.loads((run / "evaluation/evaluation.json").read_text())["confidence"]
    table = pd.read_csv(folder / "validation.csv")
    assert report["validation_rows"] == table["mood"].notna().sum()
    assert f"{report['validation_rows']:,}" in said
    found = report["coverage"]
    assert found["asked"] == 0.8
    assert set(found["groups"]) == {"glad", "sad", *(f"kind: {kind}" for kind in KINDS), "without text"}
    lacking = pd.read_csv(rows).query("advert.isna() and mood.notna()")
    assert found["groups"]["without text"]["rows"] == len(lacking)
    page = (run / "evaluation/report.html").read_text(encoding="utf-8")
    for text in ("How sure", "without text", "kind: ruin", f"{found['covered']:.4f}"):
        assert text in page
    # The answers are the same ones, and the measured sets are those that predict gives.
    after = tmp_path / "after.csv"
    call(predict.main, run, rows, "-o", after, "--coverage", 0.8)
    old, new = cells(before), cells(after)
    assert [row["prediction"] for row in old] == [row["prediction"] for row in new]
    sets = [(row["mood"], json.loads(row["prediction_set"])) for row in new]
    covered = [mood in names for mood, names in sets if mood]
    assert sum(covered) / len(covered) == pytest.approx(found["covered"])
    assert all(row["prediction"] == names[0] for row, (_, names) in zip(new, sets))
    assert f"{found['covered']:.1%}" in (run / "README.md").read_text()


def test_columns_of_predict(run, folder, tmp_path):
    out = tmp_path / "out.csv"
    call(predict.main, run, folder / "test.csv", "-o", out, "--coverage", 0.9, "--abstain_below", 0.7)
    rows = cells(out)
    unsure = [float(row["mood_probability"]) < 0.7 for row in rows]
    assert [row["mood_prediction"] == "" for row in rows] == unsure
    assert 0 < sum(unsure) < len(rows)
    for row in rows:
        low, value, high = (float(row[f"price_prediction{end}"]) for end in ("_low", "", "_high"))
        assert low < value < high
        assert high - value == pytest.approx(value - low, rel=1e-3)
    known = [row for row in rows if row["price"]]
    inside = [
        float(row["price_prediction_low"]) <= float(row["price"]) <= float(row["price_prediction_high"])
        for row in known
    ]
    results = json.loads((run / "results.json").read_text())["confidence"]["price"]["coverage"]
    assert sum(inside) / len(inside) == pytest.approx(results["covered"], abs=1e-3)


def test_costs(plain, folder, tmp_path, capsys):
    costs, out = tmp_path / "costs.csv", tmp_path / "out.csv"
    costs.write_text("class,cost\nglad,1\nsad,4\nabstain,0.3\n")
    call(predict.main, plain, folder / "test.csv", "-o", out, "--costs", costs, "--probabilities", "all")
    for row in cells(out):
        glad, sad = (float(row[f"probability_of_{name}"]) for name in ("glad", "sad"))
        answer, expected = ("glad", 4 * sad) if glad > 4 * sad else ("sad", glad)
        assert float(row["expected_cost"]) == pytest.approx(min(expected, 0.3), abs=1e-4)
        if abs(expected - 0.3) > 1e-3:
            assert row["prediction"] == (answer if expected < 0.3 else "")
        assert float(row["probability"]) == pytest.approx(glad if answer == "glad" else sad, abs=1e-4)
    assert "(no answer)" in capsys.readouterr().out
    call(evaluate.main, plain, "--costs", costs, "--output_dir", tmp_path / "report", "--evidence", "false")
    paid = json.loads((tmp_path / "report/evaluation.json").read_text())["confidence"]["costs"]
    rows = [row for row in cells(out) if row["mood"]]
    cost = {"glad": 1, "sad": 4}
    by_hand = [
        0.3 if not row["prediction"] else cost[row["mood"]] * (row["prediction"] != row["mood"]) for row in rows
    ]
    assert paid["cost"] == pytest.approx(sum(by_hand) / len(rows), abs=1e-6)
    assert paid["answered"] == pytest.approx(sum(bool(row["prediction"]) for row in rows) / len(rows), abs=1e-6)
    assert "cost per row" in capsys.readouterr().out
    assert "lowest expected cost" in (tmp_path / "report/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--coverage", 0.9], [0.9, "--calibrate"]),
        (["--coverage", 0.2], ["coverage", 0.5, 0.999, 0.2]),
        (["--abstain_below", 70], ["abstain_below", 0, 1, "70.0"]),
        (["--costs", "costs.csv", "--abstain_below", 0.5], ["costs", "abstain_below"]),
    ],
)
def test_flags_of_predict_that_are_refused(plain, folder, tmp_path, words, said, capsys):
    told = refused(predict.main, plain, folder / "test.csv", "-o", tmp_path / "out.csv", *words)
    with pytest.raises(ValueError, match=says(*said)):
        raise ValueError(told + capsys.readouterr().err)


def test_what_cannot_be_calibrated_is_refused(plain, folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    told = refused(evaluate.main, run, "--calibrate", "--split", "validation")
    assert "validation" in told
    told = refused(evaluate.main, run, "--calibrate", "--dataset", folder / "test.csv", "--text_column", "advert")
    assert "--calibrate" in told
    assert "validation" in told
    assert "confidence" not in json.loads((run / "config.json").read_text())
    few = tmp_path / "few"
    few.mkdir()
    for part in ("train", "test"):
        shutil.copy(folder / f"{part}.csv", few)
    homes(9, 5).assign(mood="sad").to_csv(few / "validation.csv", index=False)
    told = refused(evaluate.main, run, "--calibrate", "--dataset", few)
    with pytest.raises(ValueError, match=says("mood", 10, 9)):
        raise ValueError(told)
    told = refused(train.main, *flags(few, tmp_path / "other", calibrate="true"), "--label_column", "mood")
    with pytest.raises(ValueError, match=says("calibrate", 10, "mood", 9)):
        raise ValueError(told)
    assert "calibrate" in refused(compare.main, run, run, "--calibrate")


def test_a_coverage_for_which_there_are_too_few_rows(plain, folder, tmp_path, capsys):
    """Of 40 validation rows 0.95 is possible (19), 0.99 not (99): it is said, and refused."""
    run, few = tmp_path / "run", tmp_path / "few"
    shutil.copytree(plain, run)
    few.mkdir()
    for part in ("train", "test"):
        shutil.copy(folder / f"{part}.csv", few)
    homes(40, 5).assign(mood=["sad", "glad"] * 19 + [None] * 2).to_csv(few / "validation.csv", index=False)
    words = ["--calibrate", "--dataset", few, "--coverage", 0.99, "--bootstrap_samples", 20]
    call(evaluate.main, run, *words)
    report = json.loads((run / "evaluation/evaluation.json").read_text())["confidence"]
    assert report["coverage"] is None
    assert all(text in report["too_few"] for text in ("0.99", "99", "38", "0.97"))
    assert report["too_few"] in capsys.readouterr().out
    told = refused(predict.main, run, folder / "test.csv", "-o", tmp_path / "out.csv", "--coverage", 0.99)
    with pytest.raises(ValueError, match=says(0.99, 99, 38, 0.97)):
        raise ValueError(told)


@pytest.mark.slow
def test_a_task_from_outside(tmp_path):
    """Ordered classes: answers are medians, sets and probabilities are those of any classes."""
    draw = random.Random(0)
    for part, rows in {"train": 300, "validation": 120, "test": 200}.items():
        sizes = [draw.uniform(0, 5) for _ in range(rows)]
        stars = [min(5, max(1, math.ceil(size + draw.gauss(0, 0.7)))) for size in sizes]
        (tmp_path / "data").mkdir(exist_ok=True)
        pd.DataFrame({"size": sizes, "stars": stars}).to_csv(tmp_path / f"data/{part}.csv", index=False)
    out = tmp_path / "run"
    keys = {"text_column": None, "text_encoder": None, "calibrate": "true", "problem_type": "ordered_classes"}
    words = flags(tmp_path / "data", out, **keys)
    words = [*words[: words.index("--table_columns")], "--table_columns", "size", "--label_column", "stars"]
    call(train.main, *words, "--import", REPOSITORY / "examples/custom_task.py")
    call(evaluate.main, out, "--bootstrap_samples", 20)
    report = json.loads((out / "evaluation/evaluation.json").read_text())["confidence"]
    assert report["coverage"]["covered"] == pytest.approx(0.9, abs=0.07)
    call(predict.main, out, tmp_path / "data/test.csv", "-o", tmp_path / "out.csv", "--coverage", 0.9)
    rows = cells(tmp_path / "out.csv")
    covered = [row["stars"] in json.loads(row["prediction_set"]) for row in rows]
    assert sum(covered) / len(covered) == pytest.approx(report["coverage"]["covered"])
