"""What a data set, the collator and reports have to know of one kind of data: the half of a `Modality` that does not
travel in checkpoints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from ...models.modality import modality_of


if TYPE_CHECKING:
    from ..collator import MultimodalCollator
    from ..rows import Columns


class ModalityReader:
    """Finds, reads and describes the items of one modality in rows as `Rows` gives them.

    It keeps nothing: what a collator or a recipe is set to is handed in. One from outside the package is registered by
    `register_reader`, beside its `Modality`.

    Attributes:
        name: of the modality.
        column_keys: keys of a recipe that name its columns, the usual one first; flags have the same names.
        augmentation: key of a recipe, and attribute of the collator, that changes its items at random in training;
            None where there is none.
        needs_all_rows: it is fitted on the training rows, so that it does not go with streaming.
        shown_as: what stands in a report where a row has none, as in "(no image)".
    """

    name: ClassVar[str]
    column_keys: ClassVar[tuple[str, ...]]
    augmentation: ClassVar[str | None] = None
    needs_all_rows: ClassVar[bool] = False
    shown_as: ClassVar[str | None] = None

    def columns(self, columns: "Columns", collator: "MultimodalCollator | None" = None) -> list[str]:
        """Its places in a row, by the names of their columns (of a video, of its frames); none where it has none."""
        raise NotImplementedError

    def key(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> str | None:
        """What tells its items apart: equal keys are one item of a batch, and of a cache. None: the row has none.

        Raises:
            BadRowError: what cannot be one.
        """
        raise NotImplementedError

    def load(self, row: dict[str, Any], column: str, collator: "MultimodalCollator") -> Any:
        """The item as the processor takes it, decoded.

        Raises:
            BadRowError: it cannot be read.
        """
        raise NotImplementedError

    def augment(self, item: Any, generator: np.random.Generator, collator: "MultimodalCollator") -> Any:
        """The item, changed at random where the collator asks for that."""
        return item

    def prepare(
        self, items: list[Any], generators: Sequence[np.random.Generator], collator: "MultimodalCollator"
    ) -> dict[str, Any]:
        """The model's inputs for distinct items.

        Args:
            items: as `load` and `augment` give them.
            generators: one an item, for what is changed at random in the tensors; none where nothing is.
        """
        return dict(collator.processor(**{modality_of(self.name).argument: items}))

    def fit(self, splits: Mapping[str, Any], columns: "Columns", **settings: Any) -> Any:
        """The part of the processor that is learned from the training rows; None where there is nothing to learn."""
        return None

    def describe(self, split: Any, columns: "Columns", root: str | None, tokenizer: Any) -> dict[str, Any]:
        """What its columns hold, by column: for `summary.describe`."""
        return {}

    def lines(self, described: dict[str, Any]) -> list[str]:
        """What `describe` found, for the terminal."""
        return []

    def draw(self, row: dict[str, Any], collator: "MultimodalCollator") -> Image.Image | None:
        """A picture of the row's first item, for reports; None where it has none, or is not for the eye."""
        return None

    def caption(self, row: dict[str, Any], collator: "MultimodalCollator") -> str | None:
        """The row's first item in words, for reports; None where it has none, or is not for reading."""
        return None


READERS: dict[str, ModalityReader] = {}  # by modality


def register_reader(reader: type[ModalityReader]) -> type[ModalityReader]:
    """A decorator: makes a reader known by the name of its modality."""
    READERS[reader.name] = reader()
    return reader


def reader_of(name: str) -> ModalityReader:
    """The reader of a modality.

    Raises:
        ValueError: nobody has registered one.
    """
    if name not in READERS:
        raise ValueError(
            f"Nobody has registered how rows of the modality {name!r} are read; known are {list(READERS)}."
        )
    return READERS[name]
