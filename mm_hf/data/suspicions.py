"""Warnings that users should check before they trust a score: columns that reveal the label, rows in two parts,
classes with one row."""

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from .column_types import count_values
from .looks import ColumnSample
from .rows import Columns, resolve_path


GIVES_AWAY = 0.98  # accuracy or R² on held-out rows, from which on a column alone reveals the label
FEWEST = 20  # with fewer rows, there is no warning
FOLDS = 5
OWN_VALUE = 0.9  # share of distinct values, from which on nearly every row has a different value
SHARED = 0.02  # share of the rows of a part that are also in the training part, above which there is a warning
LONG_TEXT = 20  # characters; two rows do not share a text of this length by chance
SHOWN = 3  # how many groups of values a message names
READ_AT_ONCE = 2**20


# Checks on a sample, before the data are loaded


def gives_away(label: ColumnSample, column: ColumnSample) -> str | None:
    """Warns if one column of a table alone reveals the label. A model of this column is fitted on four fifths of the
    sampled rows and predicts the others, in turn. None: no warning."""
    values, targets, numbers = aligned(label, column)
    if len(targets) < FEWEST or len(set(targets.tolist())) < 2:
        return None
    score, guess = held_out_score(values, targets, numbers, column.numbers is not None and not column.are_truths)
    if score < GIVES_AWAY or score - guess < (1 - guess) / 2:
        return None
    measure = f"R² {score:.3f}" if numbers else f"{score:.1%} right; always guessing the same: {guess:.1%}"
    return (
        f"column {column.name!r} alone gives the label {label.name!r} away ({measure}, on held-out rows): will it be "
        f"known when the model is used? --ignore_columns {column.name!r} leaves it out"
    )


def aligned(label: ColumnSample, column: ColumnSample) -> tuple[np.ndarray, np.ndarray, bool]:
    """The values of a column as numbers, `(N, 1)`, NaN for an absent value; the labels `(N,)`; and whether the labels
    are numbers. Only for rows with a label."""
    by_place = dict(zip(column.places, column.values))
    as_numbers = label.numbers if label.numbers is not None and not label.are_truths else None
    few = label.whole is not None and (label.distinct or 0) <= FEWEST
    numbers = as_numbers is not None and not few and not label.has_codes
    places = list(label.places)
    if column.numbers is not None and not column.are_truths:
        number_at = dict(zip(column.places, column.numbers.tolist()))
        values = [number_at.get(place, np.nan) for place in places]
    else:
        codes: dict[str, int] = {}
        texts = [str(by_place[place]) if place in by_place else "" for place in places]
        values = [codes.setdefault(text, len(codes)) for text in texts]
    targets = as_numbers if numbers else np.array([str(value) for value in label.values])
    assert targets is not None
    keep = ~np.isnan(targets) if numbers else np.ones(len(targets), bool)
    return np.array(values, dtype=float)[keep, None], targets[keep], numbers


