"""Finds out what the columns of a data set are from their values, so that the user need not name them."""

import mimetypes
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..models.modality import modality_of
from ..models.names import did_you_mean
from ..models.series import Series
from ..models.sound import Sound
from ..models.tasks import CLASSES, NUMBERS, problem_type_of
from .column_samples import PartSample, main_part, sample_columns
from .column_types import are_few
from .looks import ColumnSample, Evidence
from .modalities import READERS, reader_of_part
from .rows import Columns, listed
from .suspicions import gives_away, names_groups, own_values, spelled_alike


FILE_TYPES = ("image", "video", Sound.name)  # the names that `mimetypes` uses
NO_LABEL = (Series.name,)  # parts that cannot be labels
LABELLED = ("label", "target", "class", "y", "answer", "category", "price", "score", "rating", "stars")
AMOUNTS = "label: numbers"
MOST_CLASSES = 20  # whole numbers of a label are classes if at most so many are distinct, else amounts
WIDTH = 100  # the largest number of characters of a reason in the table


@dataclass(frozen=True)
class UnderstoodColumn:
    """What one column is taken for.

    Args:
        name: the name of the column.
        role: in one word: "image", "number"…; or why it is left out: "id", "constant", "empty", "url", "unreadable"
            (nothing reads it), "partial" (not in all parts of the data), "ignored" (the user said so).
        why: the reason, in words.
        part: the part that it plays in a row, see `Columns.named`; "" if it is left out.
        category: its values are numbers that name something.
        root: the folder that its paths start from, if it is not the folder of the data.
    """

    name: str
    role: str
    why: str
    part: str = ""
    category: bool = False
    root: str | None = None


@dataclass
class Understanding:
    """The result of `understand`.

    Attributes:
        dataset: the name of the data set.
        label: the columns of the labels.
        lines: what each column is taken for, in the order of the data, without the label columns.
        data_root: the folder that paths start from, if it is not the folder of the data.
        suspicions: warnings that users should check before they trust a score.
        targets: what the label columns are.
    """

    dataset: str
    label: list[str]
    lines: list[UnderstoodColumn]
    data_root: str | None = None
    suspicions: list[str] = field(default_factory=list)
    targets: list[UnderstoodColumn] = field(default_factory=list)

    @property
    def numbers(self) -> list[str]:
        """The label columns that are taken for numbers, although they could be classes."""
        return [target.name for target in self.targets if target.role == AMOUNTS]

    @property
    def kind_of_numbers(self) -> str:
        """The problem type of `numbers`."""
        return problem_type_of(NUMBERS)

    @property
    def roles(self) -> dict[str, str]:
        """What each column is taken for, by its name."""
        return {line.name: line.role for line in self.lines}

    def parts(self) -> dict[str, list[str]]:
        """The columns that are read, by the part that they play in a row."""
        parts: dict[str, list[str]] = {}
        for line in self.lines:
            if line.part:
                parts.setdefault(line.part, []).append(line.name)
        return parts

    def keys(self) -> dict[str, Any]:
        """The same as keys of a recipe, as if the user had named the columns."""
        keys: dict[str, Any] = {}
        for part, columns in self.parts().items():
            reader = reader_of_part(part)
            if reader is None:
                continue
            key = reader.keys_of_parts()[part]
            if key not in known_keys():  # of a modality from outside
                keys.setdefault("columns", {})[part] = columns
            else:
                keys[key] = columns[0] if key == "video_column" else columns
        if categories := [line.name for line in self.lines if line.category]:
            keys["category_columns"] = categories
        if self.data_root is not None:
            keys["data_root"] = self.data_root
        return keys

    @property
    def columns(self) -> Columns:
        """The columns by the part that they play, for `load_splits` and `MultimodalCollator`."""
        parts = self.parts()
        extra = {part: columns for part, columns in parts.items() if part not in Columns.__dataclass_fields__}
        named: dict[str, Any] = {part: columns for part, columns in parts.items() if part not in extra}
        for part, columns in named.items():
            named[part] = columns if part == "table" or len(columns) > 1 else columns[0]
        label: Any = self.label[0] if len(self.label) == 1 else self.label or None
        return Columns(**named, label=label, extra=extra)

    def candidates(self) -> list[str]:
        """The columns that could be the label, the most likely first. Columns that other parts of the data lack come
        first, then columns with a usual name, then the others, the last column first."""
        able = [line for line in self.lines if line.part not in NO_LABEL and (line.part or line.role == "partial")]
        able = [line for line in able if not reads_files(line.part)]

        def rank(line: UnderstoodColumn) -> tuple[bool, bool, int]:
            return line.role != "partial", line.name.lower() not in LABELLED, -self.lines.index(line)

        return [line.name for line in sorted(able, key=rank)]

    def flag(self, line: UnderstoodColumn) -> str:
        """The flag with which the user can set what the column is taken for."""
        reader = reader_of_part(line.part) if line.part else None
        if reader is None:
            return ""
        key = reader.keys_of_parts()[line.part]
        return f"--{key}" if key in known_keys() else "--columns"

    def table(self) -> str:
        """What each column is taken for, and why, for people."""
        rows = [
            (line.name or '""', line.role if line.part else f"{line.role}: left out", line.why, self.flag(line))
            for line in self.lines
        ]
        rows += [(target.name, target.role, target.why, "--label") for target in self.targets]
        heads = ("column", "taken as", "why", "flag")
        cells = [tuple(cut(cell) for cell in row) for row in [heads, *rows]]
        widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)

    def __repr__(self) -> str:
        counts = Counter(line.role for line in self.lines)
        said = ", ".join(f"{count} {role}" for role, count in counts.items())
        label = " and ".join(self.label) or "none"
        lines = [f"Understanding({self.dataset!r}: {said}; label: {label})", self.table(), *self.suspicions]
        return "\n".join(lines)


