"""What goes into the model: rows with several images, and names that are no input."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import FUSIONS, EncoderStates, MMFusionConfig, MMFusionForClassification, MMFusionModel
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


@torch.no_grad()
def test_a_column_of_one_of_the_text():
    model = tiny.model()
    texts = {**tiny.texts((6, 4)), **tiny.images(3)}
    index = torch.tensor([1, 0, -1])
    expected = model(**texts, text_index=index).logits
    assert torch.equal(model(**texts, text_index=index[:, None]).logits, expected)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\b1\b"):
        model(**texts, text_index=torch.tensor([[0, 1]] * 3))


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
def test_other_rows_change_nothing(fusion):
    model = tiny.model(fusion=fusion, num_images=2)
    batch = inputs()
    together = model(**batch).logits
    for row in range(6):
        index = INDEX[row : row + 1]
        alone = model(
            input_ids=batch["input_ids"][row : row + 1],
            attention_mask=batch["attention_mask"][row : row + 1],
            **({"pixel_values": batch["pixel_values"]} if (index >= 0).any() else {}),
            vision_index=index,
        ).logits
        assert largest_difference(together[row], alone[0]) <= 1e-5, row
    order = torch.tensor([3, 5, 0, 4, 2, 1])
    changed = {name: value[order] for name, value in batch.items() if name != "pixel_values"}
    assert largest_difference(model(**changed, pixel_values=batch["pixel_values"]).logits, together[order]) <= 1e-5
    batch["pixel_values"][2] += 1  # of rows 2 and 3 alone
    other = model(**batch).logits
    assert largest_difference(other[[0, 1, 4, 5]], together[[0, 1, 4, 5]]) <= 1e-5
    assert (other - together)[[2, 3]].abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_padding_changes_nothing(fusion):
    model = tiny.model(fusion=fusion, num_images=2)
    expected = model(**inputs()).logits
    assert largest_difference(model(**inputs(pad_to=20)).logits, expected) <= 1e-5
    # Places that are not named are absent.
    wide = torch.tensor([[0, -1], [-1, -1], [2, -1]])
    expected = model(**inputs(wide, rows=3)).logits
    for index in (wide[:, :1], wide[:, 0]):
        assert torch.equal(model(**inputs(index, rows=3)).logits, expected)
    rows = torch.tensor([[0, -1], [1, -1], [2, -1]])
    batch = inputs(rows, rows=3)
    expected = model(**batch).logits
    assert torch.equal(model(**{**batch, "vision_index": None}).logits, expected)  # row i has image i


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


@torch.no_grad()
def test_shared_images_equal_repeated_ones(fusion):
    model = tiny.model(fusion=fusion, num_images=2)
    batch = inputs(INDEX[[0, 1, 0]], rows=3)
    repeated = {**batch, "pixel_values": batch["pixel_values"][[0, 1, 1, 0, 0, 1]]}
    repeated["vision_index"] = torch.arange(6).view(3, 2)
    assert largest_difference(model(**batch).logits, model(**repeated).logits) <= 1e-5


def test_each_image_is_encoded_once():
    model = tiny.model(num_images=2)
    seen = []
    model.model.encoders["vision"].register_forward_hook(
        lambda module, arguments, keywords, output: seen.append(len(keywords["pixel_values"])), with_kwargs=True
    )
    model(**inputs())
    assert seen == [3]


@torch.no_grad()
def test_all_absent_in_three_ways():
    model = tiny.model(num_images=2)
    batch = inputs(torch.full((6, 2), -1))
    by_index = model(**batch).logits
    del batch["pixel_values"]
    assert largest_difference(model(**batch).logits, by_index) <= 1e-5
    del batch["vision_index"]
    assert largest_difference(model(**batch).logits, by_index) <= 1e-5


@pytest.mark.parametrize("with_images", [True, False])
def test_gradients_reach_every_place(with_images):
    model = tiny.model(num_images=3).train()
    batch = inputs() if with_images else tiny.texts((6, 4, 7, 5, 3, 6))
    model(**batch, labels=torch.arange(6) % 5).loss.backward()
    gradient = model.model.projections["vision"].place_embeddings.grad
    assert (gradient.abs().amax(-1) > 0).tolist() == [True] * 3  # the absent third place too
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_memory_of_several_images():
    model = tiny.model(num_images=2).model
    batch = inputs()
    expected = model(**batch).pooler_output
    images = model.encode({"vision": INDEX}, pixel_values=batch["pixel_values"])
    memory = model.prepare(images)
    assert len(memory.key_states["vision"][0]) == 5
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert largest_difference(model(**texts, memory=memory).pooler_output, expected) <= 1e-5
    # What was encoded before goes in with its index.
    assert torch.equal(model(**texts, encoder_states={"vision": images["vision"]}).pooler_output, expected)
    chosen = torch.tensor([1, 1, 0, 2, 4, 3])
    again = model(**texts, memory=memory, memory_index=chosen).pooler_output
    other = model(**{**batch, "vision_index": INDEX[chosen]}).pooler_output
    assert largest_difference(again, other) <= 1e-5


def test_modality_dropout_takes_all_images_of_a_row():
    """Where only some of them are there, too; a row without a text keeps its images."""
    settings = {"modality_dropout": {"vision": 0.5}}
    model = tiny.model(MMFusionModel, num_images=2, settings=settings).train()
    rows = torch.arange(400)
    images = torch.stack([rows % 3, torch.where(rows % 4 < 2, -1, rows % 2)], dim=1)
    texts = torch.where(rows < 100, -1, 0)
    states = model.encode({"vision": images, "text": texts}, **tiny.texts((6,)), **tiny.images(3))
    torch.manual_seed(0)
    tokens = model.project(states)
    assert torch.equal(tokens["text"].index, texts + 1)
    lengths = tokens["vision"].row_mask().sum(1)  # 16 patches and CLS of an image, 1 of one that is absent
    gone = lengths == 2
    assert torch.equal(lengths[~gone], torch.where(rows % 4 < 2, 18, 34)[~gone])
    assert not gone[:100].any()
    for some_are_absent in (True, False):
        assert 50 < gone[100:][(rows[100:] % 4 < 2) == some_are_absent].sum() < 100


@torch.no_grad()
def test_several_images_are_saved(tmp_path):
    model = tiny.model(num_images=2)
    model.save_pretrained(tmp_path)
    loaded = MMFusionForClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.num_images == 2
    assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)


def test_place_embeddings_get_their_initial_weights(tmp_path):
    """Also where a checkpoint of one place is loaded into a model of several: else they are uninitialised memory."""
    tiny.model().save_pretrained(tmp_path)
    config = MMFusionConfig.from_pretrained(tmp_path, num_images=3)
    for model in (
        MMFusionForClassification.from_pretrained(tmp_path, config=config),
        MMFusionForClassification(config),
    ):
        embeddings = model.model.projections["vision"].place_embeddings
        assert embeddings.shape == (3, 32)
        assert embeddings.std().item() == pytest.approx(0.2, rel=0.3)
        assert embeddings.mean().item() == pytest.approx(0, abs=0.08)


def test_more_images_than_places():
    index = torch.zeros(6, 3, dtype=torch.long)
    message = r"\(6, 3\).*\b2: .*num_images"
    with pytest.raises(ValueError, match=message):
        tiny.model(num_images=2)(**inputs(index))
    with pytest.raises(ValueError, match=r"\(6, 2\).*\b1\b"):
        tiny.model()(**inputs())
    with pytest.raises(IndexError):
        tiny.model(num_images=2)(**inputs(torch.full((6, 2), 3)))


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
