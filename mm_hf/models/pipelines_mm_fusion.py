# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Pipelines from raw rows to answers. They travel with the checkpoint, since the library has dropped these tasks."""

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
    """Classifies rows `{"image": …, "text": …, "audio": …, "table": …, "series": …}`, any of which may be missing,
    None or NaN; in place of the image `"video"`, where the model was trained on videos, or beside it, where it was
    trained on both.

    An image is a PIL image, a path, a URL, the bytes of a file, a dict of `bytes` and `path`, or an array. A sound is
    a path, the bytes of a file, or a dict of `array` and `sampling_rate`, and is resampled where that is needed; a
    video is a path, the bytes of a file, or a list of PIL images; a table's row is a dict of its columns; a time
    series is a list of steps, each a list of numbers. Where the model takes several images (`config.num_images`),
    texts, sounds or series (`config.places`), they are a list in their places, None for a place without, as in
    `{"image": [front, None, kitchen]}`. Modalities from outside the package have the keys that they say.

    Takes one row or many: a list, a tuple or a table of pandas gives a list; a data set (of `datasets` or torch, a
    `KeyDataset`) or a generator gives an iterator, and is read row by row. Returns for each row `[{"score", "label"},
    …]`, best first; for several labels at once the scores are independent probabilities, for a regression they are
    the predicted values.

    Args of a call:
        top_k (`int`, defaults to 5): how many; None for all.
        coverage (`float`, *optional*): such as 0.9: in place of the `top_k` best ones all labels of a set that holds
            the true one (of several labels all true ones) in this share of new rows; numbers have `"low"` and `"high"`
            beside their score. For models that were calibrated, see `mm_hf evaluate --calibrate`.
        abstain_below (`float`, *optional*): of one of several classes: an empty list where the best score is below it.
        costs (`dict`, *optional*): of one of several classes what answers cost, `{"wrong": {"cat": 5, "dog": 1},
            "abstain": 0.5}`: for each class what another answer costs where it is the truth (one number: any class),
            and what no answer costs; of several tasks by task. In place of the best ones the answer is the label of
            least expected cost, with `"expected_cost"`, and an empty list where none is cheaper.
        batch_size (`int`, defaults to 1): rows that go through the model together; equal texts, and all else that is
            the same object, path or URL, are encoded once.
        on_error (`str`, defaults to `"raise"`): a row that cannot be read, or whose scores are no finite numbers,
            stops the call with an error that names it; with `"skip"` its answer is None, and the others are answered.
            A warning says which row and why, without what the row holds: logs are kept, and others read them.
        evidence (`bool`, defaults to `False`): the answer to a row is then a dict of `"answer"`, as it is else, and
            `"evidence"`, what each modality of the row gave to it: see `evidence_of`. Each row is encoded once.
        background (`list`, *optional*): rows whose items stand in for a modality that is taken away; left out, the
            learned token of an absent item does (`"absence"` of the evidence says which). Some eight to thirty rows
            that are like those of the training say most.
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
                raise ValueError(f"costs choose one answer, or none: leave out {', '.join(others)}.")
            asked["costs"] = self._costs(costs)
        return preprocess_params, forward_params, asked if top_k == "unset" else {"top_k": top_k, **asked}

    def _heads(self) -> dict[str | None, TaskHead]:
        """By task what is answered; that of a single task by None."""
        return {None: head_of_config(self.model.config)}

    def _check_confidence(self, coverage: float | None = None, abstain_below: float | None = None):
        """Refuses what the model cannot give, before any row is read."""
        heads = self._heads().values() if coverage is not None or abstain_below is not None else []
        if coverage is not None:
            for head in heads:
                head.threshold(coverage)
        if abstain_below is not None:
            check_share("abstain_below", abstain_below)
            if not any(head.label_kind == CLASSES for head in heads):
                kinds = sorted({head.name for head in heads})
                raise ValueError(f"abstain_below is for one of several classes, and this model answers {kinds}.")

    def _costs(self, costs: Mapping) -> dict[str | None, Costs]:
        """The costs of answers, checked, by task; None of the only one."""
        heads = {name: head for name, head in self._heads().items() if head.label_kind == CLASSES}
        if not heads:
            kinds = sorted({head.name for head in self._heads().values()})
            raise ValueError(f"costs are for one of several classes, and this model answers {kinds}.")
        several = None not in heads
        if several and not (isinstance(costs, Mapping) and set(costs) <= set(heads)):
            raise ValueError(f"costs of several tasks are a dict by task, of {list(heads)}; got {shown(costs)}.")
        tables: Mapping = costs if several else {None: costs}
        return {
            task: costs_of("costs", table, [str(label) for label in self._labels(task, heads[task])])
            for task, table in tables.items()
        }

    def _labels(self, task: str | None, head: TaskHead) -> list:
        """What its outputs are called, in their order."""
        names: Any = self.model.config.id2label
        return [names[number] for number in range(len(names))]

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5, **asked: Any) -> Any:
        """Turns the logits of one row into its best labels."""
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
            count = int(head.answer_set(logits, coverage).sum())  # the likeliest ones
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

    def _heads(self):
        return dict(self.model.config.task_heads)

    def _labels(self, task, head):
        if head.labels:
            return list(head.labels)
        return [task if head.num_labels == 1 else f"{task} {place}" for place in range(head.num_labels)]

    def spell(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5, **asked: Any) -> Any:
        """Turns the logits of one row into the best labels of each task."""
        heads = self._heads()
        return {name: self._best(model_outputs[name][0], name, head, top_k, **asked) for name, head in heads.items()}


class MMFusionFeatureExtractionPipeline(MMFusionPipeline):
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

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
        outputs = self.model(**batch)
        keys = [modality.row_keys[0] for modality in MODALITIES.values()]
        return {key: outputs[f"{key}_embeds"] for key in keys if f"{key}_embeds" in outputs}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Gives what one row has."""
        embeddings = {
            key: values[0].float() for key, values in model_outputs.items() if key != "reasons" and values[0].any()
        }
        answer: dict[str, Any] = {key: values.tolist() for key, values in embeddings.items()}
        if len(embeddings) == 2:
            one, other = embeddings.values()
            answer["similarity"] = (one @ other).item()
        return answer


