"""Metrics with their intervals and floors, diagnostics, and what a run leaves behind to be looked at."""

from .diagnostics import calibration, confusion, label_scores, worst_mistakes
from .findings import draw, find_out, rounded, table
from .floors import derangement, majority_answer, rows_without
from .intervals import bootstrap, group_codes, metrics_with_intervals
from .metrics import (
    answers_of,
    classification_metrics,
    first_metric,
    has_label,
    majority_accuracy,
    multi_task_metrics,
    targets_of,
)
from .page import write_page
from .plots import picture_of_series, picture_of_sound, plot_finds, plot_predictions
from .prediction import Predictions, predict
from .ranking import chance_recall, item_of, ranking_metrics, ranks, retrieval_metrics
from .report import model_card, plot_curves
from .texts import TextTable, generation_metrics, token_metrics


__all__ = [
    "Predictions",
    "TextTable",
    "answers_of",
    "bootstrap",
    "calibration",
    "chance_recall",
    "classification_metrics",
    "confusion",
    "derangement",
    "draw",
    "find_out",
    "first_metric",
    "generation_metrics",
    "group_codes",
    "has_label",
    "item_of",
    "label_scores",
    "majority_accuracy",
    "majority_answer",
    "metrics_with_intervals",
    "model_card",
    "multi_task_metrics",
    "picture_of_series",
    "picture_of_sound",
    "plot_curves",
    "plot_finds",
    "plot_predictions",
    "predict",
    "ranking_metrics",
    "ranks",
    "retrieval_metrics",
    "rounded",
    "rows_without",
    "table",
    "targets_of",
    "token_metrics",
    "worst_mistakes",
    "write_page",
]
