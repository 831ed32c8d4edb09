"""Retrieval: which of all pictures or sounds a text belongs to, and the reverse."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from ..evaluation.linear import LinearAnswer, fit_numbers, unit
from ..evaluation.ranking import chance_mean_recall, chance_recall, item_of, recall_of_rows, retrieval_metrics
from ..models.head_table import RETRIEVAL
from ..models.text import Text
from .registry import register_task
from .task import Task, refuse


SEARCHED = ("image_column", "text_column", "audio_column")


@register_task
@dataclass
class Retrieval(Task):
    """A search. It learns from pairs, without labels: the ids of both items replace `labels`, see
    `retrieval_metrics`."""

    name = RETRIEVAL
    heads = (RETRIEVAL,)
    needs_labels = False
    by_head = True
    row_score = "1 divided by the rank"
    without_gpu = {"matching_weight": 0.0, "per_device_train_batch_size": 128}  # else the fusion reads every pair

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
        """The score of a random order."""
        return [("chance_mean_recall", self.first_metric, chance_mean_recall(labels))], chance_recall(labels)

    def linear_answer(self, train, validation, test):
        """A ridge regression from the features of an item to the features of its text. Items and texts are compared by
        the cosine, after the mean of the training texts is subtracted."""
        item, searched = item_of(train.labels), item_of(train.by_modality)
        mean = train.by_modality[Text.name].mean(0)

        def embeddings(line, rows):
            texts, items = rows.by_modality[Text.name] - mean, line(rows.by_modality[searched]).numpy()
            return {Text.name: unit(texts), item: unit(items)}

        line = fit_numbers(
            train.by_modality[searched],
            (train.by_modality[Text.name] - mean).astype("float64"),
            lambda line: self.measure(embeddings(line, validation), validation.labels)["metrics"][self.first_metric],
        )
        return LinearAnswer(embeddings(line, test), f"ridge map from {item} to {Text.name}", line.strength)

    def measurer(self, predictions, labels, texts_of, several=False):
        """Each row is one query in both directions. Equal queries share one weight."""
        return recall_of_rows(predictions, labels)

    # ---- Training

    @classmethod
    def needed(cls, model_args: Any, data_args: Any) -> dict[str, Any]:
        """Texts, and pictures or sounds."""
        items = data_args.image_column or data_args.audio_column
        both = data_args.image_column and data_args.audio_column
        others = [key for key in fields(data_args) if "names_columns" in key.metadata and key.name not in SEARCHED]
        if both or any(getattr(data_args, key.name) for key in others):
            raise ValueError(
                f"{cls.name} needs one image_column or one audio_column, one text_column, and no other columns of "
                "modalities: leave the others out."
            )
        for key in SEARCHED:
            value = getattr(data_args, key)
            if isinstance(value, list) and len(value) > 1:
                raise ValueError(f"{cls.name} needs one {key}, got {value}.")
        return {"text_column": data_args.text_column, "image_column or audio_column": items}

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses keys for labels."""
        unused = {
            "label_column": data_args.label_column,
            "weight_column": data_args.weight_column,
            "imbalance": train_args.imbalance,
            "mixup_alpha": train_args.mixup_alpha or None,
            "kind_column": data_args.kind_column,
        }
        refuse(unused, f"{cls.name} learns from pairs, without labels")

    @classmethod
    def can_answer(cls, data_args: Any) -> bool:
        """Whether the data has texts."""
        return bool(data_args.text_column)

    @classmethod
    def head_keys(cls, start: Any, data_args: Any) -> dict[str, Any]:
        """The width of the embeddings, and the weight of the matching loss."""
        return {key: getattr(start.config, key) for key in ("projection_dim", "matching_weight")}

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """See `head_keys`."""
        return {key: getattr(run.model_args, key) for key in ("projection_dim", "matching_weight")}

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """None: the loss on pairs has no settings for labels."""
        return {}
