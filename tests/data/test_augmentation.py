"""Random changes to pictures and texts: what they change, how much, and that nothing but their seed decides."""

import copy
import dataclasses
import io
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mm_hf import MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.data.augmentation import ImageAugmentation, crop_box, parse_augmentations


def gradient(width=60, height=40):
    """A picture in which each pixel tells its place: red from left to right, green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


def generator(seed=0):
    return np.random.default_rng(seed)


def test_flip_is_a_mirror_half_of_the_time():
    image, flip = gradient(), ImageAugmentation(flip=True)
    results = [np.asarray(flip(image, generator(seed))) for seed in range(200)]
    mirrored = [bool((result == np.asarray(image)[:, ::-1]).all()) for result in results]
    assert all(done or (result == np.asarray(image)).all() for done, result in zip(mirrored, results))
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("size", [(60, 40), (400, 30), (7, 200)])
def test_crop_stays_in_its_bounds(size):
    draw, shares, aspects = generator(), [], []
    for _ in range(500):
        left, upper, right, lower = crop_box(size, 0.6, draw)
        assert 0 <= left < right <= size[0]
        assert 0 <= upper < lower <= size[1]
        shares.append((right - left) * (lower - upper) / math.prod(size))
        aspects.append((right - left) / size[0] / ((lower - upper) / size[1]))
    slack = 1 / min(size)  # of rounding to pixels
    assert 0.6 - slack < min(shares) < 0.68
    assert max(shares) > 0.9
    assert 3 / 4 * (1 - 2 * slack) < min(aspects) < 0.85
    assert 1.15 < max(aspects) < 4 / 3 * (1 + 2 * slack)


def test_crop_keeps_the_size_and_narrows_the_view():
    image = gradient()
    results = [ImageAugmentation(crop=0.5)(image, generator(seed)) for seed in range(50)]
    assert {result.size for result in results} == {image.size}
    spans = [int(np.asarray(result)[20, -1, 0]) - int(np.asarray(result)[20, 0, 0]) for result in results]
    assert min(spans) < 180
    assert all(100 < span <= 255 for span in spans)
    default, named = ImageAugmentation(crop=True), ImageAugmentation(crop=0.6)
    assert default(image, generator(1)).tobytes() == named(image, generator(1)).tobytes()


def test_color_changes_values_and_not_places():
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [np.asarray(ImageAugmentation(color=0.2)(image, generator(seed)))[0, 0] for seed in range(100)]
    assert all((value == value[0]).all() for value in values)  # grey stays grey: no hue
    greys = [int(value[0]) for value in values]
    assert 79 <= min(greys) < 87
    assert 113 < max(greys) <= 121


def test_names():
    assert parse_augmentations([]) is None
    assert parse_augmentations(["flip"]) == ImageAugmentation(flip=True)
    assert parse_augmentations(["crop", "color"]) == ImageAugmentation(crop=0.6, color=0.2)
    with pytest.raises(ValueError, match=r"'rotate'.*\['crop', 'flip', 'color'\]"):
        parse_augmentations(["flip", "rotate"])
    with pytest.raises(ValueError, match=r"crop.*\(0, 1\].*1\.5"):
        ImageAugmentation(crop=1.5)
    with pytest.raises(ValueError, match=r"color.*\[0, 1\].*-0\.1"):
        ImageAugmentation(color=-0.1)


@pytest.fixture(scope="module")
def processor(encoders):
    return MMFusionProcessor.from_encoders_pretrained(vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6")


@pytest.fixture(scope="module")
def pictures():
    values = []
    for width in range(60, 76):
        buffer = io.BytesIO()
        gradient(width).save(buffer, "PNG")
        values.append({"bytes": buffer.getvalue(), "path": None})
    return values


@pytest.fixture
def rows(pictures):
    text = "one two three four five six seven eight nine ten"
    return [
        {"image": image, "text": f"{text} {place}", "row_id": place, "split": "train"}
        for place, image in enumerate(pictures)
    ]


@pytest.fixture
def collator(processor):
    columns = Columns(image="image", text="text")
    return MultimodalCollator(
        processor, columns, augment=ImageAugmentation(True, True, 0.2), token_dropout=0.3, seed=5
    )


def same(one, other):
    return torch.equal(one["pixel_values"], other["pixel_values"]), torch.equal(one["input_ids"], other["input_ids"])


def test_only_seed_epoch_and_row_decide(collator, rows):
    first = collator(rows[:4])
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(collator(rows[:4]), first) == (True, True)
    turned = collator(rows[3::-1])  # another place in the batch
    assert torch.equal(turned["pixel_values"].flip(0), first["pixel_values"])
    plain = dataclasses.replace(collator, augment=None, token_dropout=0.0)(rows[:4])
    assert same(plain, first) == (False, False)
    assert same(dataclasses.replace(collator, seed=6)(rows[:4]), first) == (False, False)
    collator.set_epoch(1)
    second = collator(rows[:4])
    assert same(second, first) == (False, False)
    streamed = [{**row, "_epoch": 0, "_position": 8 + place} for place, row in enumerate(rows[:4])]
    batch = collator(streamed)  # the row's own epoch goes before
    assert same(batch, first) == (True, True)
    assert batch["stream_position"] == (0, 12)
    assert "stream_position" not in second


def test_global_generators_are_left_alone(collator, rows):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    collator(rows)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_workers_change_nothing(collator, rows):
    collator.set_epoch(3)
    batches = [
        list(DataLoader(rows, batch_size=4, collate_fn=collator, num_workers=workers, multiprocessing_context=context))
        for workers, context in ((0, None), (2, "fork"))
    ]
    for one, other in zip(*batches, strict=True):
        assert same(one, other) == (True, True)


def test_rows_are_changed_differently(processor, pictures):
    columns = Columns(image=["left", "right"])
    collator = MultimodalCollator(processor, columns, augment=ImageAugmentation(crop=True, color=0.2))
    # The same content under two keys: only the random numbers tell the items apart.
    twin = {"bytes": pictures[0]["bytes"] + b" ", "path": None}
    batch = collator([{"left": pictures[0], "right": twin, "row_id": 0, "split": "train"}])
    assert batch["vision_index"].tolist() == [[0, 1]]
    assert not torch.equal(*batch["pixel_values"])
    third = {"bytes": twin["bytes"] + b" ", "path": None}
    batch = collator(
        [
            {"left": pictures[0], "right": None, "row_id": 0, "split": "train"},
            {"left": third, "right": None, "row_id": 1, "split": "train"},
        ]
    )
    assert not torch.equal(*batch["pixel_values"])


def test_dropped_tokens_are_masks(processor, rows):
    plain = MultimodalCollator(processor, Columns(text="text"))(rows)
    batch = MultimodalCollator(processor, Columns(text="text"), token_dropout=0.3)(rows)
    tokenizer = processor.tokenizer
    special = torch.isin(plain["input_ids"], torch.tensor(tokenizer.all_special_ids))
    changed = plain["input_ids"] != batch["input_ids"]
    assert (batch["input_ids"][changed] == tokenizer.mask_token_id).all()
    assert not (changed & special).any()
    assert 0.2 < changed.sum() / (~special).sum() < 0.4
    assert torch.equal(plain["attention_mask"], batch["attention_mask"])


def test_a_text_is_changed_the_same_beside_a_longer_one(processor, rows):
    collator = MultimodalCollator(processor, Columns(text="text"), token_dropout=0.5)
    alone = collator(rows[:1])["input_ids"][0]
    longer = {**rows[1], "text": rows[1]["text"] + " and a good many words more"}
    beside = collator([rows[0], longer])["input_ids"][0]
    assert len(beside) > len(alone)
    assert torch.equal(beside[: len(alone)], alone)


def test_settings_that_do_not_fit(processor):
    with pytest.raises(ValueError, match=r"augment.*ImageAugmentation.*vision"):
        MultimodalCollator(processor, Columns(text="text"), augment=ImageAugmentation(flip=True))
    with pytest.raises(ValueError, match=r"token_dropout.*0\.1.*text"):
        MultimodalCollator(processor, Columns(image="image"), token_dropout=0.1)
    with pytest.raises(ValueError, match=r"token_dropout.*\[0, 1\).*1\.0"):
        MultimodalCollator(processor, Columns(text="text"), token_dropout=1.0)
    maskless = copy.copy(processor)
    maskless.tokenizer = copy.deepcopy(processor.tokenizer)
    maskless.tokenizer.mask_token = None
    batch = MultimodalCollator(maskless, Columns(text="text"), token_dropout=0.9)(
        [{"text": "one two three four", "row_id": 0, "split": "train"}]
    )
    assert maskless.tokenizer.unk_token_id in batch["input_ids"]
    maskless.tokenizer.unk_token = None
    with pytest.raises(ValueError, match=r"token_dropout.*tokenizer"):
        MultimodalCollator(maskless, Columns(text="text"), token_dropout=0.1)
