# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Pipelines from raw rows to answers. They travel with the checkpoint, since the library has dropped these tasks."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sized
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineIterator
from transformers.utils import logging

from .image import open_image
from .inputs import columns_of, entries_of, fault_of_text, is_numeric, is_one, is_one_image, list_of_table_rows
from .names import did_you_mean
from .processing_mm_fusion import decode_as_written
from .series import as_steps, has_no_steps
from .sound import load_sound
from .table_schema import is_missing
from .video import load_frames


logger = logging.get_logger(__name__)

# What a row may have, and the modality that the model needs for it.
ROW_KEYS = {
    "image": "vision",
    "text": "text",
    "question": "text",
    "audio": "audio",
    "table": "tabular",
    "video": "vision",
    "series": "series",
}
ON_ERROR = ("raise", "skip")


class MMFusionClassificationPipeline(Pipeline):
    """Classifies rows `{"image": …, "text": …, "audio": …, "table": …, "series": …}`, any of which may be missing,
    None or NaN; in place of the image `"video"`, where the model was trained on videos.

    An image is a PIL image, a path, a URL, the bytes of a file, a dict of `bytes` and `path`, or an array; where the
    model takes several (`config.num_images`), a list of these in their places, None for a place without, as in
    `{"image": [front, None, kitchen]}`. A sound is a path, the bytes of a file, or a dict of `array` and
    `sampling_rate`, and is resampled where that is needed; a video is a path, the bytes of a file, or a list of PIL
    images; a table's row is a dict of its columns; a time series is a list of steps, each a list of numbers.

    Takes one row or many: a list, a tuple or a table of pandas gives a list; a data set (of `datasets` or torch, a
    `KeyDataset`) or a generator gives an iterator, and is read row by row. Returns for each row `[{"score", "label"},
    …]`, best first; for several labels at once the scores are independent probabilities, for a regression they are
    the predicted values.

    Args of a call:
        top_k (`int`, defaults to 5): how many; None for all.
        batch_size (`int`, defaults to 1): rows that go through the model together; equal texts, and images that are
            the same object, path or URL, are encoded once.
        on_error (`str`, defaults to `"raise"`): a row that cannot be read, or whose scores are no finite numbers,
            stops the call with an error that names it; with `"skip"` its answer is None, a warning says why, and the
            others are answered.
        max_length, text_kwargs, images_kwargs…: for the processor.

    Raises:
        ValueError: a row with unknown keys or with what the model does not read, an argument that is none of these,
            or a row that cannot be read.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> classify = pipeline("multimodal-classification", model="me/checkpoint", trust_remote_code=True)
    >>> classify({"image": "cat.png", "text": "a caption"}, top_k=2)
    ```
    """

    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False

    label_key = "label"

    def __call__(self, inputs: Any, **kwargs):
        """See the class."""
        inputs = rows_to_answer(inputs)
        if isinstance(inputs, list) and not inputs:  # the library looks at the first one
            return []
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, top_k: int | str | None = "unset", **kwargs):
        if top_k not in ("unset", None) and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k must be a whole number from 1 up, or None for all, got {top_k!r}.")
        preprocess_params, forward_params = self._shared_parameters(kwargs, ["top_k"])
        return preprocess_params, forward_params, {} if top_k == "unset" else {"top_k": top_k}

    def _shared_parameters(self, kwargs: dict[str, Any], own: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all pipelines take: `on_error`, and arguments of the processor. Refuses all others."""
        settings = {}
        if "on_error" in kwargs:
            settings["on_error"] = kwargs.pop("on_error")
            if settings["on_error"] not in ON_ERROR:
                raise ValueError(f"on_error must be one of {list(ON_ERROR)}, got {settings['on_error']!r}.")
        parts = getattr(self.processor, "arguments", None)  # not of one that came with code of before
        of_processor = {*kwargs} if parts is None else {"common_kwargs", *parts, *set().union(*parts.values())}
        own = [*own, "on_error", "batch_size", "num_workers"]
        for name in kwargs:
            if name not in of_processor:
                known = [*own, *sorted(parts or ())]
                meant = did_you_mean(name, {*known, *of_processor})
                if "generate_kwargs" in own and hasattr(getattr(self.model, "generation_config", None), name):
                    meant = f" What `generate` takes goes in as generate_kwargs={{{name!r}: …}}."
                raise ValueError(
                    f"{type(self).__name__} has no argument {name!r}; a call has {known}, and what a row holds goes "
                    f"into the row, under {list(ROW_KEYS)}.{meant}"
                )
        return dict(settings), {**settings, **kwargs}

    def preprocess(self, inputs: Any, number: int = 0, on_error: str = "raise") -> dict[str, Any]:
        """Loads what a row holds; the rest waits until the batch is complete.

        Args:
            inputs: the row.
            number: its number in the call, for messages.
            on_error: see the class.

        Raises:
            ValueError: see the class.
        """
        try:
            row = self.as_row(inputs)
        except Exception as error:
            return self._bad_row(number, error, on_error)
        try:
            self.check_keys(row)
        except ValueError as error:  # of the caller, and not of one row
            raise ValueError(f"Row {number}: {error}") from None
        try:
            return {**self.load_row(row), "number": number}
        except ImportError:  # a package is missing, which no other row mends
            raise
        except Exception as error:  # Pillow alone raises a dozen types
            return self._bad_row(number, error, on_error)

    def _bad_row(self, number: int, error: Exception, on_error: str) -> dict[str, Any]:
        """A row that cannot be answered: raises, or says so and keeps its place."""
        reason = reason_of(error)
        if on_error == "raise":
            raise ValueError(f"Row {number}: {reason}") from error
        logger.warning(f"Row {number} is skipped, its answer is None: {reason}")
        return {"number": number, "reason": reason}

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """A row as a dict, where it comes in another form: as a row of pandas, or as a named tuple."""
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if is_row_of_pandas(inputs):
            return inputs.to_dict()
        if hasattr(inputs, "_asdict"):
            return inputs._asdict()
        raise ValueError(f"A row must be a dict with keys out of {list(ROW_KEYS)}, got {inputs!r:.200}.")

    def check_keys(self, row: dict[str, Any]):
        """Refuses keys that no row has, and what this model does not read.

        Raises:
            ValueError: naming them.
        """
        if unknown := [key for key in row if key not in ROW_KEYS]:
            meant = did_you_mean(unknown[0], ROW_KEYS)
            raise ValueError(
                f"A row must be a dict with keys out of {list(ROW_KEYS)}, got {unknown[0]!r} in {row!r:.200}.{meant}"
            )
        there = {key: value for key, value in row.items() if not is_missing(value)}
        for one, other in (("text", "question"), ("image", "video")):
            if one in there and other in there:
                raise ValueError(
                    f"A row has one of {one!r} and {other!r}, not both; got {there[one]!r:.80} and "
                    f"{there[other]!r:.80}."
                )
        modalities = self.model.config.modalities
        for key, value in there.items():
            if ROW_KEYS[key] not in modalities:
                raise ValueError(f"The row has {key} {value!r:.80}, but this model reads {modalities} alone.")

    def load_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """What a row holds, decoded and checked; None for what it lacks. The sources of its images go along, since
        loading makes new objects: equal sources are one image."""
        row = {key: value for key, value in row.items() if not is_missing(value)}
        processor: Any = self.processor
        found: dict[str, Any] = dict.fromkeys(("image", "source", "text", "audio", "table", "series"))
        if (text := row.get("text", row.get("question"))) is not None:
            if fault := fault_of_text(text):
                raise ValueError(fault)
            found["text"] = text
        if "audio" in row:
            found["audio"] = load_sound(row["audio"], processor.feature_extractor.sampling_rate)
        if "table" in row:
            table = list_of_table_rows(row["table"])
            if len(table) != 1 or not isinstance(table[0], Mapping):
                raise ValueError(f"the table of a row is one row of it, a dict of columns, got {row['table']!r:.80}.")
            found["table"] = None if all(map(is_missing, table[0].values())) else table[0]
        if "series" in row:
            found["series"] = None if has_no_steps(row["series"]) else as_steps(row["series"])
        if "image" in row:
            found["image"], found["source"] = self.load_images(row["image"])
        if "video" in row:
            found["image"] = load_frames(row["video"], self.model.config.num_images, processor.image_background)
            found["source"] = [(row["video"], place) for place in range(len(found["image"]))]
        if all(value is None for value in found.values()):
            raise ValueError("A row needs an image, a text, a sound, a table's row, a video or a series.")
        return found

    def load_images(self, source: Any) -> tuple[Any, Any]:
        """The image of a row, or its images in their places, and where they are from; None for those it lacks.

        Raises:
            ValueError: more images than the model has places for.
        """
        processor: Any = self.processor
        ground = processor.image_background
        if is_one_image(source):
            return open_image(source, ground), source
        sources, places = entries_of(source), self.model.config.num_images
        if len(sources) > places:
            raise ValueError(
                f"the row has {len(sources)} images, but this model looks at {places} a row (num_images in its "
                "config); many rows are a list of dicts, each with its own."
            )
        images = []
        for place, one in enumerate(sources):
            try:
                images.append(None if one is None else open_image(one, ground))
            except Exception as error:
                raise ValueError(f"image {place + 1} of {len(sources)}: {reason_of(error)}") from error
        return (None, None) if all(image is None for image in images) else (images, sources)

    def _forward(
        self,
        model_inputs: dict | list[dict],
        on_error: str = "raise",
        generate_kwargs: dict | None = None,
        **processor_kwargs,
    ) -> dict[str, Any]:
        """The tensors of each row's answer, and under `reasons` why it has none (None where it has one)."""
        rows = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        reasons: list[str | None] = [row.get("reason") for row in rows]
        batch = self._prepare(rows, reasons, on_error, processor_kwargs)
        there = [place for place, reason in enumerate(reasons) if reason is None]
        found = {} if batch is None else self.answer(batch.to(self.device), len(there), generate_kwargs or {})
        for name, values in found.items():
            if values.is_floating_point():
                for place, finite in zip(there, values.flatten(1).isfinite().all(1).tolist()):
                    if not finite and reasons[place] is None:
                        error = ValueError(f"the model's {name} of this row are no finite numbers.")
                        reasons[place] = self._bad_row(rows[place]["number"], error, on_error)["reason"]
            if len(there) < len(rows):  # rows without an answer keep their place
                found[name] = values.new_zeros((len(rows), *values.shape[1:]))
                found[name][there] = values
        return {"reasons": reasons, **found}

    def _prepare(self, rows: list[dict], reasons: list[str | None], on_error: str, kwargs: dict) -> Any:
        """The model's inputs for the rows that have no reason against them; where the processor refuses them, finds
        out which row it is."""
        there = [place for place, reason in enumerate(reasons) if reason is None]
        if not there:
            return None
        try:
            return self._batch([rows[place] for place in there], **kwargs)
        except (ImportError, MemoryError):
            raise
        except Exception:
            for place in there:
                try:
                    self._batch([rows[place]], **kwargs)
                except Exception as error:
                    reasons[place] = self._bad_row(rows[place]["number"], error, on_error)["reason"]
            if all(reasons[place] is None for place in there):  # each by itself is good
                raise
        return self._prepare(rows, reasons, on_error, kwargs)

    def _batch(self, rows: list[dict], **processor_kwargs) -> Any:
        """The model's inputs, equal items once."""
        loaded: dict[Any, Any] = {}

        def once(source: Any, image: Any) -> Any:
            if image is None:
                return None
            place = None
            if isinstance(source, tuple):  # a frame of a video
                source, place = source
            key = source if isinstance(source, (str, bytes, os.PathLike)) else id(source)
            return loaded.setdefault((key, place), image)

        columns: dict[str, Any] = {
            name: [row[key] for row in rows]
            for name, key in {"images": "image", **{key: key for key in ("text", "audio", "table", "series")}}.items()
            if any(row[key] is not None for row in rows)
        }
        if "images" in columns:
            columns["images"] = [
                list(map(once, row["source"], row["image"]))
                if isinstance(row["image"], list)
                else once(row["source"], row["image"])
                for row in rows
            ]
        processor: Any = self.processor
        if "audio" in columns:
            columns["sampling_rate"] = processor.feature_extractor.sampling_rate
        return processor(**columns, deduplicate=True, **processor_kwargs)

    def answer(
        self, batch: Mapping[str, torch.Tensor], rows: int, generate_kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """What the model says of a batch of so many rows: tensors by name, one row each. `generate_kwargs` is for
        those that write."""
        logits = self.model(**batch).logits
        return dict(logits) if isinstance(logits, Mapping) else {"logits": logits}

    def postprocess(self, model_outputs: dict[str, Any], **kwargs) -> Any:
        """Spells out the answer of one row; None where it has none."""
        reason = model_outputs["reasons"]
        if (reason[0] if isinstance(reason, list) else reason) is not None:
            return None
        return self.spell(model_outputs, **kwargs)

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5) -> Any:
        """Turns the logits of one row into its best labels."""
        config, logits = self.model.config, model_outputs["logits"][0]
        problem_type = "regression" if len(logits) == 1 else config.problem_type
        return self._best(logits, problem_type, config.id2label, top_k)

    def _best(self, logits: torch.Tensor, problem_type: str | None, labels: Any, top_k: int | None) -> list[dict]:
        """The best answers, with their labels by number."""
        scores = logits.float()
        if problem_type == "multi_label_classification":
            scores = scores.sigmoid()
        elif problem_type != "regression":
            scores = scores.softmax(-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        return [
            {"score": score, self.label_key: labels[label]}
            for score, label in zip(best.values.tolist(), best.indices.tolist())
        ]

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """As in the library, but batches stay lists of rows: its own collation has no room for absent or shared
        items. Rows know their number."""
        rows: Any
        if isinstance(inputs, Sized):
            rows = NumberedRows(self, inputs, preprocess_params)
        else:
            num_workers = min(num_workers, 1)  # each would go through all rows
            rows = PipelineIterator(enumerate(inputs), self._preprocess_numbered, preprocess_params)
        batches = DataLoader(rows, num_workers=num_workers, batch_size=batch_size, collate_fn=list)
        outputs = PipelineIterator(batches, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def _preprocess_numbered(self, numbered: tuple[int, Any], **kwargs) -> dict[str, Any]:
        return self.preprocess(numbered[1], number=numbered[0], **kwargs)


class NumberedRows(Dataset):
    """Rows of a data set, loaded with their number; one that the data set itself cannot read is a bad row.

    Args:
        pipeline: whose `preprocess` loads them.
        rows: anything with a length and rows by number.
        params: of `preprocess`.
    """

    def __init__(self, pipeline: MMFusionClassificationPipeline, rows: Any, params: dict[str, Any]):
        self.pipeline, self.rows, self.params = pipeline, rows, params

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        try:
            row = self.rows[number]
        except Exception as error:
            return self.pipeline._bad_row(number, error, self.params.get("on_error", "raise"))
        return self.pipeline.preprocess(row, number=number, **self.params)


class IndexedRows(Dataset):
    """What has a length and rows by number, as a data set of torch, which the library reads row by row."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.rows[number]


def rows_to_answer(inputs: Any) -> Any:
    """Rows in the form that the library tells from a single one: a list, a data set of torch or a generator.

    Args:
        inputs: a row or many, see `MMFusionClassificationPipeline`.
    """
    single = is_one(inputs) or hasattr(inputs, "_asdict") or is_row_of_pandas(inputs)
    if single or isinstance(inputs, (list, Dataset, GeneratorType)):
        return inputs
    if isinstance(inputs, (set, frozenset, tuple)):
        return entries_of(inputs)
    if columns_of(inputs) is not None and not (hasattr(inputs, "features") and hasattr(inputs, "column_names")):
        return list_of_table_rows(inputs)
    if hasattr(inputs, "dtype") and hasattr(inputs, "shape"):  # numbers are one item, objects and strings are rows
        return inputs if is_numeric(inputs.dtype) and len(inputs.shape) < 4 else entries_of(inputs)
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return IndexedRows(inputs)
    return (row for row in inputs) if isinstance(inputs, Iterable) else inputs


def is_row_of_pandas(value: Any) -> bool:
    """Whether a value is a row that was taken out of a table of pandas: its index names what a row has."""
    index = getattr(value, "index", None)
    if not hasattr(value, "to_dict") or index is None or callable(index) or columns_of(value) is not None:
        return False
    return any(isinstance(name, str) and name in ROW_KEYS for name in index)


def reason_of(error: Exception) -> str:
    """Why a row cannot be read, in one line, without the number that it has in its batch."""
    said = " ".join(str(error).split())
    said = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    return re.sub(r"^Row \d+: ", "", said)


class MMFusionMultiTaskPipeline(MMFusionClassificationPipeline):
    """Answers all tasks of a model for rows `{"image": …, "text": …}`, with the arguments of the pipeline above.

    Returns for each row `{task: [{"score", "label"}, …]}`; for a regression the label is the name of the task, or that
    and the place of the number where it has several.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> ask = pipeline("multimodal-multi-task", model="me/checkpoint", trust_remote_code=True)
    >>> ask({"image": "cat.png", "text": "a caption"}, top_k=1)
    ```
    """

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5) -> Any:
        """Turns the logits of one row into the best labels of each task."""
        found = {}
        for name, task in self.model.config.task_heads.items():
            labels = task.labels or [name if task.num_labels == 1 else f"{name} {i}" for i in range(task.num_labels)]
            found[name] = self._best(model_outputs[name][0], task.problem_type, labels, top_k)
        return found


class MMFusionFeatureExtractionPipeline(MMFusionClassificationPipeline):
    """Embeds rows `{"image": …, "text": …}`, or `{"audio": …, "text": …}`, of a model for search.

    Returns for each row the embeddings of what it has, by the same keys, as lists of numbers of length 1, and where it
    has both `"similarity"`, their inner product.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> embed = pipeline("multimodal-feature-extraction", model="me/checkpoint", trust_remote_code=True)
    >>> embed({"image": "cat.png", "text": "a caption"})["similarity"]
    ```
    """

    def _sanitize_parameters(self, **kwargs):
        return *self._shared_parameters(kwargs, []), {}

    def answer(
        self, batch: Mapping[str, torch.Tensor], rows: int, generate_kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """See the method of the base class."""
        outputs = self.model(**batch)
        return {key: outputs[f"{key}_embeds"] for key in ("text", "image", "audio") if f"{key}_embeds" in outputs}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Gives what one row has."""
        embeddings = {
            key: values[0].float() for key, values in model_outputs.items() if key != "reasons" and values[0].any()
        }
        found: dict[str, Any] = {key: values.tolist() for key, values in embeddings.items()}
        if len(embeddings) == 2:
            one, other = embeddings.values()
            found["similarity"] = (one @ other).item()
        return found


class ImageAndQuestion:
    """Of pipelines that take an image and a question as arguments of their own."""

    def __call__(self, image: Any = None, question: Any = None, **kwargs):
        """See the class; `image` takes rows too."""
        ask: Any = super().__call__  # type: ignore[misc]
        if question is None:
            if image is None:
                raise ValueError("Give image= and question=, or rows {'image': …, 'question': …}.")
            return ask(image, **kwargs)
        if isinstance(image, Mapping) and set(image) & set(ROW_KEYS):
            raise ValueError(f"Give question= beside an image, or in the row: got {question!r:.80} and {image!r:.80}.")
        one_image, one_question = is_one_image(image), is_one(question)
        if one_image and one_question:
            return ask({"image": image, "question": question}, **kwargs)
        if one_image and not is_missing(image):
            with contextlib.suppress(Exception):  # once for all its questions; what cannot be read, the rows say
                image = open_image(image, self.processor.image_background)  # type: ignore[attr-defined]
        images = [image] if one_image else image
        questions = [question] if one_question else entries_of(question)
        if isinstance(images, Dataset) and isinstance(images, Sized):  # is read row by row
            return ask(({"image": images[i], "question": q} for i in range(len(images)) for q in questions), **kwargs)
        return ask([{"image": i, "question": q} for i in entries_of(images) for q in questions], **kwargs)


class MMFusionQuestionAnsweringPipeline(ImageAndQuestion, MMFusionClassificationPipeline):
    """Answers questions about images, with the inputs and outputs of transformers 4's `visual-question-answering`.

    Takes rows `{"image": …, "question": …}`, one or many, or `image=` and `question=`: one of each, one image and many
    questions, many images and one question, or many of both, of which every pair is asked, image by image. So a list
    of images means that many rows; the images of one row of a model that takes several are a list in the row,
    `{"image": [front, None], "question": …}`, or in the list, `image=[[front, None]]`. Returns `[{"score", "answer"},
    …]` for each row.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> answer = pipeline("visual-question-answering", model="me/checkpoint", trust_remote_code=True)
    >>> answer({"image": "circle.png", "question": "what colour is the shape?"}, top_k=1)
    >>> answer(image="circle.png", question=["what colour is the shape?", "is it a circle?"])
    >>> answer(image=KeyDataset(dataset, "image"), question="is it a circle?", batch_size=8)
    ```
    """

    label_key = "answer"


class MMFusionGenerationPipeline(MMFusionClassificationPipeline):
    """Writes about images and texts, with the inputs and outputs of transformers 4's `image-to-text`.

    Takes an image (PIL, a path, a URL, bytes, an array) or a row `{"image": …, "text": …}`, either of which may be
    missing, or many of them. Returns for each `[{"score", "generated_text"}, …]`; the score is the probability of the
    whole text.

    Args of a call:
        max_new_tokens, num_beams, num_return_sequences, do_sample, temperature: as in `generate`; left out, those
            that the pipeline was made with, then the checkpoint's generation_config.json.
        generate_kwargs (`dict`): any others of `generate`.
        batch_size: see the pipeline above.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> caption = pipeline("image-to-text", model="me/checkpoint", trust_remote_code=True)
    >>> caption("cat.png", num_beams=3)
    ```
    """

    label_key = "generated_text"

    def _sanitize_parameters(self, generate_kwargs: dict | None = None, **kwargs):
        # What a call leaves out stays as the pipeline was made; there are no parameters yet while it is.
        chosen = {**getattr(self, "_forward_params", {}).get("generate_kwargs", {}), **(generate_kwargs or {})}
        own = ["max_new_tokens", "num_beams", "num_return_sequences", "do_sample", "temperature"]
        for name in own:
            if name in kwargs:
                chosen[name] = kwargs.pop(name)
        preprocess_params, forward_params = self._shared_parameters(kwargs, [*own, "generate_kwargs"])
        return preprocess_params, {"generate_kwargs": chosen, **forward_params}, {}

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Takes an image alone too; see the method of the base class."""
        file = isinstance(inputs, Mapping) and bool({"bytes", "path"} & set(inputs))
        alone = file or (is_one_image(inputs) and not isinstance(inputs, Mapping))
        several = isinstance(inputs, (list, tuple)) and not hasattr(inputs, "_asdict")  # of one row
        return {"image": inputs} if several or (alone and not is_missing(inputs)) else super().as_row(inputs)

    def answer(
        self, batch: Mapping[str, torch.Tensor], rows: int, generate_kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """Writes: the tokens `(B, N, S)` of N texts a row, and the probability of each `(B, N)`."""
        model: Any = self.model
        settings = {"return_dict_in_generate": True, "output_scores": True, **generate_kwargs}
        written = model.generate(**batch, **settings)
        steps = model.compute_transition_scores(
            written.sequences, written.scores, written.get("beam_indices"), normalize_logits=True
        )
        tokens = written.sequences[:, -steps.shape[1] :]
        # Behind the end there is padding, whatever its scores.
        end = settings.get("eos_token_id", model.generation_config.eos_token_id)  # None, one or several
        ends = torch.isin(tokens, torch.tensor([] if end is None else end, device=tokens.device)).long()
        steps = steps.masked_fill(ends.cumsum(1) - ends > 0, 0)
        shape = (rows, len(written.sequences) // rows, -1)  # several texts a row
        return {"sequences": written.sequences.view(shape), "scores": steps.sum(1).exp().view(shape[:2])}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Spells out the texts of one row."""
        processor: Any = self.processor
        texts = processor.batch_decode(model_outputs["sequences"][0], skip_special_tokens=True)
        scores = model_outputs["scores"][0].tolist()
        return [{"score": score, self.label_key: text.strip()} for score, text in zip(scores, texts)]


class MMFusionFreeAnswerPipeline(ImageAndQuestion, MMFusionGenerationPipeline):
    """Answers questions about images in words of its own: `visual-question-answering` for a model that writes.

    Takes what the pipeline that chooses an answer takes, with the arguments of the one that writes. Returns
    `[{"score", "answer"}, …]` for each row.
    """

    label_key = "answer"


class MMFusionSpeechRecognitionPipeline(MMFusionGenerationPipeline):
    """Writes down what is said: `automatic-speech-recognition` for models of sound that write, with the inputs and
    outputs of the library's own.

    Takes a sound (a path, the bytes of a file, or a dict of `array` or `raw` and `sampling_rate`) or a row
    `{"audio": …, "text": …}`, or many of them. Returns for each `{"text": …}`.

    Args of a call:
        num_beams, max_new_tokens, generate_kwargs, batch_size: see the pipeline above; beams of CTC need no more than
            the first two.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> transcribe = pipeline("automatic-speech-recognition", model="me/checkpoint", trust_remote_code=True)
    >>> transcribe("seven.wav")
    ```
    """

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Takes a sound alone too; see the method of the base class."""
        alone = not is_missing(inputs) and (
            isinstance(inputs, (str, bytes, os.PathLike))
            or (isinstance(inputs, Mapping) and bool({"array", "raw", "bytes", "path"} & set(inputs)))
            or (hasattr(inputs, "dtype") and is_numeric(inputs.dtype))
        )
        return {"audio": inputs} if alone else MMFusionClassificationPipeline.as_row(self, inputs)

    def answer(
        self, batch: Mapping[str, torch.Tensor], rows: int, generate_kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        """Writes one text a row, `(B, 1, S)` tokens; and what tells whether the scores are finite."""
        if generate_kwargs.get("num_return_sequences", 1) != 1:
            raise ValueError("There is one text for each sound: num_return_sequences must be 1.")
        model: Any = self.model
        if hasattr(model, "decoder"):
            return super().answer(batch, rows, {**generate_kwargs, "num_return_sequences": 1})
        encoder_outputs = model.get_encoder()(**batch)
        heard = model(encoder_outputs=encoder_outputs)  # once more the last layer alone
        logits = heard.logits.masked_fill(~heard.attention_mask[..., None], 0.0)
        written = model.generate(encoder_outputs=encoder_outputs, **generate_kwargs)
        return {"sequences": written[:, None], "logits": logits}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Spells out the text of one row."""
        processor: Any = self.processor
        text = decode_as_written(processor.tokenizer, model_outputs["sequences"][0][0], skip_special_tokens=True)
        return {"text": text.strip()}


__all__ = [
    "MMFusionClassificationPipeline",
    "MMFusionFreeAnswerPipeline",
    "MMFusionGenerationPipeline",
    "MMFusionMultiTaskPipeline",
    "MMFusionQuestionAnsweringPipeline",
    "MMFusionSpeechRecognitionPipeline",
]
