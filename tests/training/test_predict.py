"""`mm_hf predict`: the same answers as the model itself gives, kept rows, bad rows, and a file that no kill harms."""

import csv
import errno
import importlib.util
import io
import json
import math
import os
import random
import re
import subprocess
import sys
import time
import wave
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from messages import says
from PIL import Image

from mm_hf import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionProcessor,
)
from mm_hf.commands import evaluate, predict
from mm_hf.commands.prediction import output, sources
from mm_hf.commands.prediction.arguments import columns_of
from mm_hf.commands.prediction.batches import RowBatches
from mm_hf.commands.prediction.sources import cell_of_table, open_rows
from mm_hf.data import Columns, MultimodalCollator, Rows, load_splits
from mm_hf.models.tabular import TableSchema, TabularConfig
from mm_hf.training import exits


REPOSITORY = Path(__file__).parents[2]
STORED = REPOSITORY / "tests/data/checkpoints"
TABLE = STORED / "rows/rows.csv"
HEADS = STORED / "heads"
PAIR = ("--image_column", "photo", "--text_column", "text")


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that comes after it is written."""


def run(model, rows, out, *flags):
    """The command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf predict", *map(str, (model, rows, "-o", out, *flags))])
        exits.run_script(predict.main)


def refused(model, rows, out, *flags) -> str:
    """What the command says where it ends in a fault."""
    with pytest.raises(SystemExit) as stopped:
        run(model, rows, out, *flags)
    assert "\n" not in str(stopped.value.code)
    return str(stopped.value.code)


def cells(path, separator=",") -> list[dict[str, str]]:
    """A CSV as texts."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=separator))


def answers(model, **items) -> torch.Tensor:
    """The logits of the stored checkpoint, through its processor."""
    processor = MMFusionProcessor.from_pretrained(HEADS / model)
    head = (MMFusionForMultiTask if model == "multi_task" else MMFusionForClassification).from_pretrained(
        HEADS / model
    )
    with torch.no_grad():
        return head.eval()(**processor(**items)).logits


@pytest.fixture(scope="module")
def pairs() -> dict[str, list]:
    """Pictures and texts of the stored rows."""
    rows = cells(TABLE)
    photos = [Image.open(TABLE.parent / row["photo"]) if row["photo"] else None for row in rows]
    return {"images": photos, "text": [row["text"] for row in rows]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The predictions of the stored rows, in batches of 8, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out.csv"
    run(HEADS / "classification", TABLE, out, *PAIR, "--per_device_eval_batch_size", 8)
    return out.read_bytes()


def test_answers_are_those_of_the_model(pairs, tmp_path, capsys):
    out = tmp_path / "out.csv"
    run(HEADS / "classification", TABLE, out, *PAIR, "--top_k", 3, "--probabilities", "all")
    shares = answers("classification", **pairs).softmax(-1)
    found, before = cells(out), cells(TABLE)
    names = ["red", "green", "blue"]
    assert len(found) == len(before) == 48
    for row, kept, share in zip(found, before, shares):
        assert {name: row[name] for name in kept} == kept
        order = share.argsort(descending=True).tolist()
        ranks = ["", "_2", "_3"]
        assert [row[f"prediction{rank}"] for rank in ranks] == [names[place] for place in order]
        said = [float(row[f"probability{rank}"]) for rank in ranks]
        assert said == pytest.approx(share[order].tolist(), abs=1e-5)
        every = [float(row[f"probability_of_{name}"]) for name in names]
        assert every == pytest.approx(share.tolist(), abs=1e-5)
    told = capsys.readouterr().out
    assert "48 rows, 0 of them bad" in told
    assert str(out) in told
    assert not out.with_name("out.csv.partial").exists()


def test_answers_are_those_of_evaluate(tmp_path):
    """The same batches, so the same digits."""
    flags = ["--model", HEADS / "classification", "--dataset", TABLE, "--label_column", "colour", "--split", "train"]
    words = ["evaluate", *map(str, [*flags, *PAIR, "--output_dir", tmp_path / "evaluation"])]
    real, found = evaluate.predict_rows, []

    def keep(*args, **kwargs):
        found.append(real(*args, **kwargs).logits)
        raise Killed

    with (
        mock.patch.multiple(evaluate, predict_rows=keep),
        mock.patch.object(sys, "argv", words),
        pytest.raises(Killed),
    ):
        evaluate.main()
    run(HEADS / "classification", TABLE, tmp_path / "out.csv", *PAIR, "--probabilities", "all")
    shares = pd.read_csv(tmp_path / "out.csv")[[f"probability_of_{name}" for name in ("red", "green", "blue")]]
    assert np.array_equal(np.float32(shares), found[0].double().softmax(-1).float().numpy())


def test_neither_batches_nor_workers_change_an_answer(whole, tmp_path):
    for size, workers in ((48, 0), (8, 1)):
        out = tmp_path / f"{size}.csv"
        flags = ("--per_device_eval_batch_size", size, "--dataloader_num_workers", workers)
        run(HEADS / "classification", TABLE, out, *PAIR, *flags)
        assert workers == 0 or out.read_bytes() == whole
        one, other = (pd.read_csv(file) for file in (out, io.BytesIO(whole)))
        assert one["prediction"].equals(other["prediction"])
        assert np.abs(one["probability"] - other["probability"]).max() < 1e-5


def test_batches_are_the_same_on_any_number_of_processes():
    columns = Columns(text="text")

    def batches(world_size: int, first: int = 0, digest: str = ""):
        found, waiting = {}, None
        for rank in range(world_size):
            reader = RowBatches(open_rows(str(TABLE), None, columns, None), 5, rank, world_size, first, digest)
            found |= {batch[0]["row_id"]: [row["text"] for row in batch] for batch in reader}
            waiting = [mark for _, mark in reader.waiting] if rank == 0 else waiting
        return found, waiting

    one, marks = batches(1)
    assert len(one) == 10
    assert batches(2) == batches(3) == (one, marks)
    later, rest = batches(2, 15, marks[2])
    assert later == {row: texts for row, texts in one.items() if row >= 15}
    assert rest == marks[3:]
    with pytest.raises(ValueError, match=r"\b15 rows"):
        batches(1, 15, marks[3])


# What comes in


@pytest.fixture(scope="module")
def houses(tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint that reads a table and a text, and a file as a German spreadsheet writes it."""
    folder = tmp_path_factory.mktemp("houses")
    schema = TableSchema.fit(
        {
            "Zimmer": [2, 3, 4, 5, 3, 3],
            "PLZ": ["01067", "10115", "01067", "10115", "80331", "80331"],
            "Stufe": [1, 1, 2, 2, 3, 3],
            "Keller": [True, False, True, False, True, True],
        }
    )
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = MMFusionForClassification.from_encoders_pretrained(
        text=STORED / "encoders/text",
        tabular_config=TabularConfig.from_schema(schema, hidden_size=16),
        num_labels=1,
        problem_type="regression",
        label_mean=[250_000.0],
        label_scale=[80_000.0],
        fusion_module_config=small,
    )
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():  # heads of numbers start from zero
            torch.nn.init.normal_(parameter, std=0.3)
    processor = MMFusionProcessor.from_encoders_pretrained(text=STORED / "encoders/text")
    processor.table_schema = schema
    model.save_pretrained(folder / "run")
    processor.save_pretrained(folder / "run")
    recipe = {"text_column": "Straße", "table_columns": list(schema.columns), "label_column": "Preis", "seed": 0}
    (folder / "run/recipe.json").write_text(json.dumps(recipe))
    lines = [
        "Nr;Straße;Zimmer;PLZ;Stufe;Keller;Fläche",
        "007;red house;3;01067;1.0;true;81,5",
        '008;"blue; ""big"" house\r\nsmall";5.0;10115;2;FALSE;1.234,0',
        "009;green;;00000;7;;",
        "010;;4;NaN;3;true;  x ",
        "011;NA;1e1;80331;;false;NaN",
    ]
    (folder / "neu.csv").write_bytes("\r\n".join([*lines, "", ""]).encode("utf-8-sig"))
    return folder / "run", folder / "neu.csv"


