"""Every modality in several places of a row, and one from outside: each has a reader, and nothing else knows it."""

import numpy as np
import pytest
from datasets import Dataset
from messages import says

from mm_hf import MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, describe, summary_lines
from mm_hf.data.modalities import READERS, reader_of
from mm_hf.data.rows import BadRowError
from mm_hf.models.series import SeriesScaler


def rows_of(**columns):
    names, values = list(columns), zip(*columns.values())
    return [{**dict(zip(names, row)), "row_id": n, "split": "train"} for n, row in enumerate(values)]


@pytest.fixture(scope="module")
def processor(encoders):
    scaler = SeriesScaler.fit([[[1.0, 2.0], [3.0, 5.0]]])
    sources = {"text": encoders / "minilm-l6", "audio": encoders / "whisper-tiny-en"}
    return MMFusionProcessor.from_encoders_pretrained(**sources, series_scaler=scaler)


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
