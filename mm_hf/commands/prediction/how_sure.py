"""Checks the flags of `mm_hf predict` about certainty (coverage, abstaining, costs) against the checkpoint."""

from typing import Any

from ...evaluation.abstention import costs_of_tasks
from ...models.checksums import checksum_of
from ...models.tasks import TaskHead
from ...tasks import Task
from ..arguments import PredictArguments
from .answers import Answer


def with_head(task: Task, head: TaskHead) -> Task:
    """The task with the head of the model, which knows how certain its answers are."""
    task.model_head = head
    return task


def check_sure(answers: list[Answer], args: PredictArguments):
    """Refuses flags that the model does not support, and reads the costs of answers.

    Raises:
        ValueError: with the flag, and the reason.
    """
    if args.coverage is not None:
        for answer in answers:
            if answer.task.model_head is None or not answer.task.can_be_calibrated:
                raise ValueError(
                    f"coverage ({args.coverage}) is for classes and numbers, and this model answers "
                    f"{answer.task.name}: leave it out."
                )
            answer.task.model_head.threshold(args.coverage)
    tasks = {answer.column or None: answer.task for answer in answers}
    if args.abstain_below is not None and not any(task.answers_one_class for task in tasks.values()):
        kinds = sorted({task.name for task in tasks.values()})
        raise ValueError(
            f"abstain_below ({args.abstain_below}) is for one of several classes, and this model answers {kinds}: "
            "leave it out."
        )
    if args.costs is not None:
        costs = costs_of_tasks(args.costs, tasks)
        for answer in answers:
            answer.costs = costs.get(answer.column or None)


def how_sure_asked(args: Any) -> dict[str, Any]:
    """The settings about the certainty of a prediction; only those that are given."""
    asked = {"coverage": args.coverage, "abstain_below": args.abstain_below}
    asked["costs"] = None if args.costs is None else checksum_of(args.costs)
    return {name: value for name, value in asked.items() if value is not None}
