"""What `runtime.py` has to know to say answers: labels, scales, temperatures, what a text starts and ends with."""

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
MOST_TOKENS = 20  # of the library, where nobody says how long a text may become
# Of a generation config what greedy search without more can do as well; anything else changes what is written.
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
    """How the answers of a model are said, and what is to be said of it to whoever exports.

    Args:
        model: with a head.
        memory: of one that writes, what `cache_shapes` gives.

    Raises:
        NotImplementedError: a model of a class, or with a head, from outside the package.
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
    raise NotImplementedError(f"{type(model).__name__} has no head of mm_hf, and nobody knows what it would answer.")


def task_of(name: str | None, output: str, head: TaskHead, labels: Any) -> dict[str, Any]:
    """One task."""
    kind = type(head)
    if kind.probabilities is not TaskHead.probabilities or kind.said is not TaskHead.said:
        raise NotImplementedError(
            f"The head {head.name!r} makes probabilities in a way of its own, which the runtime does not know."
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
    """What the outputs of a regression are called."""
    return [name] if head.num_labels == 1 else [f"{name} {place}" for place in range(head.num_labels)]


def text_key(model: MMFusionPreTrainedModel) -> str:
    """Under which the usual pipeline of a model that writes (see `mm_hf.pipeline`) gives its texts: that of speech
    where it hears, that of questions where it can be asked, else that of captions."""
    modalities = model.config.modalities
    if isinstance(model, MMFusionForCTC) or Sound.name in modalities:
        return Text.row_keys[0]
    return ANSWER if len(modalities) > 1 else WRITTEN


def writing_of(model: MMFusionForConditionalGeneration, cache: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Of a model that writes."""
    settings: Any = model.generation_config
    ends: Any = settings.eos_token_id if settings.eos_token_id is not None else model.config.eos_token_id
    most = settings.max_new_tokens or (settings.max_length - 1 if settings.max_length else MOST_TOKENS)
    notes = [
        f"{name} is {getattr(settings, name)!r}, and the runtime writes the likeliest token each time, without it"
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
