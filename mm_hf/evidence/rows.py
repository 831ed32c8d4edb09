"""Makes records of evidence from a model and rows: the contribution of each modality to each answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from ..data import BadRowError, MultimodalCollator
from ..data.modalities import reader_of
from ..data.rows import describe_bad_row
from ..data.shown import TEXT
from ..models.coalitions import Pool, coalition_values, encode_batch
from ..models.evidence import OTHER_ROWS, TOKEN, CoalitionValues, Said, evidence_of, warnings_of
from ..models.modeling_outputs import EncoderStates
from ..models.tasks import CLASSES
from ..tasks import Task
from .maps import add_maps, checks_of, encoded_rows
from .parts import EncodedRows


BATCH = 8  # rows per batch, for explanations and for encoding background rows
# So many runs of the fusion per row take less time than one prediction at base size, see benchmarks/explain.py.
RUNS = 30
FEWEST = 5  # least number of replacement rows
CANDIDATES = 4  # candidate rows per replacement row
FEWEST_CANDIDATES = 48  # least number of candidate rows


def rows_that_stand_in(modalities: int) -> int:
    """The default number of rows that replace removed modalities: fewer rows if there are more coalitions."""
    return max(FEWEST, RUNS // max(2**modalities - 2, 2))


def candidates(wanted: int) -> int:
    """The number of candidate rows for `wanted` replacement rows."""
    return max(FEWEST_CANDIDATES, CANDIDATES * wanted)


def choose_rows(count: int, wanted: int, seed: int = 0) -> list[int]:
    """Row numbers drawn at random, sorted; all rows if there are no more than `wanted`."""
    return sorted(np.random.default_rng(seed).choice(count, min(wanted, count), replace=False).tolist())


@dataclass
class Background:
    """Rows with items that replace removed modalities.

    Args:
        pool: all of these rows, see `Pool.of`.
        inputs: of one batch of them, with its `encoder_states`. They give the tokens that replace removed parts.
    """

    pool: Pool
    inputs: dict[str, Any]


def representative(features: torch.Tensor, wanted: int) -> list[int]:
    """Chooses rows with a mean near the mean of all rows: kernel herding (Chen et al. 2010) with a linear kernel. The
    mean of random rows would be wrong by `1 / sqrt(wanted)` standard deviations, and so would the contributions.

    Args:
        features: `(N, F)`.
    """
    features = features - features.mean(0)
    total, chosen = torch.zeros_like(features[0]), []
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for _ in range(min(wanted, len(features))):
        distance = (total + features).square().sum(1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        total, free[best] = total + features[best], False
    return sorted(chosen)


@torch.no_grad()
def features_of(model: Any, collator: MultimodalCollator, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The feature vectors of rows, see `standardised`."""
    parts: dict[str, list[torch.Tensor]] = {}
    for start in range(0, len(rows), BATCH):
        batch = send_to_device(collator(list(rows[start : start + BATCH])), model.device)
        pool = Pool.of(model.explained_base, encode_batch(model, batch), with_absent=False)
        for name, vectors in vectors_of(model, pool).items():
            parts.setdefault(name, []).append(vectors)
    return standardised({name: torch.cat(vectors) for name, vectors in parts.items()})


def vectors_of(model: Any, pool: Pool) -> dict[str, torch.Tensor]:
    """The pooled vectors of rows by modality, `(N, D)`, and the fused vectors. The fused vectors represent what
    several modalities say together. (For an exclusive or, rows with only one answer can be balanced in each
    modality.)"""
    return {**pool.pooled(), "fused": pool.fused(model.explained_base)}


