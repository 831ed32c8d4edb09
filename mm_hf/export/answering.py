"""The facts that `runtime.py` needs to give answers: labels, scales, temperatures, first and last tokens of a text."""

from typing import Any

from ..models.confidence import COVERAGES
from ..models.ctc_mm_fusion import MMFusionForCTC
from ..models.generation_mm_fusion import MMFusionForConditionalGeneration
from ..models.modeling_mm_fusion import MMFusionForClassification, MMFusionForMultiTask, MMFusionForQuestionAnswering
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from ..models.retrieval_mm_fusion import MMFusionForRetrieval
from ..models.sound import Sound
from ..models.tasks import TaskHead, head_of_config
from ..models.text import Text


LABEL, ANSWER, WRITTEN = "label", "answer", "generated_text"  # keys of the pipelines' answers
MOST_TOKENS = 20  # transformers' default for the length of a text
# Settings of a generation config, with the values that greedy search supports. Other values would change the text.
UNTOLD: dict[str, tuple] = {
    "num_beams": (None, 1),
    "do_sample": (None, False),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
}


def answering_of(model: MMFusionPreTrainedModel, memory: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """The part of the manifest about answers, and notes for the user.

    Args:
        model: a model with a head.
        memory: for a model that writes, the result of `cache_shapes`.

    Raises:
        NotImplementedError: the class of the model, or its head, is from outside the package.
    """
    config: Any = model.config
    if isinstance(model, MMFusionForRetrieval):
        return {"kind": "embeddings"}, []
    if isinstance(model, MMFusionForCTC):
        return {"kind": "moments", "label_key": text_key(model), "blank": model.blank}, []
    if isinstance(model, MMFusionForConditionalGeneration):
        return writing_of(model, memory or {})
    if isinstance(model, MMFusionForMultiTask):
        tasks = [
            task_of(name, f"logits_{number}", head, head.labels or names_of_numbers(name, head))
            for number, (name, head) in enumerate(model.tasks.items())
        ]
        return {"kind": "scores", "label_key": LABEL, "tasks": tasks}, []
    if isinstance(model, MMFusionForClassification):
        key = ANSWER if isinstance(model, MMFusionForQuestionAnswering) else LABEL
        head = head_of_config(config)
        labels = [config.id2label[number] for number in range(config.num_labels)]
        return {"kind": "scores", "label_key": key, "tasks": [task_of(None, "logits", head, labels)]}, []
    raise NotImplementedError(
        f"{type(model).__name__} is not a class of mm_hf with a head, so its answers cannot be exported."
    )


def task_of(name: str | None, output: str, head: TaskHead, labels: Any) -> dict[str, Any]:
    """The entry of one task."""
    kind = type(head)
    if kind.probabilities is not TaskHead.probabilities or kind.said is not TaskHead.said:
        raise NotImplementedError(
            f"The head {head.name!r} computes probabilities in its own way, which runtime.py does not support: serve "
            "the checkpoint with torch."
        )
    sure = head.confidence
    return {
        "name": name,
        "output": output,
        "kind": head.label_kind,
        "labels": list(labels),
        "temperature": 1.0 if sure is None else sure.temperature,
        "thresholds": [] if sure is None else [list(pair) for pair in zip(COVERAGES, sure.thresholds)],
        "label_scale": None if head.label_scale is None else list(head.label_scale),
    }


def names_of_numbers(name: str, head: TaskHead) -> list[str]:
    """The names of the outputs of a regression."""
    return [name] if head.num_labels == 1 else [f"{name} {place}" for place in range(head.num_labels)]


def text_key(model: MMFusionPreTrainedModel) -> str:
    """The key for the texts of a model that writes, as in its usual pipeline (see `mm_hf.pipeline`): the key for
    speech if it reads sounds, the key for questions if it has several modalities, else the key for captions."""
    modalities = model.config.modalities
    if isinstance(model, MMFusionForCTC) or Sound.name in modalities:
        return Text.row_keys[0]
    return ANSWER if len(modalities) > 1 else WRITTEN


def writing_of(model: MMFusionForConditionalGeneration, cache: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The part of the manifest about a model that writes, and notes."""
    settings: Any = model.generation_config
    ends: Any = settings.eos_token_id if settings.eos_token_id is not None else model.config.eos_token_id
    most = settings.max_new_tokens or (settings.max_length - 1 if settings.max_length else MOST_TOKENS)
    notes = [
        f"{name} is {getattr(settings, name)!r}, but the runtime ignores it: it always takes the most probable token"
        for name, plain in UNTOLD.items()
        if getattr(settings, name, None) not in plain
    ]
    key = text_key(model)
    return {
        "kind": "written",
        "label_key": key,
        "text_alone": key == Text.row_keys[0],
        "start": model.config.decoder_start_token_id,
        "ends": [ends] if isinstance(ends, int) else list(ends),
        "pad": settings.pad_token_id if settings.pad_token_id is not None else model.config.pad_token_id,
        "max_new_tokens": most,
        "positions": getattr(model.config.decoder_config, "max_position_embeddings", None),
        "cache": {name: list(shape) for name, shape in cache.items()},
    }, notes
