"""The answers of a model when it sees only some modalities of a row, and their scores.

The model supports missing modalities: an index of -1 stands for the learned token of an absent item. So every item is
encoded once, and each set of modalities (a coalition) costs one call of `fuse`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device

from ..models.coalitions import encode_batch
from ..models.modeling_outputs import EncoderStates
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from ..models.tasks import CLASSES, TEXTS, TaskHead
from ..tasks import Task


Coalition = frozenset[str]  # names of the visible modalities
MOST_CLASSES = 32  # up to this number of classes, every probability is a feature; above it, only the largest
LARGEST = 5


def coalitions_of(modalities: Collection[str], least: Collection[str] = ()) -> list[Coalition]:
    """All sets of these modalities that contain all of `least`, the largest first."""
    others = [name for name in modalities if name not in least]
    sizes = range(len(others), -1, -1)
    return [Coalition([*least, *more]) for size in sizes for more in combinations(others, size)]


@dataclass
class CoalitionAnswers:
    """The answers of a model for N rows, by visible modalities.

    Args:
        modalities: of the model, in order.
        present: `(N, M)` bool, which modalities each row has.
        pooled: by coalition, the fused vectors, `(N, D)` float32. If a row lacks some modalities of a coalition, its
            vector is computed without them.
        logits: by coalition and task, `(N, C)` float32; the key of a single task is None.
        labels: by task, as `label_tensor` gives them; None if the rows have no labels.
    """

    modalities: list[str]
    present: np.ndarray
    pooled: dict[Coalition, np.ndarray]
    logits: dict[Coalition, dict[str | None, torch.Tensor]]
    labels: dict[str | None, torch.Tensor] | None

    def __len__(self) -> int:
        return len(self.present)

    def has(self, names: Collection[str]) -> np.ndarray:
        """Which rows have all of these modalities, `(N,)` bool."""
        return np.asarray(self.present[:, [self.modalities.index(name) for name in names]].all(1))

    def of_row(self, row: int) -> Coalition:
        """The modalities that a row has."""
        return Coalition(name for name, present in zip(self.modalities, self.present[row]) if present)

    def features(self, coalition: Coalition, heads: Mapping[str | None, TaskHead]) -> tuple[np.ndarray, np.ndarray]:
        """The features of rows of which only the modalities of a coalition are visible: the certainty of the answers,
        `(N, F)`, and the fused vectors `(N, D)`. The empty coalition has no features."""
        if not coalition:
            return np.zeros((len(self), 0)), np.zeros((len(self), 0))
        parts = [part for name, head in heads.items() for part in certainty(self.logits[coalition][name], head)]
        return np.concatenate(parts, 1), self.pooled[coalition]


def certainty(logits: torch.Tensor, head: TaskHead) -> list[np.ndarray]:
    """The certainty of answers, `(N, F)` each: the largest probabilities, their entropy, and every probability if
    there are at most 32 classes. For numbers: the numbers themselves."""
    shares = head.probabilities(logits.double())
    if shares is None:
        return [logits.double().numpy()]
    surest = shares if head.label_kind == CLASSES else torch.maximum(shares, 1 - shares)
    largest = surest.sort(-1, descending=True).values[:, :LARGEST]
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(-1, keepdim=True)
    every = [shares.numpy()] if shares.shape[1] <= MOST_CLASSES else []
    return [largest.numpy(), surest.mean(-1, keepdim=True).numpy(), entropy.numpy(), *every]


def answering_heads(model: MMFusionPreTrainedModel) -> dict[str | None, tuple[torch.nn.Module, TaskHead]]:
    """The last layers of a model, by task.

    Raises:
        ValueError: the model has none (a retrieval model), or its answers are texts.
    """
    layers = model.last_layers()
    if not layers or any(head.label_kind == TEXTS for _, head in layers.values()):
        raise ValueError(
            f"--missing works for classes and numbers, but {type(model).__name__} predicts neither: leave it out."
        )
    return layers


@torch.no_grad()
def look(
    model: MMFusionPreTrainedModel, batches: Iterable[dict[str, Any]], coalitions: Sequence[Coalition] | None = None
) -> CoalitionAnswers:
    """Computes the answers of a model for rows, once for each coalition of modalities.

    Args:
        model: a model for classes or numbers; it is left in eval mode.
        batches: as `MultimodalCollator` makes them.
        coalitions: the coalitions; None: all coalitions of its modalities.

    Raises:
        ValueError: there is no row; see also `answering_heads`.
    """
    layers, base, names = answering_heads(model), model.base_model, list(model.config.modalities)
    wanted = coalitions_of(names) if coalitions is None else list(coalitions)
    model.eval()
    present: list[torch.Tensor] = []
    pooled: dict[Coalition, list[torch.Tensor]] = {seen: [] for seen in wanted}
    logits: dict[Coalition, list[dict[str | None, torch.Tensor]]] = {seen: [] for seen in wanted}
    labels: list[dict[str | None, torch.Tensor]] = []
    for batch in batches:
        batch = send_to_device(dict(batch), model.device)
        states = encode_batch(model, batch)
        indices = {
            name: torch.arange(state.count(), device=model.device) if state.index is None else state.index
            for name, state in states.items()
        }
        present.append(torch.stack([(index.reshape(len(index), -1) >= 0).any(1) for index in indices.values()], 1))
        for seen in wanted:
            kept = {
                name: EncoderStates(
                    levels=state.levels,
                    mask=state.mask,
                    index=indices[name] if name in seen else torch.full_like(indices[name], -1),
                )
                for name, state in states.items()
            }
            vectors = base.fuse(kept, return_tokens=False).pooled
            pooled[seen].append(vectors.float().cpu())
            logits[seen].append(
                {key: head.in_unit(layer(vectors)).float().cpu() for key, (layer, head) in layers.items()}
            )
        if batch.get("labels") is not None:
            of_batch = batch["labels"] if isinstance(batch["labels"], Mapping) else {None: batch["labels"]}
            labels.append(send_to_device(of_batch, "cpu"))
    if not present:
        raise ValueError("There are no rows: give at least one batch.")
    return CoalitionAnswers(
        modalities=names,
        present=torch.cat(present).cpu().numpy(),
        pooled={seen: torch.cat(parts).numpy() for seen, parts in pooled.items()},
        logits={
            seen: {key: torch.cat([part[key] for part in parts]) for key in layers} for seen, parts in logits.items()
        },
        labels={key: torch.cat([part[key] for part in labels]) for key in layers} if labels else None,
    )


class Scores:
    """Scores of answers on one scale, where 1 is right. The scale is fitted to the labels of some rows.

    For classes, the score is 1 or 0, see `Task.row_scores`. For errors with a unit, such as errors of numbers, the
    score is the share of the error that is removed, compared with the best constant answer: 0 is as good as the
    constant, 1 is no error. For several tasks, it is the mean over the tasks for which the row has a label. If no
    modality is visible, the constant is the answer, because the model was never trained on a row without modalities.

    Args:
        tasks: by name; the key of a single task is None.
        answers: of rows with labels.

    Attributes:
        units: by task, the difference of 1 on the scale, in the unit of `Task.row_scores`.

    Raises:
        ValueError: there are no labels.
    """

    def __init__(self, tasks: Mapping[str | None, Task], answers: CoalitionAnswers):
        if answers.labels is None:
            raise ValueError(
                "--missing learns from rows with labels, but these rows have none: give rows with labels."
            )
        self.tasks = dict(tasks)
        self.constants: dict[str | None, torch.Tensor] = {}
        self.units: dict[str | None, float] = {}
        self.zeros: dict[str | None, float] = {}
        any_logits = next(iter(answers.logits.values()))
        for name, task in tasks.items():
            labels = answers.labels[name]
            labels = labels[task.has_label(labels)]
            if not len(labels):
                raise ValueError(f"None of {len(answers)} rows has a label{'' if name is None else f' of {name}'}.")
            targets = task.targets(labels)
            scored = []
            for guess in task.constants(labels, any_logits[name].shape[1]).values():
                constant = guess.answer.expand(len(labels), *guess.answer.shape)
                scored.append((task.row_scores(constant, targets).double(), guess.answer))
            of_guess, self.constants[name] = max(scored, key=lambda pair: pair[0].mean().item())
            best = task.row_scores(targets, targets).double().mean().item()
            is_share = best == 1 and of_guess.min() >= 0 and of_guess.max() <= 1
            self.zeros[name] = 0.0 if is_share else of_guess.mean().item()
            self.units[name] = (best - self.zeros[name]) or 1.0

    def __call__(self, answers: CoalitionAnswers) -> dict[Coalition, np.ndarray]:
        """The score of each row, `(N,)`, by coalition; NaN for rows that lack one of its modalities or have no
        label."""
        scores = {}
        for seen, logits in answers.logits.items():
            of_tasks = []
            for name, task in self.tasks.items():
                labels = (answers.labels or {})[name]
                constant = self.constants[name]
                said = task.answers(logits[name]) if seen else constant.expand(len(labels), *constant.shape)
                score = (task.row_scores(said, task.targets(labels)).double() - self.zeros[name]) / self.units[name]
                of_tasks.append(score.where(task.has_label(labels), torch.nan).numpy())
            labelled = np.isfinite(of_tasks).any(0)
            mean = np.nansum(of_tasks, 0) / np.isfinite(of_tasks).sum(0).clip(min=1)
            scores[seen] = np.where(labelled & answers.has(seen), mean, np.nan)
        return scores