def standardised(vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Several kinds of vectors, `(N, D)` each, concatenated to `(N, F)` float32. Each kind is scaled to the same total
    variance."""
    parts = [one.float() for one in vectors.values()]
    return torch.cat([one / one.var(0).sum().clamp(min=1e-12).sqrt() for one in parts], dim=1)


@torch.no_grad()
def encode_background(
    model: Any, collator: MultimodalCollator, rows: Sequence[dict[str, Any]], wanted: int
) -> Background:
    """Encodes the replacement rows: the rows that represent the given rows best.

    Args:
        model: a model with a head, in eval mode.
        collator: it must leave out bad rows.
        rows: as the collator takes them, at least one; see `candidates`.
        wanted: the largest number of replacement rows.
    """
    if 1 < wanted < len(rows):
        rows = [rows[place] for place in representative(features_of(model, collator, rows), wanted)]
    rows = rows[:wanted]
    background = None
    for start in range(0, len(rows), BATCH):
        batch = send_to_device(collator(list(rows[start : start + BATCH])), model.device)
        states = encode_batch(model, batch)
        pool = Pool.of(model.explained_base, states, with_absent=False)
        if background is None:
            background = Background(pool, {**batch, "encoder_states": states})
        else:
            background.pool = background.pool.beside(pool)
    if background is None:
        raise ValueError("There are 0 rows to replace removed modalities with: give at least one.")
    return background


@dataclass
class Explainer:
    """Explains what the answers to rows rest on.

    Args:
        model: a model with a head.
        collator: makes its batches; it leaves out bad rows.
        tasks: the tasks by the name of the model's head; the key of a single task is None. `column` is the label
            column, if the rows have labels.
        background: rows that replace removed modalities; None: the absent token replaces them.
        maps: whether to make maps of the items too.
        method: of the maps, one of `METHODS`; None: the method that measured best.
        settings: arguments of `generate`, for a model that writes.
        on_error: `"raise"` stops at a row that cannot be read; `"skip"` leaves it out.

    Attributes:
        bad_rows: the entries (see `BadRowError`) of rows that were left out.
        reasons: the reasons why maps are missing.
    """

    model: Any
    collator: MultimodalCollator
    tasks: dict[str | None, Task]
    background: Background | None = None
    maps: bool = False
    method: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    on_error: str = "skip"
    bad_rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    reasons: set[str] = field(default_factory=set, init=False)

    @property
    def absence(self) -> str:
        """What replaces a removed modality: other rows or the absent token."""
        return TOKEN if self.background is None else OTHER_ROWS

    def about(self) -> dict[str, Any]:
        """The fields of evidence.json that are common to all rows."""
        rows = 0 if self.background is None else self.background.pool.rows
        return {"absence": self.absence, "background": rows, "warnings": warnings_of(self.model, self.absence)}

    def labels(self) -> list[str]:
        """The known label columns."""
        return [str(task.column) for task in self.tasks.values() if task.column]

    def explain(self, rows: Sequence[dict[str, Any]], items: bool = True) -> list[dict[str, Any]]:
        """The records of some rows, in order. Rows that cannot be read, or have no input for the model, have no
        record.

        Args:
            rows: as the collator takes them, each with its `row_id`; labels under the columns of the tasks.
            items: whether to include the content of the rows.

        Raises:
            ValueError: a row cannot be read, and such rows are not left out.
        """
        rows, batch, states = self.encode(rows)
        bad = batch.get("bad_rows", [])
        self.bad_rows += bad
        if bad and self.on_error == "raise":
            raise ValueError(f"{describe_bad_row(bad[0])} (--on_error skip leaves such rows out.)")
        unreadable = {entry["row"] for entry in bad}
        judged, said = self.judge(states, rows)
        values = self.values(states, said)
        if said is None:
            judged = self.read(values, rows)
        records = {}
        for place, (row, of_tasks, judgements) in enumerate(zip(rows, values, judged)):
            if row["row_id"] in unreadable or not any(one.players for one in of_tasks.values()):
                continue
            record = {"row": row["row_id"], "items": self.items(row) if items else []}
            records[place] = {**record, "answers": self.answers(of_tasks, judgements)}
        if self.maps and items and records:
            self.reasons |= add_maps(self.parts(rows, batch, states), values, records, self.method)
        return list(records.values())

    @torch.no_grad()
    def encode(self, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], Any, dict[str, EncoderStates]]:
        """The rows, their batch, and its encoder states."""
        batch = send_to_device(self.collator(list(rows)), self.model.device)
        return list(rows), batch, encode_batch(self.model, batch)

    def values(self, states: dict[str, EncoderStates], said: Said | None) -> list[dict[str | None, CoalitionValues]]:
        """The values of all coalitions of the rows of a batch, for the tasks in `tasks`."""
        pool = None if self.background is None else self.background.pool
        values = coalition_values(self.model, states, pool, said, **self.settings)
        return [{task: of_task for task, of_task in row.items() if task in self.tasks} for row in values]

    def parts(self, rows: list[dict[str, Any]], batch: Any, states: dict[str, EncoderStates]) -> EncodedRows:
        """The rows of a batch with the parts of their items."""
        background = None if self.background is None else self.background.inputs
        return encoded_rows(self.model, self.collator, rows, batch, states, background)

    def check(self, rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, dict[str, Any]]:
        """Checks how far the explanations of some rows can be trusted, see `checks_of`."""
        rows, batch, states = self.encode(rows)
        _, said = self.judge(states, rows)
        return checks_of(self.parts(rows, batch, states), self.values(states, said), self.method, seed)

    def answers(
        self, values: dict[str | None, CoalitionValues], judgements: dict[str | None, tuple]
    ) -> list[dict[str, Any]]:
        """The answers of one row, as in evidence.json."""
        answers = []
        names = {task: of_task.column for task, of_task in self.tasks.items()}
        for evidence in evidence_of(self.model, values, names):
            task = evidence.pop("task")
            answer, truth, right, confidence = judgements[task]
            has_chances = self.tasks[task].writes or self.model.has_chances(task)
            everything = values[task].shown[-1, 0].item()
            answers.append(
                {
                    "task": task,
                    "answer": answer,
                    "truth": truth,
                    "right": right,
                    "probability": everything if has_chances else None,
                    "confidence": confidence,
                    **self.spelled(evidence),
                    "parts": [],
                }
            )
        return answers

    def spelled(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """Evidence with the tokens of a text as words."""
        for token in evidence.get("tokens", []):
            token[TEXT] = self.collator.processor.tokenizer.decode([token.pop("id")])
        return evidence

    @torch.no_grad()
    def judge(self, states: Any, rows: list[dict[str, Any]]) -> tuple[list[dict[str | None, tuple]], Said | None]:
        """For each row by task: the answer, the truth, whether the answer is right, and its set or interval; unknown
        values are None. Also the explained outputs, because a task may answer another class than the most probable
        one. For a model that writes or compares, both are empty: see `read`."""
        heads = {task: head for task, (_, head) in self.model.last_layers().items()}
        if not heads or any(task.writes for task in self.tasks.values()):
            return [], None
        logits: Any = self.model(encoder_states=states).logits
        logits = logits if isinstance(logits, dict) else {None: logits}
        judged: list[dict[str | None, tuple]] = [{} for _ in rows]
        said: Said = {name: head.said(logits[name]) for name, head in heads.items()}
        for name, task in self.tasks.items():
            answers = task.answers(logits[name].cpu())
            sets = task.set_records(logits[name].cpu())
            if heads[name].label_kind == CLASSES and answers.ndim == 1:
                said[name] = answers[:, None].to(said[name].device)
            for place, (row, answer, of_row) in enumerate(zip(rows, answers, judged)):
                confidence = None if sets is None else sets[place]
                truth = self.truth(task, row)
                right = None if truth is None or truth.is_floating_point() else bool((answer == truth).all())
                of_row[name] = (task.spell(answer), None if truth is None else task.spell(truth), right, confidence)
        return judged, said

    def truth(self, task: Task, row: dict[str, Any]) -> torch.Tensor | None:
        """The label of a row in the shape of an answer; None if it has no readable label."""
        if row.get(str(task.column)) is None:
            return None
        bad: list[BadRowError] = []
        label = task.label_tensor([row], bad)
        return None if bad or not bool(task.has_label(label)[0]) else task.targets(label)[0]

    def read(self, values: list[dict[str | None, CoalitionValues]], rows: list) -> list[dict[str | None, tuple]]:
        """Like `judge`, for written texts and for pairs."""
        judged: list[dict[str | None, tuple]] = []
        for of_tasks, row in zip(values, rows):
            task, of_task = self.tasks[None], of_tasks[None]
            if not task.writes:
                shown = of_task.shown[-1, 0].item()
                said = f"similarity {shown:.2f}"
                if self.model.has_chances(None):
                    said = "match" if shown > 0.5 else "no match"
                judged.append({None: (said, None, None, None)})
                continue
            (text,) = self.collator.texts_of(of_task.said[None])
            truth = row.get(str(task.column))
            truth = None if truth is None else str(truth)
            judged.append({None: (text or "", truth, None if truth is None else (text or "") == truth, None)})
        return judged

    def items(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The items of a row, as a page shows them. Items that cannot be read are left out."""
        items = []
        for name, columns in self.collator.parts.items():
            if columns:
                try:
                    items += reader_of(name).shown(row, self.collator)
                except BadRowError:
                    continue
        return items


def explain_rows(
    explainer: Explainer, rows: Iterable[dict[str, Any]], items: bool = True, done: Callable[[int], Any] = int
) -> list[dict[str, Any]]:
    """The records of all rows, computed in batches; `done` is called with the number of rows of each batch."""
    records: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []

    def flush():
        if waiting:
            records.extend(explainer.explain(waiting, items))
            done(len(waiting))
            waiting.clear()

    for row in rows:
        waiting.append(row)
        if len(waiting) == BATCH:
            flush()
    flush()
    return records
