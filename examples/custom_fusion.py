"""A fusion of one's own: the product of one vector a modality. Read it from top to bottom.

    mm_hf train rows.csv --label kind --import examples/custom_fusion.py --fusion product
    mm_hf predict runs/rows new.csv -o kinds.csv                # the run's folder says what it imports

In Python: `import custom_fusion`, then `MMFusionForClassification.from_encoders_pretrained(fusion="product", …)`. This
file does not travel with checkpoints: whoever loads one has to import it first.
"""

import torch
from torch import nn

from mm_hf import register_fusion
from mm_hf.models.pooled_fusions import PooledFusion


@register_fusion("product")
class ProductFusion(PooledFusion):
    """Low-rank bilinear pooling (Kim et al. 2017, with tanh): each modality is mapped to features, whose
    product says what all of them say at once, where a sum would say what any of them says."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        width = config.hidden_size
        self.features = nn.ModuleList(nn.Linear(width, width) for _ in modalities)
        self.readout = nn.Linear(width, width)

    def combine(self, vectors):
        """Makes one vector `(B, D)` of one a modality; a row without an item has the learned absent vector there."""
        features = [feature(vector).tanh() for feature, vector in zip(self.features, vectors)]
        return self.deepen(self.readout(torch.stack(features).prod(0)))  # through `num_hidden_layers` blocks
