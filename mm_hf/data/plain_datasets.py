"""Plain data sets in the form that the collator needs: their columns, and their classes by name."""

import copy
import dataclasses
from typing import Any, cast

import datasets

from .class_names import name_for_checkpoint, names_of_classes
from .collator import MultimodalCollator
from .rows import SOURCE_ROW, Rows
from .sources import prepare


def rows_of(dataset: datasets.Dataset, split: str, collator: MultimodalCollator) -> Rows:
    """A plain data set in the form that the collator needs. It has only the columns that the collator uses. Pictures
    stay encoded, and rows with the same picture form a group."""
    columns = collator.columns
    if dataset.format["type"] != "custom":  # tensors and arrays become plain values; a transform stays
        dataset = dataset.with_format(None)
    prepared = cast(datasets.Dataset, prepare(dataset, split, "the data set", columns, None, collator.root))
    kept = {SOURCE_ROW, *(name for _, name in columns.named())}
    rows = Rows(prepared.select_columns([name for name in prepared.column_names if name in kept]), split)
    if columns.image_id is not None:
        rows.groups = prepared[columns.image_id][:]
    return rows


def classes_by_name(dataset: Any, collator: MultimodalCollator, config: Any) -> tuple[Any, MultimodalCollator]:
    """Rows whose classes (`ClassLabel`) have the numbers of the model. If the data number them in another way, they
    come as names, and the collator looks the names up. Classes in a table come by their names in this data set.

    Args:
        dataset: `Rows` or `StreamBatches`.
        collator: reads the rows.
        config: the config of the model.

    Returns:
        the rows and the collator, changed if necessary.
    """
    features, columns = getattr(dataset.dataset, "features", None), collator.columns
    if not features:
        return dataset, collator
    several, label2id = isinstance(columns.label, list), collator.label2id
    known: dict[str, Any] = {}
    for column in columns.labels:
        known[column] = (label2id or {}).get(column) if several else label2id
        if known[column] is None:
            known[column] = labels_of_config(config, column if several else None)
    named = name_for_checkpoint(
        dataset.dataset, {column: None if labels is None else list(labels) for column, labels in known.items()}
    )
    if named is not dataset.dataset:
        dataset = copy.copy(dataset)
        dataset.dataset = named
        if label2id is None or several:
            label2id = known if several else known[columns.labels[0]]
        collator = dataclasses.replace(collator, label2id=label2id)
    table = names_of_classes(features, [name for name in columns.table if name in features])
    schema = collator.processor.table_schema
    # Not if the table was learned from the bare numbers of its classes.
    table = {
        name: classes
        for name, classes in table.items()
        if name in collator.table_names or set(classes) & set(schema.categorical.get(name, []))
    }
    if table != {name: collator.table_names.get(name) for name in table}:
        collator = dataclasses.replace(collator, table_names={**collator.table_names, **table})
    return dataset, collator


def labels_of_config(config: Any, task: str | None) -> dict[str, int] | None:
    """The numbers of the classes by name, from a model's config. None if the classes have no real names.

    Args:
        config: the config.
        task: the name of one of several tasks; None: the model has one task.
    """
    if task is not None:
        names = (getattr(config, "tasks", None) or {}).get(task, {}).get("labels")
        return None if names is None else {name: number for number, name in enumerate(names)}
    names = [config.id2label[number] for number in range(config.num_labels)]
    plain = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return None if plain else {name: number for number, name in enumerate(names)}
