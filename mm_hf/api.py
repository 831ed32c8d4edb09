"""All public names of `mm_hf`. Importing this module registers the classes with the Auto classes of transformers."""

from . import evidence
from .columns_of_data import understand
from .hub import pipeline
from .models.configuration_mm_fusion import FusionModuleConfig, MMFusionConfig
from .models.ctc_mm_fusion import MMFusionForCTC
from .models.fusion import FUSIONS, Fusion, register_fusion
from .models.generation_mm_fusion import MMFusionForConditionalGeneration
from .models.modeling_mm_fusion import (
    MMFusionForClassification,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionModel,
)
from .models.modeling_outputs import EncoderStates, FusedStates, FusionMemory, TokenStates
from .models.pipelines_mm_fusion import (
    MMFusionClassificationPipeline,
    MMFusionFeatureExtractionPipeline,
    MMFusionFreeAnswerPipeline,
    MMFusionGenerationPipeline,
    MMFusionMultiTaskPipeline,
    MMFusionQuestionAnsweringPipeline,
    MMFusionSpeechRecognitionPipeline,
)
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel
from .models.processing_mm_fusion import MMFusionProcessor
from .models.recurrent import RecurrentConfig
from .models.retrieval_mm_fusion import MMFusionForRetrieval
from .models.series import SeriesScaler
from .models.tabular import TableSchema, TabularConfig


__all__ = [
    "FUSIONS",
    "EncoderStates",
    "FusedStates",
    "Fusion",
    "FusionMemory",
    "FusionModuleConfig",
    "MMFusionClassificationPipeline",
    "MMFusionConfig",
    "MMFusionFeatureExtractionPipeline",
    "MMFusionForCTC",
    "MMFusionForClassification",
    "MMFusionForConditionalGeneration",
    "MMFusionForMultiTask",
    "MMFusionForQuestionAnswering",
    "MMFusionForRetrieval",
    "MMFusionFreeAnswerPipeline",
    "MMFusionGenerationPipeline",
    "MMFusionModel",
    "MMFusionMultiTaskPipeline",
    "MMFusionPreTrainedModel",
    "MMFusionProcessor",
    "MMFusionQuestionAnsweringPipeline",
    "MMFusionSpeechRecognitionPipeline",
    "RecurrentConfig",
    "SeriesScaler",
    "TableSchema",
    "TabularConfig",
    "TokenStates",
    "evidence",
    "pipeline",
    "register_fusion",
    "understand",
]
