"""The columns of a table. All columns of a row together make one item."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ...models.dates import ISO
from ...models.finite import is_code, kind_of_texts, read_marked, read_number
from ...models.table_schema import TableError, TableSchema
from ...models.tabular import Table, TabularConfig
from ..class_names import names_of_classes
from ..column_types import STRINGS, count_values
from ..looks import Evidence
from ..rows import BadRowError
from ..shown import TABLE, shown_table
from .linear import table_features, write_table
from .reader import ModalityReader, register_reader


if TYPE_CHECKING:
    from ..collator import MultimodalCollator


@register_reader
class TableReader(ModalityReader):
    """The columns of a table."""

    name = Table.name
    column_keys = ("table_columns",)
    one_item = True
    cells = "numbers"
    needs_all_rows = True
    captions = 1
    knows_values = True

    def fit(
        self,
        splits,
        columns,
        *,
        category_columns=None,
        as_written=True,
        formats=True,
        decimal=None,
        date_format=None,
        **settings,
    ):
        """Learns what the columns mean, see `TableSchema.fit`. `as_written` is False for old runs, in which texts were
        always categories. `formats` is False for old runs, in which dates were categories."""
        train = splits["train"]
        names = names_of_classes(train.features, columns.table)
        table: dict[str, list] = {name: train[name][:] for name in columns.table}
        for name, classes in names.items():
            table[name] = [None if number in (None, -1) else classes[number] for number in table[name]]
        texts = texts_of_table(splits, columns.table, category_columns or ()) if as_written else {}
        return TableSchema.fit(
            table,
            category_columns or (),
            numbers=[name for name, counts in texts.items() if kind_of_texts(counts) == "numbers"],
            on_error="skip",
            as_before=not as_written,
            formats=formats,
            texts=texts,
            decimal=decimal,
            date_format=date_format,
        )

    def said_of_fit(self, splits, columns, *, category_columns=None, as_written=True, part=None, **settings):
        """How the texts of a table are read. `part` is the result of `fit`."""
        return lines_of_table(splits, columns.table, category_columns or (), part) if as_written else []

    def fresh_config(self, part, hidden_size, **settings):
        """One token per column."""
        return TabularConfig.from_schema(part, hidden_size=hidden_size)

    def linear_features(self, items):
        """The columns themselves, see `table_features`."""
        return table_features(items)

    def line_refused(self, encoder):
        """The parts of a date share one token. Writing a linear model for this is not implemented."""
        return "it has dates, and the parts of a date share one token" if encoder.config.date_sizes else None

    def write_line(self, model, places):
        """See `write_table`."""
        write_table(model, self.name, places)

    def kind_of(self, part):
        """A value of one of the table's columns."""
        return TABLE

    def looks(self, sample):
        """Dates, numbers and names of categories. Each is a column of the table."""
        many = f"{sample.distinct or 0:,} of {sample.present:,} differ"
        if hasattr(sample.feature, "names"):
            return Evidence("category", "table", f"its type names {len(sample.feature.names)} classes")
        if sample.are_truths:
            return Evidence("category", "table", "true or false")
        if sample.are_dates:
            return Evidence("date", "table", f"dates, such as {sample.values[0]}")
        if sample.has_codes:
            return Evidence("category", "table", f"digits with leading zeros, {many}")
        if sample.are_codes:
            return Evidence("category", "table", f"whole numbers that look like codes, {many}", category=True)
        if sample.numbers is not None or sample.are_written:
            if sample.numbers is None:
                return Evidence("number", "table", f"numbers written for people, such as {sample.values[0]}")
            if sample.either:
                why = f"numbers such as {sample.values[0]!r:.20}; --decimal must say what begins the decimals"
                return Evidence("number", "table", why)
            unit = f", in {sample.unit}" if sample.unit else ""
            return Evidence("number", "table", f"numbers from {sample.span()}{unit}")
        if sample.are_texts and not sample.are_sentences:
            return Evidence("category", "table", many)
        return None

    def key(self, row, column, collator):
        """All values by their columns."""
        values = values_of(row, collator)
        try:
            collator.processor.table_schema.check(values)
        except TableError as error:
            raise BadRowError(row, error.column, error.reason) from None
        return repr(sorted(values.items())) if values else None

    def load(self, row, column, collator):
        """See `values_of`."""
        return values_of(row, collator)

    def unseen(self, row, collator):
        """Categories that are not known."""
        return collator.processor.table_schema.unknown(values_of(row, collator))

    def from_request(self, value, key):
        """The columns of a row. The schema of the table checks their values."""
        if not isinstance(value, Mapping):
            raise ValueError(f"{key} must be one row of it, a dict of columns, got {value!r:.80}.")
        for column, cell in value.items():
            if not isinstance(cell, (str, bool, int, float, type(None))):
                raise ValueError(f"{key}: column {column!r:.80} must have one value per row, got {cell!r:.80}.")
        return dict(value)

    def request_schema(self, processor, key):
        """The columns. Categories list their known values. An unknown value is allowed, as in training."""
        schema, columns = processor.table_schema, {}
        for name in schema.numerical:
            columns[name] = {"type": "number", "nullable": True}
        for name, column in schema.dates.items():
            columns[name] = {"type": "string", "nullable": True, "description": f"a date or time ({column.format})"}
        for name, values in schema.categorical.items():
            some = ", ".join(values[:20]) + (" …" if len(values) > 20 else "")
            columns[name] = {"type": "string", "nullable": True, "description": f"known values: {some:.1000}"}
        return {"type": "object", "properties": columns, "additionalProperties": False}

    def request_example(self, processor, key):
        """Means of the numbers and dates, the first of the categories."""
        schema = processor.table_schema
        row = {name: round(mean, 3) for name, (mean, _) in schema.numerical.items() if name not in schema.marks}
        row |= {name: values[0] for name, values in schema.categorical.items() if values}
        for name, column in schema.dates.items():
            day = datetime(1970, 1, 1) + timedelta(days=round(column.mean))
            row[name] = day.date().isoformat() if column.format == ISO else day.strftime(column.format)
        return row or None

    def shown_item(self, item, collator):
        """All columns, in their order."""
        return shown_table(collator.processor.table_schema.columns, item)

    def caption(self, row, collator):
        """The values by their columns."""
        return ", ".join(f"{name} {value}" for name, value in values_of(row, collator).items())


