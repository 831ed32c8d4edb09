"""Odd things, drawn by a seed: what strangers' files and programs hold, and what each of them means.

A form is a dict: `odd`, as its route takes it (of pictures and sounds in files the bytes); `means`, the clean things
that it may be answered as, of which there are none if it has to be refused; `refused`, whether it may be; of files
`suffix`; of what is not quite the same `tolerance`; of labels and of whole files `run`, which gives one of `means`,
and `names`, what an error has to name.
"""

import datetime
import decimal
import io
import json
import math
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from PIL import Image

from mm_hf import MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, Rows, label_tensor, load_splits
from mm_hf.models.tabular import TableSchema


RATE = 8000
EXACT = 1e-4  # of the logits; two clean things differ by far more, see `test_the_model_sees_what_differs`
NEAR = 0.15  # where the values are not quite the same, as those of 8 bits and of 16
WORDS = "what colour is it red blue green a house old new small large the one with garden and".split()  # noqa: SIM905
ANY = object()  # any finite answer will do
Form = dict[str, Any]


# The clean things


def draw_picture(generator: np.random.Generator) -> Image.Image:
    """Blocks of drawn colours, wider than high, without any symmetry."""
    blocks = generator.integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def draw_text(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, size=int(generator.integers(3, 9))))


def draw_sound(generator: np.random.Generator) -> np.ndarray:
    """A tenth of a second, on the grid of 16 bits: what a file of these holds exactly."""
    samples = generator.uniform(-0.9, 0.9, size=RATE // 10)
    return (np.round(samples * 32768) / 32768).astype(np.float32)


def draw_table(generator: np.random.Generator) -> dict[str, Any]:
    return {"age": float(generator.integers(1, 99)), "town": str(generator.choice(["Rome", "Oslo"]))}


def draw_series(generator: np.random.Generator) -> list[list[float]]:
    return generator.integers(-20, 20, size=(int(generator.integers(3, 7)), 2)).astype(float).tolist()


CLEAN = {
    "image": draw_picture,
    "path": draw_picture,
    "text": draw_text,
    "sound": draw_sound,
    "table": draw_table,
    "series": draw_series,
}


# The odd things: of each kind what it is, what it means, whether it may be refused


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def over_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency on white, as it is seen."""
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def with_alpha(picture: Image.Image, mode: str = "RGBA") -> Image.Image:
    """The picture with half of it transparent, and colours hidden there."""
    alpha = np.full((picture.height, picture.width), 255, np.uint8)
    alpha[:, picture.width // 2 :] = 0
    seen = picture.convert(mode.removesuffix("A"))
    return Image.merge(mode, [*seen.split(), Image.fromarray(alpha)])


def grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"))


def image_files(generator: np.random.Generator) -> dict[str, Form]:
    """Pictures in files: bytes, suffix, what they mean."""
    picture = draw_picture(generator)
    level = grey(picture)
    transparent, half_grey = with_alpha(picture), with_alpha(picture, "LA")
    palette = picture.quantize(12)
    jpeg = saved(picture, "JPEG")
    as_grey = Image.fromarray(level)
    png = saved(picture, "PNG")
    cmyk = saved(picture.convert("CMYK"), "TIFF")
    found: dict[str, Form] = {}

    def add(form: str, odd: bytes, means: Any = None, suffix: str = ".png", **more):
        found[form] = {"odd": odd, "means": [] if means is None else [means], "suffix": suffix, **more}
        found[form].setdefault("refused", means is None)

    add("png", png, picture)
    add("upper-case suffix", png, picture, ".PNG")
    add("no suffix", png, picture, "")
    add("png named jpg", png, picture, ".jpg")
    add("jpeg", jpeg, Image.open(io.BytesIO(jpeg)).convert("RGB"), ".jpg")
    for orientation, turn in TURNS.items():
        add(f"turned {orientation}", saved(picture, "PNG", exif=exif(orientation)), picture.transpose(turn))
    lying = saved(picture, "JPEG", exif=exif(6), quality=95)
    add(
        "photo of a phone",
        lying,
        Image.open(io.BytesIO(saved(picture, "JPEG", quality=95))).convert("RGB").transpose(TURNS[6]),
        ".jpeg",
    )
    add("upright 1", saved(picture, "PNG", exif=exif(1)), picture)
    add("orientation 9", saved(picture, "PNG", exif=exif(9)), picture)
    add("grey", saved(as_grey, "PNG"), as_grey.convert("RGB"))
    add("one bit", saved(picture.convert("1"), "PNG"), picture.convert("1").convert("RGB"))
    add("palette", saved(palette, "PNG"), palette.convert("RGB"))
    add("gif", saved(palette, "GIF"), palette.convert("RGB"), ".gif")
    add("bmp", saved(picture, "BMP"), picture, ".bmp")
    add("tiff", saved(picture, "TIFF"), picture, ".tif")
    add("webp", saved(picture, "WEBP", lossless=True), picture, ".webp")
    add("cmyk", cmyk, Image.open(io.BytesIO(cmyk)).convert("RGB"), ".tif")
    add(
        "animated",
        saved(palette, "GIF", save_all=True, append_images=[palette.transpose(TURNS[3])]),
        palette.convert("RGB"),
        ".gif",
    )
    add("transparent", saved(transparent, "PNG"), over_white(transparent))
    add("grey and transparent", saved(half_grey, "PNG"), over_white(half_grey))
    hidden = int(palette.getpixel((0, 0)))
    clear = palette.copy()
    clear.info["transparency"] = hidden
    add(
        "transparent palette",
        saved(palette, "PNG", transparency=hidden),
        over_white(Image.open(io.BytesIO(saved(palette, "PNG", transparency=hidden)))),
    )
    opaque = picture.convert("RGBA")
    add("opaque", saved(opaque, "PNG"), picture)
    sixteen = Image.fromarray(level.astype(np.uint16) * 257)
    add("sixteen bits", saved(sixteen, "PNG"), as_grey.convert("RGB"), tolerance=NEAR)
    add("sixteen bits, tiff", saved(sixteen, "TIFF"), as_grey.convert("RGB"), ".tif", tolerance=NEAR)
    floats = Image.fromarray(level.astype(np.float32) / 255)
    add("floats", saved(floats, "TIFF"), as_grey.convert("RGB"), ".tif", tolerance=NEAR)
    add("one pixel", saved(picture.resize((1, 1)), "PNG"), picture.resize((1, 1)))
    add("narrow", saved(picture.resize((1, 300)), "PNG"), picture.resize((1, 300)))
    add("nothing", b"")
    add("half of it", png[: len(png) // 2])
    add("half of a jpeg", jpeg[: len(jpeg) // 2], suffix=".jpg")
    add("a text", b"this is no picture at all\n")
    add("a web page", b"<!DOCTYPE html><html><body>404</body></html>", suffix=".jpg")
    add("a drawing", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
    add("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    add("a number", b"7")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", png)
    add("an archive", archive.getvalue())
    missing = Image.fromarray(np.full(level.shape, np.nan, np.float32))
    add("pixels that are no numbers", saved(missing, "TIFF"), suffix=".tif")
    return found


def image_objects(generator: np.random.Generator, folder: Path) -> dict[str, Form]:
    """Pictures in memory, as the processor and pipelines get them."""
    picture = draw_picture(generator)
    array, level = np.asarray(picture), grey(picture)
    as_grey = Image.fromarray(level).convert("RGB")
    transparent = with_alpha(picture)
    file = folder / f"own {generator.integers(10**9)}.png"
    file.write_bytes(saved(picture, "PNG"))
    turned = Image.open(io.BytesIO(saved(picture, "PNG", exif=exif(6))))
    turned.load()
    found = {
        "pil": (picture, picture),
        "pil, turned": (turned, picture.transpose(TURNS[6])),
        "pil, grey": (Image.fromarray(level), as_grey),
        "pil, palette": (picture.quantize(12), picture.quantize(12).convert("RGB")),
        "pil, transparent": (transparent, over_white(transparent)),
        "path": (str(file), picture),
        "Path": (file, picture),
        "bytes": (file.read_bytes(), picture),
        "bytes and path": ({"bytes": file.read_bytes(), "path": None}, picture),
        "path in a dict": ({"bytes": None, "path": str(file)}, picture),
        "array": (array, picture),
        "array, channels first": (np.ascontiguousarray(array.transpose(2, 0, 1)), picture),
        "array, grey": (level, as_grey),
        "array, one channel": (level[..., None], as_grey),
        "array, one channel first": (level[None], as_grey),
        "array, transparent": (np.asarray(transparent), over_white(transparent)),
        "tensor": (torch.tensor(array), picture),
        "tensor, channels first": (torch.tensor(array).permute(2, 0, 1), picture),
        "floats": (array.astype(np.float32) / 255, picture),
        "floats, tensor": (torch.tensor(array).permute(2, 0, 1).float() / 255, picture),
        "doubles": (array / 255, picture),
        "none": (None, None),
        "pandas' none": (float("nan"), None),
    }
    wrong = {
        "no such file": str(folder / "nowhere.png"),
        "a folder": str(folder),
        "a word": "picture",
        "no bytes": b"",
        "a number": 3,
        "nothing in it": np.zeros((0, 0, 3), np.uint8),
        "one dimension": np.zeros(9, np.uint8),
        "five channels": np.zeros((8, 8, 5), np.uint8),
        "not a number": np.full((8, 8, 3), np.nan, np.float32),
        "infinite": np.full((8, 8, 3), np.inf, np.float32),
        "a set": {"red"},
        "an empty dict": {},
    }
    cases = {
        form: {"odd": odd, "means": [means], "tolerance": NEAR if "float" in form or "doubles" in form else EXACT}
        for form, (odd, means) in found.items()
    }
    cases["an empty word"] = {"odd": "", "means": [None], "refused": True}
    return cases | {form: {"odd": odd, "refused": True} for form, odd in wrong.items()}


def paths(generator: np.random.Generator, folder: Path) -> dict[str, Form]:
    """Cells of a column of paths, in a folder with the picture `a/p.png` and its like."""
    picture = draw_picture(generator)
    number = int(generator.integers(10**9))
    own, outside = folder / f"a{number}", folder.parent / f"outside{number}"
    own.mkdir()
    outside.mkdir()
    names = [
        "p.png",
        "with spaces.png",
        "größe 猫.png",
        "a#b%20c.png",
        "'q,uote'.png",
        "no_suffix",
        "CAPITAL.PNG",
        "-.png",
    ]
    for name in names:
        (own / name).write_bytes(saved(picture, "PNG"))
    (outside / "p.png").write_bytes(saved(picture, "PNG"))
    (own / "inside.png").symlink_to(own / "p.png")
    (own / "leads_out.png").symlink_to(outside / "p.png")
    (own / "broken.png").symlink_to(own / "nowhere")
    (own / "folder.png").mkdir()
    within = own.name
    good = {name: f"{within}/{name}" for name in [*names, "inside.png"]}
    good |= {
        "a dot": f"./{within}/p.png",
        "two slashes": f"{within}//p.png",
        "there and back": f"{within}/../{within}/p.png",
        "absolute": str(own / "p.png"),
    }
    wrong = {
        "nowhere": f"{within}/nowhere.png",
        "outside": f"../{outside.name}/p.png",
        "absolute, outside": str(outside / "p.png"),
        "a link that leads out": f"{within}/leads_out.png",
        "a link to nothing": f"{within}/broken.png",
        "a folder": within,
        "a folder named png": f"{within}/folder.png",
        "a blank behind": f"{within}/p.png ",
        "backslashes": f"{within}\\p.png",
        "an address": f"http://localhost:9/{within}/p.png",
        "a file's address": f"file://{own}/p.png",
        "the home": "~/p.png",
        "a long name": "n" * 300 + ".png",
        "a very long path": f"{within}/" + "../x/" * 2000 + "p.png",
        "a word": "Rome",
        "a system file": "/etc/passwd",
        "a device": "/dev/zero",
    }
    cases: dict[str, Form] = {form: {"odd": odd, "means": [picture]} for form, odd in good.items()}
    cases["nothing"] = {"odd": None, "means": [None]}
    return cases | {form: {"odd": odd, "refused": True} for form, odd in wrong.items()}


def texts(generator: np.random.Generator) -> dict[str, Form]:
    """Texts as JSON and Python have them."""
    text = draw_text(generator)
    long = " ".join(generator.choice(WORDS, size=5000))
    good = {
        "as it is": (text, text),
        "blanks around": (f"  {text}\t ", text),
        "lines": (text.replace(" ", "\n"), text),
        "tabs": (text.replace(" ", "\t"), text),
        "hard blanks": (text.replace(" ", "\u00a0"), text),
        "windows' lines": (text.replace(" ", "\r\n"), text),
        "capitals": (text.upper(), text),
        "long": (long, " ".join(long.split()[:200])),
        "none": (None, None),
    }
    cases: dict[str, Form] = {form: {"odd": odd, "means": [means]} for form, (odd, means) in good.items()}
    finite = {
        "emoji": "\U0001f431\u200d\U0001f464 \u2764\ufe0f",
        "another script": "日本語の質問ですか",
        "right to left": "مرحبا بالعالم",
        "combining": "e\u0301 a\u0308",
        "one letter": "a",
        "one very long word": "x" * 100_000,
        "a formula": "=SUM(A1:A9)",
        "special tokens": "[CLS] [SEP] [PAD] [MASK]",
        "markup": "<b>red</b> &amp; {blue} %s {0}",
        "NA": "NA",
        "a null": "null",
        "nan in words": "nano",
        "digits": "00501",
        "true": "True",
    }
    cases |= {f"{form}": {"odd": odd, "means": [ANY]} for form, odd in finite.items()}
    blank = {"blank": "   ", "a line": "\n", "a tab": "\t"}
    return cases | {form: {"odd": odd, "refused": True} for form, odd in blank.items()}


def text_objects(generator: np.random.Generator) -> dict[str, Form]:
    """Texts that only Python has."""
    text = draw_text(generator)
    cases = {
        "numpy's string": {"odd": np.str_(text), "means": [text]},
        "pandas' none": {"odd": float("nan"), "means": [None]},
        "empty": {"odd": "", "refused": True},
        "a lone surrogate": {"odd": f"{text} \ud800", "refused": True},
        "only a surrogate": {"odd": "\udfff", "refused": True},
        "zero": {"odd": f"{text} \x00", "means": [text], "refused": True},
        "no width": {"odd": f"{text}\u200b", "means": [ANY], "refused": True},
    }
    wrong = {
        "bytes": b"red",
        "a number": 5,
        "a decimal": 5.5,
        "true": True,
        "a dict": {"text": "red"},
        "a date": datetime.date(2020, 1, 1),
    }
    return cases | {form: {"odd": odd, "refused": True} for form, odd in wrong.items()}


def tables(generator: np.random.Generator) -> dict[str, Form]:
    """Rows of a table, as JSON has them."""
    row = draw_table(generator)
    age, town = row["age"], row["town"]
    unknown = {"age": age, "town": "Atlantis"}
    good = {
        "as it is": (row, row),
        "a whole number": ({"age": int(age), "town": town}, row),
        "no age": ({"age": None, "town": town}, {"town": town}),
        "no town": ({"age": age, "town": None}, {"age": age}),
        "nothing": ({"age": None, "town": None}, None),
        "a new town": ({"age": age, "town": "Paris"}, unknown),
        "another case": ({"age": age, "town": town.lower()}, unknown),
        "none in words": ({"age": age, "town": "None"}, unknown),
        "below zero": ({"age": -age, "town": town}, {"age": -age, "town": town}),
    }
    cases: dict[str, Form] = {form: {"odd": odd, "means": [means]} for form, (odd, means) in good.items()}
    cases["far off"] = {"odd": {"age": 1e9, "town": town}, "means": [ANY], "refused": True}
    cases["a blank before"] = {"odd": {"age": age, "town": f" {town}"}, "means": [unknown, row]}
    return cases


def table_objects(generator: np.random.Generator) -> dict[str, Form]:
    """Rows of a table that only Python has, or that break a file's column."""
    row = draw_table(generator)
    age, town = row["age"], row["town"]
    good = {
        "float32": np.float32(age),
        "int8": np.int8(age),
        "a Decimal": decimal.Decimal(int(age)),
        "a zero-dimensional array": np.array(age),
        "a tensor": torch.tensor(age),
    }
    cases: dict[str, Form] = {
        form: {"odd": {"age": value, "town": town}, "means": [row], "refused": "zero" in form or "tensor" in form}
        for form, value in good.items()
    }
    for form, value in {"not a number": math.nan, "pandas' none": pd.NA}.items():
        cases[form] = {"odd": {"age": value, "town": town}, "means": [{"town": town}]}
    wrong = {
        "infinite": math.inf,
        "below all": -math.inf,
        "too large for float32": 1e39,
        "far too large": 10**400,
        "a word": "old",
        "a list": [age],
        "a dict": {"age": age},
        "a date": datetime.date(2020, 1, 1),
        "complex": complex(age, 1),
    }
    cases |= {form: {"odd": {"age": value, "town": town}, "refused": True} for form, value in wrong.items()}
    for form, value in {
        "digits": f"{int(age)}",
        "digits and a comma": "1,234",
        "digits and a unit": "30 years",
    }.items():
        means = [row] if form == "digits" else []
        cases[form] = {"odd": {"age": value, "town": town}, "means": means, "refused": True}
    cases["an empty cell"] = {"odd": {"age": "", "town": town}, "means": [{"town": town}], "refused": True}
    cases["true"] = {"odd": {"age": True, "town": town}, "means": [{"age": 1.0, "town": town}], "refused": True}
    return cases


def pcm(samples: np.ndarray, width: int, channels: int = 1, rate: int = RATE) -> bytes:
    """A wav file of whole numbers of 1 to 4 bytes, written without libsndfile."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        scaled = np.round(samples.astype(np.float64) * 2 ** (8 * width - 1)).astype(np.int64)
        if width == 1:
            out.writeframes((scaled + 128).clip(0, 255).astype(np.uint8).tobytes())
        else:
            raw = scaled.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
            out.writeframes(raw.tobytes())
    return file.getvalue()


def sound_files(generator: np.random.Generator) -> dict[str, Form]:
    """Sounds in files."""
    samples, other = draw_sound(generator), draw_sound(generator)
    both = np.stack([samples, other], axis=1)
    mean = both.mean(1).astype(np.float32)
    found: dict[str, Form] = {}

    def written(values: np.ndarray, kind: str, subtype: str | None = None) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, values, RATE, format=kind, subtype=subtype)
        return file.getvalue()

    def add(form: str, odd: bytes, means: Any = None, suffix: str = ".wav", **more):
        found[form] = {"odd": odd, "means": [] if means is None else [means], "suffix": suffix, **more}
        found[form].setdefault("refused", means is None)

    add("16 bits", pcm(samples, 2), samples)
    add("24 bits", pcm(samples, 3), samples)
    add("32 bits", pcm(samples, 4), samples)
    add("8 bits", pcm(samples, 1), samples, tolerance=NEAR)
    add("floats", written(samples, "WAV", "FLOAT"), samples)
    add("doubles", written(samples, "WAV", "DOUBLE"), samples)
    add("flac", written(samples, "FLAC"), samples, ".flac")
    add("aiff", written(samples, "AIFF"), samples, ".aiff")
    add("flac named wav", written(samples, "FLAC"), samples)
    add("two channels", pcm(both.reshape(-1), 2, 2), mean)
    add("two equal channels", pcm(samples.repeat(2), 2, 2), samples)
    add("another rate", pcm(samples, 2, rate=2 * RATE), ANY)
    add("a silence", pcm(0 * samples, 2), 0 * samples)
    add("one sample", pcm(samples[:1], 2), ANY, refused=True)
    add("nothing", b"")
    add("no samples", pcm(samples[:0], 2))
    add("a text", b"this is no sound at all")
    add("a part of the header", pcm(samples, 2)[:20])
    bad = samples.copy()
    bad[5] = np.nan
    add("not a number", written(bad, "WAV", "FLOAT"))
    bad[5] = np.inf
    add("infinite", written(bad, "WAV", "FLOAT"))
    picture = saved(draw_picture(generator), "PNG")
    add("a picture", picture)
    return found


def sound_objects(generator: np.random.Generator, route: str) -> dict[str, Form]:
    """Sounds in memory; a pipeline takes dicts of them too."""
    samples = draw_sound(generator)
    found = {
        "an array": (samples, samples),
        "doubles": (samples.astype(np.float64), samples),
        "none": (None, None),
        "pandas' none": (float("nan"), None),
    }
    if route == "processor":
        found |= {"a tensor": (torch.tensor(samples), samples), "a list": (samples.tolist(), samples)}
    else:
        found |= {
            "bytes": (pcm(samples, 2), samples),
            "a dict": ({"array": samples, "sampling_rate": RATE}, samples),
            "raw": ({"raw": samples, "sampling_rate": RATE}, samples),
            "a list in a dict": ({"array": samples.tolist(), "sampling_rate": RATE}, samples),
            "channels": ({"array": np.stack([samples, samples]), "sampling_rate": RATE}, samples),
        }
    bad = samples.copy()
    bad[3] = np.nan
    wrong = {"empty": samples[:0], "not a number": bad, "infinite": np.full_like(samples, np.inf), "a number": 3.5}
    wrong |= {"three dimensions": samples[None, None], "no such file": "nowhere.wav"}
    if route == "pipeline":
        wrong |= {"no rate": {"array": samples}, "a rate of zero": {"array": samples, "sampling_rate": 0}}
    cases: dict[str, Form] = {form: {"odd": odd, "means": [means]} for form, (odd, means) in found.items()}
    whole = (samples * 32767).astype(np.int16)
    cases["whole numbers"] = {"odd": whole, "means": [samples], "refused": True, "tolerance": NEAR}
    return cases | {form: {"odd": odd, "refused": True} for form, odd in wrong.items()}


def series(generator: np.random.Generator) -> dict[str, Form]:
    """Time series as JSON has them."""
    steps = draw_series(generator)
    gap = [list(step) for step in steps]
    gap[1][0] = None
    mean = [list(step) for step in steps]
    mean[1][0] = 0.0  # where a missing reading stands
    whole = [[int(value) for value in step] for step in steps]
    cases: dict[str, Form] = {
        "as it is": {"odd": steps, "means": [steps]},
        "whole numbers": {"odd": whole, "means": [steps]},
        "a gap": {"odd": gap, "means": [mean]},
        "one step": {"odd": steps[:1], "means": [steps[:1]]},
        "many steps": {"odd": steps * 50, "means": [steps * 50]},
        "none": {"odd": None, "means": [None]},
        "no step": {"odd": [], "means": [None]},
        "gaps alone": {"odd": [[None, None]] * 3, "means": [None]},
        "far off": {"odd": [[1e6, 0.0], *steps], "means": [[[1e20, 0.0], *steps]]},
        "another width": {"odd": [[1.0, 2.0, 3.0]], "refused": True},
        "one channel": {"odd": [[1.0], [2.0]], "refused": True},
        "ragged": {"odd": [[1.0, 2.0], [3.0]], "refused": True},
        "an empty step": {"odd": [[1.0, 2.0], []], "refused": True},
        "too large for float32": {"odd": [[1e39, 0.0], *steps], "refused": True},
        "a gap for a step": {"odd": [*steps, None], "refused": True, "means": [[*steps, [0.0, 1.0]]]},
    }
    return cases


def series_objects(generator: np.random.Generator) -> dict[str, Form]:
    """Time series that only Python has."""
    steps = draw_series(generator)
    gap = np.array(steps)
    gap[1, 0] = np.nan
    mean = [list(step) for step in steps]
    mean[1][0] = 0.0
    cases: dict[str, Form] = {
        "an array": {"odd": np.array(steps), "means": [steps]},
        "float16": {"odd": np.array(steps, np.float16), "means": [steps]},
        "a tensor": {"odd": torch.tensor(steps), "means": [steps]},
        "not a number": {"odd": gap, "means": [mean]},
        "tuples": {"odd": [tuple(step) for step in steps], "means": [steps]},
        "infinite": {"odd": [[math.inf, 0.0], *steps], "refused": True},
        "a word": {"odd": [["old", 0.0], *steps], "refused": True},
        "a text": {"odd": "1 2 3", "refused": True},
        "a dict": {"odd": {"x": steps}, "refused": True},
        "three dimensions": {"odd": [[[1.0, 2.0]]] * 2, "refused": True},
        "complex": {"odd": np.array(steps) + 1j, "refused": True},
    }
    return cases


def labels(generator: np.random.Generator) -> dict[str, Form]:
    """Labels of one row, beside those of a clean one, as the loss takes them."""
    names_ = ["a", "b", "01", "1", "yes", "no"]
    classes = {str(name): number for number, name in enumerate(generator.permutation(names_))}
    single, several = "single_label_classification", "multi_label_classification"
    number = float(np.float32(generator.normal()))
    first = next(iter(classes))
    found: dict[str, Form] = {}

    def add(form: str, value: Any, problem_type: str, means: Any = None, refused: bool = False):
        names = None if problem_type == "regression" else classes
        clean: Any = {single: first, several: [first], "regression": 1.0}[problem_type]

        def read(folder: Path) -> Any:
            rows = [{"y": y, "row_id": row, "split": "train"} for row, y in enumerate((clean, value))]
            label = label_tensor(rows, "y", names, problem_type)[1]
            missing = label.isnan().any() if label.is_floating_point() else label == -100
            return "missing" if missing else label.tolist()

        found[form] = {
            "run": read,
            "means": [] if means is None else [means],
            "refused": refused or means is None,
            "names": r"\brow 1\b.*\by\b|\by\b.*\brow 1\b",
        }

    one_hot = [float(name == "a") for name in classes]
    for name in ("a", "01", "1", "yes"):
        add(f"class {name}", name, single, classes[name])
    add("numpy's string", np.str_("b"), single, classes["b"])
    add("its number", classes["b"], single, classes["b"])
    add("none", None, single, "missing")
    add("pandas' none", math.nan, single, "missing")
    add("minus one", -1, single, "missing")
    for form, value in {
        "unknown": "c",
        "empty": "",
        "a blank behind": "a ",
        "another case": "A",
        "001": "001",
    }.items():
        add(form, value, single)
    for form, value in {
        "a decimal": 0.5,
        "too high": 6,
        "below": -2,
        "a class in a list": ["a"],
        "bytes": b"a",
    }.items():
        add(form, value, single)
    add("infinite class", math.inf, single)
    add("a number", number, "regression", number)
    add("a whole number", 7, "regression", 7.0)
    add("numpy's number", np.float64(2.5), "regression", 2.5)
    add("no number", None, "regression", "missing")
    add("not a number", math.nan, "regression", "missing")
    for form, value in {"infinite": math.inf, "minus infinite": -math.inf, "too large for float32": 1e39}.items():
        add(form, value, "regression")
    add("digits", "7", "regression", 7.0, refused=True)
    for form, value in {"a word": "old", "far too large": 10**400, "a dict": {}, "complex": 1j}.items():
        add(form, value, "regression")
    add("several", ["a"], several, one_hot)
    add("twice", ["a", "a"], several, one_hot)
    add("none of them", [], several, [0.0] * 6)
    add("soft", [0.5] * 6, several, [0.5] * 6)
    add("several, missing", None, several, "missing")
    for form, value in {
        "several, unknown": ["a", "c"],
        "no list": "a",
        "above one": [1.5] * 6,
        "too few": [0.5],
    }.items():
        add(form, value, several)
    add("a list of none", [None], several)

    collator = MultimodalCollator(table_processor(), Columns(table=["age"], label="y", weight="w"))
    wrong = {"infinite": math.inf, "none": None, "not a number": math.nan, "below zero": -1.0, "too large": 1e39}
    for form, value in {"one half": 0.5, "zero": 0.0, **wrong}.items():

        def weigh(folder: Path, value: Any = value) -> Any:
            rows = [
                {"age": 1.0, "y": 1.0, "w": w, "row_id": row, "split": "train"} for row, w in enumerate((1, value))
            ]
            return collator(rows)["sample_weight"].tolist()[1]

        found[f"weight, {form}"] = {
            "run": weigh,
            "means": [] if form in wrong else [value],
            "refused": form in wrong,
            "names": r"\brow 1\b.*\bw\b",
        }
    return found


def table_processor() -> MMFusionProcessor:
    """Of one column of numbers."""
    return MMFusionProcessor(table_schema=TableSchema({"age": (50.0, 25.0)}))


def files(generator: np.random.Generator) -> dict[str, Form]:
    """Whole files: what is read of them, or an error with the name of the file, and of the column if it is one's."""
    rows = [{"title": f"{draw_text(generator)} {place}", "genre": "ab"[place % 2]} for place in range(8)]
    want = [(row["title"], row["genre"]) for row in rows]
    lines = ["title,genre", *(f"{title},{genre}" for title, genre in want)]
    plain = "\n".join(lines) + "\n"
    found: dict[str, Form] = {}

    def read(dataset: Path) -> list[tuple]:
        columns = Columns(text="title", label="genre")
        splits = load_splits(dataset, columns, validation_fraction=0, test_fraction=0)
        parts = {name: [(row["title"], row["genre"]) for row in part] for name, part in splits.items()}
        return parts["train"] if list(parts) == ["train"] else parts

    def add(form: str, contents: dict[str, bytes | str], means: Any, refused: str = "", open_: str = ""):
        """Files by name, the one (or the folder) that is opened, and what a refusal names."""

        def run(folder: Path) -> Any:
            for name, content in contents.items():
                (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
            return read(folder / open_ if open_ else folder / next(iter(contents)))

        found[form] = {"run": run, "means": means, "refused": bool(refused), "names": refused or "."}

    json_lines = "".join(json.dumps(row) + "\n" for row in rows)
    add("plain", {"rows.csv": plain}, [want])
    add("a mark of its bytes", {"rows.csv": b"\xef\xbb\xbf" + plain.encode()}, [want])
    add("windows' lines", {"rows.csv": plain.replace("\n", "\r\n")}, [want])
    add("no last line's end", {"rows.csv": plain[:-1]}, [want])
    add("empty lines", {"rows.csv": plain.replace("\n", "\n\n")}, [want], refused="rows.csv")
    add("semicolons", {"rows.csv": plain.replace(",", ";")}, [want], refused="rows.csv")
    add("tabs", {"rows.tsv": plain.replace(",", "\t")}, [want])
    add("an upper-case suffix", {"ROWS.CSV": plain}, [want])
    add("quoted lines", {"rows.csv": plain.replace(want[0][0], '"two\nlines"')}, [[("two\nlines", "a"), *want[1:]]])
    add("another column", {"rows.csv": "\n".join(f"{line},x" for line in lines)}, [want])
    twice = "\n".join(f"{line},{name}" for line, name in zip(lines, ["genre", *"xyxyxyxy"]))
    add("the same name twice", {"rows.csv": twice}, [], refused="rows.csv.*genre|genre.*rows.csv")
    add("no rows", {"rows.csv": "title,genre\n"}, [], refused="rows.csv")
    add("nothing at all", {"rows.csv": b""}, [], refused="rows.csv")
    add("no such column", {"rows.csv": plain.replace("title", "name")}, [], refused="title.*rows.csv|rows.csv.*title")
    add("a cell too many", {"rows.csv": plain + "x,a,b\n"}, [], refused="rows.csv")
    add(
        "latin letters",
        {"rows.csv": plain.replace(want[0][0], "größe").encode("cp1252")},
        [[("größe", "a"), *want[1:]]],
        refused="rows.csv",
    )
    add("a zip", {"rows.csv": zipped(plain)}, [want], refused="rows.csv")
    add("json lines", {"rows.jsonl": json_lines}, [want])
    add("empty lines of json", {"rows.jsonl": json_lines.replace("\n", "\n\n")}, [want], refused="rows.jsonl")
    add("a list of json", {"rows.json": json.dumps(rows)}, [want])
    add("half a line of json", {"rows.jsonl": json_lines[:-9]}, [], refused="rows.jsonl")
    add(
        "a file of numbers as titles",
        {"rows.csv": "title,genre\n" + "".join(f"0{n},{'ab'[n % 2]}\n" for n in range(8))},
        [[(f"0{n}", "ab"[n % 2]) for n in range(8)]],
    )
    late = [f"{n}" for n in range(3000)] + ["a word"]
    add(
        "a late word",
        {"rows.csv": "title,genre\n" + "".join(f"{title},a\n" for title in late)},
        [[(title, "a") for title in late]],
    )
    other = [("7", "a"), ("8", "b")]
    parts = {"train": want, "validation": other, "test": other}
    texts_ = {f"{part}.csv": "title,genre\n" + "".join(f"{a},{b}\n" for a, b in own) for part, own in parts.items()}
    add("parts of other types", texts_, [parts], open_=".")
    extra = {**texts_, "test.csv": texts_["test.csv"].replace("\n", ",1\n").replace("genre,1", "genre,more", 1)}
    add("a part with a column more", extra, [parts], open_=".")
    lacking = {**texts_, "test.csv": "title\n7\n8\n"}
    add(
        "a part without labels",
        lacking,
        [{**parts, "test": [("7", None), ("8", None)]}],
        refused="genre.*test|test.*genre",
        open_=".",
    )
    for value in ("unknown", "inf", "1e400"):

        def collate(folder: Path, value: str = value) -> Any:
            ages = [value if row == 57 else f"{row}" for row in range(100)]
            (folder / "rows.csv").write_text("age,x\n" + "".join(f"{age},1\n" for age in ages))
            part = load_splits(folder / "rows.csv", Columns(table=["age"]), validation_fraction=0, test_fraction=0)
            collator = MultimodalCollator(table_processor(), Columns(table=["age"]), on_error="skip")
            batch = collator(Rows(part["train"], "train").__getitems__(range(100)))
            bad = [(entry["row"], entry["column"]) for entry in batch["bad_rows"]]
            good = batch["numerical_values"].flatten() * 25 + 50
            return bad, [round(age) for age in good.tolist()]

        means = ([(57, "age")], [row for row in range(100) if row != 57])
        found[f"{value} among numbers"] = {"run": collate, "means": [means], "names": "."}
    return found


def zipped(text: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rows.csv", text)
    return archive.getvalue()


ROUTES = {
    "image": ("csv", "jsonl", "parquet", "stream", "memory", "processor", "pipeline"),
    "path": ("csv", "jsonl", "stream", "memory"),
    "text": ("csv", "jsonl", "stream", "memory", "processor", "pipeline"),
    "table": ("csv", "jsonl", "memory", "processor", "pipeline"),
    "sound": ("csv", "parquet", "memory", "processor", "pipeline"),
    "series": ("jsonl", "parquet", "memory", "processor", "pipeline"),
}
OBJECTS = ("memory", "processor", "pipeline")


def forms_of(kind: str, route: str, generator: np.random.Generator, folder: Path) -> dict[str, Form]:
    """All odd things of a kind that a route can carry."""
    if kind == "image":
        return image_objects(generator, folder) if route in OBJECTS[1:] else image_files(generator)
    if kind == "path":
        return paths(generator, folder)
    if kind == "text":
        found = texts(generator)
        if route == "csv":  # what a CSV cannot tell from something else
            found = {form: case for form, case in found.items() if form != "none"}
            found["an empty cell"] = {"odd": "", "means": [None]}
            found["nan"] = {"odd": "nan", "means": [None, "nan"]}
        return found | (text_objects(generator) if route in OBJECTS else {})
    if kind == "table":
        found = tables(generator)
        return found | (table_objects(generator) if route in OBJECTS else {})
    if kind == "sound":
        return sound_objects(generator, route) if route in OBJECTS[1:] else sound_files(generator)
    found = series(generator)
    if route == "parquet":
        found = {form: case for form, case in found.items() if form != "a gap for a step"}
    return found | (series_objects(generator) if route in OBJECTS else {})
