"""What a run answers, task by task, as two models are compared by it."""

from ...evaluation import Predictions
from ...evaluation.outcomes import Outcome
from ...training.evaluator import Evaluator


def outcomes_of(run: Evaluator, predictions: Predictions) -> dict[str, Outcome]:
    """By column of labels what a run answers."""
    outcomes = {}
    for alone in run.alone():
        values = [
            values[alone.label] if run.several else values for values in (predictions.logits, predictions.labels)
        ]
        task, (logits, labels) = alone.task.readable(values, run.collator.texts_of)
        outcomes[alone.label] = Outcome(task, task.answers(logits), task.targets(labels), task.has_label(labels))
    return outcomes
