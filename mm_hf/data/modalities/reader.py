"""What a data set, the collator and reports have to know of one kind of data: the half of a `Modality` that does not
travel in checkpoints."""

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

    It keeps nothing: what a collator or a recipe is set to is handed in. One from outside the package is registered by
    `register_reader`, beside its `Modality`; its columns are `Columns.extra[name]`. It has to say `key`, and `load`
    where an item is more than the value of one column.

    Attributes:
        name: of the modality.
        one_item: all its columns make one item of a row, as those of a table; else each has an item of its own.
        files: its items are files, which rows hold as `bytes` and `path`.
        takes_texts: its items are texts in requests to a service, see `from_request`.
        lists: its items are lists in the data, which are not to be read as texts.
        cells: how cells of a CSV are read: "texts" as they are written; "numbers", of which nobody may doubt which
            they are; "values", by what they look like.
        item_columns: what the columns of an item hold, in their order, where it is made of so many and no others; none
            where any number will do.
        augmentation: key of a recipe, and field of the collator, that changes its items at random in training; None
            where there is none. Of a modality from outside any word: a recipe says `augment: {name: …}`, and the
            collator's `extra_augment` has that by name.
        needs_all_rows: it is fitted on the training rows, so that it does not go with streaming.
        shown_as: what stands in a report where a row has no picture of it, as in "(no image)"; None: it has none.
        knows_values: it tells values that it learned from others, see `unseen`.
        packages: that files of its items need, for who installs no extra of mm_hf.
        captions: which modality's `caption` stands beside a row in a report: that of the lowest number. None: it has
            none.
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
        """Whether a column looks like one of its own, see `understand`; None: it does not. One from outside the
        package says so too, if its columns are to be understood without being named.

        Args:
            sample: some of its values.
        """
        return None

    @property
    def column_keys(self) -> tuple[str, ...]:
        """Keys of a recipe that name its columns, the usual one first; flags have the same names. Of the library's
        modalities each is the field of `Columns`, the part in a row, with `_column` or `_columns`; of one from outside
        it stands for `columns: {name: …}`."""
        return (f"{self.name}_columns",)

    def keys_of_parts(self) -> dict[str, str]:
        """By the part that its columns play in `Columns.named` the key of a recipe that names them."""
        extra = modality_of(self.name).extra
        return {self.name if extra else key.rpartition("_")[0]: key for key in self.column_keys}

    def kind_of(self, part: str) -> str:
        """What a column that plays a part (see `Columns.named`) holds, one of `data.shown.KINDS`: so a page asks for
        it."""
        return OTHER

    def data_columns(self, columns: Columns) -> list[str]:
        """The columns of the data that its items are read from."""
        parts = self.keys_of_parts()
        return [column for part, column in columns.named() if part in parts]

    def columns(self, columns: Columns, collator: "MultimodalCollator | None" = None) -> list[str]:
        """Its places in a row: the names of their columns; one name where all columns make one item; none where the
        data set has none. Settings of the collator may matter, such as the number of frames of a video."""
        names = self.data_columns(columns)
        return [self.name] if names and self.one_item else names

    def prepare_column(self, split: Any, column: str, part: str, root: str | None) -> Any:
        """A split (`Dataset` or `IterableDataset`) with one of its columns as `load` and `key` take it.

        Args:
            column: one of `data_columns`.
            part: that it plays, see `Columns.named`.

        Raises:
            ValueError: it holds something else.
        """
        return split

    def fit(self, splits: Mapping[str, Any], columns: Columns, **settings: Any) -> Any:
        """The part of the processor that is learned from the training rows; None where there is nothing to learn.
        What cannot be an item is passed over: `key` tells it afterwards.

        Args:
            splits: the rows of each part; those of "train" count.
            columns: of the data set, which has some of this modality.
            settings: `on_error`, `category_columns` and `as_written` of a recipe.
        """
        return None

    def said_of_fit(self, splits: Mapping[str, Any], columns: Columns, **settings: Any) -> list[str]:
        """What `fit` takes values for, where that is not plain to see, for the terminal; arguments as there."""
        return []

    def fresh_config(self, part: Any, hidden_size: int, **settings: Any) -> PreTrainedConfig:
        """The config of its encoder, where that starts from random weights.

        Args:
            part: see `fit`.
            hidden_size: width of its tokens.
            settings: `series_rnn_type` of a recipe.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what fresh_config its encoder has.")

    # The items of rows

    def key(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> str | None:
        """What tells its items apart: equal keys are one item of a batch, and of a cache. None: the row has none.

        Raises:
            BadRowError: what cannot be one.
        """
        raise NotImplementedError(f"{type(self).__name__} must say which key tells its items apart.")

    def load(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> Any:
        """The item as the processor takes it, decoded.

        Raises:
            BadRowError: it cannot be read.
        """
        return row[column]

    def for_pipeline(self, row: dict[str, Any], collator: "MultimodalCollator") -> dict[str, Any]:
        """What a row has, by the keys that a row of a pipeline has for it, in its places; empty where it has nothing.

        Raises:
            BadRowError: what cannot be one.
        """
        items = [
            None if self.key(row, column, collator) is None else self.undecoded(row, column, collator)
            for column in self.columns(collator.columns, collator)
        ]
        if all(item is None for item in items):
            return {}
        return {modality_of(self.name).row_keys[0]: items if len(items) > 1 else items[0]}

    def undecoded(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> Any:
        """The item as a pipeline takes it: of a file its path or its bytes.

        Raises:
            BadRowError: it cannot be read.
        """
        return self.load(row, column, collator)

    def contents(
        self, row: dict[str, Any], column: str, key: str, collator: "MultimodalCollator"
    ) -> tuple[str, ...] | None:
        """What an item is made of, whatever its file is called, so that its features can be found again on disk.

        Args:
            row: as `Rows` gives it.
            column: of the item.
            key: of the item, see `key`.
            collator: has the settings.

        Returns:
            texts, and a `File` in the place of what a file holds; None: its features are kept in memory alone.
        """
        return None

    def unseen(self, row: dict[str, Any], collator: "MultimodalCollator") -> dict[str, str]:
        """By column the values of a row that no training row has, and that the model takes for one and the same; asked
        where `knows_values`."""
        return {}

    def blamed(self, column: str, columns: Columns) -> str | None:
        """The column that is named where an item cannot be loaded; None where another place of the row says it."""
        return column

    def check(self, collator: "MultimodalCollator"):
        """Refuses settings of a collator that do not fit together.

        Raises:
            ValueError: an augmentation that is out of its range, or of what is not there or was encoded before.
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
                f"{name} is {value}, but the {self.name} features are cached, encoded once and for all: give up "
                f"one of {name} and the feature cache."
            )

    def changes(self, settings: Any) -> bool:
        """Whether a recipe or a collator changes its items at random."""
        return self.augmentation is not None and bool(self.asked_augmentation(settings))

    def asked_augmentation(self, settings: Any) -> Any:
        """What a recipe or a collator says of its `augmentation`; None, or a default, where it says nothing."""
        if modality_of(self.name).extra:
            return (settings.extra_augment or {}).get(self.name)
        return getattr(settings, str(self.augmentation))

    def augmentation_of(self, asked: Any) -> Any:
        """What the collator takes for its `augmentation`, of what a recipe says.

        Raises:
            ValueError: it cannot be that.
        """
        return asked

    def augment(self, item: Any, generator: np.random.Generator, collator: "MultimodalCollator") -> Any:
        """The item, changed at random: called where the collator asks for that (`asked_augmentation`)."""
        return item

    def prepare(
        self, items: list[Any], generators: Sequence[np.random.Generator], collator: "MultimodalCollator"
    ) -> dict[str, Any]:
        """The model's inputs for distinct items.

        Args:
            items: as `load` and `augment` give them.
            generators: one an item, for what is changed at random in the tensors; none where nothing is.
        """
        asked: Any = {modality_of(self.name).argument: items}
        return dict(collator.processor(**asked))

    # Requests to a service

    def from_request(self, value: Any, key: str) -> Any:
        """One item of a row as a request brings it, as a pipeline takes it: the bytes of a file, else numbers. What
        is made of texts says so by a method of its own: a text could be a path.

        Args:
            value: of JSON, or the bytes of an upload; not None.
            key: of the row, for messages.

        Raises:
            ValueError: it is something else.
        """
        return file_of_request(value, key) if self.files else numbers_of_request(value, key)

    def amounts(self, item: Any, key: str) -> dict[str, float]:
        """How large an item of `from_request` is, by what a service limits: pixels, seconds, characters, steps.

        Raises:
            ValueError: it cannot be read.
        """
        return {}

    def request_schema(self, processor: Any, key: str) -> dict[str, Any]:
        """What `from_request` takes of JSON, as a schema of OpenAPI 3.0."""
        return FILE_SCHEMA if self.files else {}

    def request_example(self, processor: Any, key: str) -> Any:
        """An item that `from_request` takes of JSON, for documentation and for warming up; None: there is none."""
        content = self.example_file(processor, key) if self.files else None
        return None if content is None else encoded_file(content)

    def example_file(self, processor: Any, key: str) -> bytes | None:
        """The file of `request_example`, a small one."""
        return None

    # Straight lines

    def linear_features(self, items: "LinearItems") -> np.ndarray:
        """What a linear model sees of distinct items, `(U, F)` float32: what the encoder gives, pooled. Where the
        encoder starts from random weights, and something simpler says more, that."""
        return pooled_features(items)

    def line_refused(self, encoder: Any) -> str | None:
        """Why a line on these features cannot stand in a model of the fusion `linear`; None where it can."""
        return None

    def write_line(self, model: Any, places: list[Place]):
        """Writes a line on these features into a model of the fusion `linear`, see `write_pooled`."""
        write_pooled(model, self.name, places)

    # Reports

    def describe(self, split: Any, columns: Columns, root: str | None, tokenizer: Any) -> dict[str, Any]:
        """What its columns hold, for `summary.describe`, under keys of its own.

        Args:
            split: the training rows, a `Dataset`.
            root: for paths of files, see `resolve_path`.
            tokenizer: lengths of texts are counted in its tokens as well; None: they are not.
        """
        return {}

    def lines(self, summary: dict[str, Any]) -> list[str]:
        """What `describe` found, for the terminal."""
        return []

    def draw(self, row: dict[str, Any], collator: "MultimodalCollator") -> Image.Image | None:
        """A picture of the row's first item, for reports; None where it has none, or is not for the eye.

        Raises:
            ValueError: the item cannot be read.
        """
        return None

    def shown(self, row: dict[str, Any], collator: "MultimodalCollator") -> list[dict[str, Any]]:
        """The items that a row has, as a page shows them: each with its `modality`, its `column`, its `place` among
        `columns`, and what `shown_item` gives.

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
        """How a page shows an item: as text, if its reader does not say more.

        Args:
            item: as `load` gives it.

        Returns:
            its `kind`, one of `data.shown.KINDS`, and under `shown` what a page draws of that kind, as JSON.
        """
        return shown_other(item)

    def caption(self, row: dict[str, Any], collator: "MultimodalCollator") -> str | None:
        """The row's items in words, for reports; None where it has none."""
        return None

    def missing(self, columns: Columns) -> str:
        """What stands in the place of a picture of a row that has none; empty where no row has one."""
        return f"(no {self.shown_as})" if self.shown_as and self.data_columns(columns) else ""


