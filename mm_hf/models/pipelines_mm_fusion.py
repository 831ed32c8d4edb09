# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Pipelines from raw rows to answers. They travel with the checkpoint, because transformers removed these tasks."""

import contextlib
import os
from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Dataset

from .confidence import check_share
from .costs import Costs, costs_of
from .image import open_image
from .image_processors import picture_settings
from .modality import MODALITIES
from .names import shown
from .pipeline_base import MMFusionPipeline
from .pipeline_rows import row_keys
from .raw_rows import entries_of, is_numeric, is_one
from .sound import Sound
from .table_schema import is_missing
from .tasks import CLASSES, TaskHead, head_of_config
from .text import Text, decode_as_written
from .vision import is_one_image


class MMFusionClassificationPipeline(MMFusionPipeline):
    """Classifies rows `{"image": …, "text": …, "audio": …, "table": …, "series": …}`. Any of them may be missing, None
    or NaN. `"video"` is used instead of the image if the model was trained on videos, and beside it if it was trained
    on both.

    An image is a PIL image, a path, a URL, the bytes of a file, a dict of `bytes` and `path`, or an array. A sound is
    a path, the bytes of a file, or a dict of `array` and `sampling_rate`; it is resampled if necessary. A video is a
    path, the bytes of a file, or a list of PIL images. A table's row is a dict of its columns. A time series is a list
    of steps, each a list of numbers. If the model takes several images (`config.num_images`), texts, sounds or series
    (`config.places`), give a list with one entry per place, None for an empty place, as in
    `{"image": [front, None, kitchen]}`. Modalities from outside the package define their own keys.

    Takes one row or many. A list, a tuple or a table of pandas returns a list; a data set (of `datasets` or torch, a
    `KeyDataset`) or a generator returns an iterator, and is read row by row. Returns for each row `[{"score",
    "label"}, …]`, best first. For several labels at once the scores are independent probabilities; for a regression
    they are the predicted values.

    Args of a call:
        top_k (`int`, defaults to 5): how many labels to return; None for all.
        coverage (`float`, *optional*): such as 0.9: instead of the `top_k` best labels, return a set that contains the
            true label (with several labels: all true ones) in this share of new rows. Numbers get `"low"` and `"high"`
            beside their score. For calibrated models, see `mm_hf evaluate --calibrate`.
        abstain_below (`float`, *optional*): for one of several classes: an empty list if the best score is below it.
        costs (`dict`, *optional*): for one of several classes: the costs of answers, `{"wrong": {"cat": 5, "dog": 1},
            "abstain": 0.5}`: for each class, the cost of another answer when it is the truth (one number: any class),
            and the cost of no answer; with several tasks, a dict by task. The answer is then the label of least
            expected cost, with `"expected_cost"`, or an empty list if no answer is cheaper.
        batch_size (`int`, defaults to 1): rows that go through the model together. Equal texts, and items that are the
            same object, path or URL, are encoded once.
        on_error (`str`, defaults to `"raise"`): what to do with a row that cannot be read, or has scores that are not
            finite: stop with an error that names it; or, with `"skip"`, answer None and continue with the other rows.
            A warning then gives the row and the reason, without the row's content: logs are kept, and others read
            them.
        evidence (`bool`, defaults to `False`): return for each row a dict of `"answer"`, the usual answer, and
            `"evidence"`, the contribution of each modality to it: see `evidence_of`. Each row is encoded once.
        background (`list`, *optional*): rows whose items replace a modality that is removed. Left out, the learned
            token of an absent item replaces it (`"absence"` of the evidence shows which). Eight to thirty rows that
            are similar to the training rows work best.
        max_length, text_kwargs, images_kwargs…: options of the processor.

    Raises:
        ValueError: a row has an unknown key or one that the model does not read, an argument is unknown, or a row
            cannot be read.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> classify = pipeline("multimodal-classification", model="me/checkpoint", trust_remote_code=True)
    >>> classify({"image": "cat.png", "text": "a caption"}, top_k=2)
    ```
    """

    label_key = "label"

    def _sanitize_parameters(
        self,
        top_k: int | str | None = "unset",
        coverage: float | None = None,
        abstain_below: float | None = None,
        costs: Mapping | None = None,
        **kwargs,
    ):
        if top_k not in ("unset", None) and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k must be a whole number from 1 up, or None for all, got {top_k!r}.")
        names = ["top_k", "coverage", "abstain_below", "costs"]
        preprocess_params, forward_params = self._shared_parameters(kwargs, names)
        asked: dict[str, Any] = {"coverage": coverage, "abstain_below": abstain_below}
        asked = {name: value for name, value in asked.items() if value is not None}
        self._check_confidence(**asked)
        if costs is not None:
            if asked or top_k != "unset":
                others = [*asked, *(["top_k"] if top_k != "unset" else [])]
                raise ValueError(f"costs already decide between one answer and none: leave out {', '.join(others)}.")
            asked["costs"] = self._costs(costs)
        return preprocess_params, forward_params, asked if top_k == "unset" else {"top_k": top_k, **asked}

    def _heads(self) -> dict[str | None, TaskHead]:
        """The heads that are answered, by task; the key of a single task is None."""
        return {None: head_of_config(self.model.config)}

    def _check_confidence(self, coverage: float | None = None, abstain_below: float | None = None):
        """Refuses options that the model cannot provide, before any row is read."""
        heads = self._heads().values() if coverage is not None or abstain_below is not None else []
        if coverage is not None:
            for head in heads:
                head.threshold(coverage)
        if abstain_below is not None:
            check_share("abstain_below", abstain_below)
            if not any(head.label_kind == CLASSES for head in heads):
                kinds = sorted({head.name for head in heads})
                raise ValueError(f"abstain_below is for one of several classes, but this model answers {kinds}.")

    def _costs(self, costs: Mapping) -> dict[str | None, Costs]:
        """The checked costs of answers, by task; None for a single task."""
        heads = {name: head for name, head in self._heads().items() if head.label_kind == CLASSES}
        if not heads:
            kinds = sorted({head.name for head in self._heads().values()})
            raise ValueError(f"costs are for one of several classes, but this model answers {kinds}.")
        several = None not in heads
        if several and not (isinstance(costs, Mapping) and set(costs) <= set(heads)):
            raise ValueError(f"costs of several tasks must be a dict by task, of {list(heads)}; got {shown(costs)}.")
        tables: Mapping = costs if several else {None: costs}
        return {
            task: costs_of("costs", table, [str(label) for label in self._labels(task, heads[task])])
            for task, table in tables.items()
        }

    def _labels(self, task: str | None, head: TaskHead) -> list:
        """The names of its outputs, in order."""
        names: Any = self.model.config.id2label
        return [names[number] for number in range(len(names))]

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5, **asked: Any) -> Any:
        """Makes the best labels of one row from its logits."""
        (head,) = self._heads().values()
        return self._best(model_outputs["logits"][0], None, head, top_k, **asked)

    def _best(
        self,
        logits: torch.Tensor,
        task: str | None,
        head: TaskHead,
        top_k: int | None,
        coverage: float | None = None,
        abstain_below: float = 0.0,
        costs: Mapping[str | None, Costs] | None = None,
    ) -> list[dict]:
        """The best answers of a task, see the class."""
        chances, labels = head.probabilities(logits), self._labels(task, head)
        if costs is not None and task in costs and chances is not None:
            (answer,), (abstains,), (expected,) = costs[task].decide(chances[None])
            if abstains:
                return []
            said = {"score": chances[answer].item(), self.label_key: labels[answer]}
            return [{**said, "expected_cost": expected.item()}]
        scores = logits.float() if chances is None else chances
        count = min(top_k or len(scores), len(scores))
        if coverage is not None and chances is not None:
            count = int(head.answer_set(logits, coverage).sum())  # these are the likeliest ones
        if head.label_kind == CLASSES and scores.max() < abstain_below:
            count = 0
        best = scores.topk(count)
        answers = [
            {"score": score, self.label_key: labels[label]}
            for score, label in zip(best.values.tolist(), best.indices.tolist())
        ]
        if coverage is not None and chances is None:
            for answer, place in zip(answers, best.indices.tolist()):
                low, high = (side[place].item() for side in head.interval(logits, coverage))
                answer |= {"low": low, "high": high}
        return answers


