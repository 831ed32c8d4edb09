"""Your own modality: a point on the map, with latitude and longitude. Read it from top to bottom.

    mm_hf train homes.csv --import examples/custom_modality.py --point_column latitude longitude --label price
    mm_hf predict runs/homes new.csv -o prices.csv              # the run's folder names the imported file

In Python: `import custom_modality`. Config and processor take `extra_configs={"place": PlaceConfig()}` and
`extra_parts={"place": PlaceScaler.fit(…)}`. This file is not part of checkpoints: import it before you load one.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from mm_hf.data import BadRowError
from mm_hf.data.modalities import ModalityReader, register_reader
from mm_hf.data.rows import is_absent
from mm_hf.models.modality import Modality, register_modality


# 1. The encoder: a config and a model, as in the library.
class PlaceConfig(PreTrainedConfig):
    """The number of scales (each is half as wide as the one before), and the width of the tokens."""

    model_type = "example_place"
    scales: int = 8
    hidden_size: int = 64
    initializer_range: float = 6**-0.5


class PlaceModel(PreTrainedModel):
    """One token per scale, from the sines and cosines of a point at that scale (Space2Vec, Mai et al. 2020). The first
    scale separates the two sides of the map, and the last one separates neighbouring streets."""

    config_class = PlaceConfig
    main_input_name = "place_values"

    def __init__(self, config: PlaceConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(nn.Linear(6, config.hidden_size) for _ in range(config.scales))
        self.post_init()

    def forward(self, place_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Returns tokens `(U, scales, H)` for `place_values` `(U, 3)` float, see `PlaceScaler`."""
        angles = [math.pi / 2 * 2**scale * place_values for scale in range(len(self.layers))]
        features = [torch.cat([angle.sin(), angle.cos()], dim=-1) for angle in angles]  # (U, 6) each
        return BaseModelOutput(torch.stack([layer(one) for layer, one in zip(self.layers, features)], dim=1))


AutoConfig.register(PlaceConfig.model_type, PlaceConfig, exist_ok=True)
AutoModel.register(PlaceConfig, PlaceModel, exist_ok=True)


# 2. The part of the processor: turns places into tensors, and is fitted on the training rows.
def direction(place: Iterable[Any]) -> torch.Tensor:
    """The direction of a place from the centre of the earth, `(3,)` float64 of length 1. So 180 degrees east and west
    are the same meridian, and close to a pole all longitudes are close to each other. Other values are refused."""
    try:
        latitude, longitude = map(float, () if isinstance(place, str) else place)
    except (TypeError, ValueError):
        latitude = longitude = math.nan
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(f"a place needs a latitude, -90 to 90, and a longitude, -180 to 180; got {place!r:.80}.")
    up, around = torch.tensor([latitude, longitude], dtype=torch.float64).deg2rad()
    return torch.stack([up.cos() * around.cos(), up.cos() * around.sin(), up.sin()])


@dataclass
class PlaceScaler:
    """Scales places so that the mean of the training rows is 0 and the farthest one has distance 1. Distances between
    homes in a town and between ports of the world differ much. `center` is the mean, `spread` the largest distance."""

    center: list[float]
    spread: float
    model_input_names = ["place_values"]  # without a type annotation, so it is no dataclass field
    to_dict = asdict

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PlaceScaler":
        return cls(**values)

    @classmethod
    def fit(cls, places: Iterable[Iterable[Any]]) -> "PlaceScaler":
        """Fits both values on places in degrees; values that are no places are ignored."""
        points = []
        for place in places:
            with contextlib.suppress(ValueError):
                points.append(direction(place))
        if not points:
            raise ValueError("No training row has a place.")
        center = torch.stack(points).mean(0)
        return cls(center.tolist(), max(1e-6, *((point - center).norm().item() for point in points)))

    def __call__(self, points: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Makes `place_values` `(U, 3)` float32 from directions."""
        center = torch.tensor(self.center, dtype=torch.float64)
        return {"place_values": ((torch.stack(points) - center) / self.spread).float()}


# 3. What model, processor and pipelines need to know.
@register_modality
class Place(Modality):
    """A point on the map."""

    name = argument = part = item = "place"
    extra, several_places = True, False
    inputs = floats = ("place_values",)
    model_type = PlaceConfig.model_type
    part_class = PlaceScaler
    row_keys = ("place",)

    def dummy_inputs(self, config, device=None, dtype=None):
        return {"place_values": torch.zeros(1, 3, device=device, dtype=dtype)}

    def check(self, item, processor, settings):
        return direction(item)


# 4. What data sets and recipes need to know.
@register_reader
class PlaceReader(ModalityReader):
    """Two columns of degrees together are one item. If both are empty, the row has no place."""

    name = "place"
    column_keys = ("point_column",)
    item_columns = ("latitude", "longitude")
    one_item = needs_all_rows = True

    def fit(self, splits, columns, **settings):
        names = self.data_columns(columns)
        return PlaceScaler.fit(zip(*(splits["train"][name] for name in names))) if names else None

    def fresh_config(self, part, hidden_size, **settings):
        return PlaceConfig(hidden_size=hidden_size)

    def key(self, row, column, collator):
        place = [row[name] for name in self.data_columns(collator.columns)]
        try:
            return None if all(map(is_absent, place)) else str(direction(place).tolist())
        except ValueError as error:
            raise BadRowError(row, column, str(error)) from None

    def load(self, row, column, collator):
        return [float(row[name]) for name in self.data_columns(collator.columns)]
