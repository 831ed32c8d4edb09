# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Pipelines from raw rows to answers. They travel with the checkpoint, since the library has dropped these tasks."""

from collections.abc import Iterable, Sized
from os import PathLike
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .image import is_picture, open_image
from .processing_mm_fusion import decode_as_written
from .series import as_steps, has_no_steps
from .sound import load_sound
from .video import load_frames


class MMFusionClassificationPipeline(Pipeline):
    """Classifies rows `{"image": …, "text": …, "audio": …, "table": …, "series": …}`, any of which may be missing or
    None; in place of the image `"video"`, where the model was trained on videos.

    An image is a PIL image, an array, a path, a URL, the bytes of a file, or a dict of `bytes` and `path`; a sound is
    a path, the bytes of a file, or a dict of `array` and `sampling_rate` (or of `bytes` and `path`), and is resampled
    where that is needed; a video is a path, the bytes of a file, or a list of images; a table's row is a dict of its
    columns; a time series is a list of steps, each a list of numbers. Returns
    for each row `[{"score", "label"}, …]`, best first; for several labels at once the scores are independent
    probabilities, for a regression they are the predicted values.

    Args of a call:
        top_k (`int`, defaults to 5): how many; None for all.
        batch_size (`int`, defaults to 1): rows that go through the model together; equal texts, and images that are
            the same object, path or URL, are encoded once.

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

    def _sanitize_parameters(self, top_k: int | str | None = "unset", **processor_kwargs):
        postprocess_params = {} if top_k == "unset" else {"top_k": top_k}
        return {}, processor_kwargs, postprocess_params

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Loads the image of a row; the rest waits until the batch is complete.

        Raises:
            ValueError: a row that is not a dict with at least one known key, or has what the model does not read.
        """
        known = ("image", "text", "question", "audio", "table", "video", "series")
        if not isinstance(inputs, dict) or not set(inputs) & set(known) or not set(inputs) <= set(known):
            raise ValueError(f"A row must be a dict with keys out of {known}, got {inputs!r}.")
        source, text = inputs.get("image"), inputs.get("text", inputs.get("question"))
        modalities = self.model.config.modalities
        sound, table, video, series = (inputs.get(key) for key in ("audio", "table", "video", "series"))
        if source is not None and video is not None:
            raise ValueError("A row has an image or a video, not both.")
        own = {"text": text, "audio": sound, "series": series}
        given = [("image", source, "vision"), ("table", table, "tabular"), ("video", video, "vision")]
        for key, value, modality in (*given, *((key, value, key) for key, value in own.items())):
            if value is not None and modality not in modalities:
                raise ValueError(f"The row has {key} {value!r:.80}, but this model reads {modalities} alone.")
        processor: Any = self.processor
        series = None if has_no_steps(series) else as_steps(series)
        if sound is not None:
            sound = load_sound(sound, processor.feature_extractor.sampling_rate)
        # The source goes along because loading makes a new object: equal sources are one image.
        image: Any = None if source is None else open_image(source, processor.image_background)
        if video is not None:
            image, source = load_frames(video, self.model.config.num_images, processor.image_background), video
        return {"image": image, "source": source, "text": text, "audio": sound, "table": table, "series": series}

    def _forward(self, model_inputs: dict | list[dict], **processor_kwargs) -> dict[str, torch.Tensor]:
        logits = self.model(**self._batch(model_inputs, **processor_kwargs)).logits
        return logits if isinstance(logits, dict) else {"logits": logits}

    def _batch(self, model_inputs: dict | list[dict], **processor_kwargs) -> dict[str, torch.Tensor]:
        """The model's inputs, equal items once."""
        rows = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        loaded: dict[Any, Any] = {}
        for row in rows:
            source = row["source"]
            row["image"] = loaded.setdefault(source if isinstance(source, str) else id(source), row["image"])
        columns: dict[str, Any] = {
            name: [row[key] for row in rows]
            for name, key in {"images": "image", **{key: key for key in ("text", "audio", "table", "series")}}.items()
            if any(row[key] is not None for row in rows)
        }
        if not columns:
            raise ValueError("A row needs an image, a text, a sound, a table's row, a video or a series.")
        processor: Any = self.processor
        if "audio" in columns:
            columns["sampling_rate"] = processor.feature_extractor.sampling_rate
        return processor(**columns, deduplicate=True, **processor_kwargs).to(self.device)

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5) -> Any:
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
        items."""
        kind = PipelineDataset if isinstance(inputs, Sized) else PipelineIterator
        rows = kind(inputs, self.preprocess, preprocess_params)
        batches = DataLoader(rows, num_workers=num_workers, batch_size=batch_size, collate_fn=list)
        outputs = PipelineIterator(batches, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)


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

    def postprocess(self, model_outputs: dict[str, torch.Tensor], top_k: int | None = 5) -> Any:
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

    def _sanitize_parameters(self, **processor_kwargs):
        return {}, processor_kwargs, {}

    def _forward(self, model_inputs: dict | list[dict], **processor_kwargs) -> dict[str, torch.Tensor]:
        outputs = self.model(**self._batch(model_inputs, **processor_kwargs))
        return {key: outputs[f"{key}_embeds"] for key in ("text", "image", "audio") if f"{key}_embeds" in outputs}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Gives what one row has."""
        embeddings = {key: values[0].float() for key, values in model_outputs.items() if values[0].any()}
        found: dict[str, Any] = {key: values.tolist() for key, values in embeddings.items()}
        if len(embeddings) == 2:
            one, other = embeddings.values()
            found["similarity"] = (one @ other).item()
        return found