class MMFusionMultiTaskPipeline(MMFusionClassificationPipeline):
    """Answers all tasks of a model for rows `{"image": …, "text": …}`. Arguments: see
    `MMFusionClassificationPipeline`.

    Returns for each row `{task: [{"score", "label"}, …]}`. For a regression the label is the name of the task; if it
    has several numbers, the name and the place of each number.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> ask = pipeline("multimodal-multi-task", model="me/checkpoint", trust_remote_code=True)
    >>> ask({"image": "cat.png", "text": "a caption"}, top_k=1)
    ```
    """

    def _heads(self):
        return dict(self.model.config.task_heads)

    def _labels(self, task, head):
        if head.labels:
            return list(head.labels)
        return [task if head.num_labels == 1 else f"{task} {place}" for place in range(head.num_labels)]

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5, **asked: Any) -> Any:
        """Makes the best labels of each task for one row from its logits."""
        heads = self._heads()
        return {name: self._best(model_outputs[name][0], name, head, top_k, **asked) for name, head in heads.items()}


class MMFusionFeatureExtractionPipeline(MMFusionPipeline):
    """Embeds rows `{"image": …, "text": …}`, or `{"audio": …, "text": …}`, with a retrieval model.

    Returns for each row the embeddings of its items, under the same keys, as lists of numbers of length 1. If it has
    both items, also `"similarity"`, their inner product.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> embed = pipeline("multimodal-feature-extraction", model="me/checkpoint", trust_remote_code=True)
    >>> embed({"image": "cat.png", "text": "a caption"})["similarity"]
    ```
    """

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
        outputs = self.model(**batch)
        keys = [modality.row_keys[0] for modality in MODALITIES.values()]
        return {key: outputs[f"{key}_embeds"] for key in keys if f"{key}_embeds" in outputs}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Makes the embeddings of one row."""
        embeddings = {
            key: values[0].float() for key, values in model_outputs.items() if key != "reasons" and values[0].any()
        }
        answer: dict[str, Any] = {key: values.tolist() for key, values in embeddings.items()}
        if len(embeddings) == 2:
            one, other = embeddings.values()
            answer["similarity"] = (one @ other).item()
        return answer


class ImageAndQuestion:
    """For pipelines that take an image and a question as separate arguments."""

    def __call__(self, image: Any = None, question: Any = None, **kwargs):
        """See the class; `image` also takes rows."""
        call: Any = super().__call__  # type: ignore[misc]
        if question is None:
            if image is None:
                raise ValueError("Give image= and question=, or rows {'image': …, 'question': …}.")
            return call(image, **kwargs)
        if isinstance(image, Mapping) and set(image) & set(row_keys()):
            raise ValueError(f"Give question= with an image, or in the row: got {question!r:.80} and {image!r:.80}.")
        one_image, one_question = is_one_image(image), is_one(question)
        if one_image and one_question:
            return call({"image": image, "question": question}, **kwargs)
        if one_image and not is_missing(image):
            with contextlib.suppress(Exception):  # opened once for all questions; errors are reported per row
                image = open_image(image, **picture_settings(self.processor))  # type: ignore[attr-defined]
        images = [image] if one_image else image
        questions = [question] if one_question else entries_of(question)
        if isinstance(images, Dataset) and isinstance(images, Sized):  # it is read row by row
            return call(({"image": images[i], "question": q} for i in range(len(images)) for q in questions), **kwargs)
        return call([{"image": i, "question": q} for i in entries_of(images) for q in questions], **kwargs)


class MMFusionQuestionAnsweringPipeline(ImageAndQuestion, MMFusionClassificationPipeline):
    """Answers questions about images, with the inputs and outputs of transformers 4's `visual-question-answering`.

    Takes rows `{"image": …, "question": …}`, one or many, or `image=` and `question=`: one of each, one image and many
    questions, many images and one question, or many of both; then every pair is answered, image by image. So a list
    of images means many rows. If the model takes several images per row, put them in a list in the row,
    `{"image": [front, None], "question": …}`, or in a nested list, `image=[[front, None]]`. Returns `[{"score",
    "answer"}, …]` for each row.

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


