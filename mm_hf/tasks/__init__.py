"""What labels ask of a model: one file a task."""

# ruff: noqa: F401

from .ctc import Ctc
from .generation import Generation
from .multi_label import MultiLabel
from .registry import TASKS, by_column, classification_metrics, register_task, task_of, task_of_head
from .regression import Regression
from .retrieval import Retrieval
from .single_label import SingleLabel
from .task import Constant, Task
