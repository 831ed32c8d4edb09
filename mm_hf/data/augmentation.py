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
ATTEMPTS = 10  # crops drawn until one fits into the picture, as in the library of vision models of torch


@dataclass(frozen=True)
class ImageAugmentation:
    """Changes a picture at random. The result has the size of the original, so that what comes after (resizing, a
    centre crop) treats it as it will treat pictures in evaluation.

    Args:
        crop: a crop of at least this share of the area, its aspect between 3/4 and 4/3 of the picture's, stretched to
            the picture's size (Szegedy et al. 2015, section 6, who go down to 0.08: too small to answer a question
            from); True: 0.6.
        flip: left and right change places in half of the pictures. Wrong where an answer speaks of left and right, or
            where there is writing.
        color: brightness, contrast and saturation are each multiplied by a factor drawn from 1 - color to 1 + color.

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
        """Gives the changed picture; all that is random comes from `generator`."""
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
    """Draws a crop: area uniform from `area` to 1, the logarithm of the aspect uniform; the whole picture where none
    of ten fits into it. `size` is width and height, the result left, upper, right, lower, all in pixels."""
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
    """The augmentation that a recipe names, at its usual strength; None for an empty list."""
    for name in names:
        if name not in NAMED:
            meant = did_you_mean(name, NAMED)
            raise ValueError(f"Unknown augmentation {name!r}: known are {list(NAMED)}.{meant}")
    return ImageAugmentation(**{name: NAMED[name] for name in names}) if names else None
