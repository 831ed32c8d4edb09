"""Texts that a model writes."""

from dataclasses import dataclass, replace

import pyarrow as pa

from ..evaluation.texts import TextScore, TextTable, chrf, generation_metrics, text_metrics, token_metrics
from .task import Constant, Task, register_task


@register_task
@dataclass
class Generation(Task):
    """What text belongs to a row.

    Answers and targets are the numbers of texts, and `names` these texts: see `readable`. Of a column of classes,
    whose names are written, `names` are these to begin with.
    """

    name = "generation"
    heads = ("generation",)
    writes = True
    row_score = "chrF of the text"

    # ---- Measuring

    @property
    def classes(self):
        """None: it may write anything."""
        return None

    def answers(self, logits):
        """Texts are answers already."""
        return logits

    def metrics(self, outputs, validate=True):
        """How much of the text is right."""
        return text_metrics(self.names or [])

    def measure(self, logits, labels, kinds=None, texts_of=None, generated=True):
        """What was written, against what was to be written; where nothing was, how often the next token is right."""
        if not generated:
            return token_metrics(logits, labels)
        return generation_metrics([text or "" for text in texts_of(logits)], texts_of(labels), kinds)

    def readable(self, values, texts_of):
        """See `Task`."""
        table = TextTable()
        codes = [table.codes(texts_of(tokens)) for tokens in values]
        return replace(self, names=table.texts), codes

    def constants(self, labels, outputs):
        """The most frequent text; it is not the best one for the WER, but held against that too."""
        found = super().constants(labels, outputs)
        return found | {"wer_of_majority": Constant(found["majority"].answer, "wer", "the same", listed=False)}

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
        """Texts, their words, and those without any."""
        for name, number in (("rows", 1), ("words", len(row[0].split())), ("empty", not row[0].strip())):
            counts[name] = counts.get(name, 0) + number

    def summary(self, counts):
        """How long they are."""
        mean = counts["words"] / counts["rows"]
        return [f"texts of {mean:.1f} words on average, {counts['empty']:,} empty"]
