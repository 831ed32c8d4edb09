"""The report of a finished run: results.json, pictures, the model card, and a table for the terminal."""

import glob
import random
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image

from ..checkpoints import clear_staging
from ..data import BadRowError, MultimodalCollator, Rows
from ..data.modalities import READERS
from ..evaluation import figure, how_sure_section, item_of, model_card, plot_curves, plot_predictions
from ..models.head_table import CUSTOM_PIPELINES, HUB_TASKS
from ..models.tasks import CLASSES, NUMBERS, label_kind_of
from ..models.text import Text
from ..tasks import Task, task_of
from .by_modality import pretrained_modalities
from .run_folder import write_json


CARD = resources.files("mm_hf.evaluation") / "card.md"  # the template of a model card


def short_name(place: str) -> str:
    """For a folder, a file or a pattern of files on this machine, its last name; for a Hub id, the whole id."""
    return Path(place).name if glob.glob(place) else place


def write_run(output_dir: Path, model, collator: MultimodalCollator, splits, logits, results, history):
    """Writes results, pictures and card beside the checkpoint, which is in the folder already. `logits` are for the
    test part, as in `Predictions`; `history` is as in `plot_curves`; `results` go into `results.json`."""
    plot_curves(history, output_dir / "curves.png")
    samples = sample_predictions(model, collator, splits["test"], logits)
    tasks = tasks_of(model, collator)
    note = next((task.note for task in tasks if task.note), None)
    plot_predictions(samples, output_dir / "predictions.png", note=note, no_picture=no_picture(collator))
    recipe, tag = results["recipe"], pipeline_tag(model)
    with resources.as_file(CARD) as template:
        card = model_card(
            template,
            results,
            name=recipe["name"],
            dataset=short_name(recipe["dataset"]),
            pipeline_tag=tag,
            task_type=tag or next(iter(CUSTOM_PIPELINES[type(model).__name__])),
            base_models=model.config.base_models,
            model_class=type(model).__name__,
            encoders=encoders_of(recipe),
            parameters=round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
            answers={task.column: task.answer_in_words for task in tasks},
            numbers=not model.config.tasks and any(label_kind_of(task.name) == NUMBERS for task in tasks),
            writes=any(task.writes for task in tasks),
            searches=collator.pair_ids,
            tasks={task.column: task.names for task in tasks} if model.config.tasks else {},
            problem_types={task.column: task.problem_type for task in tasks},
            figure=figure,
            how_sure=how_sure_section,
            rows={split: len(part) if isinstance(part, Dataset) else "streamed" for split, part in splits.items()},
        )
    card.save(output_dir / "README.md")
    clear_staging(output_dir)
    write_json(output_dir / "results.json", results)  # written last: this file means that the run is complete
    print(summary(results))
    print(f"written: {output_dir}")
    print(results["verdict"])  # printed last: the most important line


def encoders_of(recipe: dict[str, Any]) -> dict[str, str]:
    """The encoders and the decoder of the model, by part."""
    sources = {f"{name}_encoder": source for name, source in (recipe.get("encoders") or {}).items()}
    sources |= {key: recipe.get(key) for key in (*(f"{name}_encoder" for name in pretrained_modalities()), "decoder")}
    encoders = {key: Path(source).name for key, source in sources.items() if source}
    if recipe["table_columns"]:
        encoders["table encoder"] = "one token per column"
    if recipe["series_column"]:
        encoders["series encoder"] = recipe["series_rnn_type"]
    return encoders


def pipeline_tag(model) -> str | None:
    """The Hub's pipeline tag for a model. None if no pipeline with a tag takes the same modalities as the model."""
    taken = set(model.config.modalities)
    return next((tag for tag in CUSTOM_PIPELINES.get(type(model).__name__, {}) if HUB_TASKS.get(tag) == taken), None)