def test_a_german_file_means_what_it_means_in_training(houses, tmp_path):
    model, table = houses
    out = tmp_path / "preise.csv"
    run(model, table, out)
    assert out.read_bytes().startswith("\ufeffNr;Straße;Zimmer".encode())
    found = cells(out, ";")
    names = ["Nr", "Straße", "Zimmer", "PLZ", "Stufe", "Keller", "Fläche"]
    assert [{name: row[name] for name in names} for row in found] == cells(table, ";")
    columns = Columns(text="Straße", table=["Zimmer", "PLZ", "Stufe", "Keller"])
    rows = Rows(load_splits(table, columns, validation_fraction=0, test_fraction=0)["train"], "train")
    batch = MultimodalCollator(MMFusionProcessor.from_pretrained(model), columns)(rows.__getitems__(range(5)))
    batch.pop("row_ids")
    with torch.no_grad():
        prices = MMFusionForClassification.from_pretrained(model).eval()(**batch).logits[:, 0]
    assert prices.std() > 1000
    assert [float(row["prediction"]) for row in found] == pytest.approx(prices.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("cell", "known", "value"),
    [
        ("007", {"7"}, "007"),
        ("7.0", {"7"}, 7.0),
        ("7.0", {"7", "7.0"}, "7.0"),
        (" 7", {"7"}, 7),
        ("TRUE", {"True"}, True),
        ("true", {"true"}, "true"),
        ("rot", {"red"}, "rot"),
        ("1,5", None, "1,5"),
        ("12345678901234567890123", {"x"}, 12345678901234567890123),
    ],
)
def test_a_cell_is_what_the_model_learned(cell, known, value):
    found = cell_of_table(cell, known)
    assert found == value
    assert type(found) is type(value)


def test_numbers_that_are_formatted_for_people_are_bad_rows(houses, tmp_path):
    model, table = houses
    said = refused(model, table, tmp_path / "a.csv", "--table_columns", "Zimmer", "Nr")
    assert "Nr" in said
    assert "Zimmer" in said
    comma = tmp_path / "comma.csv"
    comma.write_text("Straße;Zimmer\nred;3\nblue;1,5\n")
    said = refused(model, comma, tmp_path / "a.csv", "--table_columns", "Zimmer")
    assert "row 1" in said
    assert "1,5" in said


