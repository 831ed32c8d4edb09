"""The answers of a run, by task, in the form in which two models are compared."""

from ...evaluation import Predictions
from ...evaluation.outcomes import Outcome
from ...training.evaluator import Evaluator


def outcomes_of(run: Evaluator, predictions: Predictions) -> dict[str, Outcome]:
    """The answers of a run, by label column."""
    outcomes = {}
    for alone in run.alone():
        values = [
            values[alone.label] if run.several else values for values in (predictions.logits, predictions.labels)
        ]
        task, (logits, labels) = alone.task.readable(values, run.collator.texts_of)
        outcomes[alone.label] = Outcome(task, task.answers(logits), task.targets(labels), task.has_label(labels))
    return outcomes
