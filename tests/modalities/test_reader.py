"""What holds for every modality in a data set: rows to batches, bad rows, places, the cache of features."""

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from datasets import Dataset, DatasetDict
from modality_cases import BAD, CASES, OF_PLACES, Places

from mm_hf.data import BadRowError, FeatureCache, MultimodalCollator, Rows, describe, load_splits, summary_lines
from mm_hf.data.modalities import READERS, key_of_part, reader_of, reader_of_part
from mm_hf.data.shown import KINDS
from mm_hf.models.modality import MODALITIES


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(params=OF_PLACES, ids=lambda case: case.name)
def of_places(request):
    return request.param


def collator_of(case, places: int = 1, label: str | None = None, **kwargs) -> MultimodalCollator:
    columns = case.data_columns(places, label=label)
    return MultimodalCollator(case.processor(), columns, {"no": 0, "yes": 1} if label else None, **kwargs)


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


def noted(batch) -> list:
    return [entry["row"] for entry in batch["bad_rows"]]


def test_every_modality_has_a_reader(case):
    assert list(READERS) == list(MODALITIES)
    parts = {part for part, _ in case.data_columns().named()}
    for part in parts:
        assert reader_of_part(part) is reader_of(case.name)
        assert key_of_part(part) in reader_of(case.name).column_keys
    assert reader_of(case.name).data_columns(case.data_columns()) == list(case.columns)
    assert reader_of_part("label") is None
    with pytest.raises(ValueError, match=rf"'smell'.*'{case.name}'"):
        reader_of("smell")


def test_rows_become_what_the_processor_makes(case):
    one, other, _ = case.items
    collator, rows = collator_of(case), case.rows(one, other, None, one)
    batch = collator(rows)
    assert next(iter(batch)) == case.index  # the Trainer reads the batch size off the first tensor
    assert batch[case.index].tolist() == [0, 1, -1, 0]
    assert batch["row_ids"].tolist() == [0, 1, 2, 3]
    made = {name: value for name, value in batch.items() if name not in (case.index, "row_ids")}
    same(made, dict(case.processor()(**{case.modality.argument: [one, other]})))
    for twin in (pickle.loads(pickle.dumps(collator)), copy.deepcopy(collator), dataclasses.replace(collator)):
        same(twin(rows), batch)
    same(collator.unchanging()(rows), batch)
    nobody = collator(case.rows(None, None))
    assert nobody[case.index].tolist() == [-1, -1]
    assert not set(case.modality.inputs) & set(nobody)


def test_left_out(case):
    """Rows are told by their ids, wherever they stand in the batch; what they lose is not even looked at."""
    rows = case.rows(BAD, case.items[0], case.items[1], case.items[0])
    blind = collator_of(case, absent={case.name: None})(rows)
    assert blind[case.index].tolist() == [-1] * 4
    assert not set(case.modality.inputs) & set(blind)
    partly = collator_of(case, absent={case.name: frozenset({0, 3})})(rows[::-1])
    assert partly["row_ids"].tolist() == [3, 2, 1, 0]
    assert partly[case.index].tolist() == [-1, 0, 1, -1]


def test_a_bad_row_is_named_or_skipped(case):
    """It keeps its place, its label is masked, and its neighbours are as without it."""
    one, other, _ = case.items
    rows = case.rows(one, BAD, other, None, answer=["yes", "yes", "no", "yes"])
    collator = collator_of(case, label="answer")
    with pytest.raises(BadRowError, match="row 1 of split 'train'") as caught:
        collator(rows)
    assert any(f"'{column}'" in str(caught.value) for column in (*case.columns, case.name))
    assert "\n" not in str(caught.value)
    skipping = dataclasses.replace(collator, on_error="skip")
    batch = skipping(rows)
    assert noted(batch) == [1]
    assert batch["bad_rows"][0]["split"] == "train"
    assert batch[case.index].tolist() == [0, -1, 1, -1]
    assert batch["labels"].tolist() == [1, -100, 0, 1]
    good = [rows[0], rows[2], rows[3]]
    same(skipping(good), collator(good))
    assert "bad_rows" not in skipping(good)
    made = {name: value for name, value in batch.items() if name in case.modality.inputs}
    same(made, {name: value for name, value in collator(good).items() if name in made})
    regression = dataclasses.replace(skipping, label2id=None, problem_type="regression")
    numbers = regression(case.rows(one, BAD, answer=[0.5, 0.25]))["labels"]
    assert numbers.isnan().tolist() == [False, True]


