"""Pipelines for a checkpoint: from a folder, from the Hub, or from a model in memory."""

import os
from typing import Any

from transformers import AutoProcessor, Pipeline, PreTrainedModel

from .heads import HEADS
from .models import pipelines_mm_fusion
from .models.configuration_mm_fusion import MMFusionConfig
from .models.generation_mm_fusion import MMFusionForConditionalGeneration
from .models.head_table import HEAD_TABLE
from .models.names import did_you_mean
from .models.pretrained_mm_fusion import HUB_KEYS, LOADING_KEYS
from .models.sound import Sound


# For the name of each pipeline the heads that it works with, the usual one first.
PIPELINES = {
    tag: [head for head in HEAD_TABLE if tag in head.pipelines] for one in HEAD_TABLE for tag in one.pipelines
}


def pipeline(
    task: str | None = None,
    model: Any = None,
    processor=None,
    device: Any = None,
    batch_size: int | None = None,
    **kwargs: Any,
) -> Pipeline:
    """Makes a pipeline without `trust_remote_code`, because the code is this package's own.

    Args:
        task: one of `PIPELINES`; left out, the task that the checkpoint was saved for.
        model (`str`, `os.PathLike` or `PreTrainedModel`): local folder or Hub id of a checkpoint, or a model.
        processor: its processor; left out, the one in the checkpoint. Required for a model in memory.
        device, batch_size: as in `transformers.pipeline`.
        kwargs: options for loading (`revision`, `token`, `dtype`…). All others are default arguments of each call
            (`top_k`, `max_new_tokens`, `on_error`…); a call may give its own.

    Raises:
        ValueError: no model, an unknown task or argument, or a model in memory without its processor.
    """
    if model is None:
        hint = "" if task is None or task in PIPELINES else f" Got {task!r:.80} as the task: say model=…."
        raise ValueError(f"pipeline needs model=…: a folder, a Hub id, or a model in memory.{hint}")
    if not isinstance(model, (str, os.PathLike, PreTrainedModel)):
        raise ValueError(f"model must be a folder, a Hub id, or a model in memory, got {type(model).__name__}.")
    if processor is not None and not hasattr(processor, "present_parts"):
        raise ValueError(f"processor must be a MMFusionProcessor, got {processor!r:.80}.")
    hub_kwargs = {key: kwargs.pop(key) for key in (*HUB_KEYS, *LOADING_KEYS) if key in kwargs}
    if isinstance(model, PreTrainedModel):
        config, names = model.config, [type(model).__name__]
    else:
        config = MMFusionConfig.from_pretrained(model, **hub_kwargs)
        names = config.architectures or []
    writes = MMFusionForConditionalGeneration.__name__ in names
    if task is None and writes:  # the pipeline that fits what it can be asked
        task = "visual-question-answering" if len(config.modalities) > 1 else "image-to-text"
        task = "automatic-speech-recognition" if Sound.name in config.modalities else task
    if task is None:
        task = next((tag for head in HEAD_TABLE if head.class_name in names for tag in head.pipelines), None)
        if task is None:
            raise ValueError(f"There is no pipeline for {names}; give task=…, one of {sorted(PIPELINES)}.")
    if task not in PIPELINES:
        meant = did_you_mean(task, PIPELINES)
        raise ValueError(f"Unknown task {task!r}: it must be one of {sorted(PIPELINES)}.{meant}")
    head = next((head for head in PIPELINES[task] if head.class_name in names), PIPELINES[task][0])
    if not isinstance(model, PreTrainedModel):
        processor = AutoProcessor.from_pretrained(model, **hub_kwargs) if processor is None else processor
        model = HEADS[head.task].from_pretrained(model, **hub_kwargs)
    if processor is None:
        raise ValueError(f"For a model in memory, here {type(model).__name__}, give its processor too: processor=….")
    device = model.device if device is None else device
    pipeline_class = getattr(pipelines_mm_fusion, head.pipelines[task])
    return pipeline_class(model=model, processor=processor, task=task, device=device, batch_size=batch_size, **kwargs)
