"""Every modality in several places of a row, and one from outside: each has a reader, and nothing else knows it."""

import copy
import io
import pickle

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from messages import says

from mm_hf import MMFusionProcessor
from mm_hf.data import BadRowError, Columns, MultimodalCollator, Rows, describe, load_splits, summary_lines
from mm_hf.data.modalities import READERS, ModalityReader, key_of_part, reader_of, reader_of_part, register_reader
from mm_hf.models.modality import MODALITIES, Modality, register_modality
from mm_hf.models.series import SeriesScaler


def rows_of(**columns):
    names, values = list(columns), zip(*columns.values())
    return [{**dict(zip(names, row)), "row_id": n, "split": "train"} for n, row in enumerate(values)]


@pytest.fixture(scope="module")
def processor(encoders):
    scaler = SeriesScaler.fit([[[1.0, 2.0], [3.0, 5.0]]])
    sources = {"text": encoders / "minilm-l6", "audio": encoders / "whisper-tiny-en"}
    return MMFusionProcessor.from_encoders_pretrained(**sources, series_scaler=scaler)


def tone(hertz: int) -> dict:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(1600) * hertz / 16000 * 2 * np.pi), 16000, format="WAV")
    return {"bytes": file.getvalue(), "path": None}


def test_every_modality_has_a_reader_and_every_part_of_a_row_its_key():
    assert list(READERS) == list(MODALITIES)
    keys = {part: key_of_part(part) for part in ("image", "video", "text", "audio", "table", "series", "label")}
    assert keys.pop("table") == "table_columns"
    assert all(key == f"{part}_column" for part, key in keys.items())
    assert reader_of_part("label") is None
    assert [name for name, reader in READERS.items() if reader.files] == ["vision", "audio"]
    with pytest.raises(ValueError, match=r"'smell'.*'vision'"):
        reader_of("smell")


