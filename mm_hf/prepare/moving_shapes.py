"""Videos of a moving shape with a tone, and questions about what is seen, heard, or both. They are made with a seed.

    mm_hf prepare moving_shapes data/moving_shapes

A clip is an mp4 file with 16 frames of 64 x 64 pixels, in which a shape of one of four colours moves up, down, left or
right. It also has one second of sound (wav, 8 kHz): a tone that rises, falls or stays, in noise. Each row asks a
question about a clip: the colour of the shape, the direction of its movement, or what the tone does. If the shape
    moves up or
down and the tone rises or falls, there is a fourth question: do they go the same way? Half of them do. Without the
question nobody knows what to answer. Without the frames, or without the tone, some kinds of question can only be
guessed, and for the fourth kind the guess is right in half of the rows.
"""

import io
import random
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import soundfile
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image, ImageDraw

from .common import build_dataset


CLIPS = {"train": 1000, "validation": 100, "test": 300}
SIDE, FRAMES, RATE, SECONDS = 64, 16, 8000, 1.0
COLOURS = {"red": (200, 30, 30), "green": (20, 150, 40), "blue": (30, 60, 210), "yellow": (230, 200, 20)}
WAYS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
TONES = {"rising": 1, "falling": -1, "steady": 0}
SAME, OPPOSITE = [("up", "rising"), ("down", "falling")], [("up", "falling"), ("down", "rising")]
OTHERS = [(way, sound) for way in WAYS for sound in TONES if (way, sound) not in SAME + OPPOSITE]
QUESTIONS = {
    "colour": ("what colour is the shape?", "which colour does it have?"),
    "way": ("which way does the shape move?", "where does it go?"),
    "tone": ("what does the tone do?", "is the tone rising, falling or steady?"),
    "both": ("do shape and tone go the same way?", "does the shape move as the tone does?"),
}
ANSWERS = (*COLOURS, *WAYS, *TONES, "yes", "no")
FEATURES = Features(
    {
        "video": {"bytes": Value("binary"), "path": Value("string")},
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "question": Value("string"),
        "answer": ClassLabel(names=list(ANSWERS)),
        "kind": Value("string"),
        "clip": Value("int64"),
        "row_id": Value("int64"),
    }
)

CARD = """---
license: apache-2.0
---

# Moving shapes

Made by `mm_hf prepare moving_shapes` of mm_hf (seed {seed}). Nothing in it is real. {rows} questions
about clips of a moving shape (mp4, {frames} frames of {side} x {side}) with a tone (wav, {rate} Hz): its colour, the
direction of its movement, the tone, and whether both go the same way.
"""


def film(colour: str, way: str, draw: random.Random) -> bytes:
    """The frames of a clip as an mp4 file."""
    size, reach = draw.randint(8, 12), draw.randint(22, 32)
    step, across = WAYS[way], draw.randint(16, SIDE - 16)
    kind = draw.choice(["ellipse", "rectangle"])
    ground = draw.randint(225, 255)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.bit_rate = "yuv420p", 400_000
        for number in range(FRAMES):
            along = (number / (FRAMES - 1) - 0.5) * reach
            x, y = (SIDE / 2 + along * part if part else across for part in step)
            frame = Image.new("RGB", (SIDE, SIDE), (ground,) * 3)
            getattr(ImageDraw.Draw(frame), kind)((x - size, y - size, x + size, y + size), fill=COLOURS[colour])
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


def tone(way: str, draw: random.Random) -> bytes:
    """A second of a tone in noise as a wav file. In the middle it has 300 to 700 Hz. It goes an octave up or down, or
    stays."""
    noise = np.random.default_rng(draw.getrandbits(32))
    times = np.arange(round(SECONDS * RATE)) / RATE
    pitch = draw.uniform(300, 700) * 2 ** (TONES[way] * (times / SECONDS - 0.5))
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * draw.uniform(0.2, 0.6)
    file = io.BytesIO()
    samples = (wave + noise.normal(0, 0.05, len(wave))).clip(-1, 1)
    soundfile.write(file, samples.astype(np.float32), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def questions(clips: int, first: int, seed: int) -> Dataset:
    """The rows of one part: three or four questions per clip. In a third of the clips shape and tone go the same way,
    in another third opposite ways."""
    draw = random.Random(f"{seed} {first}")
    rows: list[dict[str, Any]] = []
    for clip in range(first, first + clips):
        colour = draw.choice(list(COLOURS))
        way, sound = draw.choice((SAME, OPPOSITE, OTHERS)[clip % 3])
        answers = {"colour": colour, "way": way, "tone": sound}
        if clip % 3 < 2:
            answers["both"] = "yes" if (way, sound) in SAME else "no"
        video = {"bytes": film(colour, way, draw), "path": f"{clip}.mp4"}
        audio = {"bytes": tone(sound, draw), "path": f"{clip}.wav"}
        for kind, answer in answers.items():
            row = {"video": video, "audio": audio, "question": draw.choice(QUESTIONS[kind]), "answer": answer}
            rows.append({**row, "kind": kind, "clip": clip, "row_id": len(rows)})
    return Dataset.from_list(rows, features=FEATURES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(_: None, seed: int) -> DatasetDict:
        parts, first = {}, 0
        for part, clips in CLIPS.items():
            parts[part] = questions(clips, first, seed)
            first += clips
        return DatasetDict(parts)

    build_dataset("moving_shapes", __doc__, None, build, CARD, arguments, frames=FRAMES, side=SIDE, rate=RATE)