class MMFusionGenerationPipeline(MMFusionPipeline):
    """Generates texts about images and texts, with the inputs and outputs of transformers 4's `image-to-text`.

    Takes an image (PIL, a path, a URL, bytes, an array) or a row `{"image": …, "text": …}` (either may be missing), or
    many of them. Returns for each `[{"score", "generated_text"}, …]`; the score is the probability of the whole
    text.

    Args of a call:
        max_new_tokens, num_beams, num_return_sequences, do_sample, temperature: as in `generate`; left out, the values
            that the pipeline was made with, else the checkpoint's generation_config.json.
        generate_kwargs (`dict`): any other arguments of `generate`.
        batch_size: see `MMFusionClassificationPipeline`.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> caption = pipeline("image-to-text", model="me/checkpoint", trust_remote_code=True)
    >>> caption("cat.png", num_beams=3)
    ```
    """

    label_key = "generated_text"

    def _sanitize_parameters(self, generate_kwargs: dict | None = None, **kwargs):
        # Values that a call leaves out stay as the pipeline was made; during its construction there are none yet.
        chosen = {**getattr(self, "_forward_params", {}).get("generate_kwargs", {}), **(generate_kwargs or {})}
        generate_arguments = ["max_new_tokens", "num_beams", "num_return_sequences", "do_sample", "temperature"]
        for name in generate_arguments:
            if name in kwargs:
                chosen[name] = kwargs.pop(name)
        preprocess_params, forward_params = self._shared_parameters(kwargs, [*generate_arguments, "generate_kwargs"])
        return preprocess_params, {"generate_kwargs": chosen, **forward_params}, {}

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Also takes an image alone; see the method of the base class."""
        file = isinstance(inputs, Mapping) and bool({"bytes", "path"} & set(inputs))
        alone = file or (is_one_image(inputs) and not isinstance(inputs, Mapping))
        several = isinstance(inputs, (list, tuple)) and not hasattr(inputs, "_asdict")  # of one row
        return {"image": inputs} if several or (alone and not is_missing(inputs)) else super().as_row(inputs)

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
        """Generates: the tokens `(B, N, S)` of N texts per row, and the probability of each text `(B, N)`."""
        model: Any = self.model
        settings = {"return_dict_in_generate": True, "output_scores": True, **generate_kwargs}
        written = model.generate(**batch, **settings)
        steps = model.compute_transition_scores(
            written.sequences, written.scores, written.get("beam_indices"), normalize_logits=True
        )
        tokens = written.sequences[:, -steps.shape[1] :]
        # After the end there is only padding, whose scores are ignored.
        end = settings.get("eos_token_id", model.generation_config.eos_token_id)  # None, one or several
        ends = torch.isin(tokens, torch.tensor([] if end is None else end, device=tokens.device)).long()
        steps = steps.masked_fill(ends.cumsum(1) - ends > 0, 0)
        shape = (rows, len(written.sequences) // rows, -1)  # several texts per row
        return {"sequences": written.sequences.view(shape), "scores": steps.sum(1).exp().view(shape[:2])}

    def said_of(self, answers):
        """The first text of each row, without its start token."""
        return {None: answers["sequences"][:, 0, 1:]}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Makes the texts of one row from its tokens."""
        processor: Any = self.processor
        texts = processor.batch_decode(model_outputs["sequences"][0], skip_special_tokens=True)
        scores = model_outputs["scores"][0].tolist()
        return [{"score": score, self.label_key: text.strip()} for score, text in zip(scores, texts)]