def test_named_columns():
    columns = Columns(image=["front"], text=["title", "body"], label="y", weight="w", audio="noise", series=["a", "b"])
    assert columns.named() == [
        *(("image", "front"), ("text", "title"), ("text", "body"), ("audio", "noise")),
        *(("series", "a"), ("series", "b"), ("label", "y"), ("weight", "w")),
    ]
    assert (columns.texts, columns.sounds, columns.files) == (["title", "body"], ["noise"], ["front", "noise"])
    with pytest.raises(ValueError, match="'row_id'"):
        Columns(text=["title", "row_id"])
    for name in ("text", "vision"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            Columns(extra={name: ["a"]})


def test_several_texts_share_their_items(processor):
    collator = MultimodalCollator(processor, Columns(text=["title", "body"]))
    rows = rows_of(title=["good", "bad", None, None], body=["so it is", "good", "bad", None])
    batch = collator(rows)
    assert batch["text_index"].tolist() == [[0, 1], [2, 0], [-1, 2], [-1, -1]]
    assert len(batch["input_ids"]) == 3
    one = MultimodalCollator(processor, Columns(text="title"))(rows)
    assert one["text_index"].tolist() == [0, 1, -1, -1]
    rows[1]["body"] = " "
    with pytest.raises(BadRowError, match=r"row 1 .*'train'.*'body'"):
        collator(rows)


def test_what_is_random_depends_on_the_place(processor):
    """Of the same text in another column other tokens are dropped; in the first one those that always were."""
    text = "the quick brown fox jumps over the lazy dog " * 3
    rows = rows_of(title=[text], body=[text])
    drawn = {}
    for columns in ("title", ["title"], ["title", "body"], ["body", "title"]):
        collator = MultimodalCollator(processor, Columns(text=columns), token_dropout=0.5, seed=1)
        drawn[str(columns)] = collator(rows)["input_ids"].tolist()
    assert len(set(map(str, drawn.values()))) == 1
    rows[0]["title"] = None
    collator = MultimodalCollator(processor, Columns(text=["title", "body"]), token_dropout=0.5, seed=1)
    assert collator(rows)["input_ids"].tolist() not in drawn.values()


def test_several_sounds_and_series(processor):
    rows = rows_of(
        left=[tone(300), tone(500)],
        right=[tone(500), None],
        one=[[[1.0, 2.0]], []],
        two=[[[1.0, 2.0]], [[4.0, 4.0], [5.0, 5.0]]],
    )
    columns = Columns(audio=["left", "right"], series=["one", "two"])
    batch = MultimodalCollator(processor, columns)(rows)
    assert batch["audio_index"].tolist() == [[0, 1], [1, -1]]
    assert batch["series_index"].tolist() == [[0, 0], [-1, 1]]
    assert len(batch["input_features"]) == len(batch["series_values"]) == 2


def test_series_of_several_columns_are_fitted_together():
    train = Dataset.from_dict({"a": [[[1.0]], None], "b": [[[3.0]], [[5.0], [7.0]]]})
    fit = READERS["series"].fit
    found = fit({"train": train}, Columns(series=["a", "b"]))
    assert found == SeriesScaler.fit([[[1.0]], [[3.0]], [[5.0], [7.0]]])
    assert fit({"train": train}, Columns(series="b")) == SeriesScaler.fit([[[3.0]], [[5.0], [7.0]]])


def test_what_is_said_of_several_texts():
    split = Dataset.from_dict({"title": ["a b", "a b"], "body": ["c", None]})
    found = describe({"train": split}, Columns(text=["title", "body"]), None, None)
    assert found["texts"]["title"]["words"] == [2, 2, 2]
    assert found["texts"]["body"]["distinct"] == 1
    lines = [line for line in summary_lines(found) if line.startswith("  texts")]
    assert lines == [
        "  texts     title: median / 95 % / max: words 2 / 2 / 2; 1 distinct",
        "  texts     body: median / 95 % / max: words 1 / 1 / 1; 1 distinct",
    ]


# A modality from outside: two columns of numbers make one item.


@pytest.fixture
def point():
    """A point on the map, known while a test runs."""
    before = dict(MODALITIES), dict(READERS)

    @register_modality
    class Point(Modality):
        name = argument = part = "point"
        extra = True
        inputs = ("point_values",)
        several_places = False
        row_keys = ("point",)

    @register_reader
    class PointReader(ModalityReader):
        name = "point"
        one_item = True
        cells = "numbers"

        def load(self, row, column, collator):
            return [row[name] for name in self.data_columns(collator.columns)]

        def key(self, row, column, collator):
            values = self.load(row, column, collator)
            if None in values and any(value is not None for value in values):
                raise BadRowError(row, column, "half a point")
            return None if None in values else repr(values)

    yield "point"
    for registry, entries in zip((MODALITIES, READERS), before):
        registry.clear()
        registry.update(entries)


class Points:
    """In the place of a processor."""

    tokenizer = None

    def __call__(self, point):
        return {"point_values": torch.tensor(point)}


def test_a_modality_from_outside(point):
    columns = Columns(extra={point: ["lat", "lon"]})
    assert columns.named() == [("point", "lat"), ("point", "lon")]
    assert (key_of_part(point), reader_of_part(point).name) == ("point_columns", point)
    collator = MultimodalCollator(Points(), columns, on_error="skip")
    assert list(collator.parts) == [*(name for name in MODALITIES if name != point), point]
    assert collator.parts[point] == [point]
    rows = rows_of(lat=[1.5, None, 2.0, 1.5, 3.0], lon=[2.5, None, 2.0, 2.5, None])
    for each in (collator, pickle.loads(pickle.dumps(collator)), copy.deepcopy(collator)):
        batch = each(rows)
        assert next(iter(batch)) == "point_index"
        assert batch["point_index"].tolist() == [0, -1, 1, 0, -1]
        assert batch["point_values"].tolist() == [[1.5, 2.5], [2.0, 2.0]]
        assert [(entry["row"], entry["reason"]) for entry in batch["bad_rows"]] == [(4, "half a point")]


def test_its_columns_are_read_from_a_file(point, tmp_path):
    lines = ["lat,lon,y", *(f"{n}.25,{n % 7},{n % 2}" for n in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    splits = load_splits(tmp_path / "rows.csv", Columns(extra={point: ["lat", "lon"]}, label="y"))
    row = Rows(splits["train"], "train")[0]
    assert isinstance(row["lat"], float)
    assert row["lat"] % 1 == 0.25
    with pytest.raises(ValueError, match=r"'long'.*point_columns.*'lon'"):
        load_splits(tmp_path / "rows.csv", Columns(extra={point: ["lat", "long"]}, label="y"))


def test_other_modalities_do_not_move_what_is_random(point, processor):
    """What else was imported, or stands beside it, changes nothing for the columns that were there."""
    rows = rows_of(title=["one two three four five six"], lat=[1.0], lon=[2.0])
    settings = {"token_dropout": 0.5, "seed": 3}
    alone = MultimodalCollator(processor, Columns(text="title"), **settings)
    before = alone(rows)["input_ids"]
    MODALITIES.pop(point)
    READERS.pop(point)
    assert torch.equal(MultimodalCollator(processor, Columns(text="title"), **settings)(rows)["input_ids"], before)


def test_a_modality_that_nobody_imported():
    with pytest.raises(ValueError, match=r"'smell'.*import"):
        MultimodalCollator(Points(), Columns(extra={"smell": ["a"]}))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([[0.1], [0.2]], [[1e5], [2e5]], "'one'.*deviation"),
        ([[1.0, 2.0], [2.0, 1.0]], [], "'other'"),
    ],
    ids=["scales", "nothing"],
)
def test_series_that_do_not_go_together_in_one_encoder(one, other, said):
    """Silently, the smaller readings would be all alike."""
    third = [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]]
    train = Dataset.from_dict({"one": [one, one], "other": [other, other], "third": [third, third]})
    with pytest.raises(ValueError, match=said):
        reader_of("series").fit({"train": train}, Columns(series=["one", "other", "third"]))
    assert reader_of("series").fit({"train": train}, Columns(series="one")).channels == len(one[0])