def cut(text: str) -> str:
    """A cell of the table in one line, shortened if it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def known_keys() -> set[str]:
    """The keys of a recipe that name columns of the library's modalities."""
    return {key for name, reader in READERS.items() if not modality_of(name).extra for key in reader.column_keys}


def understand(
    dataset: Any,
    label: str | list[str] | None = None,
    *,
    data_root: str | os.PathLike | None = None,
    named: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
) -> Understanding:
    """Finds out what every column of a data set is from its values: pictures, sounds, texts, parts of a table…, or a
    column that nothing can be learned from, such as ids and constants.

    It looks at about 1,000 rows, spread over the training part. Files are recognised by their first bytes, and not
    decoded.

    Args:
        dataset: a path or Hub id, see `load_splits`; a `Dataset`, a `DatasetDict`, or a pandas `DataFrame`.
        label: the column of the labels, or several.
        data_root: the folder that paths start from; None: the folder of the data, or one below it that has the files.
        named: for columns that the user named, the part that each plays, see `Columns.named`. The others are looked
            at.
        ignore: columns to leave out.

    Raises:
        ValueError: a column does not exist, or the data set cannot be read.
        FileNotFoundError: there is no such data set.
    """
    sample = sample_columns(dataset, data_root)
    labels = [str(name) for name in listed(label if isinstance(label, (str, list, type(None))) else str(label))]
    parts = dict(named or {})
    for wanted in (*labels, *ignore, *parts):
        if wanted not in sample.columns:
            raise ValueError(
                f"There is no column {wanted!r}: the data have {list(sample.columns)}."
                f"{did_you_mean(wanted, sample.columns)}"
            )
    lines = []
    for name, column in sample.columns.items():
        if name in ignore:
            lines.append(UnderstoodColumn(name, "ignored", "ignore_columns names it"))
        elif name in parts:
            lines.append(as_named(name, parts[name]))
        elif name not in labels:
            lines.append(judge(column, lacking(name, sample)))
    lines, root = with_one_root(lines)
    title = str(dataset) if isinstance(dataset, (str, os.PathLike)) else type(dataset).__name__
    targets = [judge_label(sample.columns[name]) for name in labels]
    lines = with_one_video(lines)
    return Understanding(
        title, labels, lines, None if data_root else root, suspicions_of(lines, targets, sample), targets
    )


def suspicions_of(lines: list[UnderstoodColumn], targets: list[UnderstoodColumn], sample: PartSample) -> list[str]:
    """Warnings about the columns that are read, and about label columns, see `suspicions`."""
    labels = [target.name for target in targets]
    said: list[str | None] = []
    for line in lines:
        column, reader = sample.columns[line.name], reader_of_part(line.part)
        if reader is None or reader.files or reader.lists:
            continue
        said += [own_values(column, line.role), names_groups(column, line.role)]
        if reader.one_item:
            said += [spelled_alike(column, line.role)]
            said += [gives_away(sample.columns[label], column) for label in labels]
    said += [spelled_alike(sample.columns[target.name], "classes") for target in targets if target.role != AMOUNTS]
    return [line for line in said if line is not None]


def as_named(name: str, part: str) -> UnderstoodColumn:
    """A column that the user named."""
    return UnderstoodColumn(name, part, "you named it", "" if reader_of_part(part) is None else part)


def judge_label(sample: ColumnSample) -> UnderstoodColumn:
    """What a label column is, if another meaning is possible. `labels_of` makes the final decision."""
    whole, distinct = sample.whole, sample.distinct or 0
    if whole is None or distinct <= 2 or sample.has_codes or hasattr(sample.feature, "names"):
        of_unit = sample.unit and sample.numbers is not None and not are_few(distinct, sample.present)
        why = f"numbers from {sample.span()}, in {sample.unit}" if of_unit else "what is to be predicted"
        return UnderstoodColumn(sample.name, "label", why)
    numbers, classes = (problem_type_of(kind) for kind in (NUMBERS, CLASSES))
    why = f"{distinct:,} whole numbers from {sample.span()}{f', in {sample.unit}' if sample.unit else ''}"
    if distinct > MOST_CLASSES and not sample.are_codes:
        return UnderstoodColumn(sample.name, AMOUNTS, f"{why} (else: --problem_type {classes})")
    return UnderstoodColumn(sample.name, "label: classes", f"{why} (else: --problem_type {numbers})")


