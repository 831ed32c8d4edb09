"""The linear floor: a linear model as a baseline for the score. Its features are the outputs of the encoders before
training, the columns of the table, and the words of the texts. It is fitted on training rows and measured on the test
part in the same way as the model."""

import random
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DistributedType, set_seed
from datasets import IterableDataset

from .. import MMFusionPreTrainedModel
from ..data import MultimodalCollator
from ..data.collator import id_of
from ..data.linear_features import LinearFeatures, linear_features
from ..evaluation import Predictions, group_codes
from ..evaluation.linear import ITERATIONS, LinearAnswer, LinearRows
from ..evaluation.paired import paired_differences
from ..models.modality import modality_of
from ..models.vision import Vision
from .evaluator import Evaluator
from .run import Run


PARTS = ("train", "validation", "test")
MOST_ROWS = 5_000  # training rows in the fit: more rows change little, and take minutes
MOST_NUMBERS = 20_000_000  # numbers in the matrix of features: 160 MB in float64


@dataclass
class LinearFloor:
    """The linear floor of a run.

    Args:
        answers: the linear model and its answers, by column of labels; for a search the key is None.
        predictions: for the test rows, in the same form as the model's.
        features: see `LinearFeatures`.
        training_rows: number of training rows; the floor may have been fitted on fewer.
        seconds: time that it took.
        report: see `Evaluator.metrics`.
        paired: the comparison with the model, see `beside_line`; None if the model is this linear model.
    """

    answers: dict[str | None, LinearAnswer]
    predictions: Any
    features: LinearFeatures
    training_rows: int
    seconds: float
    report: dict[str, Any] = field(default_factory=dict)
    paired: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """The entry in results.json."""
        answers = self.answers.items()
        several = len(self.answers) > 1
        facts = {
            key: {str(column): getattr(answer, key) for column, answer in answers}
            if several
            else next(getattr(answer, key) for _, answer in answers)
            for key in ("words", "strength")
        }
        learned = len(self.features.numbers["train"])
        more = {"features": self.features.width, "learned_from": learned, "training_rows": self.training_rows}
        return {**facts, **more, "seconds": round(self.seconds, 1), "metrics": self.report.get("metrics", {})}

    def said(self) -> str:
        """One line for the terminal."""
        facts = self.facts()
        strengths = facts["strength"] if isinstance(facts["strength"], dict) else {"": facts["strength"]}
        known = [f"{column} {value:.3g}".strip() for column, value in strengths.items() if value is not None]
        strength = f", strength {', '.join(known)} (chosen on validation)" if known else ""
        lines = [answer.line for answer in self.answers.values()]
        if any(line is not None and line.stopped_early for line in lines):
            strength += f", stopped after {ITERATIONS} iterations"
        rows = f"{facts['learned_from']:,} training rows"
        if facts["learned_from"] < self.training_rows:
            rows = f"{facts['learned_from']:,} of the {self.training_rows:,} training rows, drawn at random"
        words = f"{facts['words']} on {facts['features']:,} features of {rows}{strength}"
        return f"floor linear: {words}; {self.seconds:.0f} s"


def encoders_before(run: Run) -> MMFusionPreTrainedModel:
    """A model with the encoders from before the training: the run's model if its encoders are frozen, else a new
    one."""
    model = run.model
    names = [name for name in model.config.modalities if modality_of(name).pretrained]
    whole = run.accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if whole and run.model_args.lora is None and set(names) <= set(model.config.frozen_encoders):
        return model.eval()
    set_seed(run.train_args.seed)
    return run.build().to(run.accelerator.device).eval()


