"""Serves a web page to try a checkpoint: give inputs, read the answer and what it rests on.

    mm_hf demo runs/houses                       # at http://127.0.0.1:7860
    mm_hf demo me/answers --image_column photo --text_column question
    mm_hf demo runs/houses --space space         # the folder of a Space of the Hugging Face Hub

The page has one field per input of the model. Each field may stay empty. It shows the answer with its probabilities,
the contribution of each modality, and a map of the parts of the picture that mattered. The page is reachable from this
machine only, loads nothing from other servers, and works without a network. The page does not run the code of the
checkpoint: it uses the classes of this package. --import FILE adds classes from outside the package. It requires
`pip install 'mm_hf[demo]'`.
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers.utils import logging

from .. import MMFusionConfig, MMFusionForCTC, MMFusionProcessor, pipeline
from ..data import Columns, MultimodalCollator
from ..demo.answering import Answerer
from ..demo.examples import FOLDER, as_given, keep_examples, read_examples, write_examples
from ..demo.fields import Field, fields_of, names_of
from ..demo.space import MODEL, is_free, write_files
from ..evidence.rows import Explainer, candidates, rows_that_stand_in
from ..models.modality import modality_of
from ..tasks import Task
from ..training.by_modality import columns_by_modality, listed, short_keys
from ..training.exits import ANSWERING, run_script
from .arguments import IN_COLUMNS, NO_MAPS, DemoArguments, ExplainArguments, demo_parser
from .explain import background_of, open_source, recipe_beside, rows_of, tasks_of
from .prediction.arguments import columns_of, load_config, parse_with_recipe
from .prediction.sources import RowSource, needed


EXAMPLES = 5


def main():
    """All of it, from top to bottom."""
    args, data_args, words = parse_with_recipe(demo_parser(__doc__ or "", "mm_hf demo"))
    logging.disable_progress_bar()  # of loading weights: seconds
    if args.space is not None:
        folder = space_of(words.run, Path(args.space), args, data_args)
        print(f"written: {folder}. Check its files, then: hf upload USER/NAME {folder} --repo-type space", flush=True)
        return
    page = page_of(words.run, args, data_args)
    page.launch(args.host, args.port)


def build_demo(run: str, **options: Any) -> Any:
    """For Python; see `mm_hf.demo.build_demo`."""
    args, data_args, words = parse_options(run, options)
    return page_of(words.run, args, data_args)


def write_space(run: str, folder: str | Path, **options: Any) -> Path:
    """For Python; see `mm_hf.demo.write_space`."""
    args, data_args, words = parse_options(run, options)
    return space_of(words.run, Path(folder), args, data_args)


def parse_options(run: str, options: dict[str, Any]) -> tuple[DemoArguments, Any, Any]:
    """Turns options by name into both groups of arguments and the words before the flags. Options that are None are
    left out.

    Raises:
        ValueError: an option is unknown or has a wrong value.
    """
    parser = demo_parser("", "mm_hf demo")

    def refuse(message: str):
        raise ValueError(message)

    parser.error = refuse  # type: ignore[assignment, method-assign]
    given = {key: value for key, value in options.items() if value is not None}
    flags = [word for key, value in given.items() for word in (f"--{key}", *(map(str, listed(value))))]
    return parse_with_recipe(parser, [str(run), *flags])


class Opened:
    """A checkpoint, the fields of its page, and the rows of its run if they are available.

    Args:
        run: folder or Hub id.
        args, data_args: see `DemoArguments` and `ColumnArguments`.

    Attributes:
        config, head, processor: of the checkpoint.
        recipe: the recipe beside the checkpoint, with the present place of its data.
        source: the rows of the test part; None if they are not available.
        notes: messages for the user about missing rows.

    Raises:
        OSError, ValueError: it is not a checkpoint that answers rows.
    """

    def __init__(self, run: str, args: DemoArguments, data_args: Any):
        self.run, self.args = run, args
        self.config, self.head = load_config(run)
        self.processor = MMFusionProcessor.from_pretrained(run)
        self.recipe = recipe_beside(run)
        name_columns(data_args, self.config)
        self.columns = columns_of(run, data_args, self.config, self.processor)
        pairs = needed(self.columns)
        self.fields: list[Field] = fields_of(pairs, self.processor)
        self.data_columns = {key: getattr(data_args, key) for key in IN_COLUMNS}
        self.tasks = tasks_of(self.config, self.head, self.recipe)
        self.notes: list[str] = []
        self.source = self.open_rows(data_args)

    def open_rows(self, data_args: Any) -> RowSource | None:
        """The rows of the run's test part."""
        if not self.recipe.get("dataset"):
            return None
        try:
            columns: Columns = self.columns
            return open_source(self.run, None, None, columns, data_args.data_root, self.recipe, self.processor)
        except (OSError, ValueError) as error:
            self.notes.append(f"The run's data are not available: {' '.join(str(error).split())[:200]}")
            return None

    def rows(self, most: int) -> list[dict[str, Any]]:
        """At most `most` rows of the test part, drawn at random; none if the part is not available."""
        if self.source is None or not most:
            return []
        try:
            return rows_of(self.source, ExplainArguments(max_rows=most, seed=self.args.seed), [])[0]
        except (OSError, ValueError) as error:
            self.notes.append(f"The run's rows cannot be read: {' '.join(str(error).split())[:200]}")
            return []

    def examples(self, most: int, folder: Path) -> list[dict[str, Any]]:
        """At most `most` example rows, with their files in a folder. Rows that cannot be read are left out."""
        rows = self.rows(4 * most)
        names = {} if self.source is None else self.source.class_names
        root = None if self.source is None else self.source.root
        for row in rows:
            for column in set(names) & set(row):
                number = row[column]
                row[column] = None if number in (None, -1) else names[column][number]
        return write_examples(rows, self.fields, folder, root, most)

    @property
    def title(self) -> str:
        """The heading of the page."""
        return self.args.title or Path(os.path.abspath(self.run) if os.path.isdir(self.run) else self.run).name

    def about(self) -> str:
        """The inputs and the answers of the model, in a few sentences."""
        answers = ", ".join(answered(task, name) for name, task in self.tasks.items())
        left = "." if len(self.fields) < 2 else ". Leave empty what you do not have."
        return f"Inputs: {names_of(self.fields)}{left} The model {answers}."

    def answerer(self) -> Answerer:
        """The object that answers rows. It holds the model."""
        model = self.head.from_pretrained(self.run, freeze_encoders=True).eval()
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        collator = MultimodalCollator(
            self.processor,
            self.columns,
            on_error="skip",
            root=None if self.source is None else self.source.root,
            num_frames=self.columns.frames(self.config.num_images),
            table_names={},
            target_end=self.head is not MMFusionForCTC,
        )
        method = None if self.args.method == NO_MAPS else self.args.method
        maps = self.args.evidence and self.args.method != NO_MAPS
        explainer = Explainer(model, collator, self.tasks, maps=maps, method=method)
        if self.args.evidence:
            self.add_background(explainer)
        names = {task: about.column or task for task, about in self.tasks.items()}
        return Answerer(pipeline(model=model, processor=self.processor), explainer, self.fields, names)

    def add_background(self, explainer: Explainer):
        """Adds training rows of the run that replace removed modalities, if the rows are available."""
        wanted = self.args.background or rows_that_stand_in(len(self.config.modalities))
        rows = self.rows(candidates(wanted))
        if not rows or len(self.config.modalities) < 2 or self.source is None:
            return
        asked = ExplainArguments(background=self.args.background, seed=self.args.seed)
        names = replace(explainer, collator=replace(explainer.collator, table_names=self.source.class_names))
        try:
            explainer.background, notes = background_of(self.run, names, self.config, self.recipe, asked, rows)
        except ValueError as error:
            notes = [f"No row can replace a removed modality: {' '.join(str(error).split())[:200]}"]
        self.notes += notes


