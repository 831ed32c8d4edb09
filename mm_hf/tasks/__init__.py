"""What labels ask of a model: one file a task."""

from .ctc import Ctc
from .generation import Generation
from .multi_label import MultiLabel
from .regression import Regression
from .retrieval import Retrieval
from .single_label import SingleLabel
from .task import TASKS, Constant, Task, classification_metrics, register_task, task_of


__all__ = [
    "TASKS",
    "Constant",
    "Ctc",
    "Generation",
    "MultiLabel",
    "Regression",
    "Retrieval",
    "SingleLabel",
    "Task",
    "classification_metrics",
    "register_task",
    "task_of",
]
