"""What `mm_hf predict` is asked about how sure answers are, checked against what a checkpoint knows of it."""

from typing import Any

from ...evaluation.abstention import costs_of_tasks
from ...models.checksums import checksum_of
from ...models.tasks import TaskHead
from ...tasks import Task
from ..arguments import PredictArguments
from .answers import Answer


def with_head(task: Task, head: TaskHead) -> Task:
    """The task of a model's head, which knows how sure its answers are."""
    task.model_head = head
    return task


def check_sure(answers: list[Answer], args: PredictArguments):
    """Refuses sets and empty answers that a model cannot give, and reads what answers cost.

    Raises:
        ValueError: naming the flag, and what the model lacks.
    """
    if args.coverage is not None:
        for answer in answers:
            if answer.task.model_head is None or not answer.task.can_be_calibrated:
                raise ValueError(f"coverage is for classes and numbers, and this model answers {answer.task.name}.")
            answer.task.model_head.threshold(args.coverage)
    tasks = {answer.column or None: answer.task for answer in answers}
    if args.abstain_below is not None and not any(task.answers_one_class for task in tasks.values()):
        kinds = sorted({task.name for task in tasks.values()})
        raise ValueError(f"abstain_below is for one of several classes, and this model answers {kinds}.")
    if args.costs is not None:
        costs = costs_of_tasks(args.costs, tasks)
        for answer in answers:
            answer.costs = costs.get(answer.column or None)


def how_sure_asked(args: Any) -> dict[str, Any]:
    """Those of the settings that say something about how sure a prediction is; nothing where none is given."""
    asked = {"coverage": args.coverage, "abstain_below": args.abstain_below}
    asked["costs"] = None if args.costs is None else checksum_of(args.costs)
    return {name: value for name, value in asked.items() if value is not None}