class ImageAndQuestion:
    """Of pipelines that take an image and a question as arguments of their own."""

    def __call__(self, image: Any = None, question: Any = None, **kwargs):
        """See the class; `image` takes rows too."""
        call: Any = super().__call__  # type: ignore[misc]
        if question is None:
            if image is None:
                raise ValueError("Give image= and question=, or rows {'image': …, 'question': …}.")
            return call(image, **kwargs)
        if isinstance(image, Mapping) and set(image) & set(row_keys()):
            raise ValueError(f"Give question= beside an image, or in the row: got {question!r:.80} and {image!r:.80}.")
        one_image, one_question = is_one_image(image), is_one(question)
        if one_image and one_question:
            return call({"image": image, "question": question}, **kwargs)
        if one_image and not is_missing(image):
            with contextlib.suppress(Exception):  # once for all its questions; what cannot be read, the rows say
                image = open_image(image, **picture_settings(self.processor))  # type: ignore[attr-defined]
        images = [image] if one_image else image
        questions = [question] if one_question else entries_of(question)
        if isinstance(images, Dataset) and isinstance(images, Sized):  # is read row by row
            return call(({"image": images[i], "question": q} for i in range(len(images)) for q in questions), **kwargs)
        return call([{"image": i, "question": q} for i in entries_of(images) for q in questions], **kwargs)


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


class MMFusionGenerationPipeline(MMFusionPipeline):
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
        generate_arguments = ["max_new_tokens", "num_beams", "num_return_sequences", "do_sample", "temperature"]
        for name in generate_arguments:
            if name in kwargs:
                chosen[name] = kwargs.pop(name)
        preprocess_params, forward_params = self._shared_parameters(kwargs, [*generate_arguments, "generate_kwargs"])
        return preprocess_params, {"generate_kwargs": chosen, **forward_params}, {}

    def as_row(self, inputs: Any) -> dict[str, Any]:
        """Takes an image alone too; see the method of the base class."""
        file = isinstance(inputs, Mapping) and bool({"bytes", "path"} & set(inputs))
        alone = file or (is_one_image(inputs) and not isinstance(inputs, Mapping))
        several = isinstance(inputs, (list, tuple)) and not hasattr(inputs, "_asdict")  # of one row
        return {"image": inputs} if several or (alone and not is_missing(inputs)) else super().as_row(inputs)

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
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

    def said_of(self, answers):
        """The first text of each row, without its start."""
        return {None: answers["sequences"][:, 0, 1:]}

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
        return {Sound.row_keys[0]: inputs} if alone else MMFusionPipeline.as_row(self, inputs)

    def answer(self, batch, rows, generate_kwargs) -> dict[str, torch.Tensor]:
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

    def said_of(self, answers):
        """The text of each row; a decoder's begins with a start."""
        return super().said_of(answers) if hasattr(self.model, "decoder") else {None: answers["sequences"][:, 0]}

    def spell(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Spells out the text of one row."""
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