READERS: dict[str, ModalityReader] = {}  # by modality, in the order of a model's modalities


def register_reader(reader: type[ModalityReader]) -> type[ModalityReader]:
    """A decorator: makes a reader known by the name of its modality.

    Raises:
        ValueError: its modality is not registered, or has a reader of another class.
    """
    modality_of(reader.name)
    known = READERS.get(reader.name)
    if known is not None and type(known).__qualname__ != reader.__qualname__:
        raise ValueError(f"{type(known).__name__} reads the modality {reader.name!r} already.")
    READERS[reader.name] = reader()
    ordered = [name for name in MODALITIES if name in READERS]
    READERS.update({name: READERS.pop(name) for name in ordered})
    return reader


def reader_of(name: str) -> ModalityReader:
    """The reader of a modality."""
    if name not in READERS:
        raise ValueError(
            f"Nobody has registered how rows of the modality {name!r} are read; known are {list(READERS)}. One from "
            "outside mm_hf has to be imported (`--import FILE`, or an import in Python)."
        )
    return READERS[name]


def reader_of_part(part: str) -> ModalityReader | None:
    """The reader of the columns that play a part in a row, see `Columns.named`; None where they are no modality's:
    labels, weights and what tells rows apart."""
    return next((reader for reader in READERS.values() if part in reader.keys_of_parts()), None)


def key_of_part(part: str) -> str:
    """The key of a recipe that names the columns of a part, for messages."""
    reader = reader_of_part(part)
    return f"{part}_column" if reader is None else reader.keys_of_parts()[part]


def present(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """Those of the columns in which a row has something."""
    return [column for column in columns if not is_absent(row[column])]


def by_column(described: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What `describe` says of columns: of one what was found, of several a dict by column, of none None."""
    return described if len(described) > 1 else next(iter(described.values()), None)


def of_columns(described: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """What `by_column` gave, each with the name of its column as a line begins with it; empty where it is the only
    one."""
    if described is None:
        return []
    if all(isinstance(about, dict) for about in described.values()):
        return [(f"{column}: ", about) for column, about in described.items()]
    return [("", described)]
