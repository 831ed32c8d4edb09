"""Metrics with their intervals and floors, diagnostics, and what a run leaves behind to be looked at."""

from .analysis import analyse, draw, rounded, table
from .comparisons import compare, figure, gap, lower_is_better, verdict
from .diagnostics import calibration, confusion, label_scores, worst_mistakes
from .floors import derangement, rows_without
from .html_report import write_page
from .intervals import bootstrap, group_codes, metrics_with_intervals
from .metrics import majority_accuracy, measure_answers, measure_rows, multi_task_metrics
from .model_card import model_card, plot_curves
from .plots import plot_finds, plot_predictions
from .prediction import Predictions, predict
from .ranking import chance_mean_recall, chance_recall, item_of, ranking_metrics, ranks, retrieval_metrics
from .texts import TextTable, generation_metrics, token_metrics


__all__ = [
    "Predictions",
    "TextTable",
    "analyse",
    "bootstrap",
    "calibration",
    "chance_mean_recall",
    "chance_recall",
    "compare",
    "confusion",
    "derangement",
    "draw",
    "figure",
    "gap",
    "generation_metrics",
    "group_codes",
    "item_of",
    "label_scores",
    "lower_is_better",
    "majority_accuracy",
    "measure_answers",
    "measure_rows",
    "metrics_with_intervals",
    "model_card",
    "multi_task_metrics",
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
    "token_metrics",
    "verdict",
    "worst_mistakes",
    "write_page",
]
