"""mm_hf: fuse pretrained encoders of any modality by cross-attention, and keep the result as one Hub checkpoint.

Importing this package registers the config, the models and the processor with the Auto classes of transformers.
"""

from .models.configuration_mm_fusion import MMFusionConfig, MMFusionLayersConfig
from .models.fusion import FUSIONS, Fusion, register_fusion
from .models.modeling_mm_fusion import MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionModel


__version__ = "0.1.0"
