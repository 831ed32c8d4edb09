"""Describes what was found in a data set, before a long training starts."""

import textwrap
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Image, IterableDataset, IterableDatasetDict

from ..models.finite import DIGITS, read_number
from ..models.tasks import CLASSES, NUMBERS, TEXTS, label_kind_of, problem_type_of
from .column_types import MAX_NUMBER_CLASSES, STRINGS, count_values
from .labels import is_finite
from .modalities import READERS
from .modalities.text import describe_texts, text_lines
from .rows import Columns


STREAMED_ROWS = 1000  # how many rows of a stream are described
SHOWN_CLASSES, SHOWN_LACKING = 20, 5
WIDTH = 110


def describe(
    splits: DatasetDict | IterableDatasetDict,
    columns: Columns,
    names: Any,
    problem_type: Any,
    tokenizer: Any = None,
    root: str | None = None,
) -> dict[str, Any]:
    """Statistics of the columns of a data set. They are exact, or those of a stream's first 1,000 rows.

    Args:
        splits: as `load_splits` and `normalise_labels` give them.
        columns: says what each column is used for.
        names, problem_type: the results of `labels_of`. Dicts by column if `columns.label` is a list.
        tokenizer: counts the tokens of texts as well; None: tokens are not counted.
        root: the folder of files, see `resolve_path`.

    Returns:
        `streamed_rows`: None, or the largest number of rows per part that were looked at;
        `rows`: the number of rows by part;
        `columns`: a list of `part`, `column`, `type` and `absent`, the share of absent values by part of the data;
        `labels`: a dict by column if `columns.label` is a list, else a dict of `problem_type`, `names`, and, for
        classes,
            `counts` by part and class, and in train the `ratio` of the most to the least frequent class. For
            regression, train's `values` (minimum, mean, maximum), and `bad`, how many are not finite numbers. For
            texts to write, `texts` of train, see below. `other` is another problem type that whole numbers may have,
            if this is unclear;
        `pictures`: by column of train, how many were `looked_at`, how many of them are `unreadable`, `sizes` (the
            smallest, median and largest width × height), and how many are `distinct`, if paths or `image_id` show it;
        `sounds`: in train, how many were `looked_at`, how many of them are `unreadable`, and `seconds` (the shortest,
            median and longest) of the others. None if there are none, a dict by column if there are several columns;
        `texts`: in train, how many were `looked_at`, `words` and `tokens` (median, 95th percentile, maximum), and how
            many are `distinct`. None or a dict by column as for sounds;
        statistics of other modalities, see `ModalityReader.describe`.
    """
    streamed = not isinstance(next(iter(splits.values())), Dataset)
    parts = {name: held(split) if streamed else split for name, split in splits.items()}
    pairs = columns.named()
    absent = {column: {name: absent_rate(part, column) for name, part in parts.items()} for _, column in pairs}
    train = parts.get("train", next(iter(parts.values())))
    labels: dict[str, Any] | None = None
    if isinstance(columns.label, list):
        labels = {name: describe_labels(parts, name, names[name], problem_type[name]) for name in columns.label}
    elif columns.label is not None and label_kind_of(problem_type) == TEXTS and names is None:
        texts = describe_texts(train, columns.label, tokenizer)
        labels = {"problem_type": problem_type, "names": None, "texts": texts}
    elif columns.label is not None:
        labels = describe_labels(parts, columns.label, names, problem_type)
    return {
        "streamed_rows": STREAMED_ROWS if streamed else None,
        "rows": {name: len(part) for name, part in parts.items()},
        "columns": [
            {"part": part, "column": column, "type": type_of(train.features[column]), "absent": absent[column]}
            for part, column in pairs
        ],
        "labels": labels,
        **{
            key: value
            for reader in READERS.values()
            for key, value in reader.describe(train, columns, root, tokenizer).items()
        },
    }


def held(split: IterableDataset) -> Dataset:
    """The first rows of a stream."""
    return Dataset.from_list(list(split.take(STREAMED_ROWS)), features=split.features)


def type_of(feature: Any) -> str:
    """A short name for what a column holds."""
    if isinstance(feature, Image):
        return "image"
    if hasattr(feature, "feature"):
        return f"list of {type_of(feature.feature)}"
    if hasattr(feature, "names"):
        return "class"
    return (
        "string" if getattr(feature, "dtype", None) in STRINGS else getattr(feature, "dtype", type(feature).__name__)
    )


def absent_rate(split: Dataset, column: str) -> float:
    """The share of the rows of a column that are None, NaN, or a file with neither bytes nor a path."""
    missing = 0
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        values = table[column]
        empty = pc.is_null(values, nan_is_null=True)
        if pa.types.is_struct(values.type):
            fields = [pc.is_null(pc.struct_field(values, name)) for name in ("bytes", "path")]
            empty = pc.or_(empty, pc.and_(*fields))
        missing += pc.sum(empty).as_py() or 0
    return missing / len(split) if len(split) else 0.0


