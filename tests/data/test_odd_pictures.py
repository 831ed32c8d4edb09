"""One picture, everywhere: odd files give one tensor by every route, and what is none is named."""

import base64
import functools
import http.server
import io
import json
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import torch
from datasets import Dataset, Features, Image, Value
from PIL import EpsImagePlugin, ImageCms
from PIL import Image as PILImage
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import mm_hf
from mm_hf import MMFusionForClassification, MMFusionForRetrieval, MMFusionProcessor
from mm_hf.data import (
    BadRowError,
    Columns,
    FeatureCache,
    MultimodalCollator,
    Rows,
    StreamBatches,
    describe,
    load_splits,
    word_tokenizer,
)
from mm_hf.data.modalities.vision import decode_image
from mm_hf.models.image import MAX_ASPECT, color_of, is_picture, open_image
from mm_hf.models.video import load_frames
from mm_hf.retrieval import Gallery


HEIGHT, WIDTH = 16, 24
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
COLUMNS = Columns(image="image", label="label")
LABELS = {"a": 0, "b": 1}


def quarters(*colors) -> np.ndarray:
    """A picture of four quarters: above left and right, below left and right."""
    found = np.zeros((HEIGHT, WIDTH, *np.shape(colors[0])), np.uint8)
    for place, color in enumerate(colors):
        rows, columns = slice(0, HEIGHT // 2), slice(0, WIDTH // 2)
        if place > 1:
            rows = slice(HEIGHT // 2, None)
        if place % 2:
            columns = slice(WIDTH // 2, None)
        found[rows, columns] = color
    return found


FLAG = quarters(RED, GREEN, BLUE, WHITE)
RAMP = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))
GREY = np.rint(255 * RAMP).astype(np.uint8)
# Opaque red, half of blue, a hidden green, and a hidden black.
HIDING = quarters((255, 0, 0, 255), (0, 0, 255, 128), (0, 255, 0, 0), (0, 0, 0, 0))
SHOWN = quarters(RED, (127, 127, 255), WHITE, WHITE)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def saved(image, kind: str, **options) -> bytes:
    image = PILImage.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def lying(orientation: int) -> np.ndarray:
    """What a camera stores of the flag, for EXIF to set upright, see the standard's table 6."""
    return {
        1: FLAG,
        2: FLAG[:, ::-1],
        3: FLAG[::-1, ::-1],
        4: FLAG[::-1],
        5: FLAG.transpose(1, 0, 2),
        6: np.rot90(FLAG),
        7: FLAG.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(FLAG, -1),
    }[orientation]


def exif(orientation) -> PILImage.Exif:
    found = PILImage.Exif()
    found[0x0112] = orientation
    return found


EXIF_OF_TEXT = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\x026\0\0\0\0\0\0\0"  # "6"


def palette_with_hidden_colour() -> PILImage.Image:
    image = PILImage.fromarray(quarters(0, 1, 2, 3)).convert("L")
    image = PILImage.frombytes("P", image.size, image.tobytes())
    image.putpalette([*RED, *GREEN, *BLUE, 0, 0, 0])
    image.info["transparency"] = 3  # black, hidden
    return image


def sixteen_bits(order: str = "I;16") -> PILImage.Image:
    values = np.rint(65535 * RAMP).astype("<u2" if order == "I;16" else ">u2")
    return PILImage.frombytes(order, (WIDTH, HEIGHT), values.tobytes())


def colours_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of `(H, W, 3)` uint16, which Pillow does not write."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut_off(content: bytes, share: float = 0.6) -> bytes:
    return content[: int(len(content) * share)]


@functools.cache
def corpus() -> dict[str, tuple[str, bytes, np.ndarray, int]]:
    """By name: suffix, content, the picture that is meant, and how far off a lossy format may be, in shades."""
    fine = {"quality": 100, "subsampling": 0}
    hidden = PILImage.fromarray(HIDING)
    grey_and_opacity = PILImage.fromarray(np.stack([GREY, np.full_like(GREY, 0)], -1))
    found = {
        f"orientation {number}": ("jpg", saved(lying(number).copy(), "JPEG", exif=exif(number), **fine), FLAG, 3)
        for number in range(1, 9)
    }
    found |= {
        f"orientation {number} of a {kind}": (kind, saved(lying(number).copy(), kind, exif=exif(number), **o), FLAG, 0)
        for kind, o in (("png", {}), ("webp", {"lossless": True}), ("tiff", {}))
        for number in (3, 6)
    }
    found |= {
        "orientation 6 of 16 bits": (
            "png",
            saved(np.rot90(GREY).astype(np.uint16) * 257, "PNG", exif=exif(6)),
            rgb(GREY),
            0,
        ),
        "two pictures of a phone": (
            "jpg",
            saved(
                lying(6).copy(), "MPO", save_all=True, append_images=[PILImage.new("L", (9, 9))], exif=exif(6), **fine
            ),
            FLAG,
            3,
        ),
        "orientation 9": ("jpg", saved(FLAG, "JPEG", exif=exif(9), **fine), FLAG, 3),
        "orientation as a text": ("png", saved(FLAG, "PNG", exif=EXIF_OF_TEXT), FLAG, 0),
        "broken EXIF": ("jpg", saved(FLAG, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", **fine), FLAG, 3),
        "RGB": ("png", saved(FLAG, "PNG"), FLAG, 0),
        "grey": ("png", saved(GREY, "PNG"), rgb(GREY), 0),
        "1 bit": ("png", saved(PILImage.fromarray(GREY > 127), "PNG"), rgb(np.where(GREY > 127, 255, 0)), 0),
        "16 bits": ("png", saved(sixteen_bits(), "PNG"), rgb(GREY), 0),
        "16 bits, TIFF": ("tif", saved(sixteen_bits(), "TIFF"), rgb(GREY), 0),
        "16 bits, big-endian TIFF": ("tif", saved(sixteen_bits("I;16B"), "TIFF"), rgb(GREY), 0),
        "16 bits, PGM": ("pgm", saved(sixteen_bits(), "PPM"), rgb(GREY), 0),
        "16 bits, all dark, PGM": (
            "pgm",
            b"P5 24 16 65535\n" + np.full((HEIGHT, WIDTH), 200, ">u2").tobytes(),
            rgb(np.ones_like(GREY)),
            0,
        ),
        "16 bits, colours": ("png", colours_of_16_bits(FLAG.astype(np.uint16) * 257), FLAG, 0),
        "16 bits with a hidden colour": ("png", saved(sixteen_bits(), "PNG", transparency=0), None, 0),
        "16 bits, JPEG 2000": ("jp2", saved(sixteen_bits(), "JPEG2000"), rgb(GREY), 0),
        "10 bits, PGM": ("pgm", b"P5 24 16 1023\n" + np.rint(1023 * RAMP).astype(">u2").tobytes(), rgb(GREY), 0),
        "32 bits": (
            "tif",
            saved(np.rint((2**31 - 1) * RAMP).astype(np.int64).clip(0, 2**31 - 1).astype(np.int32), "TIFF"),
            rgb(GREY),
            0,
        ),
        "32 bits for 16": ("tif", saved(np.rint(65535 * RAMP).astype(np.int32), "TIFF"), rgb(GREY), 0),
        "32 bits for 8": ("tif", saved(GREY.astype(np.int32), "TIFF"), rgb(GREY), 0),
        "floats to 1": ("tif", saved(RAMP.astype(np.float32), "TIFF"), rgb(GREY), 0),
        "floats to 255": ("tif", saved((255 * RAMP).astype(np.float32), "TIFF"), rgb(GREY), 0),
        "floats to 65535": ("tif", saved((65535 * RAMP).astype(np.float32), "TIFF"), rgb(GREY), 0),
        "RGBA": ("png", saved(hidden, "PNG"), SHOWN, 0),
        "RGBA of a WebP": ("webp", saved(hidden, "WEBP", lossless=True, exact=True), SHOWN, 0),
        "RGBA of a TIFF": ("tiff", saved(hidden, "TIFF"), SHOWN, 0),
        "LA": ("png", saved(grey_and_opacity, "PNG"), np.full_like(FLAG, 255), 0),
        "P with a hidden colour": ("png", saved(palette_with_hidden_colour(), "PNG"), FLAG, 0),
        "P with opacities": (
            "png",
            saved(palette_with_hidden_colour(), "PNG", transparency=bytes([255, 255, 0, 0])),
            quarters(RED, GREEN, WHITE, WHITE),
            0,
        ),
        "RGB with a hidden colour": (
            "png",
            saved(FLAG, "PNG", transparency=RED),
            quarters(WHITE, GREEN, BLUE, WHITE),
            0,
        ),
        "grey with a hidden colour": ("png", saved(GREY, "PNG", transparency=0), None, 0),
        "GIF": ("gif", saved(FLAG, "GIF"), FLAG, 0),
        "GIF with a hidden colour": ("gif", saved(palette_with_hidden_colour(), "GIF"), FLAG, 0),
        "animated GIF": (
            "gif",
            saved(FLAG, "GIF", save_all=True, append_images=[PILImage.new("RGB", (24, 16))]),
            FLAG,
            0,
        ),
        "animated PNG": (
            "png",
            saved(FLAG, "PNG", save_all=True, append_images=[PILImage.new("RGB", (24, 16))]),
            FLAG,
            0,
        ),
        "animated WebP": (
            "webp",
            saved(FLAG, "WEBP", save_all=True, lossless=True, append_images=[PILImage.new("RGB", (24, 16))]),
            FLAG,
            0,
        ),
        "CMYK": ("jpg", saved(PILImage.fromarray(FLAG).convert("CMYK"), "JPEG", **fine), FLAG, 3),
        "a colour profile": (
            "png",
            saved(FLAG, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
            FLAG,
            0,
        ),
        "BMP": ("bmp", saved(FLAG, "BMP"), FLAG, 0),
        "TGA": ("tga", saved(FLAG, "TGA"), FLAG, 0),
        "JPEG 2000": ("jp2", saved(FLAG, "JPEG2000"), FLAG, 0),
        "a wrong suffix": ("jpg", saved(FLAG, "PNG", compress_level=1), FLAG, 0),
        "no suffix": ("", saved(FLAG, "PNG", compress_level=2), FLAG, 0),
    }
    first = np.where(GREY == 0, 255, GREY)  # the first column was hidden
    return {
        name: (suffix, content, rgb(first) if picture is None else picture, off)
        for name, (suffix, content, picture, off) in found.items()
    }


def meant() -> np.ndarray:
    return np.stack([picture for _, _, picture, _ in corpus().values()])


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """What the encoder is to see of pictures `(N, H, W, C)`: `(N, C, H, W)` from -1 to 1."""
    return torch.from_numpy(pictures.astype(np.float32) / 255 * 2 - 1).permute(0, 3, 1, 2)


def written(folder: Path) -> list[str]:
    """The names of the files of the corpus."""
    names = []
    for number, (suffix, content, _, _) in enumerate(corpus().values()):
        names.append(f"{number}.{suffix}" if suffix else str(number))
        (folder / names[-1]).write_bytes(content)
    return names


def plain_processor(channels: int = 3, **kwargs) -> MMFusionProcessor:
    stats = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    return MMFusionProcessor(
        image_processor=ViTImageProcessor(do_resize=False, **stats), **{"image_background": "white", **kwargs}
    )


@pytest.fixture(scope="module")
def processor() -> MMFusionProcessor:
    return plain_processor()


def small_model(cls=MMFusionForClassification, **kwargs):
    config = tiny.config(**{"text": None, "num_labels": 2, **kwargs})
    config.vision_config.image_size = (HEIGHT, WIDTH)
    torch.manual_seed(0)
    return cls(config).eval()


def watch(model, seen: list):
    """Keeps what the vision encoder is shown."""
    encoder = model.base_model.encoders["vision"]
    return encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]),
        with_kwargs=True,
    )


def table_of(folder: Path, values: list, suffix: str) -> str:
    """A file of rows, their pictures as paths (CSV, JSON lines) or bytes (Parquet)."""
    labels = ["ab"[number % 2] for number in range(len(values))]
    if suffix == "csv":
        lines = [f"{value},{label}" for value, label in zip(values, labels)]
        (folder / "data.csv").write_text("\n".join(["image,label", *lines, ""]))
    elif suffix == "jsonl":
        lines = [json.dumps({"image": value, "label": label}) for value, label in zip(values, labels)]
        (folder / "data.jsonl").write_text("\n".join([*lines, ""]))
    else:
        kind = Features({"image": Value("binary"), "label": Value("string")})
        Dataset.from_dict({"image": values, "label": labels}, features=kind).to_parquet(folder / "data.parquet")
    return str(folder / f"data.{suffix}")


def opened(folder: Path, suffix: str, streaming: bool = False):
    names = written(folder)
    values = [content for _, content, _, _ in corpus().values()] if suffix == "parquet" else names
    file = table_of(folder, values, suffix)
    return load_splits(file, COLUMNS, validation_fraction=0, test_fraction=0, streaming=streaming)["train"]


def all_rows(split) -> list[dict]:
    rows = Rows(split, "train")
    return rows.__getitems__(list(range(len(rows))))


def by_table(suffix, folder, processor):
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    return collator(all_rows(opened(folder, suffix)))["pixel_values"]


def by_stream(suffix, folder, processor):
    stream = StreamBatches(opened(folder, suffix, streaming=True), "train", batch_size=7)
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    return torch.cat([collator(rows)["pixel_values"] for rows in stream])


def by_memory(kind, folder, processor):
    """Rows of datasets that hold images, opened by itself or by us."""
    column = [{"bytes": content, "path": None} for _, content, _, _ in corpus().values()]
    rows = Dataset.from_dict({"image": column}, features=Features({"image": Image(decode=kind == "decoded")}))
    if kind == "decoded":
        return processor(images=[row["image"] for row in rows])["pixel_values"]
    return processor(images=list(rows["image"]))["pixel_values"]


def forms(kind, folder) -> list:
    """The corpus as one sort of object."""
    paths = [folder / name for name in written(folder)]
    make = {
        "path": str,
        "Path": lambda path: path,
        "bytes": lambda path: path.read_bytes(),
        "dict of bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
        "dict of path": lambda path: {"bytes": None, "path": str(path)},
        "PIL": lambda path: PILImage.open(io.BytesIO(path.read_bytes())),
        "data address": lambda path: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "base 64": lambda path: base64.b64encode(path.read_bytes()).decode(),
    }[kind]
    return list(map(make, paths))


def by_processor(kind, folder, processor):
    return processor(images=forms(kind, folder))["pixel_values"]


def by_pipeline(kind, folder, processor):
    model, seen = small_model(), []
    watch(model, seen)
    pipe = mm_hf.pipeline(model=model, processor=processor, task="multimodal-classification")
    pipe([{"image": image} for image in forms(kind, folder)], batch_size=16)
    return torch.cat(seen)


def by_cache(_, folder, processor):
    model, seen = small_model(freeze_encoders=True), []
    watch(model, seen)
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    rows = all_rows(opened(folder, "csv"))
    cache = FeatureCache(model.base_model)
    items = [(str(number), row) for number, row in enumerate(rows)]
    cache.fill("vision", items, functools.partial(collator.prepare_items, "vision"), progress=False)
    return torch.cat(seen)


def by_search(_, folder, processor):
    tokenizer = word_tokenizer(["one two"])
    processor = MMFusionProcessor(processor.image_processor, tokenizer, image_background=processor.image_background)
    model, seen = small_model(MMFusionForRetrieval, text="bert"), []
    watch(model, seen)
    names = written(folder)
    lines = [f"{name},one two" for name in names]
    (folder / "pairs.csv").write_text("\n".join(["image,text", *lines, ""]))
    columns = Columns(image="image", text="text")
    split = load_splits(folder / "pairs.csv", columns, validation_fraction=0, test_fraction=0)["train"]
    collator = MultimodalCollator(processor, columns, root=str(folder), pair_ids=True)
    Gallery.build(model, collator, Rows(split, "train"), batch_size=16, progress=False)
    return torch.cat(seen)


def by_frames(kind, folder, processor):
    """Pictures as the frames of one video."""
    frames = forms(kind, folder)
    return processor(images=[load_frames(frames, len(frames))])["pixel_values"]


OBJECTS = ["path", "Path", "bytes", "dict of bytes", "dict of path", "PIL", "data address", "base 64"]
ROUTES = {
    **{f"table, {kind}": (by_table, kind) for kind in ("csv", "jsonl", "parquet")},
    **{f"stream, {kind}": (by_stream, kind) for kind in ("csv", "parquet")},
    **{f"memory, {kind}": (by_memory, kind) for kind in ("encoded", "decoded")},
    **{f"processor, {kind}": (by_processor, kind) for kind in OBJECTS},
    **{f"pipeline, {kind}": (by_pipeline, kind) for kind in OBJECTS},
    **{f"frames, {kind}": (by_frames, kind) for kind in ("path", "PIL", "bytes")},
    "cache": (by_cache, None),
    "search": (by_search, None),
}


@pytest.mark.parametrize("route", ROUTES)
def test_one_tensor_by_every_route(route, processor, tmp_path):
    """As written down here, and to the bit as the shortest way gives it."""
    take, kind = ROUTES[route]
    found = take(kind, tmp_path, processor)
    direct = np.stack([np.asarray(open_image(content)) for _, content, _, _ in corpus().values()])
    assert found.shape == (len(corpus()), 3, HEIGHT, WIDTH)
    shades = (found - pixels(meant())).abs().amax((1, 2, 3)) * 127.5
    wrong = {
        name: round(off.item(), 1)
        for (name, (*_, allowed)), off in zip(corpus().items(), shades)
        if off > allowed + 0.01
    }
    assert wrong == {}
    assert (found - pixels(direct)).abs().max() < 1e-6


def half(dtype):
    return torch.from_numpy(FLAG / 255).to(dtype)


ARRAYS = {
    "uint8": (FLAG, FLAG),
    "channels first": (FLAG.transpose(2, 0, 1), FLAG),
    "tensor": (torch.from_numpy(FLAG.transpose(2, 0, 1).copy()), FLAG),
    "tensor, channels last": (torch.from_numpy(FLAG), FLAG),
    "not in one piece": (np.asfortranarray(np.repeat(FLAG, 2, axis=1))[:, ::2], FLAG),
    "grey": (GREY, rgb(GREY)),
    "one channel, last": (GREY[..., None], rgb(GREY)),
    "one channel, first": (GREY[None], rgb(GREY)),
    "tensor of one channel": (torch.from_numpy(GREY)[None], rgb(GREY)),
    "RGBA": (HIDING, SHOWN),
    "RGBA, channels first": (torch.from_numpy(HIDING.transpose(2, 0, 1).copy()), SHOWN),
    "RGBA of floats": ((HIDING / 255).astype(np.float32), SHOWN),
    "grey and opacity": (np.stack([GREY, np.zeros_like(GREY)], -1), np.full_like(FLAG, 255)),
    "truth values": (GREY > 127, rgb(np.where(GREY > 127, 255, 0))),
    "uint16": (np.rint(65535 * RAMP).astype(np.uint16), rgb(GREY)),
    "uint16, dark": (np.full((HEIGHT, WIDTH), 200, np.uint16), np.full_like(FLAG, 1)),
    "uint16, big-endian": (np.rint(65535 * RAMP).astype(">u2"), rgb(GREY)),
    "uint16, colours": (FLAG.astype(np.uint16) * 257, FLAG),
    "int16": (GREY.astype(np.int16), rgb(GREY)),
    "int32 of 8 bits": (FLAG.astype(np.int32), FLAG),
    "int64 of 8 bits": (torch.from_numpy(FLAG.astype(np.int64)), FLAG),
    "int64 of 16 bits": (np.rint(65535 * RAMP).astype(np.int64), rgb(GREY)),
    "int32": (np.rint((2**31 - 1) * RAMP).astype(np.int32), rgb(GREY)),
    "uint32": (np.rint((2**32 - 1) * RAMP).astype(np.uint32), rgb(GREY)),
    "float16 to 1": (half(torch.float16), FLAG),
    "bfloat16 to 1": (half(torch.bfloat16), FLAG),
    "float32 to 1": (half(torch.float32).requires_grad_(), FLAG),
    "float64 to 1": (FLAG / 255, FLAG),
    "floats to 1, channels first": ((FLAG / 255).transpose(2, 0, 1), FLAG),
    "floats to 1, grey": (RAMP, rgb(GREY)),
    "floats, all black": (np.zeros((HEIGHT, WIDTH)), np.zeros_like(FLAG)),
    "floats with overshoot": (RAMP * 1.1 - 0.05, rgb(np.rint(255 * np.clip(RAMP * 1.1 - 0.05, 0, 1)))),
    "floats to 255": (FLAG.astype(np.float32), FLAG),
    "floats to 255, dark": (np.full((HEIGHT, WIDTH), 20.0), np.full_like(FLAG, 20)),
    "floats to 65535": (65535 * RAMP, rgb(GREY)),
    "mode I": (PILImage.fromarray(np.rint(65535 * RAMP).astype(np.int32)), rgb(GREY)),
    "mode I of 8 bits": (PILImage.fromarray(GREY).convert("I"), rgb(GREY)),
    "mode F": (PILImage.fromarray(RAMP.astype(np.float32)), rgb(GREY)),
    "mode F of 8 bits": (PILImage.fromarray(GREY).convert("F"), rgb(GREY)),
    "mode RGBa": (PILImage.fromarray(HIDING).convert("RGBa"), SHOWN),
    "mode La": (PILImage.fromarray(np.stack([GREY, np.full_like(GREY, 255)], -1)).convert("La"), rgb(GREY)),
    "mode PA": (PILImage.fromarray(GREY).convert("PA"), rgb(GREY)),
    "mode HSV": (PILImage.fromarray(FLAG).convert("HSV"), FLAG),
}


@pytest.mark.parametrize("route", ["processor", "alone", "pipeline"])
def test_arrays_and_modes(route, processor):
    values = [value for value, _ in ARRAYS.values()]
    if route == "processor":
        found = processor(images=values)["pixel_values"]
    elif route == "alone":
        found = torch.cat([processor(images=value)["pixel_values"] for value in values])
    else:
        model, seen = small_model(), []
        watch(model, seen)
        mm_hf.pipeline(model=model, processor=processor)([{"image": value} for value in values], batch_size=16)
        found = torch.cat(seen)
    off = (found - pixels(np.stack([picture for _, picture in ARRAYS.values()]))).abs().amax((1, 2, 3)) * 127.5
    assert {name: value.item() for name, value in zip(ARRAYS, off) if value > 0.01} == {}


@pytest.mark.parametrize(
    ("shape", "tensor", "layout", "channels_last"),
    [
        ((3, 5, 3), False, None, True),
        ((3, 5, 3), True, None, False),
        ((3, 5, 3), False, "channels_first", False),
        ((3, 5, 3), True, "channels_last", True),
        ((4, 5, 1), False, None, True),
        ((1, 5, 4), True, None, False),
    ],
)
def test_where_the_channels_stand_when_both_are_possible(shape, tensor, layout, channels_last, processor):
    values = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    values = values[..., :3] if shape[-1] == 4 else values
    plain = values if channels_last else np.moveaxis(values, 0, -1)
    plain = np.repeat(plain, 3, -1) if plain.shape[-1] == 1 else plain
    kwargs = {} if layout is None else {"images_kwargs": {"input_data_format": layout}}
    given = torch.from_numpy(values.copy()) if tensor else values
    found = processor(images=[given], **kwargs)["pixel_values"]
    torch.testing.assert_close(found, pixels(plain[None]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (1, 300), (2, 2)])
def test_small_and_narrow_pictures(size):
    """A picture three pixels high is not one with its channels first."""
    picture = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    processor = MMFusionProcessor(image_processor=ViTImageProcessor(size={"height": 8, "width": 8}, resample=0))
    found = processor(images=[PILImage.fromarray(picture), picture])["pixel_values"]
    expected = np.asarray(PILImage.fromarray(picture).resize((8, 8), PILImage.Resampling.NEAREST))
    torch.testing.assert_close(found[:1], pixels(expected[None]), rtol=0, atol=1e-6)
    assert torch.equal(found[0], found[1])


# --- The ground


@pytest.mark.parametrize(
    ("background", "ground"),
    [
        ("white", WHITE),
        ("black", (0, 0, 0)),
        ("#102030", (16, 32, 48)),
        ((1, 2, 3), (1, 2, 3)),
        ([9, 8, 7], (9, 8, 7)),
    ],
)
def test_the_ground_is_the_users(background, ground, tmp_path):
    processor = plain_processor(image_background=background)
    processor.save_pretrained(tmp_path)
    again = MMFusionProcessor.from_pretrained(tmp_path)
    assert again.image_background == (list(background) if isinstance(background, tuple) else background)
    mixed = tuple(round(low * 127 / 255 + high * 128 / 255) for low, high in zip(ground, BLUE))
    expected = pixels(quarters(RED, mixed, ground, ground)[None])
    for image in (PILImage.fromarray(HIDING), HIDING, saved(HIDING, "PNG")):
        torch.testing.assert_close(again(images=[image])["pixel_values"], expected, rtol=0, atol=1.01 / 127.5)
    row = {"image": {"bytes": saved(HIDING, "PNG"), "path": None}, "label": "a", "row_id": 0, "split": "train"}
    batch = MultimodalCollator(again, COLUMNS, LABELS)([row])
    assert torch.equal(batch["pixel_values"], again(images=[HIDING])["pixel_values"])


def test_a_processor_without_the_key_drops_the_opacity_as_before(tmp_path):
    plain_processor(image_background=None).save_pretrained(tmp_path)
    assert "image_background" not in json.loads((tmp_path / "processor_config.json").read_text())
    again = MMFusionProcessor.from_pretrained(tmp_path)
    assert again.image_background is None
    expected = pixels(HIDING[None, ..., :3])
    assert torch.allclose(again(images=[PILImage.fromarray(HIDING)])["pixel_values"], expected)
    row = {"image": {"bytes": saved(HIDING, "PNG"), "path": None}, "label": "a", "row_id": 0, "split": "train"}
    assert torch.allclose(MultimodalCollator(again, COLUMNS, LABELS)([row])["pixel_values"], expected)


@pytest.mark.parametrize(
    "value", ["no colour", "", (1, 2), (1, 2, 256), (1, 2, True), (0.5, 0.5, 0.5), 7, "#11223344"]
)
def test_what_is_no_ground(value):
    with pytest.raises(ValueError, match="image_background") as error:
        plain_processor(image_background=value)
    assert repr(value) in str(error.value)


def vision_folder(folder: Path, channels: int, stats: int) -> str:
    torch.manual_seed(0)
    ViTModel(ViTConfig(**{**tiny.PATCHES, "num_channels": channels})).save_pretrained(folder)
    numbers = {"image_mean": [0.4, 0.5, 0.6][:stats], "image_std": [0.5] * stats} if stats > 1 else {}
    numbers = numbers or {"image_mean": [0.5], "image_std": [0.5]}
    ViTImageProcessor(size={"height": 32, "width": 32}, resample=0, **numbers).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("stats", [1, 3])
def test_an_encoder_of_one_channel_is_shown_one(stats, tmp_path):
    source = vision_folder(tmp_path / "vision", 1, stats)
    MMFusionProcessor.from_encoders_pretrained(vision=source).save_pretrained(tmp_path / "saved")
    processor = MMFusionProcessor.from_pretrained(tmp_path / "saved")
    assert (processor.image_background, processor.image_channels) == ("white", 1)
    luma = np.array([[76, 150], [29, 255]], np.uint8)  # ITU-R 601 of the flag
    expected = np.kron(luma, np.ones((16, 16), np.uint8))[None, ..., None]
    images = [FLAG, PILImage.fromarray(FLAG), saved(FLAG, "PNG"), FLAG / 255, np.dstack([FLAG, GREY * 0 + 255])]
    batch = processor(images=images)
    torch.testing.assert_close(batch["pixel_values"], pixels(expected).expand(5, -1, -1, -1), rtol=0, atol=1e-6)
    for grey in (GREY, PILImage.fromarray(GREY), sixteen_bits(), RAMP, saved(sixteen_bits(), "PNG"), rgb(GREY)):
        found = processor(images=[grey])["pixel_values"]
        assert torch.equal(found, processor(images=[GREY])["pixel_values"])
        assert found.shape == (1, 1, 32, 32)
    assert (processor(images=[HIDING])["pixel_values"][0, 0, 16:] == 1).all()
    model = MMFusionForClassification.from_encoders_pretrained(
        vision=source, num_labels=2, fusion_module_config=tiny.fusion_settings()
    )
    assert model(**batch).logits.isfinite().all()


def test_floats_that_are_not_to_be_rescaled_stay(processor):
    values = torch.randn(3, HEIGHT, WIDTH)
    found = processor(images=[values], images_kwargs={"do_rescale": False, "do_normalize": False})["pixel_values"]
    torch.testing.assert_close(found[0], values)
    values[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"Row 0: .*pixels.*finite"):
        processor(images=[values], images_kwargs={"do_rescale": False})


def test_an_encoder_of_other_channels_is_shown_arrays_as_they_are(tmp_path):
    processor = MMFusionProcessor(ViTImageProcessor(do_resize=False, do_normalize=False), image_channels=4)
    found = processor(images=[torch.from_numpy(HIDING).permute(2, 0, 1)])["pixel_values"]
    torch.testing.assert_close(found[0], torch.from_numpy(HIDING).permute(2, 0, 1) / 255)


# --- What is no picture


def bomb() -> bytes:
    """The header of a picture of 40,000 × 40,000 pixels."""
    content = saved(FLAG, "BMP")
    return content[:18] + (40000).to_bytes(4, "little") * 2 + content[26:]


def floats(value: float) -> bytes:
    values = RAMP.astype(np.float32)
    values[3, 4] = value
    return saved(values, "TIFF")


BAD_FILES = {
    "truncated PNG": (lambda: cut_off(saved(FLAG, "PNG", compress_level=0)), "picture.*truncated"),
    "truncated JPEG": (lambda: cut_off(saved(np.repeat(FLAG, 40, 0), "JPEG"), 0.8), "picture.*truncated"),
    "truncated TIFF": (lambda: cut_off(saved(FLAG, "TIFF"), 0.5), "picture.*truncated"),
    "empty": (lambda: b"", "picture.*b''"),
    "zeros": (lambda: bytes(100), r"picture.*b'.x00"),
    "text": (lambda: b"this is a text, and no picture at all", "b'this is a t"),
    "EPS": (lambda: saved(FLAG, "EPS"), "b.%!PS-Adobe"),
    "PDF": (lambda: saved(FLAG, "PDF"), "b.%PDF"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "b.<svg"),
    "NaN": (lambda: floats(np.nan), r"pixels.*\bnan\b"),
    "infinity": (lambda: floats(np.inf), r"pixels.*\binf\b"),
    "1e30": (lambda: floats(1e30), r"\b0 to 1e\+30 \(float32\)"),
    "below 0": (lambda: floats(-2.0), r"-2 to 1 \(float32\)"),
    "metres": (lambda: floats(3.5), r"\b0 to 3\.5 \(float32\)"),
    "17 bits": (lambda: saved(np.full((4, 4), 100000, np.int32), "TIFF"), r"\b100000 to 100000 \(int32\)"),
    "integers below 0": (lambda: saved(np.full((4, 4), -1000, np.int32), "TIFF"), "-1000 to -1000"),
    "1,600 million pixels": (bomb, "1600000000 pixels.*MAX_IMAGE_PIXELS"),
    "a long line": (lambda: saved(PILImage.new("L", (2001, 2)), "PNG"), "2001 × 2 pixels.*1000"),
}
BAD_PLACES = {
    "pipe": (os.mkfifo, r"\bpipe\b"),
    "folder": (os.mkdir, r"\bfolder\b"),
    "device": (lambda path: os.symlink("/dev/zero", path), r"\bdevice\b|--data_root"),
    "nothing": (lambda path: None, r"\bno .*\bfile\b|\bno file\b"),
}


@pytest.fixture
def no_ghostscript(monkeypatch):
    def start(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    monkeypatch.setattr("subprocess.Popen.__init__", start)


@pytest.mark.parametrize("kind", [*BAD_FILES, *BAD_PLACES])
def test_what_is_no_picture_is_named(kind, processor, tmp_path, no_ghostscript):
    make, message = {**BAD_FILES, **BAD_PLACES}[kind]
    bad = tmp_path / "bad.png"
    if kind in BAD_FILES:
        bad.write_bytes(make())
    else:
        make(bad)
    (tmp_path / "good.png").write_bytes(saved(FLAG, "PNG"))
    objects = [str(bad), bad, {"bytes": None, "path": str(bad)}]
    if kind in BAD_FILES:
        objects += [bad.read_bytes(), {"bytes": bad.read_bytes(), "path": None}]
    for value in objects:
        with pytest.raises(ValueError, match=f"(?s)Row 1: .*({message})"):
            processor(images=[FLAG, value])
        with pytest.raises(ValueError, match=f"(?s)Row 1: .*({message})"):  # the second row, of two pictures each
            processor(images=[[FLAG, FLAG], [None, value]])
    with pytest.raises(ValueError, match=f"(?s){message}"):
        mm_hf.pipeline(model=small_model(), processor=processor)({"image": str(bad)})

    file = table_of(tmp_path, ["good.png", "bad.png"], "csv")
    split = load_splits(file, COLUMNS, validation_fraction=0, test_fraction=0)["train"]
    assert describe({"train": split}, COLUMNS, list(LABELS), "single_label_classification", root=str(tmp_path))
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(tmp_path))
    with pytest.raises(BadRowError, match=f"(?s)row 1 .*'train'.*'image'.*'bad.png'.*({message})"):
        collator(all_rows(split))
    batch = MultimodalCollator(processor, COLUMNS, LABELS, root=str(tmp_path), on_error="skip")(all_rows(split))
    assert batch["vision_index"].tolist() == [0, -1]
    assert batch["labels"].tolist() == [0, -100]
    assert [(entry["row"], entry["file"]) for entry in batch["bad_rows"]] == [(1, "bad.png")]
    assert "\n" not in batch["bad_rows"][0]["reason"]


BAD_OBJECTS = {
    "NaN": (np.full((4, 4), np.nan), r"pixels.*\bnan\b"),
    "tensor of NaN": (torch.full((3, 4, 4), torch.nan), r"pixels.*\bnan\b"),
    "infinity": (np.full((4, 4), np.inf, np.float32), r"pixels.*\binf\b"),
    "normalised": (np.linspace(-2.1, 2.6, 48).reshape(4, 4, 3), r"-2\.1 to 2\.6 \(float64\)"),
    "normalised and bright": (np.linspace(0.1, 2.6, 48).reshape(4, 4, 3), r"\b0\.1 to 2\.6"),
    "beyond 16 bits": (np.full((4, 4), 1e6), r"\b1e\+06 to 1e\+06"),
    "below 0": (np.full((4, 4), -1, np.int8), "-1 to -1"),
    "64 bits": (np.full((4, 4), 2**40), "int64"),
    "complex numbers": (np.zeros((4, 4), complex), "complex128"),
    "objects": (np.full((4, 4), None), "object"),
    "strings": (np.full((4, 4), "a"), "<U1"),
    "seven channels": (np.zeros((5, 6, 7), np.uint8), r"\b4 channels.*\(5, 6, 7\)"),
    "no pixel": (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    "one number": (np.float32(1.0) * np.ones(3, np.float32), r"shape \(3,\)"),
    "a long line": (np.zeros((1, MAX_ASPECT + 1), np.uint8), f"{MAX_ASPECT + 1} × 1"),
    "a number": (7, "picture: 7"),
    "an empty dict": ({"bytes": None, "path": None}, "picture: .*None"),
    "another dict": ({"image": "a.png"}, r"picture: .*'a\.png'"),
    "an empty path": ("", "file ''"),
    "a NUL": ("a\0.png", r"file .a.*\.png"),
}


@pytest.mark.parametrize("kind", BAD_OBJECTS)
def test_what_is_no_picture_in_memory(kind, processor):
    value, message = BAD_OBJECTS[kind]
    with pytest.raises(ValueError, match=f"Row 1: .*{message}"):
        processor(images=[FLAG, value])


def test_an_image_that_was_opened_before_and_is_broken(processor, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(cut_off(saved(np.repeat(FLAG, 40, 0), "JPEG"), 0.8))
    with (
        PILImage.open(tmp_path / "cut.jpg") as image,
        pytest.raises(ValueError, match=r"Row 0: .*cut.jpg.*truncated"),
    ):
        processor(images=[image])


def test_the_image_of_the_user_stays_as_it_was(processor):
    for content in (saved(lying(6).copy(), "PNG", exif=exif(6)), saved(HIDING, "PNG"), saved(sixteen_bits(), "PNG")):
        image = PILImage.open(io.BytesIO(content))
        mode, size, info = image.mode, image.size, dict(image.info)
        one = processor(images=[image])["pixel_values"]
        assert torch.equal(processor(images=[image])["pixel_values"], one)
        assert (image.mode, image.size) == (mode, size)
        assert info.items() <= image.info.items()


def test_opening_twice_is_opening_once():
    for name, (_, content, _, _) in corpus().items():
        image = open_image(content)
        assert open_image(image) is image, name
        assert (image.mode, image.info, len(image.getexif())) == ("RGB", {}, 0), name


def test_what_is_read_by_an_address(processor):
    content = saved(lying(6).copy(), "PNG", exif=exif(6))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            there = self.path == "/a.png"
            self.send_response(200 if there else 404)
            self.end_headers()
            self.wfile.write(content if there else b"not found")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert np.array_equal(np.asarray(open_image(f"{address}/a.png")), FLAG)
        with pytest.raises(ValueError, match=rf"{address}/b.png.*404"):
            processor(images=[f"{address}/b.png"])
    finally:
        server.shutdown()
        server.server_close()
    row = {"image": {"bytes": None, "path": f"{address}/a.png"}, "row_id": 3, "split": "train"}
    with pytest.raises(BadRowError, match=r"row 3 .*'image'.*/a\.png"):  # a table does not fetch anything
        decode_image(row, "image", "/tmp")


@pytest.mark.parametrize(
    ("value", "one"),
    [
        ("a.png", True),
        (Path("a.png"), True),
        (b"", True),
        ({"bytes": b"", "path": None}, True),
        ({"path": "a"}, True),
        (PILImage.new("L", (1, 1)), True),
        (GREY, True),
        (torch.zeros(3, 4, 4), True),
        (np.zeros((2, 4, 4, 3)), False),
        ({"image": "a.png"}, False),
        ({}, False),
        ([GREY], False),
        (None, False),
        (3, False),
    ],
)
def test_what_is_one_picture(value, one):
    assert is_picture(value) is one


@pytest.mark.parametrize("image", ["path", "Path", "bytes", "dict of bytes", "PIL", "array"])
def test_one_picture_and_many_questions(image, encoders, tmp_path):
    (tmp_path / "a.png").write_bytes(saved(HIDING, "PNG"))
    given = {
        "path": str(tmp_path / "a.png"),
        "Path": tmp_path / "a.png",
        "bytes": saved(HIDING, "PNG"),
        "dict of bytes": {"bytes": saved(HIDING, "PNG"), "path": None},
        "PIL": PILImage.fromarray(HIDING),
        "array": HIDING,
    }[image]
    processor = MMFusionProcessor(plain_processor().image_processor, word_tokenizer(["who"]), image_background="white")
    model, seen = small_model(mm_hf.MMFusionForQuestionAnswering, text="bert"), []
    watch(model, seen)
    ask = mm_hf.pipeline("visual-question-answering", model=model, processor=processor)
    if image != "dict of bytes":  # beside `question` a dict is a row
        assert len(ask(image=given, question=["who", "who who"])) == 2
    assert len(ask({"image": given, "question": "who"})) == 2
    assert all(torch.allclose(values, pixels(SHOWN[None])) for values in seen)


def test_colors():
    assert color_of("white") == WHITE
    assert color_of(None) is None
