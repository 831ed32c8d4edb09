"""What goes into the model: rows with several images, and names that are no input."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import FUSIONS, EncoderStates, MMFusionForClassification, MMFusionModel
from mm_hf.models.pooled_fusions import PooledFusion


INDEX = torch.tensor([[0, 1], [1, 0], [2, -1], [-1, 2], [-1, -1], [0, 1]])
SHORT = torch.tensor([0, -1, 1, 2, 2, 0])
TOKEN_FUSIONS = [name for name, kind in sorted(FUSIONS.items()) if not issubclass(kind, PooledFusion)]


@pytest.fixture(params=sorted(FUSIONS))
def fusion(request) -> str:
    return request.param


def inputs(index=INDEX, rows=6, **kwargs) -> dict[str, torch.Tensor]:
    return {**tiny.texts((6, 4, 7, 5, 3, 6)[:rows], **kwargs), **tiny.images(3), "vision_index": index}


def largest_difference(one, other) -> float:
    return (one - other).abs().max().item()


# --- One place


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@torch.no_grad()
def test_a_column_of_one_is_the_plain_index(fusion, vision):
    """Bit for bit, in training too."""
    model = tiny.model(fusion=fusion, vision=vision)
    assert not any("place" in name for name, _ in model.named_parameters())
    expected = model(**inputs(SHORT)).logits
    assert torch.equal(model(**inputs(SHORT[:, None])).logits, expected)
    dropping = tiny.model(fusion=fusion, vision=vision, settings={"modality_dropout": 0.5}).train()
    drawn = []
    for index in (SHORT, SHORT[:, None]):
        torch.manual_seed(0)
        drawn.append(dropping(**inputs(index)).logits)
    assert torch.equal(*drawn)


# --- Several places


@pytest.mark.parametrize("vision", ["vit", "resnet"])
@torch.no_grad()
def test_each_picture_counts_in_its_place(vision):
    model = tiny.model(num_images=2, vision=vision)
    texts = {**tiny.texts((6,)), "text_index": torch.zeros(6, dtype=torch.long)}
    logits = model(**{**inputs(), **texts}).logits  # the same text in all rows: only the images differ
    for one in range(5):
        for other in range(one):
            assert largest_difference(logits[one], logits[other]) > 1e-3, (one, other)
    assert torch.equal(logits[0], logits[5])
    # Without the embeddings, what the places hold in another order is the same to attention.
    model.model.projections["vision"].place_embeddings.zero_()
    logits = model(**{**inputs(), **texts}).logits
    assert largest_difference(logits[0], logits[1]) <= 1e-5
    assert largest_difference(logits[2], logits[3]) <= 1e-5


@torch.no_grad()
def test_the_vector_of_a_row_is_the_mean_of_the_pictures_that_are_there():
    model = tiny.model(MMFusionModel, num_images=2)
    projection = model.projections["vision"]
    batch = inputs()
    items = model.encode(pixel_values=batch["pixel_values"])["vision"]
    states = projection(items, INDEX)
    assert states.tokens.shape == (5, 2 * items.levels[0].shape[1], 32)  # distinct combinations, not rows
    first, second = projection.place_embeddings
    alone = projection.project(items)[0].mean(1)
    rows = states.rows(states.pooled)
    torch.testing.assert_close(rows[0], (alone[0] + first + alone[1] + second) / 2)
    torch.testing.assert_close(rows[2], alone[2] + first)
    torch.testing.assert_close(rows[3], alone[2] + second)
    torch.testing.assert_close(rows[4], projection.absent_token + (first + second) / 2)
    assert states.row_mask().sum(1).tolist() == [34, 34, 18, 18, 2, 34]


@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
@pytest.mark.parametrize(
    "settings",
    [{"fusion_type": name} for name in TOKEN_FUSIONS] + [{"memory_layers": 1}],
    ids=lambda s: str(*s.values()),
)
@torch.no_grad()
def test_what_fusions_read_again_is_the_same_mean(settings, pooling):
    """Blocks and norms that change nothing give the vectors that went in, whatever places are empty."""
    model = tiny.open_gates(
        tiny.model(MMFusionModel, num_images=2, pooling={"vision": pooling}, settings=settings), 0.0
    )
    fusion = model.fusion
    for name, module in fusion.named_children():
        if name == "norm":
            setattr(fusion, name, torch.nn.Identity())
        elif name == "memory_norms":
            module.update(dict.fromkeys(module, torch.nn.Identity()))
    read = []
    fusion.readout.register_forward_hook(lambda module, parts, output: read.append(parts[0]))
    model(**inputs())
    text, vision, _, *fused = read[0]
    again = {1: [text], 2: [vision, text], 3: [vision, text]}[len(fused)]
    for expected, found in zip(again, fused):  # behind these come the latents
        torch.testing.assert_close(found, expected)
    states = model.encode({"vision": INDEX}, pixel_values=inputs()["pixel_values"])["vision"]
    projected = model.projections["vision"](states, INDEX)
    torch.testing.assert_close(vision, projected.rows(projected.pooled))


def test_num_images_is_checked():
    with pytest.raises(ValueError, match=r"^num_images.*\b1 .*\b0\b"):
        tiny.config(num_images=0)
    with pytest.raises(ValueError, match=r"^num_images.*\b1, .*vision_config.*\b2\b"):
        tiny.config(vision=None, num_images=2)


# --- Names


@pytest.mark.parametrize("cls", [MMFusionModel, MMFusionForClassification])
def test_misspelt_inputs_are_refused(cls):
    model, batch = tiny.model(cls), tiny.batch()
    batch["pixel_value"] = batch.pop("pixel_values")
    with pytest.raises(ValueError, match=r"\['pixel_value'\].*'pixel_values'") as error:
        model(**batch)
    assert "'self'" not in str(error.value)
    assert "'kwargs'" not in str(error.value)
    assert "'vision_index'" in str(error.value)
    model(**tiny.batch(), some_setting=3)  # what is no tensor goes on to the attention functions


def test_states_without_an_item_need_an_index():
    projection = tiny.model(MMFusionModel).projections["vision"]
    assert projection(EncoderStates(), torch.tensor([-1, -1])).tokens.shape == (1, 1, 32)
    with pytest.raises(ValueError, match="index"):
        projection(EncoderStates(), None)
    with pytest.raises(ValueError, match=r"index.*-1"):
        EncoderStates().count()
