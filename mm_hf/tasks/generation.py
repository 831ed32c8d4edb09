"""Texts that a model writes."""

from dataclasses import dataclass
from typing import Any

from ..data import classes_to_write
from ..models.head_table import GENERATION
from .task import Task, register_task


@register_task
@dataclass
class Generation(Task):
    """What text belongs to a row. Of a column of classes their names are written."""

    name = GENERATION
    heads = (GENERATION,)
    writes = True
    decodes = True
    by_head = True

    # ---- Training

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses what is for classes, and a decoder that nobody names."""
        cls.check_classes(data_args, train_args)
        if model_args.text_encoder is None and model_args.decoder is None:
            raise ValueError("decoder is missing: where no text_encoder is there to start it from, give --decoder.")

    @classmethod
    def check_classes(cls, data_args: Any, train_args: Any):
        """Refuses what is for classes."""
        unused = {
            "weight_column": data_args.weight_column if isinstance(data_args.weight_column, dict) else None,
            "imbalance": train_args.imbalance,
            "mixup_alpha": train_args.mixup_alpha or None,
            "problem_type": data_args.problem_type,
        }
        for key, value in unused.items():
            if value is not None:
                raise ValueError(f"{key} is {value!r}, but {cls.name} writes texts, without classes.")

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses what is for a decoder."""
        of_decoder = {
            "decoder": model_args.decoder,
            "decoder_layers": model_args.decoder_layers,
            "decoder_learning_rate": train_args.decoder_learning_rate,
        }
        for key, value in of_decoder.items():
            if value is not None:
                raise ValueError(f"{key} is {value!r}, but only the task {Generation.name} has a decoder.")

    @classmethod
    def learn(cls, splits: Any, column: str | None) -> Task:
        """With the names of the classes, where the column has these."""
        numbers = classes_to_write(splits["train"].features, str(column))
        return cls(column, None if numbers is None else list(numbers))

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return "texts"

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """What writes."""
        return {
            key: getattr(run.model_args, key) for key in ("decoder", "decoder_layers", "freeze_decoder_embeddings")
        }

    def set_up(self, model: Any, model_args: Any):
        """How long a text may be, and how many beams look for it."""
        model.generation_config.update(max_new_tokens=model_args.max_target_length, num_beams=model_args.num_beams)
