"""Pictures of a row, and the frames of its video, which are pictures in order of time."""

import hashlib
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Image, List, Video
from PIL import Image as PILImage
from PIL import ImageDraw

from ...models.image import FORMATS, open_file, open_image
from ...models.image_processors import picture_settings
from ...models.video import load_frames, open_video
from ...models.vision import Vision
from ..augmentation import parse_augmentations
from ..column_types import count_values
from ..file_columns import SOUND, with_files
from ..item_files import (
    content_of,
    contents_of_file,
    decoded_key,
    digest,
    file_key,
    file_name_of,
    some_of,
    source_of,
)
from ..looks import Evidence
from ..plain_rows import is_decoded
from ..rows import BadRowError, is_absent, resolve_path
from ..shown import MOST_PIXELS, PICTURE, VIDEO, shown_frames, shown_picture
from .reader import ModalityReader, present, register_reader


if TYPE_CHECKING:
    from ..collator import MultimodalCollator


@register_reader
class VisionReader(ModalityReader):
    """Pictures, each in its place, followed by the frames of a video."""

    name = Vision.name
    column_keys = ("image_column", "video_column")
    files = True
    cells = "texts"
    augmentation = "augment"
    shown_as = "image"
    packages = ("av",)

    def kind_of(self, part):
        """A picture, or a video."""
        return VIDEO if part == list(self.keys_of_parts())[1] else PICTURE

    def looks(self, sample):
        """Pictures and videos by their type, or by the first bytes of their files."""
        feature: Any = sample.feature
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, Image | Video):
            part = "video" if isinstance(feature, List) or isinstance(inner, Video) else "image"
            return Evidence(part, part, f"its type is {feature_name(feature)}", 1.0)
        if sample.values and all(isinstance(value, PILImage.Image) for value in sample.values):
            return Evidence("image", "image", "its values are pictures", 1.0)
        for part, fits, what in (("image", is_head_of_picture, "pictures"), ("video", is_head_of_video, "videos")):
            if (files := sample.files(fits, what)) is not None:
                return Evidence(part, part, files[0], 1.0, files[1])
        return None

    def columns(self, columns, collator=None):
        """The columns of pictures, and `column#0`, `column#1`… for the frames of a video."""
        count = 0 if columns.video is None or collator is None else collator.num_frames
        frames = [f"{columns.video}#{number}" for number in range(count)]
        if both := sorted(set(columns.images) & set(frames)):
            raise ValueError(
                f"A column of pictures is called {both[0]!r}, the name of a frame of the video: rename the column."
            )
        return [*columns.images, *frames]

    def prepare_column(self, split, column, part, root):
        """Pictures and videos as structs of bytes and path. A video that is a list of pictures becomes a list of such
        structs."""
        if part == "image":
            return with_files(split, column, root, "images", Image(decode=False))
        feature: Any = split.features[column]
        if isinstance(feature, Video):  # datasets must not decode it, see `prepare`
            return split
        if isinstance(feature, List) and isinstance(feature.feature, Image):
            return split.cast_column(column, List(Image(decode=False)))
        return with_files(split, column, root, "videos", SOUND)

    def key(self, row, column, collator):
        """A hash of the picture. For a frame, a hash of the video with the number of the frame."""
        columns = collator.columns
        if column in columns.images:
            return file_key(row, column, "picture", columns.image_id if len(columns.images) == 1 else None)
        whole = video_key(row, columns.video)
        return None if whole is None else f"{whole}{column.removeprefix(columns.video)}"

    def contents(self, row, column, key, collator):
        """The file of the picture. For a frame, the files of the video, its number and the number of frames."""
        columns = collator.columns
        if column in columns.images:
            return contents_of_file(row, column, collator.root, "picture")
        video = row[columns.video]
        files = [
            contents_of_file({**row, columns.video: frame}, columns.video, collator.root, "picture")
            for frame in (video if isinstance(video, list) else [video])
        ]
        frame = f"{column.removeprefix(columns.video)} of {collator.num_frames}"
        return (frame, *(part for parts in files for part in parts))

    def load(self, row, column, collator):
        """The picture, or the frame."""
        if column in collator.columns.images:
            return decode_image(row, column, collator.root, **picture_settings(collator.processor))
        return frames_of(row, collator)[int(column.rpartition("#")[2])]

    def for_pipeline(self, row, collator):
        """Pictures in their places. For a video its frames, in order."""
        columns, (of_pictures, of_videos) = collator.columns, Vision.row_keys
        pictures = [
            None if self.key(row, column, collator) is None else self.undecoded(row, column, collator)
            for column in columns.images
        ]
        given: dict[str, Any] = {}
        if any(picture is not None for picture in pictures):
            given[of_pictures] = pictures if len(pictures) > 1 else pictures[0]
        if columns.video is not None and not is_absent(row[columns.video]):
            given[of_videos] = frames_of(row, collator)
        return given

    def undecoded(self, row, column, collator):
        """The file."""
        value = row[column]
        return value if is_decoded(value) else source_of(row, column, collator.root, "picture")

    def blamed(self, column, columns):
        """The column. For a video, only the first frame reports an error."""
        if column in columns.images:
            return column
        return columns.video if column.endswith("#0") else None

    def augmentation_of(self, asked):
        """See `parse_augmentations`."""
        return parse_augmentations(asked) if asked else None

    def augment(self, item, generator, collator):
        """See `ImageAugmentation`."""
        return collator.augment(item, generator)

    def describe(self, split, columns, root, tokenizer):
        """`pictures`, see `summary.describe`."""
        return {"pictures": {name: describe_pictures(split, name, columns.image_id, root) for name in columns.images}}

    def lines(self, summary):
        """One line per column of pictures."""
        return [picture_line(column, about) for column, about in summary["pictures"].items()]

    def draw(self, row, collator):
        """The first picture, else the frames of the video side by side."""
        columns = collator.columns
        if pictures := present(row, columns.images):
            return decode_image(row, pictures[0], collator.root, collator.processor.image_background)
        if columns.video is None or is_absent(row[columns.video]):
            return None
        return side_by_side(frames_of(row, collator))

    def amounts(self, item, key):
        """Its pixels. For a video, the pixels of a frame, and its seconds."""
        if key != Vision.row_keys[0] and (video := size_of_video(item)) is not None:
            return video
        with open_file(item) as image:
            return {"pixels": math.prod(image.size)}

    def example_file(self, processor, key):
        """A blue disc."""
        if key != Vision.row_keys[0]:
            return None
        picture, file = PILImage.new("RGB", (64, 64), (235, 235, 235)), io.BytesIO()
        ImageDraw.Draw(picture).ellipse((20, 18, 46, 44), fill=(0, 0, 255))
        picture.save(file, "PNG")
        return file.getvalue()

    def shown_item(self, item, collator):
        """The picture, upright, as `load` gives it."""
        return shown_picture(item)

    def shown(self, row, collator):
        """Each picture; the frames of a video are one item."""
        columns, background = collator.columns, collator.processor.image_background
        items = []
        for place, column in enumerate(columns.images):
            if self.key(row, column, collator) is not None:
                picture = decode_image(row, column, collator.root, background, (MOST_PIXELS, MOST_PIXELS))
                shown = self.shown_item(picture, collator)
                items.append({"modality": self.name, "column": column, "place": place, **shown})
        if columns.video is not None and collator.num_frames and not is_absent(row[columns.video]):
            shown = shown_frames(frames_of(row, collator))
            video = {"modality": self.name, "column": columns.video, "place": len(columns.images)}
            items.append({**video, **shown})
        return items

    def missing(self, columns):
        """The text for a missing picture, or for a missing video if there are only videos."""
        return super().missing(columns) if columns.images or columns.video is None else "(no video)"


