"""Turns labels that are numbers formatted for people, such as "1.402,15", into plain numbers."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from datasets import Dataset, Features, Value

from ..models.finite import AmbiguousNumbersError, is_number_of_people, mark_of, read_marked, together
from ..models.tasks import CLASSES, NUMBERS, label_kind_of, problem_type_of
from .column_types import STRINGS, are_few, count_values
from .rows import Columns


def with_plain_labels(
    splits: dict[str, Any],
    columns: Columns,
    as_text: Collection[str] = (),
    decimal: str | None = None,
    problem_type: Any = None,
) -> dict[str, Any]:
    """The parts with plain numbers in label columns that hold numbers formatted for people. If some values are not
    numbers, the column becomes texts that spell the numbers. If few values are distinct, they are names of classes, as
    in `labels_of`, and stay as they are.

    Args:
        splits: the parts by name.
        columns: the columns of the data set.
        as_text: label columns with texts to write.
        decimal: "," or ".", the mark before the decimals, for columns in which no value shows it.
        problem_type: the problem type of a recipe: one for all labels, or by column.

    Raises:
        AmbiguousNumbersError: nobody can know which numbers are meant.
    """
    refused: list[ValueError] = []
    for column in [column for column in columns.labels if column not in as_text]:
        asked = problem_type.get(column) if isinstance(problem_type, Mapping) else problem_type
        texts = [
            part
            for part in splits.values()
            if isinstance(part, Dataset) and getattr(part.features.get(column), "dtype", None) in STRINGS
        ]
        if not texts or (asked is not None and label_kind_of(asked) != NUMBERS):
            continue
        train = count_values(splits.get("train", texts[0]), column)
        if asked is None and are_few(len(train), train.total()):
            continue
        counts = sum((count_values(part, column) for part in texts), Counter())
        known = counts if asked is None else numbers_of(counts)  # who asks for numbers knows that there are words too
        try:
            mark = mark_of(column, known, decimal)
        except AmbiguousNumbersError as error:
            other = f" If each value is the name of a class: --problem_type {problem_type_of(CLASSES)}."
            refused.append(AmbiguousNumbersError(f"{error}{other}"))
            continue
        if mark is None:
            continue
        spelled = {text: read_marked(text, mark) for text in counts}
        plain = None not in [number for text, number in spelled.items() if text.strip()]
        for name, part in splits.items():
            features = Features({**part.features, column: Value("float64" if plain else "string")})
            splits[name] = part.map(
                spell_plainly,
                batched=True,
                features=features,
                fn_kwargs={"column": column, "mark": mark, "plain": plain},
            )
    if refused:
        raise together(refused)
    return splits


def numbers_of(counts: Counter) -> Counter:
    """The texts that are numbers, formatted for people or not, if most texts are; the other texts are then bad rows.
    Else all texts."""
    numbers = Counter({text: count for text, count in counts.items() if is_number_of_people(text)})
    return numbers if 2 * numbers.total() > counts.total() else counts


def spell_plainly(batch: dict[str, list], column: str, mark: str, plain: bool) -> dict[str, list]:
    """A batch of rows with the numbers of a column as floats. If not all values are numbers, as texts."""
    values: list[Any] = []
    for text in batch[column]:
        number = None if text is None else read_marked(text, mark)
        values.append(number if plain else text if number is None else repr(number))
    return {column: values}
