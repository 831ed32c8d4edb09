# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Several questions about every row, answered from one fused state.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_mm_fusion import MMFusionConfig
from .losses import count_labels, mixup
from .modeling_mm_fusion import MMFusionModel, MMFusionPreTrainedModel
from .modeling_outputs import MMFusionMultiTaskOutput
from .tasks import Task, module_name


TaskTensors = Mapping[str, torch.Tensor]


class TaskWeighting(nn.Module):
    """Weights of losses that are learned with the model: each is divided by a variance, the noise of its labels
    (Kendall et al. 2018, equation 10).

    With `s` the logarithm of the variance, a loss `L` becomes `exp(-s) L + s / 2`, that of a regression
    `exp(-s) L / 2 + s / 2`. At the start all variances are 1.

    Args:
        tasks: by name.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        super().__init__()
        self.factors = {name: 0.5 if task.problem_type == "regression" else 1.0 for name, task in tasks.items()}
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def init_own_parameters(self, std: float):
        """Sets all variances to 1."""
        init.zeros_(self.log_variances)

    def forward(self, losses: TaskTensors, shares: Mapping[str, torch.Tensor | float]) -> dict[str, torch.Tensor]:
        """Weighs losses.

        Args:
            losses: of all tasks, `()` each.
            shares: of the labels of the global batch, how many are in this one: as the losses do, the second terms
                then add up to the one of the global batch. 0 without any label: that variance stays.

        Returns:
            `()` each.
        """
        return {
            name: self.factors[name] * (-s).exp() * losses[name] + s / 2 * shares[name]
            for name, s in zip(self.factors, self.log_variances)
        }


class MMFusionForMultiTask(MMFusionPreTrainedModel):
    """One head for each of `config.tasks` over one fused vector: classes, several labels and numbers in any mix.

    The training loss is the sum of the tasks' losses, each of which is a mean over the rows that have a label of it:
    with fixed weights (one network shared by all, Caruana 1997), or with learned ones, see `TaskWeighting`.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if config.tasks is None:
            raise ValueError("MMFusionForMultiTask needs config.tasks, what each of its heads answers; it is None.")
        self.tasks = config.task_heads
        self.model = MMFusionModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = config.fusion_module_config.hidden_size
        self.heads = nn.ModuleDict(
            {module_name(name): nn.Linear(width, task.num_labels) for name, task in self.tasks.items()}
        )
        self.task_weighting = TaskWeighting(self.tasks) if config.task_weighting == "uncertainty" else None
        self.post_init()

    def regression_heads(self) -> list[nn.Module]:
        """See the method of the base class."""
        return [
            self.heads[module_name(name)] for name, task in self.tasks.items() if task.problem_type == "regression"
        ]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: TaskTensors | None = None,
        num_items_in_batch: TaskTensors | None = None,
        sample_weight: torch.Tensor | TaskTensors | None = None,
        **inputs,
    ) -> MMFusionMultiTaskOutput:
        """Answers all questions.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: by task, as `classification_loss` takes them: -100 or NaN where a row has no label. A task that is
                left out has none in any row. In training the settings of each task shape its loss, and
                `config.mixup_alpha` mixes rows that have a label of any task; in eval mode the loss is the plain one,
                with fixed weights.
            num_items_in_batch: by task the labelled rows of the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, how much each row counts in the loss, in training alone; or by task.
            inputs: all other inputs of `MMFusionModel.forward`.

        Raises:
            ValueError: labels of a task that is none of the model's.
        """
        outputs = self.model(input_ids=input_ids, **{"return_tokens": False, **inputs})
        pooled, partners, share = outputs.pooler_output, None, 1.0
        for given in (labels, num_items_in_batch, sample_weight):
            unknown = [name for name in given if name not in self.tasks] if isinstance(given, Mapping) else []
            if unknown:
                raise ValueError(f"The model has no task {unknown[0]!r}; it has {list(self.tasks)}.")
        if labels is not None and not isinstance(labels, Mapping):
            raise ValueError(f"labels must be a dict by task, of {list(self.tasks)}; got {type(labels).__name__}.")
        if self.training and self.config.mixup_alpha and labels:
            pooled, partners, share = mixup(pooled, labels, self.config.mixup_alpha)
        pooled = self.dropout(pooled)
        logits = {name: self.heads[module_name(name)](pooled) for name in self.tasks}
        losses = None
        if labels is not None:
            losses_of = partial(self._losses, logits, labels, num_items_in_batch, sample_weight)
            losses = losses_of()
            if partners is not None:
                others = losses_of(partners)
                losses = {name: share * loss + (1 - share) * others[name] for name, loss in losses.items()}
            if self.training and self.task_weighting is not None:
                losses = self.task_weighting(losses, self._shares(labels, num_items_in_batch))
            else:
                losses = {name: task.weight * losses[name] for name, task in self.tasks.items()}
        return MMFusionMultiTaskOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            task_losses=losses,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def _losses(
        self,
        logits: TaskTensors,
        labels: TaskTensors,
        counts: TaskTensors | None,
        sample_weight: torch.Tensor | TaskTensors | None,
        partners: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss of each task, not weighted; with `partners`, of the labels of those rows. That of a task without
        labels is zero with zero gradients, so that its head takes part on every process."""
        losses = {}
        for name, task in self.tasks.items():
            if name not in labels:
                losses[name] = logits[name].sum() * 0.0
                continue
            weights = sample_weight.get(name) if isinstance(sample_weight, Mapping) else sample_weight
            label = labels[name]
            if partners is not None:
                label, weights = label[partners], None if weights is None else weights[partners]
            # Of no label at all the sum is zero, whatever it is divided by.
            count = None if counts is None else counts[name] + (counts[name] == 0)
            losses[name] = task.loss(logits[name], label, count, weights, self.training)
        return losses

    def _shares(self, labels: TaskTensors, counts: TaskTensors | None) -> dict[str, torch.Tensor | float]:
        """How many of the labels of the global batch are in this one, see `TaskWeighting`."""
        found = {name: count_labels(labels[name]) if name in labels else 0 for name in self.tasks}
        return {name: count and (1.0 if counts is None else count / counts[name]) for name, count in found.items()}


MMFusionForMultiTask.register_for_auto_class("AutoModel")

__all__ = ["MMFusionForMultiTask"]
