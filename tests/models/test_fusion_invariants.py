"""What holds for every fusion, whatever its weights: who may influence whom, and that fast ways equal slow ones."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import FUSIONS, EncoderStates, Fusion, MMFusionForClassification, MMFusionModel, register_fusion
from mm_hf.models.attention import (
    DistanceBias,
    MMFusionAttention,
    MMFusionCrossAttention,
    MMFusionCrossAttentionBlock,
)
from mm_hf.models.configuration_mm_fusion import FusionModuleConfig
from mm_hf.models.fusion import build_fusion
from mm_hf.models.modeling_outputs import TokenStates
from mm_hf.models.pooled_fusions import PooledFusion


# The default once more, with self-attention among the memory.
WITH_MEMORY_LAYERS = "cross_attention with memory_layers"
OF_TOKENS = sorted(name for name, kind in FUSIONS.items() if not issubclass(kind, PooledFusion))
ABSENT = torch.tensor([0, -1, 1, -1])
# Rows with both modalities, with the text alone and with the image alone; an image and a text asked twice.
MIXED = {"vision_index": torch.tensor([0, -1, 1, 1, 0, 2]), "text_index": torch.tensor([0, 1, -1, 2, 1, 1])}


@pytest.fixture(params=[*sorted(FUSIONS), WITH_MEMORY_LAYERS])
def fusion(request) -> str:
    return request.param


@pytest.fixture(params=[*OF_TOKENS, WITH_MEMORY_LAYERS])
def token_fusion(request) -> str:
    return request.param


def test_all_fusions_are_there():
    assert sorted(FUSIONS) == [
        *("bottleneck", "co_attention", "concat", "cross_attention", "deep_cross", "gated", "late"),
        *("linear", "merged_attention", "sum"),
    ]
    assert OF_TOKENS == ["bottleneck", "co_attention", "cross_attention", "merged_attention"]


def mixed_batch(**kwargs):
    return {**MIXED, **tiny.texts((6, 4, 7), **kwargs), **tiny.images(3)}


def rows_of(inputs, rows):
    """The same rows, each with its own items, in the given order; those of `MIXED` by their indices."""
    result = {}
    for modality, names in (("vision", ["pixel_values"]), ("text", ["input_ids", "attention_mask"])):
        index = MIXED[f"{modality}_index"][rows]
        here = index >= 0
        result[f"{modality}_index"] = torch.where(here, here.cumsum(0) - 1, -1)
        result.update({name: inputs[name][index[here]] for name in names})
    return result


def largest_difference(one, other) -> float:
    return (one - other).abs().max().item()


def classifier(fusion, settings=None, **kwargs):
    if fusion == WITH_MEMORY_LAYERS:
        fusion, settings = "cross_attention", {"memory_layers": 2, **(settings or {})}
    return tiny.model(fusion=fusion, settings=settings, **kwargs)


def blocks_of(model) -> list[MMFusionCrossAttentionBlock]:
    return [module for module in model.base_model.fusion.modules() if isinstance(module, MMFusionCrossAttentionBlock)]


@torch.no_grad()
def test_padding_changes_nothing(fusion):
    model = classifier(fusion)
    short = model(**mixed_batch()).logits
    assert largest_difference(short, model(**mixed_batch(pad_to=20)).logits) <= 1e-5


@torch.no_grad()
def test_what_stands_in_the_padding_changes_nothing(fusion):
    model, inputs = classifier(fusion), mixed_batch(pad_to=9)
    expected = model(**inputs).logits
    inputs["input_ids"][inputs["attention_mask"] == 0] = 33
    assert largest_difference(expected, model(**inputs).logits) <= 1e-5
    inputs["input_ids"][0, 2] = 33  # a real token does matter
    assert largest_difference(expected[0], model(**inputs).logits[0]) > 1e-2


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_other_rows_change_nothing(fusion, implementation):
    model, inputs = classifier(fusion, implementation=implementation), mixed_batch()
    together = model(**inputs).logits
    for row in range(len(together)):
        alone = model(**rows_of(inputs, torch.tensor([row]))).logits
        assert largest_difference(together[row], alone[0]) <= 1e-5, row


@torch.no_grad()
def test_row_order_changes_nothing_but_the_order(fusion):
    model, inputs = classifier(fusion), mixed_batch()
    order = torch.tensor([3, 5, 0, 4, 2, 1])
    assert largest_difference(model(**inputs).logits[order], model(**rows_of(inputs, order)).logits) <= 1e-5


@torch.no_grad()
def test_implementations_agree(fusion):
    inputs = mixed_batch(pad_to=9)
    eager = classifier(fusion, implementation="eager")
    sdpa = classifier(fusion, implementation="sdpa")
    assert eager.config.fusion_module_config._attn_implementation == "eager"
    assert sdpa.config.fusion_module_config._attn_implementation == "sdpa"
    expected = eager(**inputs).logits
    assert largest_difference(expected, sdpa(**inputs).logits) <= 1e-5
    sdpa.set_attn_implementation("eager")
    assert torch.equal(expected, sdpa(**inputs).logits), "set_attn_implementation does not reach every layer"


@torch.no_grad()
def test_shared_items_equal_repeated_items(fusion):
    """Bit for bit in fp32."""
    model = classifier(fusion)
    inputs = {**tiny.texts((6, 4, 7)), **tiny.images(2)}
    text_index, vision_index = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    shared = model(**inputs, text_index=text_index, vision_index=vision_index).logits
    repeated = model(
        input_ids=inputs["input_ids"][text_index],
        attention_mask=inputs["attention_mask"][text_index],
        pixel_values=inputs["pixel_values"][vision_index],
    ).logits
    assert torch.equal(shared, repeated), largest_difference(shared, repeated)


@pytest.mark.parametrize("modality", ["vision", "text"])
@torch.no_grad()
def test_three_ways_to_be_absent_are_one(fusion, modality):
    model, inputs = classifier(fusion), tiny.batch()
    nobody = torch.full((4,), -1)
    own = ["pixel_values"] if modality == "vision" else ["input_ids", "attention_mask"]
    rest = {name: value for name, value in inputs.items() if name not in own}
    by_index = model(**inputs, **{f"{modality}_index": nobody}).logits
    left_out = model(**rest).logits
    assert largest_difference(by_index, left_out) <= 1e-5
    assert torch.equal(left_out, model(**rest, **{f"{modality}_index": nobody}).logits)
    empty = {name: inputs[name][:0] for name in own}
    assert torch.equal(left_out, model(**rest, **empty, **{f"{modality}_index": nobody}).logits)
    assert largest_difference(left_out, model(**inputs).logits) > 1e-2  # it would have mattered


@torch.no_grad()
def test_absent_row_ignores_the_items_of_others(fusion):
    model, inputs = classifier(fusion), {**tiny.texts((6, 4, 7, 5)), **tiny.images(2), "vision_index": ABSENT}
    expected = model(**inputs).logits
    inputs["pixel_values"] = inputs["pixel_values"] + 1
    changed = model(**inputs).logits
    assert largest_difference(expected[[1, 3]], changed[[1, 3]]) <= 1e-5
    assert largest_difference(expected[[0, 2]], changed[[0, 2]]) > 1e-2


@torch.no_grad()
def test_absent_token_is_used(fusion):
    model = classifier(fusion)
    inputs = {**tiny.texts((6, 4, 7, 5)), **tiny.images(2), "vision_index": ABSENT}
    expected = model(**inputs).logits
    model.model.projections["vision"].absent_token[::2] += 1  # a norm takes away what all elements share
    changed = model(**inputs).logits
    assert torch.equal(expected[[0, 2]], changed[[0, 2]])
    assert largest_difference(expected[[1, 3]], changed[[1, 3]]) > 1e-2


def test_numbers_of_rows_must_agree(fusion):
    model = classifier(fusion)
    with pytest.raises(ValueError, match=r"'vision': 3, 'text': 4.*<modality>_index"):
        model(**tiny.texts((6, 4, 7, 5)), **tiny.images(3))
    with pytest.raises(ValueError, match=r"\['vision', 'text'\].*\{\}"):
        model()


@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_every_layer_is_used(fusion, depth):
    model, inputs = classifier(fusion, settings={"num_hidden_layers": depth}), tiny.batch()
    layers = model.model.fusion.layers
    assert len(layers) == (0 if fusion == "linear" else depth)
    memory_layers = getattr(model.model.fusion, "memory_layers", {})
    for layer in [*layers, *(layer for several in memory_layers.values() for layer in several)]:
        expected = model(**inputs).logits
        for parameter in layer.parameters():
            parameter.mul_(1.5)
        changed = model(**inputs).logits
        assert largest_difference(expected, changed) > 1e-2
        tiny.open_gates(model)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_is_that_of_torch(implementation):
    attention = classifier("cross_attention", implementation=implementation).model.fusion.layers[0].cross_attn
    reference = torch.nn.MultiheadAttention(32, 2, batch_first=True)
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    reference.in_proj_weight.copy_(torch.cat([linear.weight for linear in projections]))
    reference.in_proj_bias.copy_(torch.cat([linear.bias for linear in projections]))
    reference.out_proj.load_state_dict(attention.o_proj.state_dict())
    queries, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    projected = attention.q_proj(queries), attention.k_proj(memory), attention.v_proj(memory)
    expected, _ = reference(queries, memory, memory)
    torch.testing.assert_close(attention(*projected, None)[0], expected)


@torch.no_grad()
def test_keys_are_really_attended(token_fusion):
    """With queries of zero every softmax is constant. Keys of length 1 would make no difference (Ludwig's fault)."""
    model, inputs = classifier(token_fusion), tiny.batch()
    expected = model(**inputs).logits
    attentions = [module for module in model.model.fusion.modules() if isinstance(module, MMFusionAttention)]
    between = [attention for attention in attentions if isinstance(attention, MMFusionCrossAttention)]
    for attention in between or attentions:  # where there is no cross-attention, self-attention sees all modalities
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.zero_()
    assert largest_difference(expected, model(**inputs).logits) > 1e-2


@torch.no_grad()
def test_closed_gates_leave_the_blocks_out(token_fusion):
    model = tiny.open_gates(classifier(token_fusion), 0.0)
    inputs = tiny.batch()
    expected = model(**inputs).logits
    for block in blocks_of(model):
        for name, parameter in block.named_parameters():
            if name != "gates":
                parameter.mul_(2)
    assert torch.equal(expected, model(**inputs).logits)


@torch.no_grad()
def test_order_of_modalities_changes_nothing(fusion):
    model, inputs = classifier(fusion, cls=MMFusionModel), mixed_batch()
    encoded = model.encode(
        {"vision": inputs["vision_index"], "text": inputs["text_index"]},
        **{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")},
    )
    assert list(encoded) == ["vision", "text"]
    turned = dict(reversed(encoded.items()))
    assert torch.equal(model.fuse(encoded).pooled, model.fuse(turned).pooled)


def three_modalities(seed: int = 0) -> dict[str, TokenStates]:
    """Made token states: four rows of vision, text with padding, and sound that two rows share and one lacks."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(items, length):
        made = torch.randn(items, length, 32, generator=generator)
        return {"tokens": made, "pooled": made.mean(1)}

    lengths = torch.tensor([5, 3, 4, 2])
    return {
        "vision": TokenStates(**tokens(4, 6)),
        "text": TokenStates(**tokens(4, 5), mask=torch.arange(5)[None] < lengths[:, None]),
        "audio": TokenStates(
            **tokens(3, 7),
            mask=torch.tensor([[True] + [False] * 6, [True] * 7, [True] * 5 + [False] * 2]),
            index=torch.tensor([1, 2, 0, 2]),
        ),
    }


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_three_modalities(name):
    torch.manual_seed(0)
    config = FusionModuleConfig(**tiny.fusion_settings(name, query_modality="text"))
    config._attn_implementation = "eager"
    modalities = ["vision", "text", "audio"]
    fusion = build_fusion(config, modalities, {"vision": "mean", "text": "cls", "audio": "mean"}).eval()
    for parameter in fusion.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    tiny.open_gates(fusion)
    states = three_modalities()
    fused = fusion(states)
    assert fused.pooled.shape == (4, 32)
    assert fused.tokens.shape == (4, 18, 32)
    assert [(fused.modality_ids == number).sum().item() for number in range(3)] == [6, 5, 7]
    if name != "linear":  # whose maps are in the projections
        fused.pooled.square().sum().backward()
    assert not [name for name, p in fusion.named_parameters() if p.grad is None]
    with torch.no_grad():
        for modality in modalities:
            changed = three_modalities()
            changed[modality].tokens.neg_()
            changed[modality].pooled.neg_()
            differences = (fusion(changed).pooled - fused.pooled).abs().amax(1)
            assert differences.min() > 1e-3, f"{modality} does not matter in every row"
        # Of the items of the third modality, a row sees its own alone.
        changed = three_modalities()
        changed["audio"].tokens[1].neg_()
        differences = (fusion(changed).pooled - fused.pooled).abs().amax(1)
        if not isinstance(fusion, PooledFusion):  # those see the pooled vector, which stayed
            assert differences[0] > 1e-3
        assert differences[1:].max() <= 1e-5


@pytest.mark.parametrize("rows", ["each its own", "shared", "partly absent"])
@torch.no_grad()
def test_prepared_memory_equals_none(fusion, rows):
    model = classifier(fusion, cls=MMFusionModel)
    index = {"each its own": torch.arange(4), "shared": torch.tensor([1, 0, 1, 1]), "partly absent": ABSENT}[rows]
    texts, pictures = tiny.texts((6, 4, 7, 5)), tiny.images(4)
    if not model.fusion.supports_memory_cache:
        with pytest.raises(NotImplementedError, match=f"'{fusion}'.*cross_attention"):
            model.prepare(model.encode(**pictures))
        return
    expected = model(**texts, **pictures, vision_index=index)
    # A gallery that the questions choose from: its rows are the images in another order, and one is without any.
    encoded = model.encode({"vision": torch.tensor([2, 0, -1, 3, 1])}, **pictures)
    memory = model.prepare({"vision": encoded["vision"]})
    chosen = torch.tensor([1, 4, 0, 3, 2])[index]
    fused = model.fuse(model.encode(**texts), memory=memory, memory_index=chosen)
    assert largest_difference(expected.pooler_output, fused.pooled) <= 1e-6
    assert largest_difference(expected.last_hidden_state, fused.tokens) <= 1e-6
    assert torch.equal(expected.attention_mask, fused.mask)
    through_forward = model(**texts, memory=memory, memory_index=chosen)
    assert torch.equal(fused.pooled, through_forward.pooler_output)


@torch.no_grad()
def test_memory_without_index_goes_row_by_row():
    model, inputs = tiny.model(MMFusionModel), tiny.batch()
    encoded = model.encode(**inputs)
    memory = model.prepare({"vision": encoded["vision"]})
    fused = model.fuse({"text": encoded["text"]}, memory=memory)
    assert largest_difference(model(**inputs).pooler_output, fused.pooled) <= 1e-6


@torch.no_grad()
def test_a_fusion_without_memory_refuses_one():
    model = tiny.model(MMFusionModel, fusion="concat")
    memory = tiny.model(MMFusionModel).prepare(model.encode(**tiny.images(4)))
    with pytest.raises(NotImplementedError, match="concat"):
        model(**tiny.texts((6, 4, 7, 5)), memory=memory)


@pytest.mark.parametrize("cached", [["vision"], ["text"], ["vision", "text"]], ids="+".join)
@torch.no_grad()
def test_encoder_states_in_place_of_raw_inputs(fusion, cached):
    model, inputs = classifier(fusion), mixed_batch()
    expected = model(**inputs).logits
    states = model.model.encode(
        {"vision": inputs["vision_index"], "text": inputs["text_index"]},
        **{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")},
    )
    states = {name: states[name] for name in cached}
    own = {"vision": ["pixel_values", "vision_index"], "text": ["input_ids", "attention_mask", "text_index"]}
    rest = {name: value for name, value in inputs.items() if not any(name in own[modality] for modality in cached)}
    for encoder in (model.model.encoders[name] for name in cached):
        encoder.forward = None  # not to be run
    assert torch.equal(expected, model(**rest, encoder_states=states).logits)
    # An index given beside the states takes the place of theirs.
    assert not torch.equal(
        expected,
        model(**{**rest, "vision_index": torch.tensor([0, 0, 0, 0, 0, 0])}, **{"encoder_states": states}).logits,
    )


@torch.no_grad()
def test_tokens_and_states_that_are_asked_for_change_no_result(fusion):
    model = classifier(fusion, cls=MMFusionModel, implementation="eager")
    inputs = mixed_batch()
    expected = model(**inputs, return_tokens=False)
    assert expected.last_hidden_state is None
    for more in ({}, {"output_hidden_states": True}, {"output_attentions": True}):
        assert largest_difference(expected.pooler_output, model(**inputs, **more).pooler_output) <= 1e-5, more


@torch.no_grad()
def test_tokens_masks_and_modality_ids(fusion):
    model, inputs = classifier(fusion, cls=MMFusionModel), mixed_batch()
    outputs = model(**inputs)
    rows, length = MIXED["vision_index"].numel(), 7 + 17
    assert outputs.last_hidden_state.shape == (rows, length, 32)
    assert outputs.pooler_output.shape == (rows, 32)
    assert outputs.attention_mask.shape == outputs.modality_ids.shape == (rows, length)
    for name, length in (("text", inputs["attention_mask"].sum(1)), ("vision", torch.tensor([17, 17, 17]))):
        own = outputs.modality_ids[0] == model.config.modalities.index(name)
        index = MIXED[f"{name}_index"]
        expected = torch.where(index < 0, 1, length[index.clamp(min=0)])  # an absent item is one token
        assert outputs.attention_mask[:, own].sum(1).tolist() == expected.tolist()


@torch.no_grad()
def test_attention_weights():
    model, inputs = classifier("cross_attention", implementation="eager"), mixed_batch(pad_to=9)
    outputs = model(**inputs, output_attentions=True)
    assert len(outputs.attentions) == len(outputs.cross_attentions) == 2
    absent = MIXED["vision_index"] < 0
    for own, cross in zip(outputs.attentions, outputs.cross_attentions, strict=True):
        assert own.shape == (6, 2, 9, 9)
        assert cross.shape == (6, 2, 9, 17)
        torch.testing.assert_close(own.sum(-1), torch.ones(6, 2, 9))
        torch.testing.assert_close(cross.sum(-1), torch.ones(6, 2, 9))
        assert own[..., 7:].max() == 0  # padding is not attended to
        assert cross[absent][..., 0].min() == 1  # where there is no image, its token is all there is
        assert cross[~absent].max() < 1


@pytest.mark.parametrize(
    ("name", "own", "cross"),
    [
        ("co_attention", (6, 2, 7, 7), (6, 2, 7, 17)),
        ("merged_attention", (6, 2, 24, 24), None),
        ("bottleneck", (6, 2, 11, 11), None),  # four latents
    ],
)
@torch.no_grad()
def test_attention_weights_and_states_of_other_fusions(name, own, cross):
    outputs = classifier(name, implementation="eager")(
        **mixed_batch(), output_attentions=True, output_hidden_states=True
    )
    assert [tuple(weights.shape) for weights in outputs.attentions] == [own] * 2
    assert outputs.cross_attentions is None or [w.shape for w in outputs.cross_attentions] == [cross] * 2
    assert (outputs.cross_attentions is None) == (cross is None)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(6, own[-1], 32)] * 3
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(own[:-1]))


# --- Self-attention among the memory


@torch.no_grad()
def test_distance_bias_is_what_it_says():
    """Heads in pairs of near and far, each pair four times weaker than the one before; padding is not attended to."""
    bias = DistanceBias(FusionModuleConfig(**tiny.fusion_settings(num_attention_heads=4)))
    assert bias.slopes == [-32, 32, -8, 8]
    coordinates = torch.tensor([[0.125, 0.125], [0.125, 0.375], [0.875, 0.125]])
    mask = torch.tensor([[True, True, False]])
    scores = bias(coordinates, mask, torch.float32)
    assert scores.shape == (1, 4, 3, 3)
    assert scores[0, :, 0, 1].tolist() == [-8, 8, -2, 2]
    assert scores[..., 2].max() == torch.finfo(torch.float32).min
    assert bias(coordinates, None, torch.float32)[0, :, 0, 2].tolist() == [-24, 24, -6, 6]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_distance_bias_changes_the_result_of_present_pictures_alone(implementation):
    inputs = mixed_batch()
    torch.manual_seed(0)
    model = tiny.model(
        vision="resnet", settings={"memory_layers": 2, "distance_bias": True}, implementation=implementation
    )
    expected = model(**inputs).logits
    model.model.fusion.distance_bias.slopes = [0.0, 0.0]
    differences = (model(**inputs).logits - expected).abs().amax(1)
    present = MIXED["vision_index"] >= 0
    assert differences[present].min() > 1e-4
    assert differences[~present].max() <= 1e-6


def test_distance_bias_needs_places():
    with pytest.raises(ValueError, match=r"distance_bias.*'vit'"):
        tiny.model(vision="vit", settings={"memory_layers": 1, "distance_bias": True})
    model = tiny.model(vision="resnet", settings={"memory_layers": 1, "distance_bias": True})
    model.config.fusion_module_config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"distance_bias.*'eager'.*'sdpa'.*'flex_attention'"):
        model(**tiny.batch())


def test_memory_layers_run_once_for_shared_pictures():
    model = classifier(WITH_MEMORY_LAYERS)
    seen = []
    model.model.fusion.memory_layers["vision"][0].register_forward_hook(lambda m, i, o: seen.append(len(o[0])))
    model(**tiny.texts((6, 4, 7)), **tiny.images(1), vision_index=torch.zeros(3, dtype=torch.long))
    assert seen == [2]  # the picture, and the token that stands for none


def test_attention_weights_need_eager(fusion):
    model = classifier(fusion, implementation="sdpa")
    with pytest.raises(ValueError, match=r"output_attentions.*attn_implementation='eager'.*'sdpa'"):
        model(**tiny.batch(), output_attentions=True)


@torch.no_grad()
def test_hidden_states():
    model, inputs = classifier("cross_attention"), mixed_batch()
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(6, 7, 32)] * 3
    assert not torch.equal(states[1], states[2])
    for selection, kept in ((-1, {2}), ([0, 2], {0, 2})):
        some = model(**inputs, output_hidden_states=selection).hidden_states
        assert {number for number, state in enumerate(some) if state is not None} == kept
        assert all(torch.equal(some[number], states[number]) for number in kept)


def ungraded(model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("tokens", [True, False])
def test_gradient_reaches_every_parameter(fusion, tokens):
    model, inputs = classifier(fusion).train(), mixed_batch()
    outputs = model.model(**inputs, return_tokens=tokens)
    loss = model.classifier(outputs.pooler_output).square().sum()
    if tokens:
        loss = loss + outputs.last_hidden_state.square().sum()
    loss.backward()
    assert not ungraded(model)
    zero = {name for name, p in model.named_parameters() if p.requires_grad and not p.grad.abs().max() > 0}
    # A constant added to every key shifts every score alike. Nothing but rounding reaches its gradient.
    assert {name for name in zero if not name.endswith(("k_proj.bias", "key.bias"))} == set()


# States without levels come from encoders that do not train.
@pytest.mark.parametrize(
    ("way", "frozen"),
    [("left out", False), ("by index", False), ("left out", True), ("by index", True), ("states", True)],
)
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_a_modality_without_any_item_takes_part_in_training(fusion, modality, way, frozen):
    model = classifier(fusion, freeze_encoders=frozen).train()
    inputs = tiny.images(4) if modality == "text" else tiny.texts((6, 4, 7, 5))
    nobody = torch.full((4,), -1)
    if way == "by index":
        inputs[f"{modality}_index"] = nobody
    elif way == "states":
        inputs["encoder_states"] = {modality: EncoderStates(index=nobody)}
    loss = model(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    assert not ungraded(model)
    for name, parameter in model.model.encoders[modality].named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().max() == 0, name
    with torch.no_grad():
        expected = model.eval()(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss
    assert largest_difference(loss, expected) <= 1e-5  # the dummy item has no weight


def test_gradient_checkpointing_gives_the_same_gradients(fusion):
    inputs, labels = mixed_batch(), torch.tensor([0, 1, 2, 3, 4, 0])

    def gradients(model):
        passes = []
        for block in blocks_of(model):
            block.mlp.register_forward_hook(lambda *_: passes.append(1))
        model(**inputs, labels=labels).loss.backward()
        return len(passes), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    passes, expected = gradients(classifier(fusion).train())
    model = classifier(fusion).train()
    model.gradient_checkpointing_enable()
    again, actual = gradients(model)
    assert (passes == 0) == isinstance(model.model.fusion, PooledFusion)  # one vector a row: there is nothing to save
    assert again == 2 * passes, "no block was run again for its gradient"
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_bfloat16(fusion):
    model, inputs = classifier(fusion), mixed_batch()
    expected = model(**inputs).logits
    model = model.to(torch.bfloat16).train()
    outputs = model(**inputs, labels=torch.tensor([0, 1, 2, 3, 4, 0]))
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    assert largest_difference(expected, outputs.logits) < 0.1 * expected.abs().max()
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_autocast(fusion):
    model, inputs = classifier(fusion).train(), mixed_batch()
    expected = model(**inputs).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**inputs, labels=torch.tensor([0, 1, 2, 3, 4, 0]))
    outputs.loss.backward()
    assert largest_difference(expected, outputs.logits) < 0.1 * expected.abs().max()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_one_modality_alone(fusion, modality):
    other = {"vision": "text", "text": "vision"}[modality]
    if fusion == WITH_MEMORY_LAYERS:
        with pytest.raises(ValueError, match=rf"memory_layers.*\b2, .*\b{modality}\b"):
            classifier(fusion, **{other: None})
        return
    model = classifier(fusion, **{other: None}).train()
    assert model.config.modalities == [modality]
    inputs = tiny.images(4) if modality == "vision" else tiny.texts((6, 4, 7, 5))
    model(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert not ungraded(model)
    model.eval()
    with torch.no_grad():
        expected = model(**inputs).logits
        assert largest_difference(expected[:2], model(**{k: v[:2] for k, v in inputs.items()}).logits) <= 1e-5
        assert expected.std(0).min() > 1e-3
        # One of its rows may be without it.
        index = torch.tensor([0, -1, 2, 3])
        assert (
            largest_difference(expected[[0, 2, 3]], model(**inputs, **{f"{modality}_index": index}).logits[[0, 2, 3]])
            <= 1e-5
        )


def test_images_may_ask():
    model = classifier("cross_attention", settings={"query_modality": "vision"}, implementation="eager")
    outputs = model(**tiny.batch(), output_attentions=True)
    assert outputs.cross_attentions[0].shape == (4, 2, 17, 7)
    with torch.no_grad():
        sdpa = classifier("cross_attention", settings={"query_modality": "vision"}, implementation="sdpa")
        inputs = mixed_batch()
        assert largest_difference(model(**inputs).logits, sdpa(**inputs).logits) <= 1e-5


@pytest.mark.slow  # it is compiled first, which takes a minute
@torch.no_grad()
def test_flex_attention():
    inputs = mixed_batch()
    expected = classifier("cross_attention", implementation="eager")(**inputs).logits
    model = classifier("cross_attention", implementation="eager")
    model.config.fusion_module_config._attn_implementation = "flex_attention"
    assert largest_difference(expected, model(**inputs).logits) <= 1e-5


def test_registry_refuses_a_name_twice():
    with pytest.raises(ValueError, match=r"'concat'.*ConcatFusion"):
        register_fusion("concat")(Fusion)


def test_a_fusion_of_ones_own(monkeypatch):
    monkeypatch.setattr("mm_hf.models.fusion.FUSIONS", FUSIONS)
    monkeypatch.setitem(FUSIONS, "mine", FUSIONS["concat"])
    assert isinstance(classifier("mine", cls=MMFusionForClassification).model.fusion, FUSIONS["concat"])


def test_index_beyond_the_items_is_an_error(fusion):
    inputs = mixed_batch()
    inputs["vision_index"] = torch.tensor([0, -1, 1, 1, 0, 3])  # there are 3 images: 0, 1, 2
    with pytest.raises(IndexError):
        classifier(fusion)(**inputs)


def test_memory_of_other_length_names_both():
    model, inputs = classifier("cross_attention"), mixed_batch()
    memory = model.base_model.prepare(model.base_model.encode(pixel_values=inputs["pixel_values"]))
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"\b3 .*memory_index.* 2\b"):
        model(**texts, memory=memory, memory_index=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"\b2 .*memory .* 3\b"):
        model(**{name: value[:2] for name, value in texts.items()}, memory=memory)
