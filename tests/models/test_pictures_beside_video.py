"""Pictures beside a video: one row of a pipeline is what the same row is in training."""

import pytest
import tiny_models as tiny
import torch
import transformers as T
from PIL import Image

import mm_hf
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.models.configuration_mm_fusion import MMFusionConfig
from mm_hf.training.by_modality import places_of


FRONT, BACK = (Image.new("RGB", (40, 40), colour) for colour in ("red", "navy"))
CLIP = [Image.new("RGB", (40, 40), (number * 40, 250 - number * 40, 90)) for number in range(6)]
COLUMNS = Columns(image=["front", "back"], video="clip")


def processor() -> mm_hf.MMFusionProcessor:
    size = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    return mm_hf.MMFusionProcessor(image_processor=T.ViTImageProcessor(size=size))


def model_for(collator: MultimodalCollator):
    places = places_of(collator.parts, collator.columns)
    vision = tiny.VISION_CONFIGS["vit"]()
    config = MMFusionConfig(
        vision_config=vision,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        num_labels=3,
        **places,
    )
    torch.manual_seed(0)
    model = mm_hf.MMFusionForClassification(config).eval()
    torch.nn.init.normal_(model.base_model.projections["vision"].place_embeddings)  # so that places matter
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "absent",
    [(), ("front",), ("back",), ("front", "back"), ("clip",), ("front", "clip")],
    ids=lambda names: "+".join(names),
)
def test_a_row_is_what_it_is_in_training(absent):
    collator = MultimodalCollator(processor(), COLUMNS, num_frames=3)
    model = model_for(collator)
    assert (model.config.num_images, model.config.num_frames) == (5, 3)
    row = {"front": FRONT, "back": BACK, "clip": CLIP}
    row |= dict.fromkeys(absent)
    expected = model(**collator([row])).logits[0].softmax(-1)
    pipe = mm_hf.pipeline(model=model, processor=processor(), task="multimodal-classification")
    asked = {"image": [row["front"], row["back"]], "video": row["clip"]}
    for given in (asked, {key: value for key, value in asked.items() if value not in (None, [None, None])}):
        found = {answer["label"]: answer["score"] for answer in pipe(given, top_k=None)}
        for number, label in model.config.id2label.items():
            assert found[label] == pytest.approx(expected[number].item(), abs=1e-5)
    both = pipe([asked, {"image": FRONT}], batch_size=2, top_k=None)
    assert both[0][0]["score"] == pytest.approx(expected.max().item(), abs=1e-5)


def test_more_pictures_than_places_beside_the_frames():
    pipe = mm_hf.pipeline(
        model=model_for(MultimodalCollator(processor(), COLUMNS, num_frames=3)),
        processor=processor(),
        task="multimodal-classification",
    )
    with pytest.raises(ValueError, match=r"3 images.* 2 per row"):
        pipe({"image": [FRONT, BACK, FRONT], "video": CLIP})


def test_a_model_of_either_takes_one_of_them(tmp_path):
    """As a checkpoint of before the key was there, whose config does not say what is a frame."""
    model = model_for(MultimodalCollator(processor(), Columns(video="clip"), num_frames=3))
    assert "num_frames" not in model.config.to_dict()
    pipe = mm_hf.pipeline(model=model, processor=processor(), task="multimodal-classification")
    assert pipe({"video": CLIP})
    with pytest.raises(ValueError, match=r"'image' and 'video'"):
        pipe({"image": FRONT, "video": CLIP})
    both = model_for(MultimodalCollator(processor(), COLUMNS, num_frames=3))
    both.save_pretrained(tmp_path)
    assert MMFusionConfig.from_pretrained(tmp_path).num_frames == 3


@pytest.mark.parametrize("frames", [0, 2, 5, -1])
def test_frames_are_fewer_than_places(frames):
    with pytest.raises(ValueError, match="num_frames"):
        MMFusionConfig(vision_config=tiny.VISION_CONFIGS["vit"](), num_images=2, num_frames=frames)
