"""From a checkpoint and rows to records: what `mm_hf explain` and `mm_hf.evidence` give."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import mm_hf
from mm_hf.commands.arguments import MAP_METHODS
from mm_hf.commands.explain import main
from mm_hf.evidence import explain
from mm_hf.evidence.methods import METHODS
from mm_hf.evidence.rows import choose_rows, representative, rows_that_stand_in
from mm_hf.evidence.summary import summary_of


STORED = Path(__file__).parents[1] / "data/checkpoints"
ROWS = STORED / "rows/rows.csv"
PAIR = {"image_column": "photo", "text_column": "text"}


def gap(answer) -> float:
    return abs(answer["value"] - answer["base"] - sum(part["value"] for part in answer["modalities"].values()))


@pytest.fixture(scope="module")
def evidence() -> dict:
    return explain(str(STORED / "heads/question_answering"), str(ROWS), max_rows=12, background=4, **PAIR)


def test_a_file_of_rows(evidence):
    assert (evidence["version"], evidence["run"], evidence["absence"]) == (1, "question_answering", "other_rows")
    assert evidence["background"] == 4
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence
    assert any("4" in warning for warning in evidence["warnings"])  # rows of the file stand in
    assert evidence["left_out"] == 36
    with open(ROWS) as file:
        rows = list(csv.DictReader(file))
    assert [record["row"] for record in evidence["rows"]] == choose_rows(48, 12)
    for record in evidence["rows"]:
        row = rows[record["row"]]
        items = {item["modality"]: item for item in record["items"]}
        assert items["text"]["shown"] == {"text": row["text"]}
        assert ("vision" in items) == bool(row["photo"])
        (answer,) = record["answers"]
        assert set(answer["modalities"]) == set(items)
        assert gap(answer) <= 1e-5
        assert answer["explained"] == f"log odds of {answer['answer']!r}"
        assert answer["probability"] == pytest.approx(answer["modalities"]["text"]["with"])
        assert (answer["truth"], answer["right"]) == (None, None)
        assert [part["item"] for part in answer["parts"]] == list(range(len(record["items"])))
        for part, item in zip(answer["parts"], record["items"]):
            size = sum(map(len, part["values"])) if item["kind"] == "picture" else len(part["values"])
            assert size >= 4  # patches, words
            assert part["method"] in METHODS
    assert evidence["rows"][0]["items"][0]["shown"]["src"].startswith("data:image/")


def test_a_row_alone_has_the_same_values(evidence):
    """In memory, and whatever else is explained beside it; the rows that stand in are others here, so by the token."""
    with open(ROWS) as file:
        rows = list(csv.DictReader(file))
    folder = str(STORED / "heads/question_answering")
    options = {**PAIR, "absence": "token", "data_root": str(ROWS.parent)}
    given = [{**row, "photo": row["photo"] or None} for row in rows[:9]]
    together = mm_hf.evidence.explain(folder, given, max_rows=0, **options)
    assert together["background"] == 0
    assert "modality_dropout" in together["warnings"][0]
    for number in (0, 5):
        (alone,) = explain(folder, given[number : number + 1], **options)["rows"]
        expected = together["rows"][number]["answers"][0]
        for name, part in alone["answers"][0]["modalities"].items():
            assert part["value"] == pytest.approx(expected["modalities"][name]["value"], abs=1e-4)


def test_several_tasks_and_numbers():
    evidence = explain(str(STORED / "heads/multi_task"), str(ROWS), max_rows=5, **PAIR)
    for record in evidence["rows"]:
        by_task = {answer["task"]: answer for answer in record["answers"]}
        assert list(by_task) == ["colour", "price", "seen"]
        assert by_task["price"]["explained"] == "price"
        assert by_task["price"]["probability"] is None
        assert by_task["price"]["value"] == pytest.approx(float(by_task["price"]["answer"]), abs=1e-3)
        with open(ROWS) as file:
            row = list(csv.DictReader(file))[record["row"]]
        assert by_task["colour"]["truth"] == row["colour"]
        assert by_task["colour"]["right"] == (by_task["colour"]["answer"] == row["colour"])
        assert float(by_task["price"]["truth"]) == pytest.approx(float(row["price"]))
    assert set(evidence["summary"]) == {"colour", "price", "seen"}


@pytest.mark.parametrize("head", ["generation", "retrieval"])
def test_texts_and_pairs(head):
    evidence = explain(str(STORED / "heads" / head), str(ROWS), max_rows=3, background=2, **PAIR)
    for record in evidence["rows"]:
        (answer,) = record["answers"]
        assert gap(answer) <= 1e-5
        assert 0 <= answer["probability"] <= 1
        if head == "generation":
            assert answer["tokens"]
            assert all(isinstance(token["text"], str) for token in answer["tokens"])
        else:
            assert answer["answer"] in ("match", "no match")


def test_pairs_of_a_search_by_embeddings_alone(tmp_path):
    """As it is trained without a GPU: the cosine of both embeddings is explained, and maps are made before the
    encoder."""
    folder = shutil.copytree(STORED / "heads/retrieval", tmp_path / "search")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"matching_weight": 0.0}))
    evidence = explain(str(folder), str(ROWS), max_rows=4, background=3, **PAIR)
    pipe = mm_hf.pipeline("multimodal-feature-extraction", model=str(folder))
    with open(ROWS) as file:
        rows = list(csv.DictReader(file))
    for record in evidence["rows"]:
        (answer,) = record["answers"]
        assert gap(answer) <= 1e-5
        assert answer["probability"] is None
        assert answer["unit"] == "cosine"
        row = rows[record["row"]]
        if not row["photo"]:
            assert answer["value"] == 0  # nothing is like what is not there
            continue
        similarity = pipe({"image": str(ROWS.parent / row["photo"]), "text": row["text"]})["similarity"]
        assert answer["value"] == pytest.approx(similarity, abs=1e-5)
        assert answer["answer"] == f"similarity {similarity:.2f}"
        assert {part["method"] for part in answer["parts"]} == {"input_occlusion"}
        assert {part["item"] for part in answer["parts"]} == {0, 1}
    token = explain(str(folder), str(ROWS), max_rows=2, absence="token", method="none", **PAIR)
    for record in token["rows"]:  # nothing is like what is absent
        assert record["answers"][0]["base"] == 0
        assert all(about["alone"] == 0 for about in record["answers"][0]["modalities"].values())
    refused = explain(str(folder), str(ROWS), max_rows=2, method="occlusion", check=True, **PAIR)
    assert not refused["rows"][0]["answers"][0]["parts"]
    assert any("input_occlusion" in warning for warning in refused["warnings"])
    row = next(row for row in rows if row["photo"])
    asked = {"image": str(ROWS.parent / row["photo"]), "text": row["text"]}
    assert pipe(asked, evidence=True)["evidence"]


def test_a_table_and_a_series():
    rows = [
        {"beds": 3, "kind": "old", "noise": [[1.0, 2.0], [2.0, 1.0]]},
        {"beds": None, "kind": None, "noise": [[3.0, 1.0]]},
    ]
    folder = str(STORED / "heads/regression")
    evidence = explain(folder, rows, table_columns=["beds", "kind"], series_column="noise")
    first, second = evidence["rows"]
    items = {item["modality"]: item for item in first["items"]}
    assert items["tabular"]["shown"] == {"columns": ["beds", "kind"], "values": ["3", "old"]}
    assert items["series"]["shown"]["values"] == [[1.0, 2.0], [2.0, 1.0]]
    assert set(second["answers"][0]["modalities"]) == {"series"}
    assert first["answers"][0]["explained"] == "the number"


def test_the_command(tmp_path, monkeypatch, capsys):
    words = [
        str(STORED / "heads/question_answering"),
        str(ROWS),
        "-o",
        str(tmp_path),
        "--rows",
        "3",
        "--check",
        "--png",
    ]
    monkeypatch.setattr(sys, "argv", ["mm_hf explain", *words, "--image_column", "photo", "--text_column", "text"])
    main()
    written = json.loads((tmp_path / "evidence.json").read_text())
    assert len(written["rows"]) == 3
    assert written["checks"]["modalities: completeness"]["passed"]
    assert {name.split(":")[0] for name in written["checks"]} == {"modalities", "vision", "text"}
    assert (tmp_path / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert len(list(tmp_path.glob("row-*.png"))) == 3
    assert "index.html" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main()
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "value"),
    [({"absence": "nothing"}, "nothing"), ({"background": 0}, "background"), ({"text_column": "words"}, "words")],
)
def test_refusals(options, value):
    with pytest.raises(ValueError, match=value):
        explain(str(STORED / "heads/question_answering"), str(ROWS), **{**PAIR, **options})


def test_the_methods_that_flags_name():
    assert set(MAP_METHODS) == set(METHODS)


def test_without_maps():
    (record,) = explain(str(STORED / "heads/question_answering"), str(ROWS), max_rows=1, method="none", **PAIR)["rows"]
    assert record["answers"][0]["parts"] == []


def test_a_run_without_data_needs_rows():
    with pytest.raises(ValueError, match="ROWS"):
        explain(str(STORED / "heads/question_answering"), **PAIR)


def test_how_many_rows_stand_in():
    assert [rows_that_stand_in(count) for count in (1, 2, 3, 4)] == [15, 15, 5, 5]


def test_means_over_rows():
    def answer(value, shares=(1.0, 0.0, 0.0)):
        kinds = dict(zip(("unique", "redundant", "synergistic"), shares))
        return {
            "task": None,
            "unit": "log odds",
            "modalities": {"a": {"value": value}},
            "shares": kinds,
            "amount": abs(value),
        }

    records = [{"answers": [answer(1.0)]}, {"answers": [answer(-3.0, (0.0, 0.0, 1.0))]}]
    summary = summary_of(records)[""]
    assert summary["modalities"]["a"]["mean"] == pytest.approx(2)
    assert summary["modalities"]["a"]["signed"]["mean"] == pytest.approx(-1)
    assert summary["modalities"]["a"]["low"] == pytest.approx(1)
    assert summary["shares"] == {"unique": 0.25, "redundant": 0.0, "synergistic": 0.75}
    assert summary_of([]) is None


def test_rows_that_stand_in_represent_all():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(96, 5, generator=generator).sign()
    chosen = representative(features, 24)
    assert len(set(chosen)) == 24
    off = (features[chosen].mean(0) - features.mean(0)).norm()
    drawn = [
        (features[torch.randperm(96, generator=generator)[:24]].mean(0) - features.mean(0)).norm() for _ in range(20)
    ]
    assert off < 0.3 * sum(drawn) / 20
    assert representative(features, 200) == list(range(96))