class MMFusionFreeAnswerPipeline(ImageAndQuestion, MMFusionGenerationPipeline):
    """Answers questions about images in free text: `visual-question-answering` for a model that generates.

    Takes the same inputs as `MMFusionQuestionAnsweringPipeline`, and the arguments of `MMFusionGenerationPipeline`.
    Returns `[{"score", "answer"}, …]` for each row.
    """

    label_key = "answer"


class MMFusionSpeechRecognitionPipeline(MMFusionGenerationPipeline):
    """Transcribes speech: `automatic-speech-recognition` for models that write text from sound, with the inputs and
    outputs of the library's own pipeline.

    Takes a sound (a path, the bytes of a file, or a dict of `array` or `raw` and `sampling_rate`) or a row
    `{"audio": …, "text": …}`, or many of them. Returns for each `{"text": …}`.

    Args of a call:
        num_beams, max_new_tokens, generate_kwargs, batch_size: see `MMFusionGenerationPipeline`; beam search of CTC
            uses only the first two.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> transcribe = pipeline("automatic-speech-recognition", model="me/checkpoint", trust_remote_code=True)
    >>> transcribe("seven.wav")
    ```
    """

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Also takes a sound alone; see the method of the base class."""
        alone = not is_missing(inputs) and (
            isinstance(inputs, (str, bytes, os.PathLike))
            or (isinstance(inputs, Mapping) and bool({"array", "raw", "bytes", "path"} & set(inputs)))
            or (hasattr(inputs, "dtype") and is_numeric(inputs.dtype))
        )
        return {Sound.row_keys[0]: inputs} if alone else MMFusionPipeline.as_row(self, inputs)

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
        """Writes one text per row, `(B, 1, S)` tokens; and scores, to see whether they are finite."""
        if generate_kwargs.get("num_return_sequences", 1) != 1:
            raise ValueError("There is one text for each sound: num_return_sequences must be 1.")
        model: Any = self.model
        if hasattr(model, "decoder"):
            return super().answer(batch, rows, {**generate_kwargs, "num_return_sequences": 1})
        encoder_outputs = model.get_encoder()(**batch)
        heard = model(encoder_outputs=encoder_outputs)  # runs only the last layer again
        logits = heard.logits.masked_fill(~heard.attention_mask[..., None], 0.0)
        written = model.generate(encoder_outputs=encoder_outputs, **generate_kwargs)
        return {"sequences": written[:, None], "logits": logits}

    def said_of(self, answers):
        """The text of each row; for a decoder, with its start token."""
        return super().said_of(answers) if hasattr(self.model, "decoder") else {None: answers["sequences"][:, 0]}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Makes the text of one row from its tokens."""
        processor: Any = self.processor
        text = decode_as_written(processor.tokenizer, model_outputs["sequences"][0][0], skip_special_tokens=True)
        return {Text.row_keys[0]: text.strip()}


__all__ = [
    "MMFusionClassificationPipeline",
    "MMFusionFreeAnswerPipeline",
    "MMFusionGenerationPipeline",
    "MMFusionMultiTaskPipeline",
    "MMFusionQuestionAnsweringPipeline",
    "MMFusionSpeechRecognitionPipeline",
]
