"""Answers the row from the page: the answer of the pipeline, the contribution of each modality, and maps of its
items."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..evidence.maps import add_maps
from ..evidence.rows import Explainer
from ..models.evidence import evidence_of
from ..models.tasks import NUMBERS, TEXTS
from .fields import BadField, Field, sentences_of


PLACE = {"row_id": 0, "split": "page"}  # where the row comes from, for messages


@dataclass
class Said:
    """The answer for one task.

    Args:
        task: its name; None if there is only one task.
        kind: the kind of answer: `CLASSES`, `SEVERAL`, `NUMBERS` or `TEXTS` of `models.tasks`.
        answers: each with its label or text, and its score: a probability, or the number, or None if the model gives
            no score. The best comes first.
        evidence: for the first answer, see `evidence_of`; None if it was not requested.
        parts: maps of the items, as in evidence.json; `item` is the place among the items.
    """

    task: str | None
    kind: str
    answers: list[tuple[str, float | None]]
    evidence: dict[str, Any] | None = None
    parts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Answered:
    """The answers to one row.

    Args:
        said: one entry per task.
        items: the items of the row, see `ModalityReader.shown`.
        notes: notes about the evidence.
    """

    said: list[Said]
    items: list[dict[str, Any]]
    notes: list[str]


class Answerer:
    """Answers rows one after the other, also if several threads ask.

    Args:
        pipeline: of the checkpoint, see `mm_hf.pipeline`.
        explainer: of the same model; its collator decodes files in the same way as training.
        fields: of the page.
        names: by task, a readable name of its answer, such as the label column.
    """

    def __init__(
        self,
        pipeline: Any,
        explainer: Explainer,
        fields: Sequence[Field],
        names: Mapping[str | None, str | None] | None = None,
    ):
        self.pipeline, self.explainer, self.fields = pipeline, explainer, fields
        self.names = names or {}
        self.lock = threading.Lock()

    def answer(self, row: Mapping[str, Any], evidence: bool = True) -> Answered:
        """The answer of the model to a row, as the collator takes it.

        Raises:
            BadField: an input cannot be read, or the answer is not a finite number.
        """
        with self.lock:
            return self._answer({**row, **PLACE}, evidence)

    def _answer(self, row: dict[str, Any], evidence: bool) -> Answered:
        explainer, model = self.explainer, self.explainer.model
        rows, batch, states = explainer.encode([row])
        if batch.get("bad_rows"):
            raise BadField(sentences_of(batch["bad_rows"], self.fields))
        if not any(int(index.max()) >= 0 for name, index in batch.items() if name.endswith("_index")):
            raise BadField("The inputs contain nothing that the model reads. Fill in at least one field.")
        with torch.no_grad():
            outputs = self.pipeline.answer({"encoder_states": states}, 1, {})
        for values in outputs.values():
            if values.is_floating_point() and not values.isfinite().all():
                raise BadField("The model's answer is not a finite number.")
        said = self._spelled(self.pipeline.spell({name: value.cpu() for name, value in outputs.items()}))
        items = explainer.items(row)
        if not evidence:
            return Answered(list(said.values()), items, [])
        values = explainer.values(states, self.pipeline.said_of(outputs))
        record: dict[str, Any] = {"items": items, "answers": []}
        for each in evidence_of(model, values[0], self.names):
            record["answers"].append({**each, "parts": []})
        reasons: set[str] = set()
        if explainer.maps:
            reasons = add_maps(explainer.parts(rows, batch, states), values, {0: record}, explainer.method)
        for each in reversed(record["answers"]):  # if a task has several numbers, the first is kept
            of_task = said[each["task"]]
            of_task.parts = each.pop("parts")
            of_task.evidence = each
        return Answered(list(said.values()), items, [*explainer.about()["warnings"], *sorted(reasons)])

    def _spelled(self, spelled: Any) -> dict[str | None, Said]:
        """The answers of a pipeline to a row, by task."""
        tasks = self.explainer.tasks
        by_task = {None: spelled} if None in tasks else spelled
        said = {}
        for task, about in tasks.items():
            entries = by_task[task] if isinstance(by_task[task], list) else [by_task[task]]
            kind = TEXTS if about.writes else self._kind(task)
            answers = [(self._label(task, entry, kind), entry.get("score")) for entry in entries]
            said[task] = Said(task, kind, answers)
        return said

    def _kind(self, task: str | None) -> str:
        return self.explainer.model.last_layers()[task][1].label_kind

    def _label(self, task: str | None, entry: Mapping[str, Any], kind: str) -> str:
        """The label or text of an entry of a pipeline's answer."""
        (label,) = (str(value) for key, value in entry.items() if key != "score")
        if kind == NUMBERS and label.startswith("LABEL_"):  # transformers' name for a label without a name
            return self.names.get(task) or ""
        return label