def rows_to_learn(run: Run, width: int | None = None) -> list[int]:
    """The training rows for the fit: all, or, if there are too many, a random sample."""
    count = len(run.splits["train"])
    most = MOST_ROWS if width is None else max(1, min(MOST_ROWS, MOST_NUMBERS // max(1, width)))
    if count <= most:
        return list(range(count))
    return sorted(random.Random(run.train_args.seed).sample(range(count), most))


def measure_line(run: Run, model: MMFusionPreTrainedModel, collator: MultimodalCollator) -> LinearFloor | None:
    """Fits a linear model for each task, and predicts the test part with it. None if a task has no linear model.

    Args:
        run: has the data and the tasks.
        model: its encoders compute the features.
        collator: the run's, or one that leaves a modality out.
    """
    started = time.perf_counter()
    rows = {part: list(range(len(run.splits[part]))) for part in PARTS if part != "train"}
    rows = {"train": rows_to_learn(run), **rows}
    show = run.accelerator.is_main_process
    features = linear_features(model.base_model.eval(), collator.unchanging(), run.splits, rows, progress=show)
    features = fewer_rows(features, len(rows_to_learn(run, features.width)))
    answers: dict[str | None, LinearAnswer] = {}
    for alone in run.alone():
        column = None if run.searches else alone.label
        parts = parts_of(alone, features)
        answer = alone.task.linear_answer(*(parts[part] for part in PARTS))
        if answer is None:
            return None
        answers[column] = answer
    predictions: Any = {column: answer.predictions for column, answer in answers.items()}
    if not run.several:
        (predictions,) = predictions.values()
    seconds = time.perf_counter() - started
    return LinearFloor(answers, predictions, features, len(run.splits["train"]), seconds)


def fewer_rows(features: LinearFeatures, count: int) -> LinearFeatures:
    """The same features with `count` random training rows, in the order of the data."""
    numbers = features.numbers["train"]
    if len(numbers) <= count:
        return features
    kept = sorted(random.Random(0).sample(range(len(numbers)), count))
    features.parts["train"] = features.parts["train"][kept]
    features.numbers["train"] = [numbers[place] for place in kept]
    features.keys["train"] = {name: [keys[place] for place in kept] for name, keys in features.keys["train"].items()}
    return features


def parts_of(alone: Evaluator, features: LinearFeatures) -> dict[str, LinearRows]:
    """The rows of each part for one task: rows with a label for train and validation, and all rows for test."""
    parts, task = {}, alone.task
    labels: Any = None
    for part in PARTS:
        if alone.searches:
            labels = ids_of(features, part)
            present = torch.stack([numbers >= 0 for numbers in labels.values()]).all(0)
        else:
            labels = alone.read_labels(part, bad=[])[features.numbers[part]]
            present = task.has_label(labels)
        rows = LinearRows(features.parts[part], labels, features.by_modality(part), features.groups)
        if part != "test":
            if not present.any():
                raise ValueError(f"none of the rows of {part} that it uses has a label")
            rows = rows.chosen(present)
        parts[part] = rows
    return parts


def ids_of(features: LinearFeatures, part: str) -> dict[str, torch.Tensor]:
    """The ids by which a search is measured: for the texts and for the other side, the id of each row's item, or -1 if
    there is no item."""
    keys_of = {modality_of(name).row_keys[0]: keys for name, keys in features.keys[part].items()}
    return {
        name: torch.tensor([-1 if key is None else id_of(key) for (key,) in keys]) for name, keys in keys_of.items()
    }


def linear_floor(run: Run, predictions: Predictions) -> tuple[LinearFloor | None, str]:
    """The floor, or the reason why there is none. Only the main process makes it. The model is trained already, so an
    error here must not stop the run before its report.

    Args:
        run: the run with the trained model.
        predictions: of this model for the test part; the floor is measured on the same rows.
    """
    if isinstance(run.splits["train"], IterableDataset):
        return None, "the training rows are a stream, and a linear model needs all rows"
    try:
        floor = run.line or measure_line(run, encoders_before(run), run.collator)
        if floor is not None:
            kinds = run.splits["test"][run.columns.kind] if run.columns.kind else None
            floor.report = run.metrics(floor.predictions, predictions.labels, kinds)
            floor.paired = None if run.line is not None else beside_line(run, floor, predictions)
    except Exception as error:  # readers, encoders and scikit-learn raise many types of errors
        return None, f"{type(error).__name__}: {error}"
    if floor is None:
        return None, f"no linear model is defined for {', '.join(task.name for task in run.tasks)}"
    return floor, ""


def beside_line(run: Run, floor: LinearFloor, predictions: Predictions) -> dict[str, Any]:
    """Compares the model with the linear model on the same test rows, by the first metric; see `paired_differences`,
    where A is the model."""
    measures = []
    for alone in run.alone():
        values = [
            values[alone.label] if run.several else values
            for values in (predictions.logits, floor.predictions, predictions.labels)
        ]
        measures.append(alone.task.measurer((values[0], values[1]), values[2], run.collator.texts_of, run.several))
    metric = run.first_metric() if run.several else run.task.first_metric

    def measure(rows: torch.Tensor, place: int) -> dict[Any, float]:
        return {metric: sum(each(rows, place) for each in measures) / len(measures)}

    groups = group_codes(units_of(run, floor.features))
    return {"metric": metric, **paired_differences(measure, groups, seed=run.train_args.seed)[metric]}


def units_of(run: Run, features: LinearFeatures) -> list:
    """Marks which rows of the test part belong together: rows with the same picture have equal values. Without
    pictures each row has its own value."""
    keys = features.keys["test"].get(Vision.name)
    count = len(features.numbers["test"])
    return list(range(count)) if keys is None else [key if any(key) else None for key in keys]
