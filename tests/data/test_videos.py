"""Videos: which frames stand for them, files and lists of pictures, and what is wrong with a row."""

import io
import random

import av
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, List, Value, Video
from PIL import Image as PILImage

from mm_hf import MMFusionProcessor
from mm_hf.data import BadRowError, Columns, MultimodalCollator, Rows, load_splits
from mm_hf.models.video import chosen_frames, load_frames
from mm_hf.prepare.moving_shapes import FRAMES, SIDE, film


def png(picture: PILImage.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def clip() -> bytes:
    """A red shape that moves to the right."""
    return film("red", "right", random.Random(0))


@pytest.fixture(scope="module")
def processor(encoders) -> MMFusionProcessor:
    processor = MMFusionProcessor.from_encoders_pretrained(vision=str(encoders / "mobilenet-v2"))
    processor.image_processor.size = {"height": 32, "width": 32}
    processor.image_processor.do_center_crop = False
    return processor


def moving(kind: str, codec: str, frames: int = 30, height: int = 48) -> bytes:
    """A film in which each frame is brighter than the one before."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, 64, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def middle_of_the_shape(picture: PILImage.Image) -> float:
    """From left to right."""
    pixels = np.asarray(picture).astype(int)
    red = (pixels[..., 0] - pixels[..., 1]) > 80
    return float(red.nonzero()[1].mean())


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(16, 4, [2, 6, 10, 14]), (4, 4, [0, 1, 2, 3]), (9, 1, [4]), (2, 4, [0, 0, 1, 1]), (1, 3, [0, 0, 0])],
)
def test_the_middles_of_equal_parts(count, wanted, expected):
    assert chosen_frames(count, wanted) == expected


def test_a_file_its_bytes_and_its_frames_are_one_video(clip, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip)
    frames = load_frames(clip, 4)
    assert [frame.size for frame in frames] == [(SIDE, SIDE)] * 4
    places = [middle_of_the_shape(frame) for frame in frames]
    assert places == sorted(places)
    assert places[3] - places[0] > 10
    whole = load_frames(clip, FRAMES)
    path = tmp_path / "clip.mp4"
    dicts = [{"bytes": clip, "path": None}, {"bytes": None, "path": str(path)}]
    for source in (str(path), path, *dicts, whole, [np.asarray(frame) for frame in whole]):
        found = load_frames(source, 4)
        assert all(np.array_equal(one, other) for one, other in zip(found, frames))
    assert len(load_frames(clip, 40)) == 40


@pytest.mark.parametrize(
    ("source", "frames", "message"),
    [
        (b"no video", 4, "video.*InvalidDataError"),
        ("nowhere.mp4", 4, "video.*'nowhere.mp4'"),
        ("http://127.0.0.1/a.mp4", 4, "video.*'http://127.0.0.1/a.mp4'"),
        ([], 4, "video.*frame"),
        (b"", 0, r"num_frames.*\b1, .*\b0\b"),
        ({"bytes": None, "path": None}, 4, "video.*bytes.*path"),
        ("/dev/zero", 4, "video.*'/dev/zero'"),
        ("/", 4, "video.*'/'"),
        ([b"none"], 4, "picture.*b'none'"),
        ([np.full((4, 4), np.nan)], 4, "pixels.*finite"),
    ],
)
def test_what_is_no_video(source, frames, message):
    with pytest.raises(ValueError, match=message):
        load_frames(source, frames)


def test_frames_of_too_many_pixels(clip, monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 100)
    for source in (clip, moving("matroska", "mpeg4")):
        with pytest.raises(ValueError, match=r"\b200\b"):
            load_frames(source, 4)


def test_a_video_that_breaks_off(clip):
    for whole in (clip, moving("avi", "mpeg4")):  # what is left of an AVI has its header, and whole frames
        with pytest.raises(ValueError, match=r"^the video (.*Error: |.*frame|breaks off)"):
            load_frames(whole[: len(whole) * 2 // 3], 4)


@pytest.mark.parametrize(
    ("kind", "codec"), [("avi", "mpeg4"), ("matroska", "mpeg4"), ("webm", "libvpx"), ("mpegts", "mpeg2video")]
)
def test_frames_of_files_that_do_not_count_theirs(kind, codec):
    """All but AVI have no count in their header."""
    found = [np.asarray(frame).mean() for frame in load_frames(moving(kind, codec), 4)]
    assert np.allclose(found, [8 * number for number in chosen_frames(30, 4)], atol=4)


def test_a_file_that_names_others_reads_none_of_them(tmp_path):
    """A playlist, or a description of a stream: what it names may lie outside the root, or in a network."""
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.ts").write_bytes(moving("mpegts", "mpeg2video"))
    start = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n"
    listed = tmp_path / "data" / "list.m3u8"
    for named in ("../secret.ts", f"file://{tmp_path}/secret.ts", str(tmp_path / "secret.ts")):
        listed.write_text(f"{start}{named}\n#EXT-X-ENDLIST\n")
        with pytest.raises(ValueError, match=r"^the video .*Error: "):
            load_frames(listed, 2)
    waits = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    with pytest.raises(ValueError, match=r"^the video .*Error: "):
        load_frames(f"{waits}a=rtpmap:96 H264/90000\n".encode(), 2)  # listens at a port, and never ends


@pytest.mark.parametrize("form", ["bytes", "paths", "pictures", "Video"])
def test_columns_of_every_form(form, clip, processor, tmp_path):
    other = film("blue", "up", random.Random(1))
    clips = [clip, other, None, clip]
    features = Features({"clip": Value("binary"), "label": Value("int64")})
    values = clips
    if form == "paths":
        for name, content in (("a.mp4", clip), ("b.mp4", other)):
            (tmp_path / name).write_bytes(content)
        values = ["a.mp4", "b.mp4", None, "a.mp4"]
        features["clip"] = Value("string")
    elif form == "pictures":
        features["clip"] = List(Image())
        values = [
            None if one is None else [{"bytes": png(frame)} for frame in load_frames(one, FRAMES)] for one in clips
        ]
    elif form == "Video":
        features["clip"] = Video(decode=False)
        values = [None if one is None else {"bytes": one, "path": None} for one in clips]
    rows = Dataset.from_dict({"clip": values, "label": [0, 1, 0, 1]}, features=features)
    if form == "Video":
        rows = rows.cast_column("clip", Video())
    DatasetDict({"train": rows, "validation": rows, "test": rows}).save_to_disk(tmp_path / "set")
    columns = Columns(video="clip", label="label")
    part = load_splits(str(tmp_path / "set"), columns, data_root=str(tmp_path))["train"]
    collator = MultimodalCollator(
        processor, columns, {"0": 0, "1": 1}, "single_label_classification", root=str(tmp_path), num_frames=3
    )
    batch = collator(Rows(part, "train").__getitems__([0, 1, 2, 3]))
    assert batch["vision_index"].tolist() == [[0, 1, 2], [3, 4, 5], [-1, -1, -1], [0, 1, 2]]
    expected = processor(images=[load_frames(clip, 3), load_frames(other, 3), None])
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    assert expected["vision_index"].tolist() == [[0, 1, 2], [3, 4, 5], [-1, -1, -1]]


def test_a_bad_video_is_named_once(clip, processor, tmp_path):
    rows = [
        {"clip": {"bytes": b"nothing", "path": "broken.mp4"}, "label": 0, "row_id": 5, "split": "train"},
        {"clip": {"bytes": clip, "path": None}, "label": 1, "row_id": 6, "split": "train"},
    ]
    settings = (processor, Columns(video="clip", label="label"), {"0": 0, "1": 1}, "single_label_classification")
    with pytest.raises(BadRowError, match=r"row 5 .*'train'.*'clip'.*'broken\.mp4'.*video"):
        MultimodalCollator(*settings, num_frames=3)(rows)
    batch = MultimodalCollator(*settings, num_frames=3, on_error="skip")(rows)
    assert [(entry["row"], entry["column"]) for entry in batch["bad_rows"]] == [(5, "clip")]
    assert batch["vision_index"].tolist() == [[-1, -1, -1], [0, 1, 2]]
    assert batch["labels"].tolist() == [-100, 1]
    outside = {"clip": {"bytes": None, "path": "../../etc/passwd"}, "label": 0, "row_id": 0, "split": "train"}
    with pytest.raises(BadRowError, match=r"'clip'.*'\.\./\.\./etc/passwd'.*'/"):
        MultimodalCollator(*settings, root=str(tmp_path))([outside])


def test_pictures_stand_beside_a_video(clip, processor):
    """Its frames are the row's last pictures; what is absent, or bad, leaves the others alone."""
    first, other = (png(PILImage.new("RGB", (SIDE, SIDE), color)) for color in ("white", "black"))
    columns = Columns(image=["front", "back"], video="clip")
    values = [(first, other, clip), (first, None, b"nothing"), (None, first, None), (first, first, clip)]
    rows = [
        {name: content and {"bytes": content, "path": None} for name, content in zip(("front", "back", "clip"), row)}
        for row in values
    ]
    rows = [{**row, "row_id": number, "split": "train"} for number, row in enumerate(rows)]
    collator = MultimodalCollator(processor, columns, num_frames=2, on_error="skip")
    assert collator.parts["vision"] == ["front", "back", "clip#0", "clip#1"]
    batch = collator(rows)
    assert batch["vision_index"].tolist() == [[0, 1, 2, 3], [0, -1, -1, -1], [-1, 0, -1, -1], [0, 0, 2, 3]]
    assert [(entry["row"], entry["column"]) for entry in batch["bad_rows"]] == [(1, "clip")]
    assert columns.frames(4) == 2
    alone = MultimodalCollator(processor, Columns(video="clip"), num_frames=2)([rows[0]])
    assert torch.equal(alone["pixel_values"], batch["pixel_values"][2:])
    with pytest.raises(ValueError, match="clip#0"):
        MultimodalCollator(processor, Columns(image=["clip#0"], video="clip"), num_frames=2)
