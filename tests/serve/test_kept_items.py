"""Encoded items that are kept change no answer, and are not encoded again."""

import numpy as np
import pytest
import torch

import mm_hf
from mm_hf.serve.backend import PipelineBackend
from mm_hf.serve.kept_items import KeptItems, contents


TEXTS = ["what colour is the big house ?", "a small red house", "blue"]
LARGE = 10**9


def rows_of(head: str, pictures) -> list[dict]:
    if head == "ctc":
        waves = [np.sin(np.arange(n) * 0.03).astype("float32") / 2 for n in (16000, 9000, 12000, 9000)]
        return [{"audio": {"array": wave, "sampling_rate": 16000}} for wave in waves]
    return [
        {"image": pictures[0], "text": TEXTS[0]},
        {"image": pictures[1], "text": TEXTS[1]},
        {"image": pictures[0], "text": TEXTS[2]},
        {"image": pictures[1]},
        {"text": TEXTS[0]},
    ]


@pytest.mark.parametrize("head", ["classification", "ctc", "generation", "retrieval", "multi_task"])
def test_answers_are_the_same(stored, pictures, close_to, head):
    pipe = mm_hf.pipeline(model=str(stored / "heads" / head))
    rows = rows_of(head, pictures)
    expected = pipe(rows, batch_size=5)
    pipe.kept_items = kept = KeptItems(LARGE)
    for _ in range(2):
        assert close_to(pipe(rows, batch_size=2), expected)
    distinct = 3 if head == "ctc" else 5  # two pictures and three texts
    assert kept.encoded == distinct
    assert kept.reused > distinct
    assert close_to([pipe(row) for row in rows], expected)  # whatever a text was padded to
    assert kept.encoded == distinct


def test_evidence_is_the_same(stored, pictures, pipe, close_to):
    rows = rows_of("classification", pictures)[:3]
    expected = pipe(rows, evidence=True)
    other = mm_hf.pipeline(model=str(stored / "heads/classification"))
    other.kept_items = KeptItems(LARGE)
    for _ in range(2):
        assert close_to(other(rows, evidence=True), expected)


def test_the_oldest_leave(stored, pictures, close_to, pipe):
    other = mm_hf.pipeline(model=str(stored / "heads/classification"))
    other.kept_items = kept = KeptItems(LARGE)
    rows = [{"text": text} for text in TEXTS]
    other(rows[0])
    kept.max_bytes = kept.bytes  # the other two are shorter
    for row in rows[1:]:
        other(row)
    assert 0 < kept.bytes <= kept.max_bytes
    assert kept.encoded == 3
    other(rows[2])
    assert kept.encoded == 3
    other(rows[0])
    assert kept.encoded == 4
    kept.max_bytes = 0
    assert close_to(other(rows), pipe(rows))
    assert (kept.bytes, len(kept.items)) == (0, 0)


def test_other_contents_are_other_items():
    ids, mask = torch.tensor([[5, 6, 0], [5, 6, 7], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1]])
    one, other, longer = contents({"input_ids": ids, "attention_mask": mask})
    assert one == other != longer
    (alone,) = contents({"input_ids": ids[:1, :2], "attention_mask": mask[:1, :2]})
    assert alone == one
    wide, high = (next(contents({"pixel_values": torch.zeros(1, *size)})) for size in ((3, 2, 6), (3, 6, 2)))
    assert wide != high


def test_the_flag(stored, pictures):
    backend = PipelineBackend.open(str(stored / "heads/classification"), device="cpu", keep_encoded=LARGE)
    rows = [backend.load(row) for row in rows_of("classification", pictures)]
    for _ in range(2):
        backend.answer(rows, [{}] * len(rows))
    assert backend.kept_items.reused == backend.kept_items.encoded == 5
