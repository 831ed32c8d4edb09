"""Metrics with their intervals and floors (baselines), diagnostics, and the reports of a run."""

# ruff: noqa: F401

from .analysis import analyse, draw, rounded, table
from .calibration import how_sure, learn_confidence
from .comparisons import compare, figure, gap, lower_is_better, verdict
from .diagnostics import calibration, confusion, label_scores, worst_mistakes
from .floors import derangement, rows_without
from .html_report import write_page
from .intervals import bootstrap, group_codes, metrics_with_intervals
from .metrics import majority_accuracy, measure_answers, measure_rows, multi_task_metrics
from .model_card import how_sure_section, model_card, plot_curves, with_how_sure
from .plots import plot_finds, plot_predictions
from .prediction import Predictions, predict
from .ranking import chance_mean_recall, chance_recall, item_of, ranking_metrics, ranks, retrieval_metrics
from .texts import TextTable, generation_metrics, token_metrics
