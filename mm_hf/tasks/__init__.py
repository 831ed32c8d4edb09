"""What labels ask of a model: one file a task."""

from .task import TASKS, Task, register_task, task_of


__all__ = ["TASKS", "Task", "register_task", "task_of"]
