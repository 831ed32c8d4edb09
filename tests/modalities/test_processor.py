"""What holds for every modality in the processor and in pipelines: rows, places, sharing, what is saved, and items
that are none."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from modality_cases import CASES, OF_PLACES, tokenizer
from transformers import AutoProcessor

import mm_hf
from mm_hf import MMFusionProcessor


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(params=OF_PLACES, ids=lambda case: case.name)
def of_places(request):
    return request.param


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


def without_index(batch) -> dict:
    return {name: values for name, values in batch.items() if not name.endswith("_index")}


def objects(rows: list) -> np.ndarray:
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


def test_rows_share_and_lack_items(case):
    """Equal ones are shared where that is asked for; the tensors are those of the items alone."""
    one, other, third = case.items
    process = case.processor()
    expected = process(**{case.modality.argument: [one, other]})
    assert not [name for name in expected if name.endswith("_index")]
    assert set(expected) <= set(case.modality.inputs)
    batch = process(**{case.modality.argument: [one, None, other, one]}, deduplicate=True)
    assert next(iter(batch)) == case.index  # the Trainer reads the number of rows off the first tensor
    assert batch[case.index].tolist() == [0, -1, 1, 0]
    same(without_index(batch), expected)
    apart = process(**{case.modality.argument: [one, None, one, third]})
    assert apart[case.index].tolist() == [0, -1, 1, 2]
    assert len(next(iter(without_index(apart).values()))) == 3
    single = process(**{case.modality.argument: one})
    assert {len(value) for value in single.values()} == {1}
    same(single, process(**{case.modality.argument: [one]}))
    same(process(**{case.modality.argument: objects([one, other])}), expected)


def test_no_row_has_one(case):
    beside = {"images": np.zeros((32, 32, 3), np.uint8)} if case.name == "text" else {"text": ["no", "it"]}
    more = {"image_processor": CASES[0].part()} if case.name == "text" else {}
    batch = case.processor(**more)(**{case.modality.argument: [None, None]}, **beside)
    assert batch[case.index].tolist() == [-1, -1]
    assert not set(case.modality.inputs) & set(batch)


def test_one_for_many_rows(case):
    beside = {"images": [np.zeros((32, 32, 3), np.uint8)] * 3} if case.name == "text" else {"text": ["no"] * 3}
    more = {"image_processor": CASES[0].part()} if case.name == "text" else {}
    process = case.processor(**more)
    batch = process(**{case.modality.argument: case.items[0]}, **beside)
    assert batch[case.index].tolist() == [0, 0, 0]
    alone = process(**{case.modality.argument: case.items[0]})
    same({name: batch[name] for name in alone}, alone)
    with pytest.raises(ValueError, match=f"'{case.modality.argument}': 2"):
        process(**{case.modality.argument: case.items[:2]}, **beside)


def test_places_of_a_row(case):
    one, other, _ = case.items
    argument, process = case.modality.argument, case.processor()
    if not case.several_places:
        with pytest.raises(ValueError, match="Row 1"):
            process(**{argument: [one, [one, other]]})
        return
    expected = process(**{argument: [one, other]})
    for form in (lambda item: item, *case.forms):
        one, other = map(form, case.items[:2])
        rows = [[one, other], [other, None], None, [None, one], one]
        shared = process(**{argument: rows}, deduplicate=True)
        assert shared[case.index].tolist() == [[0, 1], [1, -1], [-1, -1], [-1, 0], [0, -1]]
        assert next(iter(shared)) == case.index
        same(without_index(shared), expected)
        apart = process(**{argument: rows})
        assert apart[case.index].tolist() == [[0, 1], [2, -1], [-1, -1], [-1, 3], [4, -1]]
        same(without_index(apart), without_index(process(**{argument: [one, other, other, one, one]})))
    one, other, _ = case.items
    expected = process(**{argument: [[one, other], [None, other]]})
    for holder in (tuple, objects, *([] if case.name == "series" else [lambda row: pd.Series(objects(row))])):
        same(process(**{argument: [holder([one, other]), holder([None, other])]}), expected)
        same(process(**{argument: objects([holder([one, other]), holder([None, other])])}), expected)


def test_a_bad_item_is_refused_by_its_row(case):
    (bad, said), one = case.bad, case.items[0]
    process = case.processor()
    with pytest.raises(ValueError, match=f"Row 1: .*{said}"):
        process(**{case.modality.argument: [one, bad, None]})
    if case.several_places:
        with pytest.raises(ValueError, match=f"Row 1: .*{said}"):
            process(**{case.modality.argument: [one, [one, bad]]})


def test_it_is_saved(case, tmp_path):
    process = case.processor()
    own = case.modality.name if case.modality.extra else case.modality.part
    assert set(process.present_parts) == {"tokenizer", own}
    rows = {case.modality.argument: [case.items[0], None, case.items[1]]}
    process.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / case.modality.part_file).exists()
    loaded = [MMFusionProcessor.from_pretrained(tmp_path / "one"), AutoProcessor.from_pretrained(tmp_path / "one")]
    loaded[0].save_pretrained(tmp_path / "two")
    names = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("one", "two")]
    assert names[0] == names[1]
    again = MMFusionProcessor.from_pretrained(tmp_path / "two")
    for other in (*loaded, again, copy.deepcopy(process), pickle.loads(pickle.dumps(process))):
        assert type(other) is MMFusionProcessor
        assert other.present_parts == process.present_parts
        assert other.model_input_names == process.model_input_names
        same(other(**rows), process(**rows))
    assert set(without_index(process(**rows))) <= set(process.model_input_names)


def test_a_processor_without_its_part(case):
    other = "tokenizer" if case.name != "text" else "image_processor"
    without = MMFusionProcessor(**{other: tokenizer() if other == "tokenizer" else CASES[0].part()})
    with pytest.raises(ValueError, match=rf"Got {case.modality.argument}, .*\['{other}'"):
        without(**{case.modality.argument: case.items[0]})


@torch.no_grad()
def test_its_model_reads_what_it_makes(case):
    logits = case.model(alone=True)(**case.processor()(**{case.modality.argument: case.items})).logits
    assert logits.shape == (3, 5)
    assert logits.std(0).min() > 1e-5


# Pipelines


def pipeline(case, **kwargs):
    model = case.model(alone=True, id2label=dict(enumerate("abcde")), **kwargs)
    return mm_hf.pipeline("multimodal-classification", model=model, processor=case.processor())


def key_and_source(case, item):
    """What a row of a pipeline has: the file, where the modality has files."""
    (key, *_), cell = case.modality.row_keys, case.cells(item)[0]
    return key, cell["bytes"] if isinstance(cell, dict) else item


def test_a_pipeline_answers_alike_alone_and_in_a_batch(case):
    pipe = pipeline(case)
    rows = [dict([key_and_source(case, item)]) for item in [*case.items, case.items[0]]]
    together = pipe(rows, batch_size=4)
    for row, answers in zip(rows, together):
        for one, other in zip(pipe(row), answers, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert together[0] == together[3]
    assert together[0] != together[1]
    assert pipe([{case.modality.row_keys[0]: row} for row in case.items[:1]])[0][0]["label"] in "abcde"
    with pytest.raises(ValueError, match=rf"\['{case.name}'\]"):
        pipe({next(key for other in CASES if other is not case for key in other.modality.row_keys[:1]): case.items[0]})


def test_a_pipeline_refuses_a_bad_item_by_its_row(case):
    pipe = pipeline(case)
    key, source = key_and_source(case, case.items[0])
    bad, said = case.bad
    with pytest.raises(ValueError, match=said):
        pipe([{key: source}, {key: bad}])
    if not case.several_places:
        return
    with pytest.raises(ValueError, match=f"2 {case.modality.items}.* 1 per row.*{case.modality.places_key}"):
        pipe({key: [source, source]})


def test_places_in_a_pipeline(of_places):
    pipe = pipeline(of_places, **of_places.places)
    (key, one), (_, other) = (key_and_source(of_places, item) for item in of_places.items[:2])
    rows = [{key: [one, other]}, {key: [other, None]}, {key: other}, {key: (None, one)}]
    batch = pipe._batch([pipe.load_row(row) for row in rows])
    assert batch[of_places.index].tolist() == [[0, 1], [1, -1], [1, -1], [-1, 0]]
    items = of_places.processor()(**{of_places.modality.argument: of_places.items[:2]})
    same(without_index(batch), without_index(items))
    with pytest.raises(ValueError, match=f"3 {of_places.modality.items}.* 2 per row"):
        pipe({key: [one] * 3})
    where = "" if of_places.name == "series" else f"{key} 2 of 2: "  # that its channels are others, the scaler knows
    with pytest.raises(ValueError, match=f"Row 0: {where}.*{of_places.bad[1]}"):
        pipe({key: [one, of_places.bad[0]]})
    with pytest.raises(ValueError, match="Row 0: "):
        pipe({key: [None, float("nan")]})
