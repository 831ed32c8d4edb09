"""What a model says of rows when it sees some of their modalities alone, and how good that is.

Absence is native to the model: where an index is -1 the learned absent token stands. So every item is encoded once,
and each set of modalities, a coalition, costs one `fuse`.
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


Coalition = frozenset[str]  # names of modalities that are seen
MOST_CLASSES = 32  # of which each probability is looked at; of more the largest alone
LARGEST = 5


def coalitions_of(modalities: Collection[str], least: Collection[str] = ()) -> list[Coalition]:
    """All sets of these modalities that hold at least some of them, the largest first."""
    others = [name for name in modalities if name not in least]
    sizes = range(len(others), -1, -1)
    return [Coalition([*least, *more]) for size in sizes for more in combinations(others, size)]


@dataclass
class CoalitionAnswers:
    """What a model says of N rows, by the modalities that it sees of them.

    Args:
        modalities: of the model, in their order.
        present: `(N, M)` bool, which of them each row has.
        pooled: by coalition the fused vectors, `(N, D)` float32. A row that lacks some of a coalition is there as the
            model sees it without them.
        logits: by coalition and task `(N, C)` float32; the only task is None.
        labels: by task as `label_tensor` gives them; None where the rows have none.
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
        """What may be known of rows when a coalition is seen, and nothing of the modalities outside of it: how sure
        the answers are, `(N, F)`, and the fused vectors `(N, D)`. Nothing at all of the empty one."""
        if not coalition:
            return np.zeros((len(self), 0)), np.zeros((len(self), 0))
        parts = [part for name, head in heads.items() for part in certainty(self.logits[coalition][name], head)]
        return np.concatenate(parts, 1), self.pooled[coalition]


def certainty(logits: torch.Tensor, head: TaskHead) -> list[np.ndarray]:
    """How sure an answer is, `(N, F)` each: the largest probabilities, their entropy, and every probability of up to
    32 classes; of numbers the numbers."""
    shares = head.probabilities(logits.double())
    if shares is None:
        return [logits.double().numpy()]
    surest = shares if head.label_kind == CLASSES else torch.maximum(shares, 1 - shares)
    largest = surest.sort(-1, descending=True).values[:, :LARGEST]
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum(-1, keepdim=True)
    every = [shares.numpy()] if shares.shape[1] <= MOST_CLASSES else []
    return [largest.numpy(), surest.mean(-1, keepdim=True).numpy(), entropy.numpy(), *every]


def answering_heads(model: MMFusionPreTrainedModel) -> dict[str | None, tuple[torch.nn.Module, TaskHead]]:
    """The layers of a model that answer, by task.

    Raises:
        ValueError: it has none, as one that searches, or what it gives are texts.
    """
    layers = model.last_layers()
    if not layers or any(head.label_kind == TEXTS for _, head in layers.values()):
        raise ValueError(
            f"What to ask for next is worked out for classes and numbers; {type(model).__name__} gives none."
        )
    return layers


@torch.no_grad()
def look(
    model: MMFusionPreTrainedModel, batches: Iterable[dict[str, Any]], coalitions: Sequence[Coalition] | None = None
) -> CoalitionAnswers:
    """Lets a model look at rows, with the modalities of each coalition alone.

    Args:
        model: a head for classes or numbers; it is left in eval mode.
        batches: as `MultimodalCollator` makes them.
        coalitions: which ones; None: all that its modalities make.
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
        raise ValueError("There is no row to look at.")
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
    """How good answers are, on one scale: 1 is right. Learned from the labels of some rows.

    Of classes it is the share that is right, as `Task.row_scores` has it. What is measured in a unit, as an error of
    numbers, becomes the share of the best constant answer's error that is gone: 0 is that guess, 1 no error at all. Of
    several tasks it is the mean over those that a row has a label of. Where nothing is seen, that constant is the
    answer: no row was ever trained on without any modality.

    Args:
        tasks: by name; the only one is None.
        answers: of rows with labels.

    Attributes:
        units: by task what 1 on the scale is in the unit of `Task.row_scores`.
    """

    def __init__(self, tasks: Mapping[str | None, Task], answers: CoalitionAnswers):
        if answers.labels is None:
            raise ValueError("What to ask for next is learned from rows with labels, and these have none.")
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
        """By coalition the score of each row, `(N,)`; NaN for rows that lack some of it, or have no label."""
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
