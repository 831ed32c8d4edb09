"""Which of all pictures or sounds a text belongs to, and the other way round."""

from dataclasses import dataclass

import torch

from ..evaluation.ranking import chance_mean_recall, chance_recall, retrieval_metrics
from .task import Task, register_task


@register_task
@dataclass
class Retrieval(Task):
    """A search. It learns from pairs, without labels: for `labels` stand the ids of both, see `retrieval_metrics`."""

    name = "retrieval"
    heads = ("retrieval",)
    needs_labels = False
    row_score = "1 divided by the rank"

    # ---- Measuring

    def answers(self, logits):
        """Embeddings are answers already."""
        return logits

    def metrics(self, outputs, validate=True):
        """The mean recall of both directions."""

        def mean_recall(embeddings, ids):
            return torch.tensor(retrieval_metrics(embeddings, ids)["metrics"]["mean_recall"])

        return {"mean_recall": mean_recall}

    def measure(self, logits, labels, kinds=None, texts_of=None, generated=True):
        """Search in both directions."""
        return retrieval_metrics(logits, labels)

    def chance(self, labels):
        """What an order drawn at random finds."""
        return [("chance_mean_recall", self.first_metric, chance_mean_recall(labels))], chance_recall(labels)