def feature_name(feature: Any) -> str:
    """The name of a type of `datasets` for people, such as List(Image)."""
    name = type(feature).__name__
    return f"{name}({feature_name(feature.feature)})" if isinstance(feature, List) else name


def is_head_of_picture(head: bytes) -> bool:
    """Whether these may be the first bytes of a picture."""
    PILImage.init()
    readers = [PILImage.OPEN[name][1] for name in FORMATS if name in PILImage.OPEN]
    return any(accepts is not None and accepts(head[:16]) is True for accepts in readers)


def size_of_video(content: bytes) -> dict[str, float] | None:
    """Pixels of a frame and seconds of a video, according to its header. None if it is not a video, empty if it cannot
    be read."""
    if not is_head_of_video(content[:16]):
        return None
    try:
        import av

        with open_video(av, content) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            return {"pixels": stream.width * stream.height, "seconds": max(0.0, seconds)}
    except Exception:  # PyAV raises many types; reading the video later reports the reason
        return {}


def is_head_of_video(head: bytes) -> bool:
    """Whether these may be the first bytes of a video: MP4 and the like, Matroska, AVI."""
    boxes = head[4:8] == b"ftyp" and head[8:11] not in (b"M4A", b"avi", b"hei", b"mif")
    return boxes or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:11] == b"AVI")


def decode_image(
    row: dict[str, Any],
    column: str,
    root: str | None = None,
    background: str | Sequence[int] | None = "white",
    least: tuple[int, int] | None = None,
) -> PILImage.Image:
    """Decodes the picture of a row to RGB, see `open_image`.

    Args:
        row: as `Rows` gives it. The picture is a dict of `bytes` and `path`, a PIL image, an array or a tensor.
        column: the column of the picture.
        root: the folder of files, see `resolve_path`.
        background: the colour behind transparent pixels, see `open_image`.
        least: see `open_image`.

    Raises:
        BadRowError: the picture is missing or broken, or its path is outside the root.
    """
    value = row[column]
    decoded = isinstance(value, (PILImage.Image, np.ndarray, torch.Tensor))
    source = value if decoded else source_of(row, column, root, "picture")
    try:
        return open_image(source, background, least=least)
    except ValueError as error:
        raise BadRowError(row, column, str(error), file_name_of(value)) from None


