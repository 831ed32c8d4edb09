"""Random changes to pictures in training, drawn from a generator that the caller seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..models.names import did_you_mean


CROP_AREA = 0.6
ASPECTS = (3 / 4, 4 / 3)
COLOR = 0.2
ATTEMPTS = 10  # crops to draw until one fits into the picture, as torchvision does


@dataclass(frozen=True)
class ImageAugmentation:
    """Changes a picture at random. The result has the size of the original. Later steps (resizing, a centre crop)
    therefore treat it as they treat pictures in evaluation.

    Args:
        crop: take a crop of at least this share of the area, and stretch it to the size of the picture. The aspect
            ratio of the crop is between 3/4 and 4/3 times the picture's. True: 0.6. Szegedy et al. 2015 (section 6)
            go down to 0.08, which is too small to answer a question from.
        flip: mirror half of the pictures (left becomes right). Do not use it where an answer speaks of left and
            right, or where pictures contain writing.
        color: multiply brightness, contrast and saturation each by a random factor between 1 - color and 1 + color.

    Raises:
        ValueError: a share that is not in (0, 1], or a colour that is not in [0, 1].
    """

    crop: bool | float = False
    flip: bool = False
    color: float = 0.0

    def __post_init__(self):
        if self.crop is not False and not 0 < self.crop <= 1:
            raise ValueError(f"crop must be true, false or a share of the area in (0, 1], got {self.crop!r}.")
        if not 0 <= self.color <= 1:
            raise ValueError(f"color must be in [0, 1], got {self.color!r}.")

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Gives the changed picture. All random numbers come from `generator`."""
        if self.crop is not False:
            box = crop_box(image.size, CROP_AREA if self.crop is True else self.crop, generator)
            image = image.resize(image.size, Image.Resampling.BICUBIC, box=box)
        if self.flip and generator.random() < 0.5:
            image = ImageOps.mirror(image)
        if self.color:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(generator.uniform(1 - self.color, 1 + self.color))
        return image


def crop_box(size: tuple[int, int], area: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a crop. Its area is uniform between `area` and 1, the logarithm of its aspect ratio is uniform. If none of
    ten crops fits into the picture, the result is the whole picture.

    Args:
        size: width and height in pixels.
        area: the smallest share of the area, in (0, 1].
        generator: the source of all random numbers.

    Returns:
        left, upper, right and lower edge in pixels.
    """
    for _ in range(ATTEMPTS):
        share = generator.uniform(area, 1)
        aspect = math.exp(generator.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        width = round(size[0] * math.sqrt(share * aspect))
        height = round(size[1] * math.sqrt(share / aspect))
        if 0 < width <= size[0] and 0 < height <= size[1]:
            left = int(generator.integers(size[0] - width + 1))
            upper = int(generator.integers(size[1] - height + 1))
            return left, upper, left + width, upper + height
    return 0, 0, *size


NAMED: dict[str, Any] = {"crop": CROP_AREA, "flip": True, "color": COLOR}


def parse_augmentations(names: Sequence[str]) -> ImageAugmentation | None:
    """The augmentation that a recipe names, at its usual strength. None for an empty list."""
    for name in names:
        if name not in NAMED:
            meant = did_you_mean(name, NAMED)
            raise ValueError(f"Unknown augmentation {name!r}: choose from {list(NAMED)}.{meant}")
    return ImageAugmentation(**{name: NAMED[name] for name in names}) if names else None
