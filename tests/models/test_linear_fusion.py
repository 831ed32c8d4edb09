"""The fusion that is a straight line: what a model of it answers is linear in what its encoders give."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import MMFusionModel
from mm_hf.models.linear_fusion import LinearProjection, pool_levels
from mm_hf.models.modeling_outputs import EncoderStates


def line_model(**kwargs):
    return tiny.model(fusion="linear", **kwargs).eval()


@torch.no_grad()
def test_answers_are_one_matrix_on_the_pooled_states():
    """Written down by hand: the means of the tokens, one map each, a vector for what is absent, the head."""
    model = line_model()
    inputs = {**tiny.texts((6, 4, 7)), **tiny.images(3)}
    vision, text = torch.tensor([0, -1, 1, 2]), torch.tensor([2, 1, -1, 0])
    encoded = model.model.encode({"vision": vision, "text": text}, **inputs)
    expected = torch.zeros(4, model.config.fusion_module_config.hidden_size)
    for name, index in (("vision", vision), ("text", text)):
        projection, states = model.model.projections[name], encoded[name]
        level = states.levels[0]
        if level.ndim == 4:
            mean = level.mean((2, 3))
        elif states.mask is None:
            mean = level.mean(1)
        else:
            mean = torch.stack([item[keep.bool()].mean(0) for item, keep in zip(level, states.mask)])
        (linear,) = projection.levels
        for row, item in enumerate(index.tolist()):
            own = projection.absent_token[0] if item < 0 else linear.weight @ mean[item] + linear.bias
            expected[row] += own
    expected = expected @ model.classifier.weight.T + model.classifier.bias
    logits = model(**inputs, vision_index=vision, text_index=text).logits
    assert torch.allclose(logits, expected, atol=1e-5)


@torch.no_grad()
def test_each_place_has_a_map_of_its_own():
    projection = LinearProjection([(5, 2, 2), (3, 4, 4)], 6, 1e-5, "mean", places=3)
    for parameter in projection.parameters():
        torch.nn.init.normal_(parameter)
    levels = (torch.randn(4, 5, 2, 2), torch.randn(4, 3, 4, 4))
    index = torch.tensor([[0, 1, -1], [1, 0, 3], [-1, -1, -1]])
    found = projection(EncoderStates(levels=levels, index=index), index)
    pooled = found.rows(found.pooled)
    for row, items in enumerate(index.tolist()):
        expected = torch.zeros(6)
        for place, item in enumerate(items):
            if item < 0:
                expected += projection.absent_token[place]
                continue
            own = slice(6 * place, 6 * place + 6)
            for level, linear in zip(levels, projection.levels):
                expected += linear.weight[own] @ level[item].mean((1, 2)) + linear.bias[own]
        assert torch.allclose(pooled[row], expected, atol=1e-5)
    assert not torch.allclose(pooled[0], projection(EncoderStates(levels=levels), index[[0]][:, [1, 0, 2]]).pooled[0])


def test_padding_is_no_part_of_the_mean():
    level, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    (mean,) = pool_levels(EncoderStates(levels=(level,), mask=mask))
    assert torch.allclose(mean, torch.stack([level[0, :2].mean(0), level[1].mean(0)]), atol=1e-6)


@pytest.mark.parametrize("settings", [{"output_norm": True}, {"num_hidden_layers": 3}])
@torch.no_grad()
def test_nothing_bends_it(settings):
    """Twice the difference of the states is twice the difference of the answers, whatever the config says."""
    model: MMFusionModel = line_model(settings=settings).model
    inputs = {**tiny.texts((6, 4, 7)), **tiny.images(3)}
    encoded = model.encode({}, **inputs)

    def fused(share: float) -> torch.Tensor:
        states = {
            name: EncoderStates(levels=tuple(share * level for level in found.levels), mask=found.mask)
            for name, found in encoded.items()
        }
        return model.fuse(states).pooled

    once, twice, thrice = (fused(share) for share in (1.0, 2.0, 3.0))
    assert torch.allclose(twice - once, thrice - twice, atol=1e-4)
    assert (twice - once).abs().max() > 1e-3