def sample_predictions(model, collator: MultimodalCollator, split, logits, count: int = 12) -> list[tuple]:
    """Random test rows for `plot_predictions`: answer and true label in words, and whether the answer is right. With a
    single task of classes, up to a third of the rows have a wrong answer."""
    if collator.pair_ids:
        return sample_finds(collator, split, logits, count)
    tasks, several = tasks_of(model, collator), model.config.tasks is not None
    writes = any(task.writes for task in tasks)
    order = list(range(len(split)))
    random.Random(0).shuffle(order)
    chosen = order[:count]
    by_column: dict[str, list[tuple[str, str | None, bool | None]]] = {}
    for task in tasks if not writes else []:
        name = str(task.column)
        bad: list[BadRowError] = []  # bad labels count as missing here
        rows = Rows(split.select_columns([name]), "test").__getitems__(range(len(split)))
        by_column[name] = task.judged(logits[name] if several else logits, task.label_tensor(rows, bad))
    if [label_kind_of(task.name) for task in tasks] == [CLASSES]:
        (judgements,) = by_column.values()
        wrong = [row for row in order if judgements[row][2] is False][: count // 3]
        chosen = wrong + [row for row in order if judgements[row][2]][: count - len(wrong)]
    samples: list[tuple] = []
    for row in Rows(split, "test").__getitems__(chosen):
        place = row["row_id"]
        looks = picture_and_text(row, collator)
        if writes:
            target = collator.targets([row], bad=[])
            texts = [*collator.texts_of(torch.stack([logits[place]])), *collator.texts_of(target)]
            samples.append((*looks, *(text or "–" for text in texts)))
            continue
        answers, truths, rights = zip(*(judgements[place] for judgements in by_column.values()))
        known = any(truth is not None for truth in truths)
        truth = "; ".join("–" if truth is None else truth for truth in truths) if known else None
        said = [f"{name}: {answer}" for name, answer in zip(by_column, answers)] if len(by_column) > 1 else answers
        samples.append((*looks, "; ".join(said), truth, all(right is not False for right in rights)))
    return samples


def tasks_of(model, collator: MultimodalCollator) -> list[Task]:
    """The task of each label column; an empty list for a search."""
    if collator.pair_ids:
        return []
    if model.config.tasks is not None:
        return [task_of(head.name, head.labels, name) for name, head in model.config.task_heads.items()]
    (column,) = collator.columns.labels
    names = None if collator.label2id is None else list(collator.label2id)
    return [task_of(str(collator.problem_type), names, column)]


def no_picture(collator: MultimodalCollator) -> str:
    """The text that replaces a missing picture of a row; empty if the data has no pictures at all."""
    return next(filter(None, (reader.missing(collator.columns) for reader in READERS.values())), "")


def sample_finds(collator: MultimodalCollator, split, embeddings: dict[str, torch.Tensor], count: int) -> list[tuple]:
    """Random test rows for `plot_predictions`, each with the text that its picture or sound finds."""
    texts, items = embeddings[Text.name], embeddings[item_of(embeddings)]
    paired = (texts.any(-1) & items.any(-1)).nonzero().flatten().tolist()
    rows = random.Random(0).sample(paired, min(count, len(paired)))
    scores = items[rows] @ texts.T
    best = scores.masked_fill(~texts.any(-1), -torch.inf).argmax(-1).tolist()  # never a row without a text
    (column,) = collator.columns.texts
    samples = []
    for row, nearest in zip(Rows(split, "test").__getitems__(rows), split.select_columns([column])[best][column]):
        picture, text = picture_and_text(row, collator)
        samples.append((picture, "what this finds:", nearest, text))
    return samples


def picture_and_text(row: dict[str, Any], collator: MultimodalCollator) -> tuple[Image.Image | None, str | None]:
    """The first picture of a row, and its text. A row without pictures gets a picture of its sound or series. Each is
    None if it is absent or cannot be read. Without a column of texts, the text is the columns of the table, the name
    of the sound's file, or empty."""
    readers = [READERS[modality] for modality, columns in collator.parts.items() if columns]
    drawn = (reader.draw(row, collator) for reader in readers)
    try:
        picture = next((picture for picture in drawn if picture is not None), None)
    except ValueError:  # a bad row, which the run skipped; else the run would have stopped before
        picture = None
    said = {reader.captions: reader for reader in readers if reader.captions is not None}
    return picture, said[min(said)].caption(row, collator) if said else ""


def summary(results: dict) -> str:
    """The score beside its floors, as a table for the terminal."""
    metric = next(iter(results["metrics"]))
    folds = results.get("folds")
    rows = [(f"{folds['count']} folds, {metric}" if folds else f"test {metric}", results["metrics"][metric])]
    rows += [(f"  {kind}", value) for kind, value in results["by_kind"].items()]
    if metric == "rmse":
        rows += [(f"test {name}", results["metrics"][name]) for name in ("mae", "r2")]
    rows += [(f"floor: {name.replace('_', ' ')}", value) for name, value in results["floors"].items()]
    lines = [f"{name:<28}{figure(value):>8}" for name, value in rows]
    if folds:
        figures = folds["metrics"][metric]
        lines.insert(1, f"{'  95 % over the folds':<28}{figure(figures['low']):>8} … {figure(figures['high'])}")
    measured, test = results.get("measured_rows"), results.get("test_rows")
    if measured != test:
        lines.append(f"{measured:,} of {test:,} test rows were measured: the others have no valid label.")
    if results["bad_rows"]:
        lines.append(f"{results['bad_rows']:,} bad rows were left out; see bad_rows.jsonl.")
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    return "\n".join(["", *lines, seconds])
