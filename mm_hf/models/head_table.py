# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""One table of all model classes that have a head, and the problems that they solve. Other things follow from it: what
a checkpoint names so that `trust_remote_code` finds its classes, its pipelines, and the heads that a recipe can
choose."""

from dataclasses import dataclass
from typing import Any


# The values of a recipe's key `task`.
QUESTION_ANSWERING, CLASSIFICATION, MULTI_TASK = "question_answering", "classification", "multi_task"
RETRIEVAL, GENERATION, CTC = "retrieval", "generation", "ctc"
# The problem types of a column of labels, as the config names them. Heads from outside are added on registration.
REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"
PROBLEM_TYPES = [REGRESSION, SINGLE_LABEL, MULTI_LABEL]


@dataclass(frozen=True)
class HeadEntry:
    """One class of models.

    Args:
        task: the name that a recipe uses for it.
        class_name: the name of the class.
        module: the file that contains it.
        auto_class: the Auto class that finds it.
        pipelines: by the name of a pipeline, its class, see `pipelines_mm_fusion`; the first pipeline is the usual
            one.
        everywhere: whether its file travels with every checkpoint, which names it whichever class was saved.
        by_columns: whether the kinds of the data's columns show that this class is meant.
    """

    task: str
    class_name: str
    module: str
    auto_class: str
    pipelines: dict[str, str]
    everywhere: bool = False
    by_columns: bool = False

    @property
    def reference(self) -> str:
        """The class, in the form of `auto_map`."""
        return f"{self.module}.{self.class_name}"


HEAD_TABLE = (
    HeadEntry(
        QUESTION_ANSWERING,
        "MMFusionForQuestionAnswering",
        "modeling_mm_fusion",
        "AutoModelForVisualQuestionAnswering",
        {"visual-question-answering": "MMFusionQuestionAnsweringPipeline"},
        everywhere=True,
        by_columns=True,
    ),
    HeadEntry(
        CLASSIFICATION,
        "MMFusionForClassification",
        "modeling_mm_fusion",
        "AutoModelForSequenceClassification",
        {"multimodal-classification": "MMFusionClassificationPipeline"},
        everywhere=True,
    ),
    HeadEntry(
        MULTI_TASK,
        "MMFusionForMultiTask",
        "modeling_mm_fusion",
        "AutoModel",
        {"multimodal-multi-task": "MMFusionMultiTaskPipeline"},
        by_columns=True,
    ),
    HeadEntry(
        RETRIEVAL,
        "MMFusionForRetrieval",
        "retrieval_mm_fusion",
        "AutoModelForZeroShotImageClassification",
        {"multimodal-feature-extraction": "MMFusionFeatureExtractionPipeline"},
    ),
    HeadEntry(
        CTC,
        "MMFusionForCTC",
        "ctc_mm_fusion",
        "AutoModelForCTC",
        {"automatic-speech-recognition": "MMFusionSpeechRecognitionPipeline"},
    ),
    HeadEntry(
        GENERATION,
        "MMFusionForConditionalGeneration",
        "generation_mm_fusion",
        "AutoModelForImageTextToText",
        {
            "image-to-text": "MMFusionGenerationPipeline",
            "visual-question-answering": "MMFusionFreeAnswerPipeline",
            "automatic-speech-recognition": "MMFusionSpeechRecognitionPipeline",
        },
    ),
)

# The names of pipelines that are tasks of the Hub, and the modalities that they take.
HUB_TASKS = {
    "visual-question-answering": {"vision", "text"},
    "image-to-text": {"vision"},
    "automatic-speech-recognition": {"audio"},
}

# What a checkpoint must name so that `trust_remote_code` finds every class, whichever class was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_mm_fusion.MMFusionConfig",
    "AutoModel": "modeling_mm_fusion.MMFusionModel",
    "AutoProcessor": "processing_mm_fusion.MMFusionProcessor",
    **{head.auto_class: head.reference for head in HEAD_TABLE if head.everywhere},
}
# What the checkpoints of some classes name in addition, or differently: files that travel only with them.
AUTO_MAP_OF = {head.class_name: {head.auto_class: head.reference} for head in HEAD_TABLE if not head.everywhere}


def custom_pipelines(head: HeadEntry) -> dict[str, Any]:
    """The pipelines of a head, in the form that the library reads from a config."""
    return {
        name: {"impl": f"pipelines_mm_fusion.{pipeline}", "pt": [head.auto_class], "type": "multimodal"}
        for name, pipeline in head.pipelines.items()
    }


CUSTOM_PIPELINES = {head.class_name: custom_pipelines(head) for head in HEAD_TABLE}