class ImageAndQuestion:
    """Of pipelines that take an image and a question as arguments of their own."""

    def __call__(self, image: Any, question: str | list[str] | None = None, **kwargs):
        """See the class; `image` takes rows too."""
        ask: Any = super().__call__  # type: ignore[misc]
        if question is None:
            return ask(image, **kwargs)
        if isinstance(image, Iterable) and not isinstance(image, dict) and not is_picture(image):
            questions = [question] if isinstance(question, str) else question
            return ask([{"image": i, "question": q} for i in image for q in questions], **kwargs)
        if isinstance(question, str):
            return ask({"image": image, "question": question}, **kwargs)
        processor: Any = getattr(self, "processor", None)
        if image is not None:  # once for all its questions
            image = open_image(image, processor.image_background)
        return ask([{"image": image, "question": q} for q in question], **kwargs)


class MMFusionQuestionAnsweringPipeline(ImageAndQuestion, MMFusionClassificationPipeline):
    """Answers questions about images, with the inputs and outputs of transformers 4's `visual-question-answering`.

    Takes rows `{"image": …, "question": …}`, one or a list, or `image=` and `question=`: one of each, one image and
    many questions, or lists of both, of which every pair is asked. Returns `[{"score", "answer"}, …]` for each row.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> answer = pipeline("visual-question-answering", model="me/checkpoint", trust_remote_code=True)
    >>> answer({"image": "circle.png", "question": "what colour is the shape?"}, top_k=1)
    >>> answer(image="circle.png", question=["what colour is the shape?", "is it a circle?"])
    ```
    """

    label_key = "answer"


class MMFusionGenerationPipeline(MMFusionClassificationPipeline):
    """Writes about images and texts, with the inputs and outputs of transformers 4's `image-to-text`.

    Takes an image (see the pipeline above) or a row `{"image": …, "text": …}`, either of which may be missing, or many
    of them. Returns for each `[{"score", "generated_text"}, …]`; the score is the probability of the whole text.

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
        for name in ("max_new_tokens", "num_beams", "num_return_sequences", "do_sample", "temperature"):
            if name in kwargs:
                chosen[name] = kwargs.pop(name)
        return {}, {"generate_kwargs": chosen, **kwargs}, {}

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """Takes an image alone too; see the method of the base class."""
        return super().preprocess({"image": inputs} if is_picture(inputs) else inputs)

    def _forward(self, model_inputs: dict | list[dict], generate_kwargs: dict | None = None, **processor_kwargs):
        batch = self._batch(model_inputs, **processor_kwargs)
        model: Any = self.model
        settings = {"return_dict_in_generate": True, "output_scores": True, **(generate_kwargs or {})}
        written = model.generate(**batch, **settings)
        steps = model.compute_transition_scores(
            written.sequences, written.scores, written.get("beam_indices"), normalize_logits=True
        )
        tokens = written.sequences[:, -steps.shape[1] :]
        # Behind the end there is padding, whatever its scores.
        end = settings.get("eos_token_id", model.generation_config.eos_token_id)  # None, one or several
        ends = torch.isin(tokens, torch.tensor([] if end is None else end, device=tokens.device)).long()
        steps = steps.masked_fill(ends.cumsum(1) - ends > 0, 0)
        rows = len(model_inputs) if isinstance(model_inputs, list) else 1
        shape = (rows, len(written.sequences) // rows, -1)  # several texts a row
        return {"sequences": written.sequences.view(shape), "scores": steps.sum(1).exp().view(shape[:2])}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> Any:
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

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """Takes a sound alone too; see the method of the base class."""
        alone = isinstance(inputs, (str, bytes, PathLike)) or (
            isinstance(inputs, dict) and {"array", "raw", "bytes", "path"} & set(inputs)
        )
        return super().preprocess({"audio": inputs} if alone else inputs)

    def _forward(self, model_inputs: dict | list[dict], generate_kwargs: dict | None = None, **processor_kwargs):
        batch = self._batch(model_inputs, **processor_kwargs)
        if (generate_kwargs or {}).get("num_return_sequences", 1) != 1:
            raise ValueError("There is one text for each sound: num_return_sequences must be 1.")
        model: Any = self.model
        return {"sequences": model.generate(**batch, **(generate_kwargs or {}))}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> Any:
        """Spells out the text of one row."""
        processor: Any = self.processor
        text = decode_as_written(processor.tokenizer, model_outputs["sequences"][0], skip_special_tokens=True)
        return {"text": text.strip()}


__all__ = [
    "MMFusionClassificationPipeline",
    "MMFusionFreeAnswerPipeline",
    "MMFusionGenerationPipeline",
    "MMFusionMultiTaskPipeline",
    "MMFusionQuestionAnsweringPipeline",
    "MMFusionSpeechRecognitionPipeline",
]