def as_jsonl(folder: Path) -> Path:
    lines = [json.dumps({**row, "beds": int(row["beds"]), "photo": row["photo"] or None}) for row in cells(TABLE)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def embedded(row):
    """A row with the bytes of its picture in it."""
    file = TABLE.parent / row["photo"]
    return {**row, "photo": {"bytes": file.read_bytes(), "path": None} if row["photo"] else None}


@pytest.mark.parametrize("kind", ["jsonl", "stdin", "parquet", "saved"])
def test_other_sources_and_files_say_the_same(kind, whole, tmp_path, monkeypatch):
    out = tmp_path / {"jsonl": "out.jsonl", "stdin": "out.csv", "parquet": "out.parquet", "saved": "out.jsonl"}[kind]
    flags = [*PAIR, "--per_device_eval_batch_size", 8, "--data_root", TABLE.parent]
    rows = as_jsonl(tmp_path)
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", mock.Mock(buffer=io.BytesIO(rows.read_bytes())))
        rows = "-"
    elif kind in ("parquet", "saved"):
        data = Dataset.from_list([embedded(row) for row in cells(TABLE)])
        rows = tmp_path / "rows.parquet"
        data.to_parquet(rows) if kind == "parquet" else data.save_to_disk(rows)
    run(HEADS / "classification", rows, out, *flags)
    expected = pd.read_csv(io.BytesIO(whole))
    if kind == "parquet":
        found = pd.read_parquet(out)
        assert found["photo"][0]["bytes"] == (TABLE.parent / "photos/0.png").read_bytes()
    else:
        found = pd.read_csv(out) if kind == "stdin" else pd.read_json(out, lines=True)
    assert list(found.columns) == list(expected.columns)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    assert np.abs(found["probability"] - expected["probability"]).max() < 1e-6
    assert found["beds"].astype(int).tolist() == expected["beds"].tolist()


def test_rows_that_lack_a_column_are_refused(tmp_path):
    model, out = HEADS / "classification", tmp_path / "out.csv"
    said = refused(model, TABLE, out, "--image_column", "foto", "--text_column", "text")
    assert "'foto'" in said
    assert "'photo'" in said
    assert '--image_column ""' in said
    said = refused(model, as_jsonl(tmp_path), out, "--image_column", "photo", "--text_column", "txet")
    assert "'txet'" in said
    assert "--image_column" in refused(model, TABLE, out, "--text_column", "text")
    assert "series_column" in refused(model, TABLE, out, *PAIR, "--series_column", "beds")
    assert "image_column names 2" in refused(model, TABLE, out, "--image_column", "photo", "kind", *PAIR[2:])
    assert "photo" in refused(model, TABLE, out, *PAIR, "--data_root", STORED / "encoders")
    (tmp_path / "empty.csv").write_text("photo,text\n")
    assert "no rows" in refused(model, tmp_path / "empty.csv", out, *PAIR)
    assert list(tmp_path.glob("out*")) == []


def test_a_modality_is_left_out_where_that_is_asked(pairs, tmp_path):
    run(HEADS / "classification", TABLE, tmp_path / "out.csv", "--image_column", "", "--text_column", "text")
    shares = answers("classification", text=pairs["text"]).softmax(-1).max(-1).values
    found = [float(row["probability"]) for row in cells(tmp_path / "out.csv")]
    assert found == pytest.approx(shares.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("run_name", "words"),
    [
        ("nowhere/at/all", ["nowhere/at/all"]),
        (STORED / "states/train/run/checkpoint-6", ["config.json"]),
        (STORED / "encoders/text", ["BertModel"]),
        (HEADS / "retrieval", ["mm_hf search"]),
    ],
)
def test_what_predicts_nothing_is_refused(run_name, words, tmp_path):
    said = refused(run_name, TABLE, tmp_path / "out.csv", *PAIR)
    assert all(word in said for word in words)


# What goes out


def test_several_tasks_have_a_set_of_columns_each(pairs, tmp_path, capsys):
    run(HEADS / "multi_task", TABLE, tmp_path / "out.jsonl", *PAIR, "--prefix", "my_")
    logits = answers("multi_task", **pairs)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for place, row in enumerate(found):
        colours, seen = logits["colour"][place].softmax(-1), logits["seen"][place].sigmoid()
        assert row["my_colour_prediction"] == ["red", "green", "blue"][colours.argmax()]
        assert row["my_colour_probability"] == pytest.approx(colours.max().item(), abs=1e-5)
        assert row["my_price_prediction"] == pytest.approx(logits["price"][place].item(), abs=1e-5)
        shares = [row[f"my_seen_probability_of_{name}"] for name in ("door", "tree")]
        assert shares == pytest.approx(seen.tolist(), abs=1e-5)
        assert row["my_seen_prediction"] == [name for name, share in zip(("door", "tree"), shares) if share > 0.5]
    assert {"[]", '["door"]'} <= {json.dumps(row["my_seen_prediction"]) for row in found}
    told = capsys.readouterr().out
    assert "price: mean" in told
    assert "seen: door" in told


def test_texts_are_written(pairs, tmp_path):
    run(HEADS / "generation", TABLE, tmp_path / "out.csv", *PAIR)
    found = [row["prediction"] for row in cells(tmp_path / "out.csv")]
    processor = MMFusionProcessor.from_pretrained(HEADS / "generation")
    model = MMFusionForConditionalGeneration.from_pretrained(HEADS / "generation").eval()
    tokens = model.generate(**processor(**pairs))
    assert found == MultimodalCollator(processor, Columns(text="text")).texts_of(tokens[:, 1:])
    assert len(set(found)) > 1
    assert "top_k" in refused(HEADS / "generation", TABLE, tmp_path / "b.csv", *PAIR, "--top_k", 3)


def test_sounds_are_written_down(tmp_path):
    sounds = [np.sin(np.arange(n) * 0.03) for n in (16000, 9000)]
    for number, sound in enumerate(sounds):
        with wave.open(str(tmp_path / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, len(sound), "NONE", ""))
            file.writeframes((sound * 32767).astype("<i2").tobytes())
    (tmp_path / "rows.jsonl").write_text('{"sound": "0.wav"}\n{"sound": "1.wav"}\n')
    run(HEADS / "ctc", tmp_path / "rows.jsonl", tmp_path / "out.csv", "--audio_column", "sound")
    processor = MMFusionProcessor.from_pretrained(HEADS / "ctc")
    model = MMFusionForCTC.from_pretrained(HEADS / "ctc").eval()
    tokens = model.generate(**processor(audio=sounds, sampling_rate=16000))
    assert [row["prediction"] for row in cells(tmp_path / "out.csv")] == [
        processor.tokenizer.decode([token for token in row if token != processor.tokenizer.pad_token_id]).strip()
        for row in tokens.tolist()
    ]


def test_places_of_pictures_keep_their_order():
    config = mock.Mock(modalities=["vision", "text"], num_images=2, places_of={"vision": 2, "text": 1}.get)
    given = dict.fromkeys(("columns", "video_column", "audio_column", "series_column", "table_columns"))
    asked = mock.Mock(**given, image_column=["", "photo"], text_column="text")
    columns = columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None))
    source = open_rows(str(TABLE), None, columns, None)
    row = source.inputs(next(iter(source)))
    assert [row[name] for name in columns.images] == [None, {"bytes": None, "path": "photos/0.png"}]
    asked.image_column = ["photo"]
    with pytest.raises(ValueError, match=r"\b2 images"):
        columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None))
    asked.image_column, asked.text_column = ["", "photo"], ["text", "kind"]
    with pytest.raises(ValueError, match=r"text_column.*\b2 .*\b1 text"):
        columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None))
    config.num_images, config.num_frames, config.places_of = 5, 3, {"vision": 5, "text": 1}.get
    asked.video_column, asked.text_column = "clip", "text"
    for given in ([], [""], ["", ""]):  # frames stand behind the places of pictures, be these there or not
        asked.image_column = given
        assert len(columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None)).images) == 2
    asked.image_column = ["photo"]
    with pytest.raises(ValueError, match="2 images"):
        columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None))
    asked.image_column, asked.video_column = ["", "photo"], None
    config.num_images, config.num_frames, config.places_of = 2, None, {"vision": 2, "text": 2}.get
    asked.text_column = ["text", "text"]
    with pytest.raises(ValueError, match=r"text_column.*\['text', 'text'\]"):
        columns_of("run", asked, config, mock.Mock(table_schema=None, text_windows=None))


