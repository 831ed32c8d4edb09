"""Metrics, and what a run leaves behind to be looked at."""

from .metrics import classification_metrics, majority_accuracy
from .prediction import Predictions, predict
from .report import model_card, plot_curves, plot_predictions


__all__ = [
    "Predictions",
    "classification_metrics",
    "majority_accuracy",
    "model_card",
    "plot_curves",
    "plot_predictions",
    "predict",
]
