"""Answers the row that somebody gave: what the pipelines say of it, what each modality gave to that, and where in its
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


PLACE = {"row_id": 0, "split": "page"}  # what rows know of where they come from


@dataclass
class Said:
    """The answer to one question.

    Args:
        task: its name; None where there is but one.
        kind: what it is: `CLASSES`, `SEVERAL`, `NUMBERS` or `TEXTS` of `models.tasks`.
        answers: each with its label, or the text, and its score: a probability, or the number; None where a model
            gives none. The best first.
        evidence: of the first of them, see `evidence_of`; None where nobody asked.
        parts: maps of the items, as evidence.json has them; `item` is the place among the items.
    """

    task: str | None
    kind: str
    answers: list[tuple[str, float | None]]
    evidence: dict[str, Any] | None = None
    parts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Answered:
    """What is said of one row.

    Args:
        said: of each question.
        items: that the row holds, see `ModalityReader.shown`.
        notes: what is to be said beside the evidence.
    """

    said: list[Said]
    items: list[dict[str, Any]]
    notes: list[str]


class Answerer:
    """Answers rows one after the other, whoever asks.

    Args:
        pipeline: of the checkpoint, see `mm_hf.pipeline`.
        explainer: of the same model; its collator decodes files as training did.
        fields: of the page.
        names: by task what people call its answer, such as the column of the labels.
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
        """What the model says of a row, as the collator takes it.

        Raises:
            BadField: something of it cannot be read, or its answer is no finite number.
        """
        with self.lock:
            return self._answer({**row, **PLACE}, evidence)

    def _answer(self, row: dict[str, Any], evidence: bool) -> Answered:
        explainer, model = self.explainer, self.explainer.model
        rows, batch, states = explainer.encode([row])
        if batch.get("bad_rows"):
            raise BadField(sentences_of(batch["bad_rows"], self.fields))
        if not any(int(index.max()) >= 0 for name, index in batch.items() if name.endswith("_index")):
            raise BadField("What was given holds nothing that the model reads.")
        with torch.no_grad():
            outputs = self.pipeline.answer({"encoder_states": states}, 1, {})
        for values in outputs.values():
            if values.is_floating_point() and not values.isfinite().all():
                raise BadField("The model's answer is no finite number.")
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
        for each in reversed(record["answers"]):  # of several numbers of a task the first is kept
            of_task = said[each["task"]]
            of_task.parts = each.pop("parts")
            of_task.evidence = each
        return Answered(list(said.values()), items, [*explainer.about()["warnings"], *sorted(reasons)])

    def _spelled(self, spelled: Any) -> dict[str | None, Said]:
        """What a pipeline says of a row, by task."""
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
        """What an entry of a pipeline's answer says, beside its score."""
        (label,) = (str(value) for key, value in entry.items() if key != "score")
        if kind == NUMBERS and label.startswith("LABEL_"):  # the library's name for what has none
            return self.names.get(task) or ""
        return label
