"""Metrics with their intervals and floors, diagnostics, and what a run leaves behind to be looked at."""

from .analysis import analyse, draw, rounded, table
from .comparisons import compare, figure, gap, lower_is_better, verdict
from .diagnostics import calibration, confusion, judged, label_scores, note_on_numbers, worst_mistakes
from .floors import constant_logits, derangement, majority_answer, median_answer, rows_without
from .html_report import write_page
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
from .model_card import model_card, plot_curves
from .plots import plot_finds, plot_predictions
from .prediction import Predictions, predict
from .ranking import chance_mean_recall, chance_recall, item_of, ranking_metrics, ranks, retrieval_metrics
from .texts import TextTable, generation_metrics, token_metrics


__all__ = [
    "Predictions",
    "TextTable",
    "analyse",
    "answers_of",
    "bootstrap",
    "calibration",
    "chance_mean_recall",
    "chance_recall",
    "classification_metrics",
    "compare",
    "confusion",
    "constant_logits",
    "derangement",
    "draw",
    "figure",
    "first_metric",
    "gap",
    "generation_metrics",
    "group_codes",
    "has_label",
    "item_of",
    "judged",
    "label_scores",
    "lower_is_better",
    "majority_accuracy",
    "majority_answer",
    "median_answer",
    "metrics_with_intervals",
    "model_card",
    "multi_task_metrics",
    "note_on_numbers",
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
    "verdict",
    "worst_mistakes",
    "write_page",
]