def lacking(name: str, sample: PartSample) -> list[str]:
    """The parts of the data that lack this column."""
    return [part for part, names in sample.names.items() if part != main_part(sample.names) and name not in names]


def judge(sample: ColumnSample, lacking: Collection[str] = ()) -> UnderstoodColumn:
    """Finds out what one column is.

    Args:
        sample: some of its values.
        lacking: the parts of the data that lack this column.
    """
    name = sample.name
    if lacking:
        return UnderstoodColumn(name, "partial", f"not in {', '.join(lacking)}")
    if not sample.count:
        return UnderstoodColumn(name, "empty", f"none of {sample.looked_at:,} cells has a value")
    if sample.is_index:
        return UnderstoodColumn(name, "id", "it has no real name, like an index that pandas writes")
    if sample.are_urls:
        return UnderstoodColumn(name, "url", "web addresses: training downloads nothing")
    evidence = [seen for reader in READERS.values() if (seen := reader.looks(sample)) is not None]
    best = max(evidence, key=lambda seen: seen.strength, default=None)
    if best is not None and best.strength >= 1:
        return understood(name, best)
    if sample.distinct == 1 and sample.present == sample.rows:
        return UnderstoodColumn(name, "constant", f"always {sample.values[0]!r:.40}")
    if sample.names_missing_files(is_media):
        where = "found" if sample.root is None else "in the folder of the data"
        return UnderstoodColumn(
            name, "unreadable", f"names of files that are not {where}: set --data_root to their folder"
        )
    if why := reason_of_id(sample):
        return UnderstoodColumn(name, "id", why)
    if sample.are_amounts:
        why = f"numbers with signs or units, such as {sample.values[0]!r:.30}: to use them, write them as 1234.5"
        return UnderstoodColumn(name, "unreadable", why)
    if best is None:
        return UnderstoodColumn(name, "unreadable", f"no modality can read {sample.values[0]!r:.30}")
    return understood(name, best)


def understood(name: str, seen: Evidence) -> UnderstoodColumn:
    """A column that a modality's reader takes for its own."""
    return UnderstoodColumn(name, seen.role, seen.why, seen.part, seen.category, seen.root)


def reason_of_id(sample: ColumnSample) -> str:
    """The reason why a column only identifies the rows. Empty if it does not."""
    if sample.count_the_rows and not sample.unit:
        return "it counts the rows"
    if not sample.unique or sample.are_dates or sample.unit:
        return ""
    if sample.goes_up_evenly:
        return f"it grows by equal steps from row to row, from {sample.span()}: it counts the rows"
    if sample.has_codes or (sample.are_code_like and sample.numbers is None):
        return f"each value occurs once, such as {sample.values[0]!r:.30}: a name of the row"
    if sample.whole is not None and sample.is_called_id:
        return "each whole number occurs once, and the name of the column says that it identifies rows"
    if sample.whole is not None and sample.number_the_rows:
        return f"each whole number occurs once, and most numbers from {sample.span()} do: it numbers the rows"
    return ""


def is_media(suffix: str) -> bool:
    """Whether files with this ending are pictures, sounds or videos."""
    kind, _ = mimetypes.guess_type(f"file{suffix}", strict=False)
    return kind is not None and kind.split("/")[0] in FILE_TYPES


def with_one_root(lines: list[UnderstoodColumn]) -> tuple[list[UnderstoodColumn], str | None]:
    """All columns of files must start from one folder: the folder of most of them. The others are left out."""
    roots = Counter(line.root for line in lines if line.part and reads_files(line.part))
    if len(roots) <= 1:
        return lines, next(iter(roots), None)
    root = roots.most_common(1)[0][0]
    kept = []
    for line in lines:
        if line.part and reads_files(line.part) and line.root != root:
            why = f"its files are in {line.root or 'the folder of the data'}, but those of other columns are not"
            line = UnderstoodColumn(line.name, "unreadable", why)
        kept.append(line)
    return kept, root


def with_one_video(lines: list[UnderstoodColumn]) -> list[UnderstoodColumn]:
    """A row can have one video, so further video columns are left out."""
    videos = [line.name for line in lines if line.part == "video"]
    why = f"a row can have one video, and {videos[0]} is used" if videos else ""
    return [UnderstoodColumn(line.name, "unreadable", why) if line.name in videos[1:] else line for line in lines]


def reads_files(part: str) -> bool:
    """Whether the items of a part are files."""
    reader = reader_of_part(part)
    return reader is not None and reader.files