def values_of(row: dict[str, Any], collator: "MultimodalCollator") -> dict[str, Any]:
    """The columns of the table that have a value, classes by their names."""
    schema, names = collator.processor.table_schema, collator.table_names
    values = {name: row[name] for name in collator.columns.table if not schema.is_missing(row[name])}
    for name in set(values) & set(names):
        number = values.pop(name)
        if number != -1:  # datasets writes -1 for a missing class
            values[name] = names[name][number]
    return values


def texts_of_table(splits: Mapping[str, Any], columns: list[str], categories: Collection[str]) -> dict[str, Counter]:
    """By text column of the table, how often each text occurs in all parts. `categories` are left out."""
    counts = {}
    for name in sorted(set(columns) - set(categories)):
        parts = [part for part in splits.values() if getattr(part.features[name], "dtype", None) in STRINGS]
        if parts:
            counts[name] = sum((count_values(part, name) for part in parts), Counter())
    return counts


def lines_of_table(
    splits: Mapping[str, Any], columns: list[str], categories: Collection[str], schema: TableSchema | None = None
) -> list[str]:
    """Lines for the terminal that say how the texts of a table are read, where this is not obvious. `schema` is the
    learned schema."""
    lines = []
    dates = {} if schema is None else schema.dates
    for name, column in dates.items():
        days = [day for value in splits["train"][name][:] if (day := column.read(value)) is not None]
        of = "dates and times" if column.hours else "dates"
        lines.append(
            f"  table     {name} is read as {of} ({column.format}), {min(days):%Y-%m-%d} to {max(days):%Y-%m-%d}"
        )
    for name, counts in texts_of_table(splits, columns, [*categories, *dates]).items():
        mark = None if schema is None else schema.marks.get(name)
        if mark is not None:
            example = next(text for text in counts if read_number(text) != read_marked(text, mark) is not None)
            how = f"in {mark[1:]}" if mark[1:] else f"with the decimal mark {mark!r}"
            lines.append(
                f"  table     {name} is read as numbers {how}: {example!r} is {read_marked(example, mark):.15g}"
            )
            continue
        spelled = sum(count for text, count in counts.items() if read_number(text) is not None and not is_code(text))
        if kind_of_texts(counts) == "numbers":
            lines.append(f"  table     {name} is read as numbers; other texts make a bad row (else: category_columns)")
        elif 2 * spelled > counts.total():
            of_all = f"{spelled:,} of {counts.total():,} values"
            lines.append(f"  table     {name} is read as categories, although {of_all} are texts that spell numbers")
        else:
            known = count_values(splits["train"], name)
            once = sum(count for count in known.values() if count == 1)
            if 2 * once > known.total():
                lines.append(
                    f"  table     {name}: {once:,} of {known.total():,} training values occur only once, so nothing "
                    "can be learned from them: they become unknown categories (ids are not read as numbers)"
                )
    return lines
