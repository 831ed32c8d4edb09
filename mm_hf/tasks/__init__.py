"""The tasks, one file per task: what a column of labels means for training, metrics and answers."""

# ruff: noqa: F401

from .ctc import Ctc
from .generation import Generation
from .multi_label import MultiLabel
from .registry import TASKS, by_column, classification_metrics, register_task, task_of, task_of_head
from .regression import Regression
from .retrieval import Retrieval
from .single_label import SingleLabel
from .task import Constant, Task