def test_cells_come_back_as_they_were(tmp_path):
    odd = [
        "007",
        'a "b"',
        "x,y",
        "line\nbreak",
        "cr\ronly",
        "crlf\r\n",
        " spaced ",
        "=1+1",
        "ü",
        "",
        "NA",
        "1.10",
        ";",
    ]
    table = tmp_path / "odd.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text", "note"], *(["red house", cell] for cell in odd)])
    flags = ("--image_column", "", "--text_column", "text")
    for name in ("out.csv", "out.jsonl", "out.parquet", "out.tsv"):
        run(HEADS / "classification", table, tmp_path / name, *flags)
    assert [row["note"] for row in cells(tmp_path / "out.csv")] == odd
    assert [row["note"] for row in cells(tmp_path / "out.tsv", "\t")] == odd
    assert pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)["note"].tolist() == odd
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["note"] for line in lines] == odd
    assert pd.read_parquet(tmp_path / "out.parquet")["note"].tolist() == odd
    said = refused(HEADS / "classification", tmp_path / "out.csv", tmp_path / "again.csv", *flags)
    assert "'prediction'" in said
    assert "--prefix" in said
    run(HEADS / "classification", tmp_path / "out.csv", tmp_path / "again.csv", *flags, "--prefix", "new_")
    found = cells(tmp_path / "again.csv")
    assert [row["prediction"] for row in found] == [row["new_prediction"] for row in found]


