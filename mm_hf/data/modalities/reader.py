"""What a data set, the collator and reports must know about one kind of data. It is the half of a `Modality` that is
not saved in checkpoints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image
from transformers.configuration_utils import PreTrainedConfig

from ...models.modality import MODALITIES, modality_of
from ..looks import ColumnSample, Evidence
from ..request_items import FILE_SCHEMA, encoded_file, file_of_request, numbers_of_request
from ..rows import Columns, is_absent
from ..shown import OTHER, shown_other
from .linear import Place, pooled_features, write_pooled


if TYPE_CHECKING:
    from ..collator import MultimodalCollator
    from ..linear_features import LinearItems


class ModalityReader:
    """Finds, reads and describes the items of one modality in rows as `Rows` gives them.

    It has no state: settings come from a collator or a recipe. `register_reader` registers a reader from outside the
    package, next to its `Modality`. Its columns are `Columns.extra[name]`. It must implement `key`, and `load` if an
    item is more than the value of one column.

    Attributes:
        name: the name of the modality.
        one_item: all columns together make one item of a row, as for a table. False: each column has its own item.
        files: items are files, which rows hold as `bytes` and `path`.
        takes_texts: in requests to a service, items are texts, see `from_request`.
        lists: in the data, items are lists, which must not be read as texts.
        cells: how cells of a CSV are read. "texts": as they are written. "numbers": as numbers, and ambiguous ones are
            refused. "values": by what they look like.
        item_columns: what each column of an item holds, in their order, if an item has a fixed number of columns.
            Empty if any number of columns is allowed.
        augmentation: the key of a recipe, and field of the collator, for random changes of items in training; None if
            there is none. For a modality from outside, any word: the recipe says `augment: {name: …}`, and the
            collator has the value in `extra_augment`, by name.
        needs_all_rows: it is fitted on the training rows, so it does not work with streaming.
        shown_as: the word in a report for a row without an item, as in "(no image)"; None: nothing is shown.
        knows_values: it can tell which values it learned, see `unseen`.
        packages: packages that its files need, for users who install no extra of mm_hf.
        captions: a report shows the `caption` of the modality with the lowest number next to a row. None: no caption.
    """

    name: ClassVar[str]
    one_item: ClassVar[bool] = False
    files: ClassVar[bool] = False
    takes_texts: ClassVar[bool] = False
    lists: ClassVar[bool] = False
    cells: ClassVar[str] = "values"
    item_columns: ClassVar[tuple[str, ...]] = ()
    augmentation: ClassVar[str | None] = None
    needs_all_rows: ClassVar[bool] = False
    shown_as: ClassVar[str | None] = None
    captions: ClassVar[int | None] = None
    knows_values: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()

    # The columns of a data set

    def looks(self, sample: ColumnSample) -> Evidence | None:
        """Whether a column looks like a column of this modality, see `understand`. None: it does not. A reader from
        outside must implement this if its columns should be found without being named.

        Args:
            sample: some of its values.
        """
        return None

    @property
    def column_keys(self) -> tuple[str, ...]:
        """Keys of a recipe that name its columns, the usual one first. Flags have the same names. For the library's
        modalities, each key is a field of `Columns` (the part in a row) with `_column` or `_columns` appended. For a
        modality from outside, it means `columns: {name: …}`."""
        return (f"{self.name}_columns",)

    def keys_of_parts(self) -> dict[str, str]:
        """By part in `Columns.named`, the key of a recipe that names the columns of that part."""
        extra = modality_of(self.name).extra
        return {self.name if extra else key.rpartition("_")[0]: key for key in self.column_keys}

    def kind_of(self, part: str) -> str:
        """What a column of a part (see `Columns.named`) holds, one of `data.shown.KINDS`. A page uses it to choose an
        input field."""
        return OTHER

    def data_columns(self, columns: Columns) -> list[str]:
        """The columns of the data that its items are read from."""
        parts = self.keys_of_parts()
        return [column for part, column in columns.named() if part in parts]

    def columns(self, columns: Columns, collator: "MultimodalCollator | None" = None) -> list[str]:
        """The places of this modality in a row, by the names of their columns. One name if all columns make one item,
        empty if the data set has no such column. It may depend on settings of the collator, such as the number of
        frames of a video."""
        names = self.data_columns(columns)
        return [self.name] if names and self.one_item else names

    def prepare_column(self, split: Any, column: str, part: str, root: str | None) -> Any:
        """A split (`Dataset` or `IterableDataset`) with one column converted to the form that `load` and `key` need.

        Args:
            split: the rows.
            column: one of `data_columns`.
            part: the part that the column plays, see `Columns.named`.
            root: the folder of files, see `resolve_path`.

        Raises:
            ValueError: the column holds something else.
        """
        return split

    def fit(self, splits: Mapping[str, Any], columns: Columns, **settings: Any) -> Any:
        """Learns a part of the processor from the training rows. None if there is nothing to learn. Values that cannot
        be items are ignored here: `key` reports them later.

        Args:
            splits: the rows of each part. Only "train" is used for learning.
            columns: the columns of the data set. Some belong to this modality.
            settings: `on_error`, `category_columns` and `as_written` of a recipe.
        """
        return None

    def said_of_fit(self, splits: Mapping[str, Any], columns: Columns, **settings: Any) -> list[str]:
        """Lines for the terminal that say how `fit` reads values, where this is not obvious. Same arguments as
        there."""
        return []

    def fresh_config(self, part: Any, hidden_size: int, **settings: Any) -> PreTrainedConfig:
        """The config of the encoder, if it starts from random weights.

        Args:
            part: the result of `fit`.
            hidden_size: the width of its tokens.
            settings: `series_rnn_type` of a recipe.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement fresh_config, the config of its encoder.")

    # The items of rows

    def key(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> str | None:
        """The key that identifies an item. Items with equal keys are one item of a batch, and of a cache. None: the
        row has no item.

        Raises:
            BadRowError: the value cannot be an item.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement key, which identifies its items.")

    def load(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> Any:
        """The decoded item, in the form that the processor needs.

        Raises:
            BadRowError: it cannot be read.
        """
        return row[column]

    def for_pipeline(self, row: dict[str, Any], collator: "MultimodalCollator") -> dict[str, Any]:
        """The row's items as a row of a pipeline, by key, in their places. Empty if the row has none.

        Raises:
            BadRowError: a value cannot be an item.
        """
        items = [
            None if self.key(row, column, collator) is None else self.undecoded(row, column, collator)
            for column in self.columns(collator.columns, collator)
        ]
        if all(item is None for item in items):
            return {}
        return {modality_of(self.name).row_keys[0]: items if len(items) > 1 else items[0]}

    def undecoded(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> Any:
        """The item in the form that a pipeline needs: for a file, its path or bytes.

        Raises:
            BadRowError: it cannot be read.
        """
        return self.load(row, column, collator)

    def contents(
        self, row: dict[str, Any], column: str, key: str, collator: "MultimodalCollator"
    ) -> tuple[str, ...] | None:
        """The content of an item, independent of the name of its file, to find its features on disk again.

        Args:
            row: as `Rows` gives it.
            column: the column of the item.
            key: the key of the item, see `key`.
            collator: has the settings.

        Returns:
            texts, and a `File` for the content of a file; None: features are kept only in memory.
        """
        return None

    def unseen(self, row: dict[str, Any], collator: "MultimodalCollator") -> dict[str, str]:
        """By column, the values of a row that no training row has. The model cannot tell such values apart. Only used
        if `knows_values`."""
        return {}

    def blamed(self, column: str, columns: Columns) -> str | None:
        """The column to name in an error if an item cannot be loaded. None if another place reports the error."""
        return column

    def check(self, collator: "MultimodalCollator"):
        """Checks settings of a collator.

        Raises:
            ValueError: an augmentation is out of its range, or its modality is missing or cached.
        """
        if self.augmentation is None:
            return
        name, value, extra = self.augmentation, self.asked_augmentation(collator), modality_of(self.name).extra
        if isinstance(value, (int, float)) and not extra and not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}.")
        if value and not collator.parts[self.name]:
            raise ValueError(f"{name} is {value}, but no column holds {self.name}.")
        if value and collator.cache_of(self.name) is not None:
            raise ValueError(
                f"{name} is {value}, but the {self.name} features are cached, so their items cannot change: switch "
                f"off {name} or the feature cache."
            )

    def changes(self, settings: Any) -> bool:
        """Whether a recipe or a collator asks for random changes of items."""
        return self.augmentation is not None and bool(self.asked_augmentation(settings))

    def asked_augmentation(self, settings: Any) -> Any:
        """The value of `augmentation` in a recipe or a collator. None, or a default, if it is not set."""
        if modality_of(self.name).extra:
            return (settings.extra_augment or {}).get(self.name)
        return getattr(settings, str(self.augmentation))

    def augmentation_of(self, asked: Any) -> Any:
        """Converts the value of `augmentation` in a recipe for the collator.

        Raises:
            ValueError: the value is not valid.
        """
        return asked

    def augment(self, item: Any, generator: np.random.Generator, collator: "MultimodalCollator") -> Any:
        """The item with random changes. Called only if the collator asks for them (`asked_augmentation`)."""
        return item

    def prepare(
        self, items: list[Any], generators: Sequence[np.random.Generator], collator: "MultimodalCollator"
    ) -> dict[str, Any]:
        """The model's inputs for distinct items.

        Args:
            items: the results of `load` and `augment`.
            generators: one per item, for random changes of the tensors. Empty if nothing is random.
        """
        asked: Any = {modality_of(self.name).argument: items}
        return dict(collator.processor(**asked))

    # Requests to a service

    def from_request(self, value: Any, key: str) -> Any:
        """One item of a request, in the form that a pipeline needs: the bytes of a file, else numbers. A modality of
        texts must override this method, because a text could be a path.

        Args:
            value: a JSON value, or the bytes of an upload; not None.
            key: the key in the row, for messages.

        Raises:
            ValueError: the value is something else.
        """
        return file_of_request(value, key) if self.files else numbers_of_request(value, key)

    def amounts(self, item: Any, key: str) -> dict[str, float]:
        """The size of an item of `from_request` in the units that a service limits: pixels, seconds, characters,
        steps.

        Raises:
            ValueError: it cannot be read.
        """
        return {}

    def request_schema(self, processor: Any, key: str) -> dict[str, Any]:
        """The JSON that `from_request` accepts, as a schema of OpenAPI 3.0."""
        return FILE_SCHEMA if self.files else {}

    def request_example(self, processor: Any, key: str) -> Any:
        """An example of JSON that `from_request` accepts, for documentation and warm-up; None: there is none."""
        content = self.example_file(processor, key) if self.files else None
        return None if content is None else encoded_file(content)

    def example_file(self, processor: Any, key: str) -> bytes | None:
        """A small file for `request_example`."""
        return None

    # Linear models

    def linear_features(self, items: "LinearItems") -> np.ndarray:
        """The features of distinct items for a linear model, `(U, F)` float32. By default the pooled output of the
        encoder. If the encoder starts from random weights, use simpler features that contain more information."""
        return pooled_features(items)

    def line_refused(self, encoder: Any) -> str | None:
        """Why a linear model on these features cannot be written into a model with the fusion `linear`. None: it
        can."""
        return None

    def write_line(self, model: Any, places: list[Place]):
        """Writes a linear model on these features into a model with the fusion `linear`, see `write_pooled`."""
        write_pooled(model, self.name, places)

    # Reports

    def describe(self, split: Any, columns: Columns, root: str | None, tokenizer: Any) -> dict[str, Any]:
        """Statistics of its columns for `summary.describe`, under keys of this modality.

        Args:
            split: the training rows, a `Dataset`.
            columns: the columns of the data set.
            root: the folder of files, see `resolve_path`.
            tokenizer: counts the tokens of texts as well; None: tokens are not counted.
        """
        return {}

    def lines(self, summary: dict[str, Any]) -> list[str]:
        """The result of `describe` as lines for the terminal."""
        return []

    def draw(self, row: dict[str, Any], collator: "MultimodalCollator") -> Image.Image | None:
        """A picture of the row's first item, for reports. None if there is no item, or it cannot be shown as a
        picture.

        Raises:
            ValueError: the item cannot be read.
        """
        return None

    def shown(self, row: dict[str, Any], collator: "MultimodalCollator") -> list[dict[str, Any]]:
        """The items of a row, in the form that a page shows. Each has its `modality`, its `column`, its `place` in
        `columns`, and the result of `shown_item`.

        Raises:
            BadRowError: one of them cannot be read.
        """
        items = []
        for place, column in enumerate(self.columns(collator.columns, collator)):
            if self.key(row, column, collator) is not None:
                shown = self.shown_item(self.load(row, column, collator), collator)
                named = ", ".join(self.data_columns(collator.columns)) if self.one_item else column
                items.append({"modality": self.name, "column": named, "place": place, **shown})
        return items

    def shown_item(self, item: Any, collator: "MultimodalCollator") -> dict[str, Any]:
        """The form in which a page shows an item. By default, as text.

        Args:
            item: the result of `load`.
            collator: has the settings.

        Returns:
            its `kind`, one of `data.shown.KINDS`, and under `shown` the JSON that a page needs to draw this kind.
        """
        return shown_other(item)

    def caption(self, row: dict[str, Any], collator: "MultimodalCollator") -> str | None:
        """The row's items in words, for reports; None if it has none."""
        return None

    def missing(self, columns: Columns) -> str:
        """The text that a report shows for a row without a picture. Empty if no row has pictures."""
        return f"(no {self.shown_as})" if self.shown_as and self.data_columns(columns) else ""


READERS: dict[str, ModalityReader] = {}  # by modality, in the order of a model's modalities


def register_reader(reader: type[ModalityReader]) -> type[ModalityReader]:
    """A decorator that registers a reader under the name of its modality.

    Raises:
        ValueError: the modality is not registered, or it has a reader of another class.
    """
    modality_of(reader.name)
    known = READERS.get(reader.name)
    if known is not None and type(known).__qualname__ != reader.__qualname__:
        raise ValueError(
            f"{type(known).__name__} already reads the modality {reader.name!r}: register yours under another name."
        )
    READERS[reader.name] = reader()
    ordered = [name for name in MODALITIES if name in READERS]
    READERS.update({name: READERS.pop(name) for name in ordered})
    return reader


def reader_of(name: str) -> ModalityReader:
    """The reader of a modality."""
    if name not in READERS:
        raise ValueError(
            f"There is no reader for the modality {name!r}; known are {list(READERS)}. Import the file of a modality "
            "from outside mm_hf first (`--import FILE`, or an import in Python)."
        )
    return READERS[name]


def reader_of_part(part: str) -> ModalityReader | None:
    """The reader of the columns of a part, see `Columns.named`. None if the part belongs to no modality, such as
    labels, weights and ids of rows."""
    return next((reader for reader in READERS.values() if part in reader.keys_of_parts()), None)


def key_of_part(part: str) -> str:
    """The key of a recipe that names the columns of a part, for messages."""
    reader = reader_of_part(part)
    return f"{part}_column" if reader is None else reader.keys_of_parts()[part]


def present(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """The columns in which the row has a value."""
    return [column for column in columns if not is_absent(row[column])]


def by_column(described: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Statistics of several columns: for one column the statistics, for several a dict by column, for none None."""
    return described if len(described) > 1 else next(iter(described.values()), None)


def of_columns(described: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """The statistics in a result of `by_column`, each with the name of its column as the beginning of a line. The name
    is empty if there is only one column."""
    if described is None:
        return []
    if all(isinstance(about, dict) for about in described.values()):
        return [(f"{column}: ", about) for column, about in described.items()]
    return [("", described)]
