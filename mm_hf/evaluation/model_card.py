"""What a run leaves behind to be looked at: its curves, the model card."""

import os
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .comparisons import figure
from .plots import new_figure, save_figure


# Titles of sections, and how one of them ends.
HOW_SURE, TRAINING = "## How sure", "## Training\n"
HOW_SURE_NOTE = (
    "What was asked holds for rows that are drawn as the test rows were, all together, and not for each kind of them. "
    "The\nvalidation rows that it was learned on have also chosen the model."
)


def plot_curves(history: dict[str, list[tuple[float, float]]], path: str | os.PathLike):
    """Draws one panel a series, of points of (step, value) by name."""
    names = [name for name, points in history.items() if points]
    columns = max(1, min(len(names), 3))  # a short run may have no point at all
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
        confidences: by column of labels what of it holds on the test part, see `calibration.how_sure`.
    """
    lines = [
        how_sure_in_words(sure, task if len(confidences) > 1 else "") for task, sure in confidences.items() if sure
    ]
    return "\n\n".join([HOW_SURE, *lines, HOW_SURE_NOTE, ""])


def with_how_sure(card: str, confidences: dict[str, dict[str, Any] | None]) -> str:
    """The text of a card with this section, in place of the one that it has, or before that about the training, or at
    its end."""
    section = how_sure_section(confidences)
    if HOW_SURE in card:
        before, _, after = card.partition(HOW_SURE)
        return before + section + ("\n## " + after.partition("\n## ")[2] if "\n## " in after else "")
    before, title, after = card.partition(TRAINING)
    return before + section + "\n" + title + after if title else f"{card.rstrip()}\n\n{section}"


def how_sure_in_words(sure: dict[str, Any], task: str = "") -> str:
    """What was learned on validation rows, and what of it holds on the test part, in one sentence.

    Args:
        sure: see `calibration.how_sure`.
        task: which of several; empty: the only one.
    """
    parts = [f"{f'`{task}`: ' if task else ''}Learned on {sure['validation_rows']:,} validation rows"]
    if sure["ece"] is not None:
        parts.append(
            f"probabilities with a temperature of {figure(sure['temperature'])}, calibration error (ECE) on test "
            f"{figure(sure['ece'])}, without it {figure(sure['ece_before'])}"
        )
    if coverage := sure["coverage"]:
        kind = "intervals" if coverage["alone"] is None else "sets"
        low, high = coverage["expected"]
        parts.append(
            f"{kind} that are to hold the truth in {coverage['asked']:.0%} of the rows do so in "
            f"{coverage['covered']:.1%} [{coverage['low']:.1%}, {coverage['high']:.1%}] of the test rows "
            f"(with so many validation rows {low:.1%} to {high:.1%} would be chance), "
            f"{coverage['measure']}: {figure(coverage['size'])}"
        )
    parts += [sure["too_few"].rstrip(".")] if sure["too_few"] else []
    if sure["abstention"]:
        half = min(sure["abstention"]["points"], key=lambda point: abs(point["share"] - 0.5))
        parts.append(f"the surest {half['share']:.0%} of the answers are right in {half['accuracy']:.1%}")
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
    """Fills the template of a model card with what a run measured.

    Args:
        template: a Jinja file.
        results: as the run writes them to `results.json`.
        pipeline_tag: the Hub's name of the task.
        task_type: the name that the scores go under, where the Hub has none too.
        base_models: Hub ids of the encoders.
        licenses: of weights and data, for the text.
        template_values: everything else that the template asks for.
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
                metric_value=round(value, 5) if abs(value) >= 0.01 else float(f"{value:.4g}"),  # of small units too
            )
            for metric, value in results["metrics"].items()
        ],
    )
    return ModelCard.from_template(
        data, template_path=str(template), results=results, name=name, licenses=licenses, **template_values
    )