def test_rows_of_json_may_differ_where_the_file_can_hold_that(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SEEN_FIRST", 2)
    lines = [{"text": "red", "note": [1, {"a": None}]}, {"text": "blue", "note": "\ud800"}, {"text": 7, "later": 1.5}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n\n".join(map(json.dumps, lines)))
    flags = ("--image_column", "", "--text_column", "text", "--per_device_eval_batch_size", 1)
    run(HEADS / "classification", rows, tmp_path / "out.jsonl", *flags)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{**line, **row} for line, row in zip(lines, found)] == found
    assert [list(row)[-2:] for row in found] == [["prediction", "probability"]] * 3
    assert "'later'" in refused(HEADS / "classification", rows, tmp_path / "out.csv", *flags)
    rows.write_text(rows.read_text().replace("later", "prediction"))
    assert "--prefix" in refused(HEADS / "classification", rows, tmp_path / "out2.jsonl", *flags)
    rows.write_text(rows.read_text() + "\n[1]")
    said = refused(HEADS / "classification", rows, tmp_path / "out3.jsonl", *flags, "--prefix", "my_")
    assert "line 6" in said


@pytest.mark.parametrize(
    ("first", "later", "words"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "'n.b'"),
        ([{"a": {"c": 1}}], [{"a": None}, {"a": {"b": 2}}], "'n.a.b'"),
        (1, 2**64, "too large"),
        (2**64, 1, "'n'"),
        ({}, {}, ".parquet"),
    ],
)
def test_what_parquet_cannot_hold_is_refused(first, later, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SEEN_FIRST", 2)
    lines = [{"text": "red", "n": value} for value in (first, first, later)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ("--image_column", "", "--text_column", "text")
    said = refused(HEADS / "classification", tmp_path / "rows.jsonl", tmp_path / "out.parquet", *flags)
    assert words in said
    assert "write a .jsonl" in said
    assert list(tmp_path.glob("out*")) == []


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> Path:
    """Values of Parquet that neither a CSV nor JSON has a type for."""
    kind = datasets.ClassLabel(names=["cat", "dog"])
    values = {
        "text": ["red", "blue"],
        "price": [Decimal("1.10"), None],
        "time": [timedelta(days=1, seconds=2), None],
        "number": [math.inf, math.nan],
        "numbers": [[-math.inf, 1.5], []],
        "kind": [1, None],
        "kinds": [[1, 0], None],
        "nested": [{"kind": 0}, None],
    }
    features = {
        "text": datasets.Value("string"),
        "price": datasets.Value("decimal128(5, 2)"),
        "time": datasets.Value("duration[s]"),
        "number": datasets.Value("float64"),
        "numbers": datasets.List(datasets.Value("float64")),
        "kind": kind,
        "kinds": datasets.List(kind),
        "nested": {"kind": kind},
    }
    file = tmp_path_factory.mktemp("typed") / "rows.parquet"
    Dataset.from_dict(values, features=datasets.Features(features)).to_parquet(file)
    return file


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("csv", ["1.10", "1 day, 0:00:02", "inf", "[null, 1.5]", "dog", '["dog", "cat"]', '{"kind": "cat"}']),
        ("jsonl", ["1.10", "1 day, 0:00:02", None, [None, 1.5], "dog", ["dog", "cat"], {"kind": "cat"}]),
        (
            "parquet",
            [Decimal("1.10"), timedelta(days=1, seconds=2), math.inf, [-math.inf, 1.5], 1, [1, 0], {"kind": 0}],
        ),
    ],
)
def test_types_become_what_the_file_can_hold(kind, expected, typed, tmp_path):
    out = tmp_path / f"out.{kind}"
    run(HEADS / "classification", typed, out, "--image_column", "", "--text_column", "text")

    def no_json(word):
        raise AssertionError(word)

    if kind == "csv":
        found = cells(out)
        assert list(found[1].values())[1:8] == ["", "", "", "[]", "", "", ""]
    elif kind == "jsonl":
        found = [json.loads(line, parse_constant=no_json) for line in out.read_text().splitlines()]
        assert found[1]["kind"] is None
    else:
        data = Dataset.from_parquet(str(out))
        assert data.features["kind"].names == data.features["kinds"].feature.names == ["cat", "dog"]
        found = data.to_list()
    assert list(found[0].values())[1:8] == expected
    assert found[0]["prediction"]