def test_series_of_other_channels_have_channels_of_their_own():
    """Each on its own scale: the others stand at the mean."""
    wide, narrow = [[0.0, 10.0], [2.0, 30.0]], [[1e6], [3e6], [5e6]]
    train = Dataset.from_dict({"wide": [wide, None], "narrow": [narrow, [[1e6], [5e6]]], "flat": [[7e6, 9e6]] * 2})
    reader = reader_of("series")
    columns = Columns(series=["wide", "narrow", "flat"])
    scaler = reader.fit({"train": train}, columns)
    assert (scaler.channels, scaler.widths) == (3, [2, 1, 1])
    assert scaler.means[:2] == [1.0, 20.0]
    assert reader.fresh_config(scaler, 8, series_rnn_type="gru").input_size == 3
    np.testing.assert_allclose(scaler.check(wide), [[-1, -1, 0], [1, 1, 0]])
    values = scaler.check(narrow)
    assert not values[:, :2].any()
    assert (np.diff(values[:, 2]) > 0).all()
    made = scaler([wide, narrow])
    assert made["series_values"].shape == (2, 3, 3)
    # A series in the place of another one is a bad row, though the encoder could read it.
    collator = MultimodalCollator(MMFusionProcessor(series_scaler=scaler), columns)
    (row,) = rows_of(wide=[wide], narrow=[narrow], flat=[None])
    assert len(set(collator.item_keys(row, "series"))) == 3  # with None
    (row,) = rows_of(wide=[narrow], narrow=[narrow], flat=[None])
    with pytest.raises(BadRowError, match=says("wide", 2, "(3, 1)")):
        collator.item_keys(row, "series")
    with pytest.raises(ValueError, match=says(2, 1, "(1, 3)")):
        scaler.check([[1.0, 2.0, 3.0]])
