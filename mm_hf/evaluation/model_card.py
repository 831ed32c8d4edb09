"""The curves and the model card of a run."""

import os
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .comparisons import figure
from .plots import new_figure, save_figure


# The titles of two sections, and the last sentences of one of them.
HOW_SURE, TRAINING = "## How sure", "## Training\n"
HOW_SURE_NOTE = (
    "The coverage holds for rows from the same distribution as the test rows, for all of them together, and not for "
    "each kind.\nThe validation rows for the calibration were also used to choose the model."
)


def plot_curves(history: dict[str, list[tuple[float, float]]], path: str | os.PathLike):
    """Draws one panel per series. A series is a list of points (step, value), by name."""
    names = [name for name, points in history.items() if points]
    columns = max(1, min(len(names), 3))  # a short run may have no points
    lines = max(1, -(-len(names) // columns))
    figure = new_figure(4.5 * columns, 3.5 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.remove()
    for axes, name in zip(panels, names):
        steps, values = zip(*history[name])
        axes.plot(steps, values, marker="o" if len(steps) < 40 else None, markersize=3)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def how_sure_section(confidences: dict[str, dict[str, Any] | None]) -> str:
    """The section of a card that says how sure answers are.

    Args:
        confidences: by label column, the measurements on the test part, see `calibration.how_sure`.
    """
    lines = [
        how_sure_in_words(sure, task if len(confidences) > 1 else "") for task, sure in confidences.items() if sure
    ]
    return "\n\n".join([HOW_SURE, *lines, HOW_SURE_NOTE, ""])


def with_how_sure(card: str, confidences: dict[str, dict[str, Any] | None]) -> str:
    """The text of a card with this section. It replaces an old section, else it comes before the section about
    training, or at the end."""
    section = how_sure_section(confidences)
    if HOW_SURE in card:
        before, _, after = card.partition(HOW_SURE)
        return before + section + ("\n## " + after.partition("\n## ")[2] if "\n## " in after else "")
    before, title, after = card.partition(TRAINING)
    return before + section + "\n" + title + after if title else f"{card.rstrip()}\n\n{section}"


def how_sure_in_words(sure: dict[str, Any], task: str = "") -> str:
    """What was learned on validation rows, and how well it holds on the test part, in one sentence.

    Args:
        sure: see `calibration.how_sure`.
        task: the name of one of several tasks; empty for a single task.
    """
    parts = [f"{f'`{task}`: ' if task else ''}Learned on {sure['validation_rows']:,} validation rows"]
    if sure["ece"] is not None:
        parts.append(
            f"probabilities with a temperature of {figure(sure['temperature'])}, calibration error (ECE) on test "
            f"{figure(sure['ece'])}, without the temperature {figure(sure['ece_before'])}"
        )
    if coverage := sure["coverage"]:
        kind = "intervals" if coverage["alone"] is None else "sets"
        low, high = coverage["expected"]
        parts.append(
            f"{kind} that should contain the truth in {coverage['asked']:.0%} of the rows contain it in "
            f"{coverage['covered']:.1%} [{coverage['low']:.1%}, {coverage['high']:.1%}] of the test rows "
            f"(with so many validation rows {low:.1%} to {high:.1%} is within chance), "
            f"{coverage['measure']}: {figure(coverage['size'])}"
        )
    parts += [sure["too_few"].rstrip(".")] if sure["too_few"] else []
    if sure["abstention"]:
        half = min(sure["abstention"]["points"], key=lambda point: abs(point["share"] - 0.5))
        parts.append(f"of the surest {half['share']:.0%} of the answers, {half['accuracy']:.1%} are right")
    return "; ".join(parts) + "."


def model_card(
    template: str | os.PathLike,
    results: dict[str, Any],
    name: str,
    dataset: str,
    pipeline_tag: str | None,
    task_type: str,
    base_models: list[str] | None,
    licenses: Sequence[str] = (),
    **template_values: Any,
) -> ModelCard:
    """Fills the template of a model card with the measurements of a run.

    Args:
        template: a Jinja file.
        results: as the run writes them to `results.json`.
        name: the name of the model.
        dataset: the name of the data set.
        pipeline_tag: the Hub's name of the task; None: the Hub has none.
        task_type: the name of the task for the scores, also if the Hub has none.
        base_models: Hub ids of the encoders.
        licenses: of weights and data, for the text.
        template_values: all other values for the template.
    """
    data = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        base_model=base_models or None,
        datasets=[dataset],
        tags=["mm_hf", "multimodal"],
        eval_results=[
            EvalResult(
                task_type=task_type,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(value, 5) if abs(value) >= 0.01 else float(f"{value:.4g}"),  # units may be small
            )
            for metric, value in results["metrics"].items()
        ],
    )
    return ModelCard.from_template(
        data, template_path=str(template), results=results, name=name, licenses=licenses, **template_values
    )