def describe_labels(
    parts: dict[str, Dataset], column: str, names: list[str] | None, problem_type: str
) -> dict[str, Any]:
    """Counts of the classes, or the range of the numbers; see `describe`."""
    values = {name: count_values(part, column) for name, part in parts.items()}
    train = values.get("train", next(iter(values.values())))
    described: dict[str, Any] = {"problem_type": problem_type, "names": names}
    if names is None:
        finite: Counter = Counter()
        for value, count in train.items():
            number = read_number(value) if isinstance(value, str) else value
            if number is not None and is_finite(number):
                finite[float(number)] += count
        numbers, weights = list(finite), list(finite.values())
        spread = [min(numbers), float(np.average(numbers, weights=weights)), max(numbers)] if numbers else None
        described |= {"values": spread, "bad": train.total() - finite.total()}
        few = 2 < len(finite) <= MAX_NUMBER_CLASSES and all(number.is_integer() for number in finite)
        return described | ({"other": problem_type_of(CLASSES)} if few else {})
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(names, 0) for name in values}
    for name, counter in values.items():
        for value, count in counter.items():
            label = label_name(value, names)
            if label in counts[name]:
                counts[name][label] += count
    if len(names) > 2 and label_kind_of(problem_type) == CLASSES and all(map(DIGITS.fullmatch, names)):
        feature = next(iter(parts.values())).features[column]
        described |= {} if isinstance(feature, ClassLabel) else {"other": problem_type_of(NUMBERS)}
    seen = counts.get("train", next(iter(counts.values()))).values()
    return {**described, "counts": counts, "ratio": max(seen) / min(seen) if all(seen) else None}


def label_name(value: Any, names: list[str]) -> str | None:
    """The class of a label. It may be given by its name or its index."""
    if isinstance(value, str):
        return value
    return names[int(value)] if 0 <= value < len(names) else None


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The result of `describe` as lines for the terminal."""
    lines = ["data", f"  rows      {', '.join(f'{name} {count:,}' for name, count in summary['rows'].items())}"]
    if summary["streamed_rows"] is not None:
        lines[0] += f" (a stream: all figures are of the first {summary['streamed_rows']:,} rows of each part)"
    for column in summary["columns"]:
        text = f"  {column['part']:<9} {column['column']} ({column['type']})"
        rates = [f"{name} {rate:.1%}" for name, rate in column["absent"].items() if rate > 0]
        lines.append(text + (f", absent: {', '.join(rates)}" if rates else ""))
    lines += [line for reader in READERS.values() for line in reader.lines(summary)]
    if summary["labels"] is None:
        return lines
    if "problem_type" in summary["labels"]:
        return lines + label_lines(summary["labels"])
    return lines + [line for name, labels in summary["labels"].items() for line in label_lines(labels, f"{name}: ")]


def label_lines(labels: dict[str, Any], task: str = "") -> list[str]:
    """The classes with their counts in train, the most frequent first, or the range of the numbers."""
    kind = task + labels["problem_type"].replace("_", " ")
    if "texts" in labels:
        return text_lines(labels["texts"], "to write")
    if labels["names"] is None:
        spread = labels["values"]
        numbers = (
            "no label" if spread is None else "min / mean / max " + " / ".join(f"{value:.4g}" for value in spread)
        )
        bad = f"; {labels['bad']:,} are not finite numbers, so their rows are bad" if labels["bad"] else ""
        return [f"  labels    {kind}: {numbers}{bad}", *other_lines(labels, "amounts", "names of classes")]
    counts = Counter(labels["counts"].get("train", next(iter(labels["counts"].values()))))
    ratio = "" if labels["ratio"] is None else f", most to least frequent {labels['ratio']:.1f} : 1"
    shown = ", ".join(f"{short(name)} {count:,}" for name, count in counts.most_common(SHOWN_CLASSES))
    more = f" and {len(counts) - SHOWN_CLASSES:,} more" if len(counts) > SHOWN_CLASSES else ""
    text = f"{kind}, {len(counts):,} classes{ratio}: {shown}{more}"
    wrapped = textwrap.wrap(text, WIDTH, initial_indent="  labels    ", subsequent_indent=" " * 12)
    return wrapped + lacking_lines(labels["counts"]) + other_lines(labels, "names of classes", "amounts")


def lacking_lines(counts: dict[str, dict[str, int]]) -> list[str]:
    """The classes without a row in a part. In train they cannot be learned, in other parts they cannot be measured.
    Parts without any label are ignored.

    Args:
        counts: the number of rows, by part and class.
    """
    lines = []
    for part, of_part in counts.items():
        names = [name for name, count in of_part.items() if not count]
        if not names or len(names) == len(of_part):
            continue
        shown = ", ".join(short(name) for name in names[:SHOWN_LACKING])
        more = f" and {len(names) - SHOWN_LACKING:,} more" if len(names) > SHOWN_LACKING else ""
        what = "learned" if part == "train" else "measured"
        lines.append(f"{' ' * 12}no row of {part}, so not {what} there: {shown}{more}")
    return lines


def other_lines(labels: dict[str, Any], taken: str, other: str) -> list[str]:
    """What whole numbers were taken for, and how to choose the other meaning."""
    if "other" not in labels:
        return []
    return [f"{' ' * 12}whole numbers, taken for {taken}; if they are {other}: --problem_type {labels['other']}"]


def short(name: str, width: int = 24) -> str:
    """The name of a class, shortened if it is long."""
    return name if len(name) <= width else f"{name[: width - 1]}…"
