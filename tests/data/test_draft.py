"""JPEGs of a camera are decoded to fewer pixels: never to fewer than are needed, upright, and everywhere alike."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import AutoImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from mm_hf import MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.models.image import open_image
from mm_hf.models.image_processors import DRAFT, least_size
from mm_hf.models.vision import Vision


def jpeg(image, orientation=1, **settings):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, exif=exif, **settings)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    """A real photograph in the size of a camera's."""
    return Image.fromarray(data.astronaut()).crop((0, 0, 512, 384)).resize((3072, 2304), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mobilenet(encoders):
    return AutoImageProcessor.from_pretrained(encoders / "mobilenet-v2")


def test_never_fewer_pixels_than_needed(photo):
    content = jpeg(photo)
    for least, size in [
        ((512, 512), (768, 576)),
        ((512, 577), (1536, 1152)),
        ((100, 100), (384, 288)),  # an eighth, and no less
        ((2000, 100), (3072, 2304)),
        ((1536, 1152), (1536, 1152)),
        ((1537, 1), (3072, 2304)),
        ((9999, 9999), (3072, 2304)),
    ]:
        assert open_image(content, least=least).size == size, least
    assert open_image(content).size == (3072, 2304)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(photo, orientation):
    content = jpeg(photo, orientation)
    whole = open_image(content)
    few = open_image(content, least=(whole.width // 4, whole.height // 4))
    assert few.size == (whole.width // 4, whole.height // 4)
    expected = np.asarray(whole.resize(few.size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(few, float) - expected).mean() < 2
    # Wide or high, the sides are those of the upright picture.
    narrow = (300, 1) if whole.height > whole.width else (1, 300)
    assert open_image(content, least=narrow).size[narrow[0] == 1] >= 300


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0}])
def test_modes(photo, mode, settings):
    if mode == "L":
        settings = {name: value for name, value in settings.items() if name != "subsampling"}
    content = jpeg(photo.convert(mode), **settings)
    whole, few = open_image(content), open_image(content, least=(768, 576))
    assert (few.mode, few.size) == ("RGB", (768, 576))
    expected = np.asarray(whole.resize(few.size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(few, float) - expected).mean() < 2


def test_what_is_no_jpeg_is_whole(photo, monkeypatch):
    small = photo.resize((768, 576))
    file = io.BytesIO()
    small.save(file, "PNG")
    assert open_image(file.getvalue(), least=(10, 10)).size == (768, 576)
    assert open_image(small, least=(10, 10)).size == (768, 576)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)  # of the file, not of what is left of it
    with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS"):
        open_image(jpeg(small), least=(10, 10))


def test_what_is_enough(mobilenet):
    assert least_size(mobilenet, DRAFT, {}) == (512, 512)  # resized to 256, before a crop of 224
    assert least_size(mobilenet, 1, {}) == (256, 256)
    assert least_size(mobilenet, DRAFT, {"size": {"height": 100, "width": 200}}) == (400, 200)
    assert least_size(ViTImageProcessor(size={"height": 32, "width": 64}), DRAFT, {}) == (128, 64)
    cut = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875)
    assert least_size(cut, DRAFT, {}) == (512, 512)
    for settings in ({"do_resize": False}, {"size": 224}, {"size": {"longest_edge": 100}}, {"max_num_patches": 4}):
        assert least_size(mobilenet, DRAFT, settings) is None, settings
    assert least_size(mobilenet, None, {}) is None


def test_the_difference_is_small(photo, mobilenet):
    """Of a photograph of a camera, as the encoder sees it, in steps of 256."""
    few = MMFusionProcessor(mobilenet, image_draft=DRAFT)
    whole = MMFusionProcessor(mobilenet)
    content = jpeg(photo)
    one, other = (processor(images=[content])["pixel_values"] for processor in (few, whole))
    assert one.shape == other.shape
    difference = (one - other).abs() * 255 * torch.tensor(mobilenet.image_std)[:, None, None]
    print(f"mean {difference.mean():.3f}, 99 % {difference.flatten().quantile(0.99):.2f}, most {difference.max():.1f}")
    assert 0 < difference.mean() < 1
    assert difference.max() < 32
    small = jpeg(photo.resize((341, 256)))
    assert torch.equal(*(processor(images=[small])["pixel_values"] for processor in (few, whole)))


def test_the_same_picture_everywhere(photo, encoders, mobilenet, tmp_path):
    processor = MMFusionProcessor.from_encoders_pretrained(vision=encoders / "mobilenet-v2")
    assert processor.image_draft == DRAFT
    content = jpeg(photo, 6)
    (tmp_path / "photo.jpg").write_bytes(content)
    expected = processor(images=[content])["pixel_values"]
    collator = MultimodalCollator(processor, Columns(image="image"), root=str(tmp_path))
    for image in ({"bytes": content, "path": None}, {"bytes": None, "path": "photo.jpg"}):
        row = {"image": image, "row_id": 0, "split": "train"}
        assert torch.equal(collator([row])["pixel_values"], expected)
    picture = Vision().load_item(processor, str(tmp_path / "photo.jpg"))
    assert picture.size == (576, 768)
    assert torch.equal(processor(images=[picture])["pixel_values"], expected)
    processor.save_pretrained(tmp_path / "saved")
    again = MMFusionProcessor.from_pretrained(tmp_path / "saved")
    assert again.image_draft == DRAFT
    assert torch.equal(again(images=[content])["pixel_values"], expected)
    # A processor of before does not have the key, and does as it did.
    before = MMFusionProcessor(mobilenet)
    before.save_pretrained(tmp_path / "before")
    assert "image_draft" not in (tmp_path / "before/processor_config.json").read_text()
    assert MMFusionProcessor.from_pretrained(tmp_path / "before").image_draft is None


@pytest.mark.parametrize("value", [0, 0.5, "2", True, float("nan"), float("inf")])
def test_wrong_values(mobilenet, value):
    with pytest.raises(ValueError, match=f"image_draft must be .* got {value!r}"):
        MMFusionProcessor(mobilenet, image_draft=value)
