"""Features on disk: what was written comes back bit for bit, whatever kills, other processes and torn files do."""

import os
import pickle
import signal
import subprocess
import sys

import pytest
import tiny_models
import torch

from mm_hf import MMFusionModel
from mm_hf.data import BadRowError, FeatureCache
from mm_hf.data.contents import File, FileDigests, digests_of
from mm_hf.data.encoder_identity import identity_of
from mm_hf.data.feature_store import ENDING, WRITING, FeatureStore, StoreError, default_folder
from mm_hf.data.stored_items import StoredItems


@pytest.fixture(scope="module")
def tiny():
    return tiny_models.model(MMFusionModel, freeze_encoders=True, vision="vit", text="bert")


def prepare(lengths):
    """Texts by number, of two to eight tokens; there is none below 0."""
    if bad := [length for length in lengths if length < 0]:
        raise BadRowError({"split": "train", "row_id": bad[0]}, "text", "too short")
    texts = [torch.arange(3, 5 + number % 7) + number % 3 for number in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def opened(folder, tiny, lengths, limit=None, **more):
    store = FeatureStore(folder, limit)
    identity = {**identity_of(tiny, "text"), **more}
    return StoredItems(
        store, store.open(identity, "text tiny"), {f"text {n}": f"{n:032x}" for n in lengths}, say=print
    )


def filled(folder, tiny, lengths, dtype=None, workers=0, on_error="raise", batch_size=4, **more):
    """A cache of these texts, and how many batches went through the encoder."""
    calls = []
    cache = FeatureCache(tiny, dtype=dtype, workers=workers, on_error=on_error)
    stored = None if folder is None else opened(folder, tiny, lengths, kept_in=str(dtype), **more)
    hook = tiny.encoders["text"].register_forward_pre_hook(lambda *_: calls.append(1))
    items = [(f"text {length}", length) for length in lengths]
    try:
        cache.fill("text", items, prepare, batch_size, progress=False, stored=stored)
    finally:
        hook.remove()
    return cache, len(calls)


def same(one, other, keys):
    for key in keys:
        first, second = one.states("text", [key]), other.states("text", [key])
        for level, expected in zip(first.levels, second.levels, strict=True):
            assert torch.equal(level, expected), key
    both = one.states("text", list(keys)), other.states("text", list(keys))
    assert torch.equal(both[0].mask, both[1].mask)
    assert torch.equal(both[0].levels[0], both[1].levels[0])


def test_a_second_run_encodes_nothing(tiny, tmp_path, capsys):
    lengths = range(10)
    memory, _ = filled(None, tiny, lengths)
    first, calls = filled(tmp_path, tiny, lengths)
    assert calls == 3
    assert "10 items to encode" in capsys.readouterr().out
    second, calls = filled(tmp_path, tiny, lengths)
    assert calls == 0
    assert capsys.readouterr().out == ""
    keys = [f"text {length}" for length in lengths]
    same(first, second, keys)
    same(first, memory, keys)
    assert second.size() == 0  # of memory
    assert list(second.items["text"]) == keys
    direct = tiny.encode(**prepare([3]))["text"]
    torch.testing.assert_close(second.states("text", ["text 3"]).levels[0], direct.levels[0], rtol=0, atol=1e-5)
    with pytest.raises(KeyError):
        second.states("text", ["text 99"])
    _, calls = filled(tmp_path, tiny, range(11))  # the last batch alone, and of it the new one is written
    assert calls == 1


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_the_bits(tiny, tmp_path, dtype, bound):
    lengths = range(8)
    whole, _ = filled(tmp_path, tiny, lengths)
    for folder in (tmp_path, None):
        half, _ = filled(folder, tiny, lengths, dtype=dtype)
        again, calls = filled(folder, tiny, lengths, dtype=dtype)
        assert (calls == 0) == (folder is not None)
        for key in ("text 0", "text 7"):
            expected, got = (cache.states("text", [key]).levels[0] for cache in (whole, half))
            assert got.dtype == torch.float32
            assert torch.equal(got, again.states("text", [key]).levels[0])
            torch.testing.assert_close(got, expected, rtol=bound, atol=1e-6)
    assert len(FeatureStore(tmp_path).sets()) == 2


def test_what_float16_cannot_hold(tiny):
    cache = FeatureCache(tiny, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"text.*1e\+06.*float16"):
        cache._kept("text", torch.tensor([1e6]))
    with pytest.raises(ValueError, match=r"torch\.int8"):
        FeatureCache(tiny, dtype=torch.int8)


def test_other_weights_are_another_set(tiny, tmp_path):
    before = identity_of(tiny, "text")
    assert identity_of(tiny, "text") == before
    weight = tiny.encoders["text"].get_input_embeddings().weight
    with torch.no_grad():
        weight[0, 0] += 1
        changed = identity_of(tiny, "text")
        weight[0, 0] -= 1
    assert {key for key in before if before[key] != changed[key]} == {"weights"}
    store = FeatureStore(tmp_path)
    folders = {store.open(identity).folder for identity in (before, changed, {**before, "more": 1})}
    assert len(folders) == 3


def test_bad_items_stay_bad(tiny, tmp_path):
    lengths = [1, 2, -3, 4]
    with pytest.raises(BadRowError, match=r"row -3 of split 'train', column 'text'"):
        filled(tmp_path, tiny, lengths)
    cache, calls = filled(tmp_path, tiny, lengths, on_error="skip")
    assert (calls, cache.bad["text"]) == (1, {"text -3": "too short"})
    cache, calls = filled(tmp_path, tiny, lengths, on_error="skip")
    assert (calls, cache.bad["text"]) == (0, {"text -3": "too short"})


@pytest.mark.parametrize("change", ["cut", "changed", "empty", "no header"])
def test_a_torn_file_is_encoded_anew(tiny, tmp_path, change):
    first, _ = filled(tmp_path, tiny, range(4))
    (file,) = tmp_path.rglob(f"*{ENDING}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    text = {"cut": content[:-8], "changed": content, "empty": b"", "no header": b"\xff" * 100}
    second = file.with_name("beside")  # what is open stays as it is
    second.write_bytes(text[change])
    os.replace(second, file)
    again, calls = filled(tmp_path, tiny, range(4))
    assert calls == 1
    same(first, again, ["text 0", "text 3"])
    assert filled(tmp_path, tiny, range(4))[1] == 0


def test_equal_items_are_encoded_once(tiny, tmp_path):
    store = FeatureStore(tmp_path)
    digests = {"one": "a" * 32, "other": "b" * 32, "same": "a" * 32}
    stored = StoredItems(store, store.open(identity_of(tiny, "text")), digests)
    cache = FeatureCache(tiny)
    cache.fill("text", [("one", 1), ("other", 2), ("same", 1)], prepare, progress=False, stored=stored)
    assert torch.equal(cache.states("text", ["one"]).levels[0], cache.states("text", ["same"]).levels[0])
    assert len(stored.features.index) == 2


def test_limit(tiny, tmp_path, monkeypatch):
    clock = [1e9]

    def fill(number, limit=None, hold=False):
        cache = FeatureCache(tiny)
        stored = opened(tmp_path, tiny, range(8), limit, number=number)
        os.utime(stored.features.folder / "about.json", (clock[0], clock[0]))
        clock[0] += 10
        cache.fill("text", [(f"text {n}", n) for n in range(8)], prepare, 4, progress=False, stored=stored)
        return cache if hold else stored.features.folder

    folders = [fill(number) for number in range(3)]
    size = FeatureStore(tmp_path).sets()[0][1]
    assert [found[0] for found in FeatureStore(tmp_path).sets()] == folders
    held = fill(0, hold=True)  # the oldest by use, but in use; it was used just now
    os.utime(folders[0] / "about.json", (1e8, 1e8))
    fourth = fill(3, limit=int(3.5 * size))
    assert {found[0] for found in FeatureStore(tmp_path).sets()} == {folders[0], folders[2], fourth}
    del held
    with pytest.raises(StoreError, match="cache_limit is 1e-06 GB"):
        fill(4, limit=1000)
    assert FeatureStore(tmp_path).clear() > 0
    assert FeatureStore(tmp_path).sets() == []


FILLING = """
import sys, time
sys.path.insert(0, {tests!r}); sys.path.insert(0, {models!r})
import conftest, torch
from mm_hf.data import feature_store
import test_feature_store as test
feature_store.SHARD_BYTES = 1
tiny = test.tiny_models.model(test.MMFusionModel, freeze_encoders=True, vision="vit", text="bert")
written = feature_store.FeatureSet._write
def write(self, content, name):
    print("writing", flush=True)
    time.sleep({pause})
    written(self, content, name)
feature_store.FeatureSet._write = write
print("calls", test.filled({folder!r}, tiny, range({count}))[1], flush=True)
"""


def process(folder, count, pause):
    tests = os.path.dirname(os.path.dirname(__file__))
    words = {"tests": tests, "models": os.path.dirname(__file__), "folder": str(folder)}
    script = FILLING.format(**words, count=count, pause=pause)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow  # `make reliability` runs it
def test_killed_while_it_writes(tiny, tmp_path):
    whole, calls = filled(tmp_path / "whole", tiny, range(24))
    running = process(tmp_path / "killed", 24, 0.05)
    lines = 0
    for line in running.stdout:
        lines += line == "writing\n"
        if lines == 8:
            running.send_signal(signal.SIGKILL)
            break
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    (folder,) = (tmp_path / "killed/features").iterdir()
    there = len(list(folder.glob(f"*{ENDING}")))
    assert 0 < there < 24
    (folder / f"{WRITING}left").write_bytes(b"half")
    again, more = filled(tmp_path / "killed", tiny, range(24))
    assert 0 < more < calls
    assert not list(folder.glob(f"{WRITING}*"))
    same(whole, again, [f"text {length}" for length in range(24)])


@pytest.mark.slow  # `make reliability` runs it
def test_two_processes_fill_one_set(tiny, tmp_path):
    running = [process(tmp_path / "both", 16, 0.01) for _ in range(2)]
    for one in running:
        assert one.communicate()[0].splitlines()[-1].startswith("calls")
        assert one.returncode == 0
    assert len(list((tmp_path / "both/features").iterdir())) == 1
    names = [
        digest
        for shard in opened(tmp_path / "both", tiny, range(16), kept_in="None").features.shards.values()
        for digest in shard.digests
    ]
    assert sorted(names) == [f"{number:032x}" for number in range(16)]  # each once
    both, calls = filled(tmp_path / "both", tiny, range(16))
    assert calls == 0
    same(both, filled(tmp_path / "one", tiny, range(16))[0], [f"text {number}" for number in range(16)])


@pytest.mark.parametrize("there", [True, False])
def test_workers_change_nothing(tiny, there):
    lengths = [*range(20), -3]
    alone, _ = filled(None, tiny, lengths, on_error="skip")
    cache = FeatureCache(tiny, workers=1, on_error="skip")
    # What cannot be sent to another process is prepared here.
    asked = prepare if there else lambda items: prepare(items)
    cache.fill("text", [(f"text {n}", n) for n in lengths], asked, 4, progress=False)
    assert cache.bad == alone.bad == {"text": {"text -3": "too short"}}
    same(cache, alone, [f"text {n}" for n in lengths if n >= 0])


def test_a_bad_row_comes_through_from_a_worker():
    error = BadRowError({"split": "train", "row_id": 3, "_source_row": 7}, "text", "too short", "a.txt")
    there = pickle.loads(pickle.dumps(error))
    assert (str(there), there.entry) == (str(error), error.entry)


def test_digests(tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, text in zip(files, ("x" * 100_000, "x" * 100_000, "small")):
        file.write_text(text)
        os.utime(file, (1, 1))
    names = [File(file) for file in files]
    memo = tmp_path / "cache/files.sqlite"
    reader = FileDigests(memo)
    found = digests_of(
        {"one": (names[0],), "two": (names[1],), "small": (names[2],), "other": (str(files[0]),)}, reader
    )
    assert found["one"] == found["two"]
    assert len(set(found.values())) == 3
    assert reader.read == 3
    # Written just now: they are read again, since a change within the same tick would not show.
    reader = FileDigests(memo)
    assert reader.of(names) == FileDigests().of(names)
    assert reader.read == 3
    (tmp_path / "a").unlink()
    gone = [FileDigests(memo).of(names[:1])[names[0]] for _ in range(2)]
    assert gone[0] != gone[1]


def test_what_was_read_is_remembered(tmp_path, monkeypatch):
    file, memo = tmp_path / "photo", tmp_path / "files.sqlite"
    file.write_text("x" * 100_000)
    monkeypatch.setattr("mm_hf.data.contents.JUST_NOW", -(10**12))
    before = FileDigests(memo).of([str(file)])
    reader = FileDigests(memo)
    assert reader.of([str(file)]) == before
    assert reader.read == 0
    file.write_text("y" * 100_000)
    os.utime(file, ns=(0, 0))  # the time of the inode is another one all the same
    assert FileDigests(memo).of([str(file)]) == FileDigests().of([str(file)]) != before
    memo.write_text("no data base")
    assert FileDigests(memo).of([str(file)]) == FileDigests().of([str(file)])


def test_where_features_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MM_HF_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("MM_HF_CACHE")
    assert default_folder().name == "mm_hf"
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="cache_dir"):
        FeatureStore(file).open({})


@pytest.mark.parametrize("threads", [1, 3])
def test_some_at_once(tiny, threads):
    pictures = tiny_models.images(10)["pixel_values"]
    items, before = [(str(n), n) for n in range(10)], torch.get_num_threads()
    few, all_at_once = FeatureCache(tiny, at_once=4), FeatureCache(tiny)
    torch.set_num_threads(threads)
    try:
        for cache in (few, all_at_once):
            cache.fill("vision", items, lambda chosen: {"pixel_values": pictures[chosen]}, progress=False)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, other = (cache.states("vision", list("0123456789")).levels[0] for cache in (few, all_at_once))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    alone = tiny.encode(pixel_values=pictures[4:8])["vision"].levels[0]
    torch.testing.assert_close(one[4:8], alone, rtol=0, atol=1e-6)