def test_a_batch_of_bad_rows_goes_through_the_model(case):
    batch = collator_of(case, label="answer", on_error="skip")(case.rows(BAD, BAD, answer=["yes", "no"]))
    assert batch[case.index].tolist() == [-1, -1]
    assert batch.pop("row_ids").tolist() == noted(batch) == [0, 1]
    del batch["bad_rows"]
    model = case.model(alone=True).train()
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_several_columns_share_their_items(of_places):
    one, other, third = of_places.items
    collator = collator_of(of_places, 2)
    rows = of_places.rows(*map(Places, [(one, other), (other, None), (None, None), (third, one)]))
    batch = collator(rows)
    assert batch[of_places.index].tolist() == [[0, 1], [1, -1], [-1, -1], [2, 0]]
    made = {name: value for name, value in batch.items() if name in of_places.modality.inputs}
    same(made, dict(of_places.processor()(**{of_places.modality.argument: of_places.items})))
    assert collator_of(of_places)(rows)[of_places.index].tolist() == [0, 1, -1, 2]
    blind = dataclasses.replace(collator, absent={of_places.name: {0, 1, 2}})
    assert blind(rows)[of_places.index].tolist() == [[-1, -1], [-1, -1], [-1, -1], [0, 1]]
    spoilt = of_places.rows(Places((one, BAD)), Places((BAD, BAD)))
    with pytest.raises(BadRowError, match=f"row 0 of split 'train', column '{of_places.columns[0]}_2'"):
        collator(spoilt)
    batch = dataclasses.replace(collator, on_error="skip")(spoilt)
    assert batch[of_places.index].tolist() == [[0, -1], [-1, -1]]
    assert noted(batch) == [0, 1, 1]


def test_items_are_shown(case):
    """As JSON, with the place that each has; what a row does not have is not shown."""
    one, other, _ = case.items
    places = 2 if case.several_places else 1
    collator, reader = collator_of(case, places), reader_of(case.name)
    row, empty, bad = case.rows(*(Places(items[:places]) for items in ((one, other), (None, None), (BAD, BAD))))
    items = json.loads(json.dumps(reader.shown(row, collator), allow_nan=False))
    assert [(item["modality"], item["column"], item["place"]) for item in items] == [
        (case.name, ", ".join(case.columns) if reader.one_item else column, place)
        for place, column in enumerate(collator.parts[case.name])
    ]
    assert {item["kind"] for item in items} <= {*KINDS}
    assert all(item["shown"] for item in items)
    assert (items[0]["kind"] == "other") == (case.name == "place")
    assert reader.shown(empty, collator) == []
    with pytest.raises(BadRowError):
        reader.shown(bad, collator)


def test_features_are_kept(case):
    """Of a frozen encoder: those it would make, one an item, whatever rows have them."""
    places = 2 if case.several_places else 1
    one, other, third = case.items
    chosen = [(one, other), (other, one), (third, None), (None, None), (one, one)]
    rows = case.rows(*(Places(items[:places]) for items in chosen))
    collator = collator_of(case, places)
    model = case.model(alone=True, freeze_encoders=[case.name], **(case.places if places > 1 else {}))
    cache, items = FeatureCache(model.base_model), {}
    for row in rows:
        for column, key in zip(collator.parts[case.name], collator.item_keys(row, case.name)):
            if key is not None:
                items.setdefault(key, (row, column))
    assert len(items) == 3

    def prepare(some):
        return collator.prepare_items(case.name, [row for row, _ in some], [column for _, column in some])

    cache.fill(case.name, items.items(), prepare, 2, progress=False)
    direct, cached = collator(rows), dataclasses.replace(collator, cache=cache)(rows)
    states = cached["encoder_states"][case.name]
    assert torch.equal(states.index, direct[case.index])
    assert len(states.levels[0]) == len(cache.items[case.name]) == 3
    assert not set(case.modality.inputs) & set(cached)
    for batch in (direct, cached):
        batch.pop("row_ids")
    with torch.no_grad():
        found, expected = model(**cached).logits, model(**direct).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found[0], found[3], atol=1e-4)
    with pytest.raises(ValueError, match=case.name):
        FeatureCache(case.model(alone=True).base_model).fill(case.name, [], lambda items: {})