def held_out_score(values: np.ndarray, targets: np.ndarray, numbers: bool, ordered: bool) -> tuple[float, float]:
    """Accuracy or R² of the best of some models of one column on held-out rows, and of a constant guess.

    Args:
        values: the values of the column, `(N, 1)`.
        targets: the labels, `(N,)`.
        numbers: the targets are numbers.
        ordered: the values are numbers, and not codes of categories.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    folds = KFold(FOLDS, shuffle=True, random_state=0)
    models: list[Any] = [DecisionTreeRegressor(min_samples_leaf=2) if numbers else DecisionTreeClassifier()]
    models[0].set_params(random_state=0)
    if numbers and ordered and not np.isnan(values).any():
        models.append(LinearRegression())
    scores = []
    for model in models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about rare classes and constant columns, which are not the topic here
            answers = cross_val_predict(model, values, targets, cv=folds)
        if numbers:
            scores.append(1 - ((answers - targets) ** 2).mean() / targets.var())
        else:
            scores.append(float((answers == targets).mean()))
    most = max(np.unique(targets, return_counts=True)[1]) / len(targets)
    return float(max(scores)), 0.0 if numbers else float(most)


def own_values(column: ColumnSample, role: str) -> str | None:
    """Warns if a category or text looks like an id, because nearly every row has a different single word. None: no
    warning."""
    if column.present < FEWEST or column.distinct is None or not column.are_texts or column.are_dates:
        return None
    if column.numbers is not None:
        return None
    if column.distinct < OWN_VALUE * column.present or column.words >= 1.5:
        return None
    return (
        f"column {column.name!r} is taken for {role}, but looks like an id: {column.distinct:,} of {column.present:,} "
        f"values are distinct single words, such as {column.values[0]!r:.30}. --ignore_columns {column.name!r} leaves "
        "it out"
    )


def spelled_alike(column: ColumnSample, role: str) -> str | None:
    """Warns if values of a category, or classes, differ only in upper and lower case and spaces. The model treats them
    as different values. None: no warning."""
    if not column.are_texts or column.numbers is not None or column.are_dates:
        return None
    if 2 * (column.distinct or 0) > column.present:  # texts, and not names of categories
        return None
    spellings: dict[str, Counter] = {}
    for value in column.values:
        spellings.setdefault(" ".join(value.split()).casefold(), Counter())[value] += 1
    alike = [list(counts) for counts in spellings.values() if len(counts) > 1]
    if not alike:
        return None
    shown = "; ".join(" and ".join(map(repr, sorted(values))) for values in alike[:SHOWN])
    more = f"; and {len(alike) - SHOWN:,} more" if len(alike) > SHOWN else ""
    return (
        f"column {column.name!r} is taken for {role}, and some values differ only in upper and lower case or spaces: "
        f"{shown}{more}. The model treats them as different: if they mean the same, write them alike in the data"
    )


def names_groups(column: ColumnSample, role: str) -> str | None:
    """Warns if a column names something that several rows share, such as users or pictures by their ids. A model could
    then memorise it from some rows and use it for others. None: no warning."""
    if column.distinct is None or not (column.is_called_id or column.is_called_thing) or column.are_dates:
        return None
    if column.distinct < FEWEST or 2 * column.distinct > column.present:
        return None
    return (
        f"column {column.name!r} is taken for {role}, and names {column.distinct:,} groups of rows: a group may be in "
        f"train and in test. If future rows belong to new groups, --group_column {column.name!r} keeps each together"
    )


# Checks on the parts, after the data are loaded


def rare_classes(splits: Mapping[str, Any], labels: Iterable[str]) -> list[str]:
    """Warns about classes with a single row in all parts together. Such a class cannot be both learned and measured.

    Args:
        splits: the parts by name.
        labels: the label columns that hold classes.
    """
    lines = []
    for label in labels:
        counts = sum((count_values(part, label) for part in splits.values()), Counter())
        single = sorted(map(str, (value for value, count in counts.items() if count == 1)))
        if single:
            named = ", ".join(map(repr, single[:5])) + (" …" if len(single) > 5 else "")
            lines.append(
                f"{len(single)} of {len(counts)} classes of {label!r} have one row each ({named}): they cannot be "
                "both learned and measured"
            )
    return lines


def shared_rows(splits: Mapping[str, Any], columns: Columns, root: str | None) -> list[str]:
    """Warns if many rows of the other parts share a text, a picture, a sound, or all values with a training row. Texts
    are the same if they differ only in case, spaces and punctuation. Files are the same if their content is."""
    train = splits.get("train")
    if not isinstance(train, Dataset):
        return []
    lines = []
    kinds = [(column, text_marks) for column in columns.texts]
    kinds += [(column, file_marks) for column in columns.files]
    inputs = list(dict.fromkeys(column for part, column in columns.named() if part not in ("label", "kind", "weight")))
    for name, part in splits.items():
        if name == "train" or not isinstance(part, Dataset):
            continue
        for column, marks_of in kinds:
            mine, theirs = marks_of(part, train, column, root)
            lines += said_of_shared(name, f"the same {column!r}", mine, theirs)
        if plain := [column for column in inputs if column not in columns.files]:
            mine, theirs = (row_marks(each, plain) for each in (part, train))
            if len(plain) == len(inputs) and len(inputs) > 1:
                lines += said_of_shared(name, "the same values in all columns", mine, theirs)
    return lines


def said_of_shared(part: str, what: str, mine: list[Any], theirs: list[Any]) -> list[str]:
    """The warning about rows that a part shares with the training part. Empty if they are few, or if training rows
    share them with each other too, such as the questions of many pictures."""
    known = set(theirs) - {None}
    if 2 * len(known) < sum(mark is not None for mark in theirs):
        return []
    count = sum(mark in known for mark in mine)
    if count <= SHARED * len(mine) or count < 2:
        return []
    return [
        f"{count:,} of {len(mine):,} {part} rows have {what} as a training row: the model may have memorised them, so "
        "the score may be too high (--group_column keeps rows together)"
    ]


def text_marks(part: Dataset, train: Dataset, column: str, root: str | None) -> tuple[list[Any], list[Any]]:
    """The long texts of a part and of the training part, without case, spaces and punctuation. None for short
    texts."""

    def mark(text: Any) -> str | None:
        if not isinstance(text, str) or len(text) < LONG_TEXT:
            return None
        return re.sub(r"[\W_]+", " ", text).strip().lower()

    return [mark(text) for text in part[column][:]], [mark(text) for text in train[column][:]]


def file_marks(part: Dataset, train: Dataset, column: str, root: str | None) -> tuple[list[Any], list[Any]]:
    """The contents of the files of a part and of the training part as hashes. A file is read only if the other part
    has a file of the same size."""
    mine, theirs = (files_in(each, column, root) for each in (part, train))
    sizes = {size for size, _ in mine} & {size for size, _ in theirs} - {None}
    marks = [[content_mark(file) if size in sizes else None for size, file in each] for each in (mine, theirs)]
    return marks[0], marks[1]


def files_in(part: Dataset, column: str, root: str | None) -> list[tuple[int | None, Any]]:
    """The files of a column: their sizes, and hashes of their bytes or their paths. None if it cannot be read."""
    files: list[tuple[int | None, Any]] = []
    for batch in part.select_columns([column]).iter(batch_size=100):
        for value in batch[column]:
            content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
            try:
                if content is not None:
                    files.append((len(content), hashlib.sha256(content).digest()))
                elif path:
                    full = resolve_path(path, root)
                    files.append((os.path.getsize(full), full))
                else:
                    files.append((None, None))
            except (OSError, ValueError):
                files.append((None, None))
    return files


def content_mark(file: Any) -> bytes | None:
    """The hash of a file. A hash stays as it is."""
    if isinstance(file, bytes):
        return file
    seen = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while block := opened.read(READ_AT_ONCE):
                seen.update(block)
    except OSError:
        return None
    return seen.digest()


def row_marks(part: Dataset, columns: list[str]) -> list[Any]:
    """The values of rows as hashes."""
    marks = []
    for batch in part.select_columns(columns).iter(batch_size=1000):
        for values in zip(*(batch[column] for column in columns)):
            marks.append(hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).digest())
    return marks