def answered(task: Task, name: str | None) -> str:
    """A phrase that says how the model answers one task."""
    called = f" for {task.column or name}" if task.column or name else ""
    if task.writes:
        return f"writes a text{called}"
    return f"chooses among {len(task.classes)} answers{called}" if task.classes else f"gives a number{called}"


def name_columns(data_args: Any, config: MMFusionConfig):
    """Names columns that neither the recipe nor a flag names after their content."""
    if any(columns_by_modality(data_args).values()):
        return
    for name in config.modalities:
        modality = modality_of(name)
        if keys := short_keys(name):
            places = modality.places(config) if modality.several_places else 1
            names = [modality.item if places == 1 else f"{modality.item} {place + 1}" for place in range(places)]
            if keys[0].endswith("_column"):  # the columns of a table are in its schema
                setattr(data_args, keys[0], names if places > 1 else names[0])


def page_of(run: str, args: DemoArguments, data_args: Any) -> Any:
    """The page of a checkpoint.

    Raises:
        ImportError: gradio is not installed.
        OSError, ValueError: see `Opened`.
    """
    from ..demo.page import DemoPage, import_gradio

    import_gradio()  # before anything is loaded
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise a server counts that a CSV is read
    opened = Opened(run, args, data_args)
    # gradio serves files of the temporary folder; other folders have to be allowed explicitly.
    made = tempfile.TemporaryDirectory(prefix="mm_hf_demo_")
    folder, beside = Path(made.name), Path(run) / FOLDER
    if args.examples is None and (examples := read_examples(beside)):
        shutil.copytree(beside, folder, dirs_exist_ok=True)
    else:
        examples = opened.examples(EXAMPLES if args.examples is None else args.examples, folder)
    answerer = opened.answerer()
    for note in opened.notes:
        print(f"note: {note}", flush=True)
    page = DemoPage(
        opened.title,
        opened.about(),
        answerer,
        as_given(examples, opened.fields, folder),
        evidence=args.evidence,
        max_file_mb=args.max_file_mb,
    )
    page.made = made  # as long as the page is there
    return page


def space_of(run: str, folder: Path, args: DemoArguments, data_args: Any) -> Path:
    """Writes the folder of a Space.

    Raises:
        ValueError: the folder is not empty, or there are no rows for the examples.
        OSError, ValueError: see `Opened`.
    """
    if not is_free(folder):
        raise ValueError(f"{folder} exists and is not empty: name a new folder.")
    opened = Opened(run, args, data_args)
    examples: list[dict[str, Any]] = []
    place = folder / MODEL
    place.mkdir(parents=True)
    opened.head.from_pretrained(run).save_pretrained(place)
    opened.processor.save_pretrained(place)
    if args.examples:
        (place / FOLDER).mkdir()
        examples = opened.examples(args.examples, place / FOLDER)
        keep_examples(examples, place / FOLDER)
        if not examples:
            raise ValueError(
                f"--examples is {args.examples}, but no rows of {run} are available: leave --examples out. "
                f"{' '.join(opened.notes)}"
            )
    columns = {key: value for key, value in opened.data_columns.items() if value is not None}
    labels = {key: opened.recipe[key] for key in ("label_column", "task") if opened.recipe.get(key) is not None}
    return write_files(folder, opened.title, opened.about(), {**columns, **labels}, examples)


def script():
    """The command line."""
    run_script(main, ANSWERING)


if __name__ == "__main__":
    script()