def test_several_files_are_read_one_after_the_other(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, texts in (("a", ["red", "blue"]), ("b", ["small"])):
        lines = [f"{place},{text}," for place, text in enumerate(texts)]
        (folder / f"{name}.csv").write_text("\n".join([",text,", *lines]) + "\n")
    flags = ("--image_column", "", "--text_column", "text")
    run(HEADS / "classification", folder, tmp_path / "out.csv", *flags)
    assert [row["text"] for row in cells(tmp_path / "out.csv")] == ["red", "blue", "small"]
    assert (tmp_path / "out.csv").read_text().startswith("Unnamed: 0,text,Unnamed: 2,prediction,")
    (folder / "b.csv").write_text("text\nred\n")
    assert "b.csv" in refused(HEADS / "classification", folder, tmp_path / "out2.csv", *flags)


# Bad rows


@pytest.fixture
def spoiled(tmp_path) -> Path:
    """Rows of which three cannot be answered: a broken picture, one that leads out of the folder, and nothing."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "good.png")
    photos = ["good.png", "", "broken.png", "good.png", "../../secret.png", ""]
    lines = [f"{photo},{'' if place == 5 else 'red'}" for place, photo in enumerate(photos)]
    (tmp_path / "rows.csv").write_text("\n".join(["photo,text", *lines]) + "\n")
    return tmp_path / "rows.csv"


def test_a_bad_row_stops_it_and_is_named(spoiled, tmp_path):
    said = refused(HEADS / "classification", spoiled, tmp_path / "out.csv", *PAIR)
    assert "row 2" in said
    assert "broken.png" in said
    assert "--on_error skip" in said
    assert list(tmp_path.glob("out*")) == []


def test_a_bad_row_is_kept_with_the_reason(spoiled, tmp_path, capsys):
    flags = (*PAIR, "--on_error", "skip", "--max_bad_fraction", 0.5)
    run(HEADS / "classification", spoiled, tmp_path / "out.csv", *flags)
    found = cells(tmp_path / "out.csv")
    assert [bool(row["prediction"]) for row in found] == [True, True, False, True, False, False]
    assert [bool(row["probability"]) for row in found] == [bool(row["prediction"]) for row in found]
    reasons = [row["error"] for row in found]
    assert [bool(reason) for reason in reasons] == [False, False, True, False, True, True]
    assert "broken.png" in reasons[2]
    assert "leads out" in reasons[4]
    assert "6 rows, 3 of them bad" in capsys.readouterr().out


def test_too_many_bad_rows_stop_it(spoiled, tmp_path, capsys):
    said = refused(HEADS / "classification", spoiled, tmp_path / "out.csv", *PAIR, "--on_error", "skip")
    assert re.search(says(3, 6), said)
    assert "0.05" in said
    run(HEADS / "classification", spoiled, tmp_path / "out.csv", *PAIR, "--on_error", "skip", "--max_bad_fraction", 1)
    assert len(cells(tmp_path / "out.csv")) == 6


BAD_FILES = [5, True, [], {}, [5], {"a": 1}, {"bytes": 5}, {"bytes": [1], "path": "good.png"}, "\ud800.png"]


def test_what_is_no_file_is_a_bad_row(spoiled, tmp_path):
    lines = [{"photo": value, "text": "red"} for value in ("good.png", *BAD_FILES)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    run(HEADS / "classification", rows, out, *PAIR, "--on_error", "skip", "--max_bad_fraction", 1)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["error"] is None for row in found] == [row["prediction"] is not None for row in found]
    assert [row["error"] is None for row in found] == [True] + [False] * len(BAD_FILES)
    assert "5" in found[1]["error"]
    said = refused(HEADS / "classification", rows, tmp_path / "out.csv", *PAIR)
    assert "row 1" in said
    assert "picture" in said


def test_the_reason_has_the_prefix_too(spoiled, tmp_path, monkeypatch):
    flags = (*PAIR, "--on_error", "skip", "--max_bad_fraction", 1)
    run(HEADS / "classification", spoiled, tmp_path / "one.csv", *flags)
    assert "'prediction'" in refused(HEADS / "classification", tmp_path / "one.csv", tmp_path / "two.csv", *flags)
    run(HEADS / "classification", tmp_path / "one.csv", tmp_path / "two.csv", *flags, "--prefix", "new_")
    found = cells(tmp_path / "two.csv")
    assert list(found[0])[2:] == [
        *("prediction", "probability", "error"),
        *("new_prediction", "new_probability", "new_error"),
    ]
    assert [row["error"] for row in found] == [row["new_error"] for row in found]
    monkeypatch.setattr(sources, "SEEN_FIRST", 1)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"photo": null, "text": "a"}\n{"photo": null, "text": "a", "error": "mine"}\n')
    assert "'error'" in refused(HEADS / "classification", rows, tmp_path / "out.jsonl", *flags)


@pytest.mark.parametrize(
    ("photos", "flags", "words"),
    [
        (["no.png"] * 2 + ["good.png"], ("--on_error", "skip", "--max_bad_fraction", 0.7), None),
        (["no.png"] * 2 + ["good.png"], (), "row 0"),
        (["no.png"] * 2, ("--on_error", "skip", "--max_bad_fraction", 1), None),
        (["no.png"] * 2, ("--on_error", "skip", "--max_bad_fraction", 0.5), "--data_root"),
    ],
)
def test_paths_are_looked_for_among_the_first_rows(photos, flags, words, spoiled, tmp_path):
    rows, out = tmp_path / "some.csv", tmp_path / "out.csv"
    rows.write_text("photo,text\n" + "".join(f"{photo},red\n" for photo in photos))
    flags = (*PAIR, "--per_device_eval_batch_size", 2, *flags)
    if words is not None:
        assert words in refused(HEADS / "classification", rows, out, *flags)
    else:
        run(HEADS / "classification", rows, out, *flags)
        assert [row["error"] == "" for row in cells(out)] == [photo == "good.png" for photo in photos]


def test_standard_input_has_no_folder(tmp_path, monkeypatch):
    lines = b'{"photo": "no.png", "text": "a"}\n' * 2
    monkeypatch.setattr(sys, "stdin", mock.Mock(buffer=io.BytesIO(lines)))
    said = refused(HEADS / "classification", "-", tmp_path / "out.csv", *PAIR)
    assert re.search(says("'no.png'", "--data_root"), said)


# A file that grows


def killed_after(batches: int):
    """Dies while it writes a batch, half of it written."""
    real, left = output.PredictionFile.add, [batches]

    def add(self, rows, digest):
        if not left[0]:
            self.log.write(b"half a li")
            self.log.flush()
            raise Killed
        left[0] -= 1
        real(self, rows, digest)

    return mock.patch.object(output.PredictionFile, "add", add)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_killed_one_goes_on_where_it_was(kind, tmp_path, capsys):
    flags = (*PAIR, "--per_device_eval_batch_size", 8)
    run(HEADS / "classification", TABLE, tmp_path / f"whole.{kind}", *flags)
    out = tmp_path / f"out.{kind}"
    with mock.patch.object(predict, "NOTED", 0):
        for batches in (2, 1):
            with killed_after(batches), pytest.raises(Killed):
                run(HEADS / "classification", TABLE, out, *flags)
            assert not out.exists()
        run(HEADS / "classification", TABLE, out, *flags)
    assert re.search(says("24 rows"), capsys.readouterr().out)
    assert out.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == [out.name]


@pytest.mark.parametrize(("moment", "kind"), [("finish", "parquet"), ("give_name", "csv"), ("clean_up", "csv")])
def test_one_that_is_killed_at_its_end_is_complete(moment, kind, tmp_path, capsys):
    flags = (*PAIR, "--per_device_eval_batch_size", 8)
    out = tmp_path / f"out.{kind}"
    with mock.patch.object(predict, "NOTED", 0):
        with mock.patch.object(output.PredictionFile, moment, side_effect=Killed), pytest.raises(Killed):
            run(HEADS / "classification", TABLE, out, *flags)
        assert out.exists() == (moment == "clean_up")
        run(HEADS / "classification", TABLE, out, *flags)
    frame = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    assert len(frame) == 48
    assert list(tmp_path.iterdir()) == [out]
    assert "--overwrite" in refused(HEADS / "classification", TABLE, out, *flags)


def test_an_unfinished_one_is_not_mixed_with_another(tmp_path):
    out, flags = tmp_path / "out.csv", (*PAIR, "--per_device_eval_batch_size", 8)
    rows = tmp_path / "rows.csv"
    rows.write_bytes(TABLE.read_bytes())
    flags = (*flags, "--data_root", TABLE.parent)
    with mock.patch.object(predict, "NOTED", 0), killed_after(2), pytest.raises(Killed):
        run(HEADS / "classification", rows, out, *flags)
    said = refused(HEADS / "question_answering", rows, out, *flags)
    assert "checkpoint" in said
    assert "--overwrite" in said
    assert "columns" in refused(HEADS / "classification", rows, out, *flags, "--image_column", "")
    assert "per_device_eval_batch_size 8" in refused(HEADS / "classification", rows, out, *flags[:4], *flags[6:])
    text = rows.read_text()
    rows.write_text(text.replace("small", "big", 1))
    said = refused(HEADS / "classification", rows, out, *flags)
    assert "other rows" in said
    assert "16 rows" in said
    # What comes after the rows that are done may be other than it was.
    rows.write_text(text + "photos/1.png,red,1,new,red,1\n")
    run(HEADS / "classification", rows, out, *flags)
    assert len(cells(out)) == 49
    assert "--overwrite" in refused(HEADS / "question_answering", rows, out, *flags)
    with mock.patch.object(predict, "NOTED", 0), killed_after(2), pytest.raises(Killed):
        run(HEADS / "question_answering", rows, out, *flags, "--overwrite")
    rows.write_text(text)
    run(HEADS / "question_answering", rows, out, *flags, "--overwrite")
    run(HEADS / "question_answering", rows, tmp_path / "fresh.csv", *flags)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


@pytest.mark.parametrize("moment", ["give_name", "clean_up"])
@pytest.mark.parametrize(("change", "way"), [("more", "anew"), ("other", "anew"), ("more", "on"), ("other", "on")])
def test_one_that_is_complete_is_of_these_rows(moment, change, way, tmp_path):
    """Killed at its end, and then the rows change: what was predicted is not taken for predictions of these."""
    out, rows = tmp_path / "out.csv", tmp_path / "rows.csv"
    flags = ("--image_column", "", "--text_column", "text", "--per_device_eval_batch_size", 2)
    rows.write_text("text\nred\nblue\n")
    with mock.patch.object(output.PredictionFile, moment, side_effect=Killed), pytest.raises(Killed):
        run(HEADS / "classification", rows, out, *flags)
    rows.write_text("text\nred\nblue\nsmall\n" if change == "more" else "text\nred\nsmall\n")
    texts = rows.read_text().split()[1:]
    if way == "on" and (moment, change) != ("give_name", "more"):
        assert "--overwrite" in refused(HEADS / "classification", rows, out, *flags)
    else:
        run(HEADS / "classification", rows, out, *flags, *(["--overwrite"] if way == "anew" else []))
        assert [row["text"] for row in cells(out)] == texts
        assert all(row["prediction"] for row in cells(out))
        assert sorted(tmp_path.iterdir()) == [out, rows]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far/real.csv", tmp_path / "out.csv"
    target.write_text("old")
    link.symlink_to("far/real.csv")
    assert "--overwrite" in refused(HEADS / "classification", TABLE, link, *PAIR)
    with mock.patch.object(predict, "NOTED", 0), killed_after(1), pytest.raises(Killed):
        run(HEADS / "classification", TABLE, link, *PAIR, "--overwrite", "--per_device_eval_batch_size", 8)
    assert (tmp_path / "far/real.csv.partial").is_dir()
    run(HEADS / "classification", TABLE, link, *PAIR, "--overwrite")
    assert link.is_symlink()
    assert len(cells(target)) == 48
    assert len(list(tmp_path.rglob("*"))) == 3


def test_what_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with mock.patch.object(predict, "open_part", side_effect=AssertionError):  # before anything that takes long
        for out, word in (("folder.csv", "folder"), ("file/out.csv", "file")):
            said = refused(HEADS / "classification", TABLE, tmp_path / out, *PAIR, "--overwrite")
            assert f"--output {tmp_path / out}" in said
            assert word in said
    run(HEADS / "classification", TABLE, tmp_path / "new/folder/out.csv", *PAIR)
    assert len(cells(tmp_path / "new/folder/out.csv")) == 48


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with mock.patch.object(output.os, "fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        said = refused(HEADS / "classification", TABLE, tmp_path / "out.csv", *PAIR)
    assert "No space left" in said
    assert str(tmp_path / "out.csv.partial/rows") in said


def test_two_processes_do_not_write_one_file(tmp_path):
    folder = tmp_path / "out.csv.partial"
    folder.mkdir()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        said = refused(HEADS / "classification", TABLE, tmp_path / "out.csv", *PAIR)
        other.stdin.close()
    assert "out.csv.partial " in said
    assert "--output" in said


def test_what_was_noted_of_rows_that_are_gone_does_not_count(whole, tmp_path):
    out, flags = tmp_path / "out.csv", (*PAIR, "--per_device_eval_batch_size", 8)
    rows, note = tmp_path / "out.csv.partial/rows", tmp_path / "out.csv.partial/progress.json"
    with mock.patch.object(predict, "NOTED", 0), killed_after(2), pytest.raises(Killed):
        run(HEADS / "classification", TABLE, out, *flags)
    with killed_after(0), pytest.raises(Killed):  # of other settings, and killed before it noted anything
        run(HEADS / "classification", TABLE, out, *flags, "--top_k", 2, "--overwrite")
    assert not note.exists()
    with mock.patch.object(predict, "NOTED", 0), killed_after(2), pytest.raises(Killed):
        run(HEADS / "classification", TABLE, out, *flags)
    rows.write_bytes(rows.read_bytes()[:99])
    run(HEADS / "classification", TABLE, out, *flags)
    assert out.read_bytes() == whole


# Many rows


spec = importlib.util.spec_from_file_location("predict_memory", REPOSITORY / "benchmarks/predict_memory.py")
predict_memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(predict_memory)


@pytest.mark.slow
def test_many_rows(tmp_path):
    """100,000 rows: memory does not grow after the first 1,000; two processes, and one that is killed five times,
    write the same file as one."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    rows = 100_000

    def start(words: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    told, _ = start(
        [str(REPOSITORY / "benchmarks/predict_memory.py"), str(tmp_path), "--rows", str(rows)]
    ).communicate()
    found = json.loads(told.splitlines()[-1])
    print(found)
    assert found["growth_mb"] < 40
    tens = list(found["mb_by_rows"].values())
    assert tens[-1] - tens[len(tens) // 2] < 5  # of the second half
    whole = (tmp_path / "out.csv").read_bytes()
    assert whole.count(b"\n") > rows

    table = tmp_path / "rows.csv"
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    module = ["-m", "mm_hf.commands.predict"]
    began = time.monotonic()
    two = start([*launcher, *module, *predict_memory.words_of(table, tmp_path / "two.csv")])
    two.communicate()
    assert two.returncode == 0
    print("two processes:", round(time.monotonic() - began, 1), "s")
    assert (tmp_path / "two.csv").read_bytes() == whole

    draw, kills = random.Random(0), 0
    note = tmp_path / "killed.csv.partial/progress.json"
    while kills < 5:
        process = start([*module, *predict_memory.words_of(table, tmp_path / "killed.csv")])
        done = json.loads(note.read_text())["rows"] if note.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if note.exists() and json.loads(note.read_text())["rows"] > done:
                break
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 4))  # all five come before its end
        process.kill()
        process.communicate()
        kills += 1
        assert not (tmp_path / "killed.csv").exists()
    last = start([*module, *predict_memory.words_of(table, tmp_path / "killed.csv")])
    last.communicate()
    assert last.returncode == 0
    assert (tmp_path / "killed.csv").read_bytes() == whole


def test_a_file_that_lacks_columns_is_told_the_flags_that_do_without():
    columns = Columns(image=["front", "back"], text="title", table=["size", "wall colour", "age"])
    header = ["front", "wall colour", "size", "other"]
    with pytest.raises(ValueError, match=says("'back' (given as image_column)", "'title'", "'age'")) as told:
        sources.check_columns(columns, header, "new.csv", header)
    flags = '--image_column front "" --text_column "" --table_columns size "wall colour"'
    assert str(told.value).endswith(flags)
    sources.check_columns(columns, [], "new.csv", ["front", "back", "title", "size", "wall colour", "age"])