def decode_video(
    row: dict[str, Any],
    column: str,
    root: str | None,
    num_frames: int,
    background: str | Sequence[int] | None = "white",
    least: tuple[int, int] | None = None,
) -> list[PILImage.Image]:
    """The sampled frames of the video of a row, see `load_frames`. For the arguments see `decode_image`."""
    value = row[column]
    if is_absent(value):
        raise BadRowError(row, column, "there is no video.")
    if isinstance(value, list):
        source: Any = [decode_image({**row, column: frame}, column, root, background, least) for frame in value]
    else:
        source = source_of(row, column, root, "video")
    try:
        return load_frames(source, num_frames)
    except ValueError as error:
        raise BadRowError(row, column, str(error), file_name_of(value)) from None


def frames_of(row: dict[str, Any], collator: "MultimodalCollator") -> list[PILImage.Image]:
    """The frames of the row's video. Frames are requested one after another, so those of the last video are kept."""
    column = str(collator.columns.video)
    key = video_key(row, column)
    if collator.last_decoded.get(Vision.name, (None,))[0] != key:
        settings = picture_settings(collator.processor)
        frames = decode_video(row, column, collator.root, collator.num_frames, **settings)
        collator.last_decoded[Vision.name] = key, frames
    return collator.last_decoded[Vision.name][1]


def video_key(row: dict[str, Any], column: str) -> str | None:
    """A hash of the bytes or the path of a video, or of its pictures. None if the row has no video."""
    value = row[column]
    if is_absent(value):
        return None
    if isinstance(value, list) and any(map(is_decoded, value)):
        keys = [decoded_key(row, column, frame) if is_decoded(frame) else repr(frame) for frame in value]
        return hashlib.sha256("".join(keys).encode()).hexdigest()
    whole = hashlib.sha256()
    for frame in value if isinstance(value, list) else [value]:
        try:
            whole.update(digest(content_of({**row, column: frame}, column, "picture")))
        except BadRowError:
            raise BadRowError(row, column, f"this is not a video: {value!r:.80}.") from None
    return whole.hexdigest()


def side_by_side(frames: list[PILImage.Image]) -> PILImage.Image:
    """The frames of a video in one picture, on a grid."""
    width, height = frames[0].size
    across = math.ceil(math.sqrt(len(frames)))
    sheet = PILImage.new("RGB", (across * width, -(-len(frames) // across) * height), "white")
    for place, frame in enumerate(frames):
        sheet.paste(frame, (place % across * width, place // across * height))
    return sheet


def describe_pictures(split: Dataset, column: str, image_id: str | None, root: str | None) -> dict[str, Any]:
    """Sizes of some pictures, spread over the split; see `summary.describe`."""
    sizes = [picture_size(picture, root) for picture in some_of(split, column)]
    known = sorted((size for size in sizes if size is not None), key=lambda size: size[0] * size[1])
    return {
        "looked_at": len(sizes),
        "unreadable": sizes.count(None),
        "sizes": [known[0], known[len(known) // 2], known[-1]] if known else None,
        "distinct": distinct_pictures(split, column, image_id),
    }


def picture_size(picture: dict[str, Any], root: str | None) -> tuple[int, int] | None:
    """Width and height in pixels, from the header. None if it cannot be read."""
    try:
        with open_file(picture["bytes"] or resolve_path(picture["path"], root)) as image:
            return image.size
    except Exception:  # training will name the row
        return None


def distinct_pictures(split: Dataset, column: str, image_id: str | None) -> int | None:
    """The number of distinct pictures, if it is known without reading them; else None."""
    if image_id is not None:
        return len(count_values(split, image_id))
    paths = set()
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        values = table[column]
        if pc.any(pc.is_valid(pc.struct_field(values, "bytes"))).as_py():
            return None
        paths.update(pc.unique(pc.struct_field(values, "path")).to_pylist())
    return len(paths - {None})


def picture_line(column: str, pictures: dict[str, Any]) -> str:
    """The result of `describe_pictures` as a line for the terminal."""
    sizes = " / ".join(f"{width}×{height}" for width, height in pictures["sizes"] or [])
    text = f"  pictures  {column}: min / median / max {sizes}" if sizes else f"  pictures  {column}: none readable"
    text += "" if pictures["distinct"] is None else f"; {pictures['distinct']:,} distinct"
    return f"{text}; unreadable {pictures['unreadable']} of {pictures['looked_at']} looked at"
