"""Answers the rows of a service with an export: with onnxruntime on the CPU, without the weights of the checkpoint.
Only the folder of the export is needed; it can be copied to another machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..export import runtime
from ..export.graphs import FUSE
from ..export.opening import config_of_manifest, open_export, processor_of_manifest, read_manifest
from ..models.confidence import check_share
from ..models.how_sure import CLASSES, SEVERAL
from ..models.raw_rows import reason_of
from ..models.video import load_frames
from .backend import Answer, RowError


SCORES = "scores"  # the kind of answers that are chosen from labels; only these support options
TOP_K, COVERAGE, ABSTAIN = OPTIONS = ("top_k", "coverage", "abstain_below")
NO_NUMBER = "the model's outputs for this row are not finite."


@dataclass(frozen=True)
class LoadedRow:
    """A row as the runtime loaded it.

    Args:
        items: see `load` of the runtime.
        sources: the objects that they were loaded from. They are kept until the row is answered, because items are
            shared by the identity of their source object.
    """

    items: dict[str, Any]
    sources: dict[Any, Any]


class OnnxBackend:
    """Answers rows with an export.

    Args:
        exported: the model of a folder that `read_manifest` has checked.
        max_new_tokens: for a model that writes, the maximum length of a text; None: as in the export.

    Raises:
        ValueError: the manifest is damaged, or `max_new_tokens` is given for a model that writes no text.
    """

    name = "onnx"
    explains = False

    def __init__(self, exported: runtime.Model, max_new_tokens: int | None = None):
        self.exported, self.kind = exported, exported.answers["kind"]
        self.config = config_of_manifest(exported.manifest)
        self.processor = processor_of_manifest(exported.manifest)
        self.options: tuple[str, ...] = OPTIONS if self.kind == SCORES else ()
        self.settings = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        if self.settings and self.kind not in ("written", "moments"):
            raise ValueError(f"max_new_tokens is {max_new_tokens}, but this model writes no text: leave it out.")

    @classmethod
    def open(cls, folder: str | Path, threads: int | None = None, max_new_tokens: int | None = None) -> "OnnxBackend":
        """Opens an export.

        Args:
            folder: that `mm_hf export` wrote.
            threads: of onnxruntime; None: one per core.
            max_new_tokens: see the class.

        Raises:
            ValueError: see `read_manifest` and `open_export`.
        """
        read_manifest(folder)
        return cls(open_export(folder, threads), max_new_tokens)

    def load(self, row: dict[str, Any]) -> LoadedRow:
        """See `Backend`."""
        loaded: dict[Any, Any] = {}
        try:
            return LoadedRow(self.exported.load(self.with_frames(row), loaded), loaded)
        except ImportError:  # a package is missing; the row is not the cause
            raise
        except Exception as error:  # Pillow and soundfile raise a dozen types
            raise ValueError(reason_of(error)) from None

    def with_frames(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row in which the file of a video is replaced by its frames, because the runtime does not decode videos."""
        for modality in self.exported.modalities:
            key = modality["frames_key"]
            if isinstance(row.get(key), bytes):
                settings = modality["prepare"]
                count = modality["frames"] or modality["places"]
                row = {**row, key: load_frames(row[key], count, settings["background"], settings["least"])}
        return row

    def check_options(self, options: Mapping[str, Any]) -> None:
        """See `Backend`."""
        tasks = self.exported.answers.get("tasks", [])
        top_k = options.get(TOP_K)
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"{TOP_K} must be a whole number of at least 1, or null for all, got {top_k!r:.80}.")
        if (coverage := options.get(COVERAGE)) is not None:
            if isinstance(coverage, bool) or not isinstance(coverage, (int, float)):
                raise ValueError(f"{COVERAGE} must be a number, got {coverage!r:.80}.")
            if not all(task["thresholds"] for task in tasks):
                raise ValueError(
                    f"{COVERAGE} is {coverage:g}, but this model was not calibrated: run `mm_hf evaluate RUN "
                    "--calibrate`, then export the run again."
                )
            for task in tasks:
                runtime.threshold_of(task, coverage)
        if (least := options.get(ABSTAIN)) is not None:
            check_share(ABSTAIN, least)
            if all(task["kind"] != CLASSES for task in tasks):
                kinds = sorted({task["kind"] for task in tasks})
                raise ValueError(
                    f"{ABSTAIN} ({least!r:.80}) is for one of several classes, and this model answers {kinds}: leave "
                    "it out."
                )

    def answer(
        self, rows: list[LoadedRow], options: Sequence[Mapping[str, Any]], evidence: bool = False
    ) -> list[Answer | RowError]:
        """See `Backend`."""
        if evidence:
            raise ValueError("An export gives no evidence: use --backend torch for it.")
        try:
            feeds = self.exported.feeds([row.items for row in rows])
        except runtime.RowError as error:  # one of the rows has a text without a known token
            if len(rows) == 1:
                return [RowError(reason_of(error))]
            return [self.answer([row], [asked])[0] for row, asked in zip(rows, options)]
        if self.kind != SCORES:
            values = self.exported.answer(feeds, len(rows), **self.settings)
            return [RowError(NO_NUMBER) if value is None else Answer(value) for value in values]
        outputs = self.exported.graphs[FUSE](feeds)
        return [self.chosen(outputs, place, asked) for place, asked in enumerate(options)]

    def chosen(self, outputs: dict[str, Any], place: int, asked: Mapping[str, Any]) -> Answer | RowError:
        """The labels of one row of a batch, with the options of its request."""
        value, best = (self.exported.best_of_row(outputs, place, **each) for each in (asked, {TOP_K: 1}))
        if value is None:
            return RowError(NO_NUMBER)
        tasks = self.exported.answers["tasks"]
        by_task = {None: best} if isinstance(best, list) else best
        sure = {
            task["name"] or "": by_task[task["name"]][0]["score"]
            for task in tasks
            if task["kind"] in (CLASSES, SEVERAL)
        }
        return Answer(value, sure)
