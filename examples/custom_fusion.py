"""Your own fusion: the product of one vector per modality. Read it from top to bottom.

    mm_hf train rows.csv --label kind --import examples/custom_fusion.py --fusion product
    mm_hf predict runs/rows new.csv -o kinds.csv                # the run's folder names the imported file

In Python: `import custom_fusion`, then `MMFusionForClassification.from_encoders_pretrained(fusion="product", …)`. This
file is not part of checkpoints: import it before you load one.
"""

import torch
from torch import nn

from mm_hf import register_fusion
from mm_hf.models.pooled_fusions import PooledFusion


@register_fusion("product")
class ProductFusion(PooledFusion):
    """Low-rank bilinear pooling (Kim et al. 2017, with tanh): each modality is mapped to features, which are
    multiplied. A product is large only if all factors are large, and a sum is large if any of them is."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        width = config.hidden_size
        self.features = nn.ModuleList(nn.Linear(width, width) for _ in modalities)
        self.readout = nn.Linear(width, width)

    def combine(self, vectors):
        """Combines one vector per modality into one `(B, D)`. A missing item is replaced by a learned vector."""
        features = [feature(vector).tanh() for feature, vector in zip(self.features, vectors)]
        return self.deepen(self.readout(torch.stack(features).prod(0)))  # through `num_hidden_layers` blocks