def test_what_changes_items_at_random(case):
    """The seed, the epoch and the row decide, and nothing else."""
    key = reader_of(case.name).augmentation
    if key is None:
        assert not reader_of(case.name).changes(collator_of(case))
        return
    if case.name == "text":
        case = dataclasses.replace(case, items=["what no " * 8, "no what " * 8, "it"])
    asked = {"augment": reader_of("vision").augmentation_of(["color"])}.get(key, 0.5)
    collator = collator_of(case, seed=5, **{key: asked})
    rows = case.rows(*case.items[:2])
    (name, *_) = [name for name in collator(rows) if name in case.modality.inputs]
    first = collator(rows)[name]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(collator(rows)[name], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pickle.loads(pickle.dumps(collator))(rows)[name], first)
    others = [dataclasses.replace(collator, seed=6)(rows), collator.unchanging()(rows)]
    collator.set_epoch(1)
    for other in (collator(rows), *others):
        assert other[name].shape != first.shape or not torch.equal(other[name], first)
    streamed = [{**row, "_epoch": 0, "_position": place} for place, row in enumerate(rows)]
    assert torch.equal(collator(streamed)[name], first)  # the row's own epoch goes before
    other = CASES[1] if case.name == "vision" else CASES[0]
    with pytest.raises(ValueError, match=rf"{key} is .*{case.name}"):
        MultimodalCollator(case.processor(), other.data_columns(), **{key: asked})


@pytest.fixture
def splits(case, tmp_path):
    rows = case.rows(*(case.items * 7), None, answer=["no", "yes"] * 11)
    data = Dataset.from_list([{k: v for k, v in row.items() if k not in ("row_id", "split")} for row in rows])
    DatasetDict(train=data, validation=data, test=data).save_to_disk(tmp_path / "set")
    return load_splits(tmp_path / "set", case.data_columns(label="answer"))


def test_rows_of_a_data_set(case, splits):
    """What is learned from them fits a model; they are described, drawn, and give the tensors of rows in memory."""
    columns, reader = case.data_columns(label="answer"), reader_of(case.name)
    collator = MultimodalCollator(case.processor(), columns, {"no": 0, "yes": 1})
    rows = Rows(splits["train"], "train").__getitems__([0, 1, 21])
    batch = collator(rows)
    assert batch[case.index].tolist() == [0, 1, -1]
    assert batch["labels"].tolist() == [0, 1, 1]
    direct = collator_of(case)(case.rows(*case.items[:2]))
    made = {name: value for name, value in direct.items() if name in case.modality.inputs}
    same({name: batch[name] for name in made}, made)
    part = reader.fit(splits, columns)
    assert (part is None) == case.modality.pretrained
    if part is not None:
        own = {"extra_parts": {case.name: part}} if case.modality.extra else {case.modality.part: part}
        fitted = MultimodalCollator(case.processor(**own), columns, {"no": 0, "yes": 1})
        config = reader.fresh_config(part, 16, series_rnn_type="gru")
        key, _ = next(iter(case.settings.values()))()
        fresh = {key: {case.name: config} if case.modality.extra else config}
        batch = {name: value for name, value in fitted(rows).items() if name not in ("row_ids", "labels")}
        assert case.model(alone=True, **fresh)(**batch).logits.isfinite().all()
    found = describe(splits, columns, ["no", "yes"], "single_label_classification")
    assert summary_lines(found)
    drawn, caption = reader.draw(rows[0], collator), reader.caption(rows[0], collator)
    assert (drawn is not None) == (reader.shown_as is not None)
    assert (caption is not None) == (reader.captions is not None)
    assert reader.draw(rows[2], collator) is None
    assert not reader.caption(rows[2], collator)


def test_columns_of_one_from_outside(tmp_path):
    """They are read from a file as numbers, and nothing else is drawn because of them."""
    lines = ["latitude,longitude,y", *(f"{n}.25,{n % 7},{n % 2}" for n in range(40))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    columns = CASES[-1].data_columns(label="y")
    row = Rows(load_splits(tmp_path / "rows.csv", columns)["train"], "train")[0]
    assert isinstance(row["latitude"], float)
    assert row["latitude"] % 1 == 0.25
    wrong = dataclasses.replace(columns, extra={"place": ["latitude", "long"]})
    with pytest.raises(ValueError, match=r"'long'.*point_column.*'longitude'"):
        load_splits(tmp_path / "rows.csv", wrong)


def test_one_from_outside_does_not_move_what_is_random(monkeypatch):
    case = dataclasses.replace(CASES[1], items=["what is it no " * 4])
    settings = {"token_dropout": 0.5, "seed": 3}
    before = collator_of(case, **settings)(case.rows(*case.items))["input_ids"]
    monkeypatch.delitem(MODALITIES, "place")
    monkeypatch.delitem(READERS, "place")
    assert torch.equal(collator_of(case, **settings)(case.rows(*case.items))["input_ids"], before)


def test_one_that_nobody_imported(monkeypatch):
    columns = dataclasses.replace(CASES[1].data_columns(), extra={"smell": ["a"]})
    with pytest.raises(ValueError, match=r"'smell'.*import"):
        MultimodalCollator(CASES[1].processor(), columns)
