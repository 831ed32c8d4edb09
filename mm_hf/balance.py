"""Balances modalities that learn at different speeds: the gradients of the faster one are made smaller."""

import hashlib
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from .models.contrastive import world_size
from .models.modeling_mm_fusion import MMFusionForClassification
from .models.modeling_outputs import TokenStates
from .models.tasks import CLASSES


class GradientModulation:
    """On-the-fly gradient modulation with generalisation enhancement (OGM-GE, Peng et al. 2022).

    In each step, every modality gets a score: the mean probability of the right class when the model sees only this
    modality. The ratio of this score to the mean score of the others is then computed. If the ratio is above 1,
    the gradients of the encoder and the projection are multiplied by `1 - tanh(alpha * ratio)`. Noise with the
    standard deviation of each gradient is added for all modalities, because smaller steps generalise worse.

    The paper reads the scores of two modalities off the two halves of a linear layer. A fusion in general has no such
    halves. So here a score comes from rows in which all other modalities are absent (`modality_dropout` teaches the
    model to handle such rows). Hooks on the model and the optimizer do all of this: you need to call nothing else.

    Args:
        model: has one label per row, and is in training mode when it learns; neither compiled nor sharded.
        optimizer: the optimizer of the model's parameters.
        alpha: the strength; the paper uses 0.1 to 0.8.

    Raises:
        ValueError: the model is of another kind, or has only one modality.
    """

    def __init__(self, model: MMFusionForClassification, optimizer: torch.optim.Optimizer, alpha: float):
        if not isinstance(model, MMFusionForClassification) or len(model.config.modalities) < 2:
            raise ValueError(
                "Gradient modulation needs a classification model (MMFusionForClassification) with at least two "
                f"modalities; got {type(model).__name__} with {model.config.modalities}."
            )
        self.model, self.alpha = model, alpha
        self.projected: dict[str, tuple] = {}  # per modality: states, index and tokens of the current forward
        self.coefficients: dict[str, float] = {}  # the coefficients of the last step
        self._forget()
        for name, projection in model.model.projections.items():
            projection.register_forward_hook(partial(self._note, name))
        model.register_forward_hook(self._score, with_kwargs=True)
        optimizer.register_step_pre_hook(self._modulate)

    def _forget(self):
        """Resets the sums of a step: per modality, the probabilities of the right classes and their number."""
        self.sums = torch.zeros(len(self.model.config.modalities), 2, dtype=torch.float64)

    def _note(self, name: str, projection: nn.Module, args: tuple, projected: TokenStates):
        """Keeps the input and the output of a modality's projection."""
        if projection.training:
            self.projected[name] = (*args, projected)

    @torch.no_grad()
    def _score(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], outputs: Any):
        """Adds the scores of one forward pass."""
        projected, self.projected = self.projected, {}
        labels = kwargs.get("labels")
        if labels is None or len(projected) < len(self.sums):  # no training step, or part of it was encoded before
            return
        head = self.model.task_head
        if head.label_kind != CLASSES:
            raise ValueError(f"Gradient modulation needs one class label per row; the problem type is {head.name}.")
        parts, fusion = self.model.model.projections.eval(), self.model.model.fusion.eval()
        absent, present = {}, {}
        for name, (states, index, _) in projected.items():
            index = torch.arange(len(labels), device=labels.device) if index is None else index
            absent[name] = parts[name](states, torch.full_like(index, -1))
            present[name] = (index >= 0 if index.ndim == 1 else (index >= 0).any(1)) & (labels != -100)
        for place, name in enumerate(self.model.config.modalities):
            alone = {other: projected[other][-1] if other == name else absent[other] for other in projected}
            logits = head.in_unit(self.model.classifier(fusion(alone, return_tokens=False).pooled))
            chances = cast(torch.Tensor, head.probabilities(logits))
            right = chances.gather(1, labels.clamp(min=0)[:, None])[:, 0][present[name]]
            self.sums[place] += torch.tensor([right.sum().item(), len(right)], dtype=torch.float64)
        parts.train()
        fusion.train()

    @torch.no_grad()
    def _modulate(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]):
        """Makes the gradients smaller, and adds the noise."""
        sums = self.sums.to(self.model.device) if world_size() > 1 else self.sums
        self._forget()
        if world_size() > 1:
            torch.distributed.all_reduce(sums)
        names = self.model.config.modalities
        scores = {name: (total / count).item() for name, (total, count) in zip(names, sums) if count > 0}
        self.coefficients = coefficients(scores, self.alpha)
        if not self.coefficients:
            return
        # The sums are equal on all processes, and also when a killed run repeats the step. The noise must be so too.
        seed = int.from_bytes(hashlib.sha256(sums.cpu().numpy().tobytes()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        for name, coefficient in self.coefficients.items():
            for part in (self.model.model.encoders[name], self.model.model.projections[name]):
                for parameter in part.parameters():
                    if parameter.grad is None or parameter.grad.numel() < 2:
                        continue
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter.grad)
                    parameter.grad.copy_(coefficient * parameter.grad + parameter.grad.std() * noise)


def coefficients(scores: dict[str, float], alpha: float) -> dict[str, float]:
    """The factor for the gradients of each modality; empty if fewer than two modalities have a score."""
    factors: dict[str, float] = {}
    for name, score in scores.items() if len(scores) > 1 else ():
        others = [other for key, other in scores.items() if key != name]
        ratio = score / max(sum(others) / len(others), 1e-12)
        factors[name] = 1.0 - torch.tanh(torch.tensor(alpha * ratio)).item() if ratio > 1 else 1.0
    return factors
