"""Batches of a stream: every row once, the same ones whatever the workers, and after a resume."""

from functools import partial
from itertools import islice

import pytest
from datasets import Dataset, Features, Image, Value
from torch.utils.data import DataLoader

from mm_hf.data import Columns, StreamBatches, load_splits


ROWS = 23


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """23 rows in three files, read as a stream of as many shards; and a picture that no decoder could read."""
    folder = tmp_path_factory.mktemp("stream")
    for number, places in enumerate([range(9), range(9, 14), range(14, ROWS)]):
        values = {"number": list(places), "image": [{"bytes": b"none", "path": None}] * len(places)}
        types = Features({"number": Value("int64"), "image": Image(decode=False)})
        Dataset.from_dict(values, features=types).to_parquet(folder / f"train-{number}.parquet")
    return folder


@pytest.fixture(params=["files", "folder"])
def stream(request, files, tmp_path):
    """The same rows in three shards, and in 23."""
    columns = Columns(image="image", text="number")
    options = {"streaming": True, "validation_fraction": 0, "test_fraction": 0}
    if request.param == "files":
        return load_splits(files, columns, **options)["train"]
    Dataset.from_parquet([str(file) for file in sorted(files.glob("*"))]).save_to_disk(tmp_path / "set")
    return load_splits(tmp_path / "set", columns, **options)["train"]


def numbers(batches) -> list[list[int]]:
    return [[row["number"] for row in batch] for batch in batches]


def loaded(batches, workers):
    return DataLoader(batches, batch_size=None, collate_fn=list, num_workers=workers)


def test_one_pass(stream):
    batches = StreamBatches(stream, "test", 4)
    found = list(batches)
    assert numbers(found) == [list(range(start, min(start + 4, ROWS))) for start in range(0, ROWS, 4)]
    first = found[1][2]
    assert first == {
        "number": 6,
        "image": {"bytes": b"none", "path": None},
        "row_id": 6,
        "split": "test",
        "_epoch": 0,
        "_position": 6,
    }
    assert list(batches) == found  # a second pass is the same
    with pytest.raises(TypeError):
        len(batches)


@pytest.mark.parametrize("shuffle_buffer", [0, 7])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2)])
def test_every_row_once(stream, world_size, shuffle_buffer, workers):
    """3 shards: divided by shards between 1 or 3 processes, and by rows between 2."""
    for epoch in (0, 1):
        rows, ids = [], []
        for rank in range(world_size):
            batches = StreamBatches(stream, "train", 4, rank, world_size, shuffle_buffer)
            batches.start_at(epoch, 0)
            part = [row for batch in loaded(batches, workers) for row in batch]
            assert {row["_epoch"] for row in part} == {epoch}
            rows += [row["number"] for row in part]
            ids += [row["row_id"] for row in part]
        assert sorted(rows) == list(range(ROWS))
        assert len(set(ids)) == ROWS


@pytest.mark.parametrize("shuffle_buffer", [0, 7])
def test_the_order_does_not_depend_on_the_workers(stream, shuffle_buffer):
    batches = StreamBatches(stream, "train", 4, shuffle_buffer=shuffle_buffer, repeat=True)
    batches.start_at(0, 8)
    alone, *others = (list(islice(loaded(batches, workers), 20)) for workers in (0, 2, 3))
    assert alone[-1][0]["_epoch"] == 3
    for found in others:
        assert found == alone


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle_buffer", [0, 7])
def test_resuming_is_exact(stream, shuffle_buffer, world_size):
    """Stopped after any batch of two epochs, in its middle, at its end or at the next one's beginning."""
    build = partial(StreamBatches, stream, "train", 4, world_size - 1, world_size, shuffle_buffer, repeat=True)
    whole = list(islice(build(), 18))
    assert whole[-1][0]["_epoch"] >= 2
    for done in range(1, 14):
        last = whole[done - 1][-1]
        resumed = build()
        resumed.start_at(last["_epoch"], last["_position"] + 1)
        assert list(islice(resumed, 4)) == whole[done : done + 4]
    resumed = build()
    resumed.start_at(0, 2)  # in the middle of a batch: the rest of it, and then the same ones
    assert list(islice(resumed, 3)) == [whole[0][2:], *whole[1:3]]


def test_epochs_differ_and_seeds_do(stream):
    def epochs(seed):
        found = islice(StreamBatches(stream, "train", ROWS, shuffle_buffer=ROWS, seed=seed, repeat=True), 3)
        return numbers(found)

    first = epochs(0)
    assert epochs(0) == first
    orders = {tuple(order) for order in first + epochs(1)}
    assert len(orders) == 6
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(ROWS))}


def test_errors(stream):
    with pytest.raises(ValueError, match=r"batch_size.*\b1, .*\b0\b"):
        StreamBatches(stream, "train", 0)
    lonely = StreamBatches(stream.take(1), "train", 4, rank=1, world_size=2, repeat=True)
    with pytest.raises(ValueError, match=r"1 of 2 .*'train'"):
        next(iter(lonely))
