"""Data sets that nobody prepared for a model, as the collator reads them: their columns, and their classes by name."""

import copy
import dataclasses
from typing import Any, cast

import datasets

from .class_names import name_for_checkpoint, names_of_classes
from .collator import MultimodalCollator
from .rows import SOURCE_ROW, Rows
from .sources import prepare


def rows_of(dataset: datasets.Dataset, split: str, collator: MultimodalCollator) -> Rows:
    """A plain data set as the collator reads it: the columns it knows alone, pictures encoded, those that share one
    together."""
    columns = collator.columns
    if dataset.format["type"] != "custom":  # tensors and arrays become values again, but a transform stays
        dataset = dataset.with_format(None)
    prepared = cast(datasets.Dataset, prepare(dataset, split, "the data set", columns, None, collator.root))
    kept = {SOURCE_ROW, *(name for _, name in columns.named())}
    rows = Rows(prepared.select_columns([name for name in prepared.column_names if name in kept]), split)
    if columns.image_id is not None:
        rows.groups = prepared[columns.image_id][:]
    return rows


def classes_by_name(dataset: Any, collator: MultimodalCollator, config: Any) -> tuple[Any, MultimodalCollator]:
    """Rows whose classes (`ClassLabel`) have the model's numbers: where the data numbers them otherwise, they come as
    names, which the collator looks up. The classes of a table go by their names in this very data set.

    Returns:
        `Rows` or `StreamBatches`, and collator, changed where they have to be.
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
    # Not where the table was learned from the bare numbers of its classes.
    table = {
        name: classes
        for name, classes in table.items()
        if name in collator.table_names or set(classes) & set(schema.categorical.get(name, []))
    }
    if table != {name: collator.table_names.get(name) for name in table}:
        collator = dataclasses.replace(collator, table_names={**collator.table_names, **table})
    return dataset, collator


def labels_of_config(config: Any, task: str | None) -> dict[str, int] | None:
    """The numbers of the classes by their names, as a model's config has them, of one of several tasks or of its only
    one; None where they have no names of their own."""
    if task is not None:
        names = (getattr(config, "tasks", None) or {}).get(task, {}).get("labels")
        return None if names is None else {name: number for number, name in enumerate(names)}
    names = [config.id2label[number] for number in range(config.num_labels)]
    plain = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return None if plain else {name: number for number, name in enumerate(names)}
