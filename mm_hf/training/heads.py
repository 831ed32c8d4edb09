"""The heads that a recipe can name in its key `task`, and the task that each head implies."""

from ..heads import HEADS, TASK_OF
from ..models.head_table import HEAD_TABLE
from ..tasks import Task, task_of_head


KEY_OF = {entry.class_name: entry.task for entry in HEAD_TABLE}


def task_of_class(name: str) -> type[Task] | None:
    """The task of a model class, by its name; None if the task depends on the labels."""
    return task_of_head(KEY_OF.get(name))


__all__ = ["HEADS", "TASK_OF", "task_of_class"]
