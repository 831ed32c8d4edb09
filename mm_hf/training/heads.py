"""The heads that a recipe can ask for, by the names of its key `task`, and what they say of the labels."""

from ..heads import HEADS, TASK_OF
from ..models.head_table import HEAD_TABLE
from ..tasks import Task, task_of_head


KEY_OF = {entry.class_name: entry.task for entry in HEAD_TABLE}


def task_of_class(name: str) -> type[Task] | None:
    """The task of a class of models, by its name; None where its labels tell."""
    return task_of_head(KEY_OF.get(name))


__all__ = ["HEADS", "TASK_OF", "task_of_class"]
