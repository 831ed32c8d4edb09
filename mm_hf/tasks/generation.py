"""Generation: texts that a model writes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..data import classes_to_write
from ..evaluation.linear import LinearAnswer, nearest
from ..evaluation.texts import TextScore, TextTable, chrf, generation_metrics, text_metrics, token_metrics
from ..models.head_table import GENERATION
from ..models.text import Text
from .registry import register_task
from .task import Constant, Task, refuse


@register_task
@dataclass
class Generation(Task):
    """Writes the text that belongs to a row.

    Answers and targets are numbers of texts, and `names` holds these texts: see `readable`. For a column of classes,
    the model writes the names of classes, and `names` holds these at first.
    """

    name = GENERATION
    heads = (GENERATION,)
    writes = True
    decodes = True
    by_head = True
    row_score = "chrF of the text"

    # ---- Measuring

    @property
    def classes(self):
        """None: it may write any text."""
        return None

    def answers(self, logits):
        """Texts are answers already."""
        return logits

    def metrics(self, outputs, validate=True):
        """How well the text matches the true text."""
        return text_metrics(self.names or [])

    def measure(self, logits, labels, kinds=None, texts_of=None, generated=True):
        """Compares the generated texts with the true texts. If no texts were generated, measures how often the next
        token is right."""
        if not generated:
            return token_metrics(logits, labels)
        return generation_metrics([text or "" for text in texts_of(logits)], texts_of(labels), kinds)

    def readable(self, values, texts_of):
        """See `Task`."""
        table = TextTable()
        codes = [table.codes(texts_of(tokens)) for tokens in values]
        return replace(self, names=table.texts), codes

    def constants(self, labels, outputs):
        """The most frequent text. It is not the best constant answer for the WER, but the WER is compared with it
        too."""
        floors = super().constants(labels, outputs)
        return floors | {"wer_of_majority": Constant(floors["majority"].answer, "wer", "the same", listed=False)}

    def linear_answer(self, train, validation, test):
        """The text of the nearest training row. Nearest means the highest cosine of the features of all modalities
        except text, or of the text if there is no other modality."""
        names = [name for name in train.by_modality if name != Text.name] or list(train.by_modality)
        known, asked = (np.concatenate([rows.by_modality[name] for name in names], 1) for rows in (train, test))
        words = f"the text of the nearest training row, by {' and '.join(names)}"
        return LinearAnswer(train.labels[nearest(known, asked)], words)

    def row_scores(self, answers, targets):
        """See `row_score`."""
        return TextScore(self.names or [], chrf).rows(answers, targets).double()

    # ---- Saying

    def columns(self, outputs, top_k=1, every=False):
        """The text."""
        return {"prediction": pa.string()}

    def values(self, said, top_k=1, every=False):
        """See `columns`."""
        return [[text or ""] for text in said]

    def count(self, counts, row):
        """Counts texts, words, and empty texts."""
        for name, number in (("rows", 1), ("words", len(row[0].split())), ("empty", not row[0].strip())):
            counts[name] = counts.get(name, 0) + number

    def summary(self, counts):
        """The mean length of the texts, and the number of empty ones."""
        mean = counts["words"] / counts["rows"]
        return [f"texts of {mean:.1f} words on average, {counts['empty']:,} empty"]

    # ---- Training

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses keys for classes, and a missing decoder."""
        cls.check_classes(data_args, train_args)
        if model_args.text_encoder is None and model_args.decoder is None:
            raise ValueError("decoder is missing: there is no text_encoder to start it from, so give --decoder.")

    @classmethod
    def check_classes(cls, data_args: Any, train_args: Any):
        """Refuses keys for classes."""
        unused = {
            "weight_column": data_args.weight_column if isinstance(data_args.weight_column, dict) else None,
            "imbalance": train_args.imbalance,
            "mixup_alpha": train_args.mixup_alpha or None,
            "problem_type": data_args.problem_type,
        }
        refuse(unused, f"{cls.name} writes texts, without classes")

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses keys for a decoder."""
        of_decoder = {
            "decoder": model_args.decoder,
            "decoder_layers": model_args.decoder_layers,
            "decoder_learning_rate": train_args.decoder_learning_rate,
        }
        refuse(of_decoder, f"only the task {Generation.name} has a decoder")

    @classmethod
    def learn(cls, splits: Any, column: str | None) -> Task:
        """The task, with the names of the classes if the column has classes."""
        numbers = classes_to_write(splits["train"].features, str(column))
        return cls(column, None if numbers is None else list(numbers))

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return "texts"

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """The settings of the decoder."""
        return {
            key: getattr(run.model_args, key) for key in ("decoder", "decoder_layers", "freeze_decoder_embeddings")
        }

    def set_up(self, model: Any, model_args: Any):
        """Sets the longest length of a text and the number of beams."""
        model.generation_config.update(max_new_tokens=model_args.max_target_length, num_beams=model_args.num_beams)
