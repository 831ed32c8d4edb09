"""A modality of one's own: a point on the map, latitude and longitude. Read it from top to bottom.

    mm_hf train homes.csv --import examples/custom_modality.py --place_columns latitude longitude --label price
    mm_hf predict runs/homes new.csv -o prices.csv              # the run's folder says what it imports

Beside other columns as any modality: `--text_column advert`. In Python: `import custom_modality`, and `extra_configs`,
`extra_parts` of model and processor. This file does not travel with checkpoints: whoever loads one has to import it
first.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from mm_hf.data import BadRowError
from mm_hf.data.modalities import ModalityReader, register_reader
from mm_hf.models.modality import Modality, register_modality


# 1. The encoder: its config and its model, as any of the library. Their code does not travel.


class PlaceConfig(PreTrainedConfig):
    """Args: scales: how many, each half as wide as the one before; hidden_size: width of the tokens."""

    model_type = "example_place"
    scales: int = 8
    hidden_size: int = 64


class PlaceModel(PreTrainedModel):
    """One token a scale, made of sines and cosines of the point at that scale (Space2Vec, Mai et al. 2020): the first
    tells the sides of the map, the last one street from the next."""

    config_class = PlaceConfig
    main_input_name = "place_values"

    def __init__(self, config: PlaceConfig):
        super().__init__(config)
        self.weights = nn.Parameter(torch.zeros(config.scales, 6, config.hidden_size))
        self.biases = nn.Parameter(torch.zeros(config.scales, config.hidden_size))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self:
            init.normal_(self.weights, std=6**-0.5)
            init.normal_(self.biases, std=6**-0.5)

    def forward(self, place_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Tokens `(U, scales, H)` of points `(U, 3)` float, see `PlaceScaler`."""
        factors = 2.0 ** torch.arange(self.config.scales, device=place_values.device)
        waves = math.pi / 2 * place_values[:, None] * factors[:, None].to(place_values.dtype)  # (U, scales, 3)
        features = torch.cat([waves.sin(), waves.cos()], dim=-1)  # (U, scales, 6)
        return BaseModelOutput(torch.einsum("usf,sfh->ush", features, self.weights) + self.biases)


AutoConfig.register(PlaceConfig.model_type, PlaceConfig, exist_ok=True)
AutoModel.register(PlaceConfig, PlaceModel, exist_ok=True)


# 2. The part of the processor: what it learns from the training rows, and how raw items become tensors.


def direction(latitude: Any, longitude: Any) -> torch.Tensor:
    """A point as a vector of length 1 from the middle of the earth, `(3,)` float64: 180 degrees east and west are one
    meridian, and near a pole all longitudes are near each other.

    Raises:
        ValueError: no numbers of degrees.
    """
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # NaN is neither
        raise ValueError(f"a place is a latitude from -90 to 90 and a longitude from -180 to 180, got {latitude, longitude}.")
    up, around = math.radians(latitude), math.radians(longitude)
    flat = [math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)]
    return torch.tensor(flat, dtype=torch.float64)


@dataclass
class PlaceScaler:
    """Puts the middle of the training rows at 0 and the farthest of them at 1: what is near is another thing for homes
    of one town than for ports of the world. Args: center: of the vectors; spread: the farthest from it."""

    center: list[float]
    spread: float
    model_input_names = ["place_values"]

    @classmethod
    def fit(cls, places: Iterable[tuple[float, float]]) -> "PlaceScaler":
        """Learns both from `(latitude, longitude)` in degrees."""
        points = torch.stack([direction(*place) for place in places])
        return cls(points.mean(0).tolist(), max((points - points.mean(0)).norm(dim=1).max().item(), 1e-6))

    def __call__(self, places: Iterable[tuple[float, float]]) -> dict[str, torch.Tensor]:
        """`place_values` `(U, 3)` float32 of distinct places."""
        points = torch.stack([direction(*place) for place in places])
        return {"place_values": ((points - torch.tensor(self.center, dtype=torch.float64)) / self.spread).float()}

    def to_dict(self) -> dict[str, Any]:
        """For the processor's file."""
        return asdict(self)
