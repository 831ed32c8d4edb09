"""The heads that a recipe can ask for, by the names of its key `task`."""

from .. import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionPreTrainedModel,
)
from ..models.ctc_mm_fusion import CTC
from ..models.generation_mm_fusion import GENERATION
from .model_arguments import RETRIEVAL


HEADS: dict[str, type[MMFusionPreTrainedModel]] = {
    "question_answering": MMFusionForQuestionAnswering,
    "classification": MMFusionForClassification,
    "multi_task": MMFusionForMultiTask,
    RETRIEVAL: MMFusionForRetrieval,
    GENERATION: MMFusionForConditionalGeneration,
    CTC: MMFusionForCTC,
}
# By the name of a head's class its task, where the columns of the data do not tell it.
TASK_OF = {head.__name__: task for task, head in HEADS.items() if task not in ("question_answering", "multi_task")}
