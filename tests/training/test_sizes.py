"""The sizes that a recipe asks for, in the processor and the model that it builds."""

import pytest
import tiny_models as tiny
import torch
from PIL import Image
from transformers import AutoModel, BertTokenizerFast, ViTImageProcessor

from mm_hf import MMFusionModel
from mm_hf.training.build import build_processor
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.model_arguments import ModelArguments


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A ViT for pictures of 32 and a BERT of 40 positions, whose tokenizer claims 512."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    AutoModel.from_config(tiny.VISION_CONFIGS["vit"]()).save_pretrained(folder / "vision")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vision")
    AutoModel.from_config(tiny.TEXT_CONFIGS["bert"]()).save_pretrained(folder / "text")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder / "text")
    return {f"{name}_encoder": str(folder / name) for name in ("vision", "text")}


def processor_of(data_args: DataArguments, **model_args):
    """What a run builds."""
    return build_processor(
        ModelArguments(**model_args), data_args, {"train": None}, cells="as meant", defaults_version=2
    )


@pytest.mark.parametrize(("asked", "cut"), [(None, 40), (12, 12), (100, 40)])
def test_the_longest_text(encoders, asked, cut):
    processor = build_processor(
        ModelArguments(**encoders), DataArguments(max_text_length=asked), {"train": None}, True, 2
    )
    assert processor(text=["word " * 200])["input_ids"].shape == (1, cut)


@pytest.mark.parametrize(("asked", "side"), [(None, 32), (48, 48)])
@torch.no_grad()
def test_the_size_of_pictures(encoders, asked, side):
    processor = build_processor(
        ModelArguments(**encoders, image_size=asked), DataArguments(), {"train": None}, True, 2
    )
    batch = processor(images=[Image.new("RGB", (90, 30), "white")])
    assert batch["pixel_values"].shape == (1, 3, side, side)
    assert batch["pixel_values"].unique().numel() == 1  # no border
    model = MMFusionModel.from_encoders_pretrained(vision=encoders["vision_encoder"], image_size=asked).eval()
    assert model(**batch).pooler_output.isfinite().all()
    assert model.config.interpolate_pos_encoding is (asked is not None)
