# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The classes of models that have a head, in one table, and the problems that they solve. From it follow what a
checkpoint names so that `trust_remote_code` finds its classes, its pipelines, and the heads that a recipe can ask
for."""

from dataclasses import dataclass
from typing import Any


# The values of a recipe's key `task`.
QUESTION_ANSWERING, CLASSIFICATION, MULTI_TASK = "question_answering", "classification", "multi_task"
RETRIEVAL, GENERATION, CTC = "retrieval", "generation", "ctc"
# What a column of labels may be, as the config names it. Heads from outside are added when they are registered.
REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"
PROBLEM_TYPES = [REGRESSION, SINGLE_LABEL, MULTI_LABEL]


@dataclass(frozen=True)
class HeadEntry:
    """One class of models.

    Args:
        task: under which a recipe asks for it.
        class_name: its name.
        module: the file that it is in.
        auto_class: that finds it.
        pipelines: by the name of a pipeline the class that answers, see `pipelines_mm_fusion`; the first is the usual
            one.
        everywhere: its file travels with every checkpoint, which names it whatever class was saved.
        by_columns: what the columns of the data are tells that it is meant.
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
        """The class, as `auto_map` names it."""
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

# Of the pipelines' names those that are tasks of the Hub, and the modalities that they take.
HUB_TASKS = {
    "visual-question-answering": {"vision", "text"},
    "image-to-text": {"vision"},
    "automatic-speech-recognition": {"audio"},
}

# What a checkpoint must name for `trust_remote_code` to find every class, whichever class was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_mm_fusion.MMFusionConfig",
    "AutoModel": "modeling_mm_fusion.MMFusionModel",
    "AutoProcessor": "processing_mm_fusion.MMFusionProcessor",
    **{head.auto_class: head.reference for head in HEAD_TABLE if head.everywhere},
}
# What the checkpoints of single classes name otherwise, or in addition: files that travel with them alone.
AUTO_MAP_OF = {head.class_name: {head.auto_class: head.reference} for head in HEAD_TABLE if not head.everywhere}


def custom_pipelines(head: HeadEntry) -> dict[str, Any]:
    """The pipelines of a head, as the library reads them from a config."""
    return {
        name: {"impl": f"pipelines_mm_fusion.{pipeline}", "pt": [head.auto_class], "type": "multimodal"}
        for name, pipeline in head.pipelines.items()
    }


CUSTOM_PIPELINES = {head.class_name: custom_pipelines(head) for head in HEAD_TABLE}
