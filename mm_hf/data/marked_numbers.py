"""Labels that are numbers formatted for people, such as "1.402,15", as plain ones."""

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
    """The parts, with columns of labels that are numbers formatted for people as numbers; as texts that spell them
    where some values are none. Few of them are names of classes, as `labels_of` has it, and stay as they are.

    Args:
        as_text: columns of labels that are to be written.
        decimal: "," or ".", what begins the decimals where no value tells.
        problem_type: of a recipe: of all labels, or by their columns.

    Raises:
        AmbiguousNumbersError: nobody can know what they are.
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
        known = counts if asked is None else numbers_of(counts)  # who says that they are numbers knows of the words
        try:
            mark = mark_of(column, known, decimal)
        except AmbiguousNumbersError as error:
            other = f" If each is the name of a class: --problem_type {problem_type_of(CLASSES)}."
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
    """The texts that are numbers, where most are, formatted for people or not; else all. Words are bad rows then."""
    numbers = Counter({text: count for text, count in counts.items() if is_number_of_people(text)})
    return numbers if 2 * numbers.total() > counts.total() else counts


def spell_plainly(batch: dict[str, list], column: str, mark: str, plain: bool) -> dict[str, list]:
    """A batch of rows with the numbers of a column: as floats, or, where not all are numbers, as texts."""
    values: list[Any] = []
    for text in batch[column]:
        number = None if text is None else read_marked(text, mark)
        values.append(number if plain else text if number is None else repr(number))
    return {column: values}
