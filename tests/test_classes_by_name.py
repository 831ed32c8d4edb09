"""`MMTrainer` reads the classes of any data by their names: a `ClassLabel` numbers them as it likes."""

import pytest
import tiny_models
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import TrainingArguments

from mm_hf import MMFusionForClassification, MMFusionForMultiTask, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, Rows, StreamBatches
from mm_hf.models.tabular import TableSchema, TabularConfig
from mm_hf.trainer import MMTrainer


NAMES = ["cat", "dog", "cow"]
COLUMNS = Columns(table=["size", "place"], label="animal")
SCHEMA = TableSchema({"size": (0.0, 1.0)}, {"place": ["barn", "house"]})


def trainer(tmp_path, label2id=None, columns=COLUMNS, cls=MMFusionForClassification, **kwargs):
    config = TabularConfig.from_schema(SCHEMA, hidden_size=16)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: n for n, name in enumerate(NAMES)}}
    kwargs = kwargs or {"num_labels": 3, **labels}
    model = tiny_models.model(cls, vision=None, text=None, tabular_config=config, **kwargs)
    problem = None if isinstance(columns.label, list) else "single_label_classification"
    collator = MultimodalCollator(MMFusionProcessor(table_schema=SCHEMA), columns, label2id, problem)
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True, per_device_eval_batch_size=4)
    return MMTrainer(model, args, collator)


def animals(names, values, **more):
    types = {"size": Value("float64"), "place": Value("string"), "animal": ClassLabel(names=names)}
    table = [{"size": float(n), "place": "barn", "animal": names.index(v)} for n, v in enumerate(values)]
    return Dataset.from_list(table, features=Features({**types, **more}))


VALUES = ["dog", "cat", "cow", "dog", "cat"]
NUMBERS = [1, 0, 2, 1, 0]


@pytest.mark.parametrize("form", [lambda data: data, lambda data: Rows(data, "validation")])
@pytest.mark.parametrize("label2id", [None, {name: number for number, name in enumerate(NAMES)}])
@pytest.mark.parametrize("names", [NAMES, ["cow", "cat", "dog"], ["dog", "cow", "horse", "cat"]])
def test_classes_in_any_order(tmp_path, names, label2id, form):
    found = trainer(tmp_path, label2id).predict(form(animals(names, VALUES)))
    assert found.label_ids.tolist() == NUMBERS


def test_a_transform_of_ones_own_goes_first(tmp_path):
    data = animals(["cow", "cat", "dog"], VALUES).with_transform(
        lambda batch: {**batch, "size": [0.0] * len(batch["size"])}
    )
    own = trainer(tmp_path)
    assert own.predict(data).label_ids.tolist() == NUMBERS
    assert own.predict(data).predictions.std(0).max() < 1e-6  # all rows are alike


def test_a_class_that_the_model_lacks_is_a_bad_row(tmp_path):
    with pytest.raises(ValueError, match=r"row 1 .*'animal'.*'horse'.*\['cat'"):
        trainer(tmp_path).predict(animals(["horse", "dog"], ["dog", "horse"]))


def test_other_names_altogether_go_by_number(tmp_path, monkeypatch):
    """A model that learns a new task with as many classes; its config still has the old names."""
    said = []
    monkeypatch.setattr("mm_hf.data.class_names.logger.warning", said.append)
    found = trainer(tmp_path).predict(animals(["red", "green", "blue"], ["green", "red"]))
    assert found.label_ids.tolist() == [1, 0]
    assert [all(name in message for name in ("red", "cat")) for message in said] == [True]


def test_a_model_without_names_takes_numbers(tmp_path):
    found = trainer(tmp_path, num_labels=3).predict(animals(["cow", "cat", "dog"], ["dog", "cow"]))
    assert found.label_ids.tolist() == [2, 0]


def test_missing_classes_stay_missing(tmp_path):
    data = animals(["cow", "cat", "dog"], ["dog", "cat"])
    data = data.map(lambda row, place: {"animal": [-1, None][place]}, with_indices=True, features=data.features)
    assert trainer(tmp_path).predict(data).label_ids.tolist() == [-100, -100]


def test_lists_of_classes(tmp_path):
    types = Features(
        {"size": Value("float64"), "place": Value("string"), "animal": List(ClassLabel(names=["cow", "cat"]))}
    )
    data = Dataset.from_list(
        [{"size": 0.0, "place": "barn", "animal": [0]}, {"size": 1.0, "place": "barn", "animal": []}], features=types
    )
    own = trainer(tmp_path)
    own.data_collator.problem_type = own.model.config.problem_type = "multi_label_classification"
    own.data_collator.label2id = {name: number for number, name in enumerate(NAMES)}
    assert own.predict(data).label_ids.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_several_tasks(tmp_path):
    tasks = {
        "animal": {"problem_type": "single_label_classification", "labels": NAMES},
        "tone": {"problem_type": "single_label_classification", "labels": ["low", "high"]},
    }
    columns = Columns(table=["size", "place"], label=["animal", "tone"])
    data = (
        animals(["cow", "cat", "dog"], VALUES)
        .add_column("tone", [0, 1, 0, 1, 0])
        .cast_column("tone", ClassLabel(names=["high", "low"]))
    )
    found = trainer(tmp_path, None, columns, MMFusionForMultiTask, tasks=tasks).predict(data)
    assert found.label_ids["animal"].tolist() == NUMBERS
    assert found.label_ids["tone"].tolist() == [1, 0, 1, 0, 1]


def test_streams_and_training(tmp_path):
    own = trainer(tmp_path)
    stream = animals(["cow", "cat", "dog"], VALUES).to_iterable_dataset()
    own.train_dataset = StreamBatches(stream, "train", batch_size=5)
    (batch,) = own.get_train_dataloader()
    assert batch["labels"].tolist() == NUMBERS
    own.train_dataset = animals(["cow", "cat", "dog"], VALUES)
    (batch,) = own.get_train_dataloader()
    order = batch["row_ids"].tolist()
    assert batch["labels"].tolist() == [NUMBERS[row] for row in order]


def test_classes_of_a_table_go_by_their_names_too(tmp_path):
    own = trainer(tmp_path)
    for names in (["barn", "house"], ["house", "barn"]):
        data = animals(NAMES, ["cat", "dog"]).cast_column("place", ClassLabel(names=names))
        (batch,) = own.get_eval_dataloader(data)
        assert batch["categorical_ids"].tolist() == [[2], [2]]
    assert torch.equal(batch["labels"], torch.tensor([0, 1]))


def test_a_table_that_learned_bare_numbers(tmp_path):
    own = trainer(tmp_path)
    own.data_collator.processor = MMFusionProcessor(
        table_schema=TableSchema({"size": (0.0, 1.0)}, {"place": ["0", "1"]})
    )
    data = animals(NAMES, ["cat", "dog"]).cast_column("place", ClassLabel(names=["house", "barn"]))
    (batch,) = own.get_eval_dataloader(data)
    assert batch["categorical_ids"].tolist() == [[3], [3]]
