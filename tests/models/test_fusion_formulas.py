"""Each fusion against its formula, written out: what a fault in the maths would change though all invariants hold."""

import pytest
import tiny_models as tiny
import torch
from torch.nn.functional import gelu, linear

from mm_hf.models.configuration_mm_fusion import FusionModuleConfig
from mm_hf.models.fusion import build_fusion
from mm_hf.models.modeling_outputs import TokenStates


MODALITIES = ["vision", "text", "audio"]
LENGTHS = {"vision": 6, "text": 5, "audio": 7}


def built(name: str, depth: int, **settings):
    """A fusion of three modalities with weights that all matter, its gates half open."""
    torch.manual_seed(0)
    settings = tiny.fusion_settings(name, query_modality="text", num_hidden_layers=depth, **settings)
    config = FusionModuleConfig(**settings)
    config._attn_implementation = "eager"
    fusion = build_fusion(config, MODALITIES, dict.fromkeys(MODALITIES, "mean")).eval()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tiny.open_gates(fusion)


@pytest.fixture
def states() -> dict[str, TokenStates]:
    """Four rows, each with items of its own; the pooled vectors have nothing to do with the tokens."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: TokenStates(
            tokens=torch.randn(4, length, 32, generator=generator), pooled=torch.randn(4, 32, generator=generator)
        )
        for name, length in LENGTHS.items()
    }


def close(fusion, states, expected):
    torch.testing.assert_close(fusion(states).pooled, expected, atol=1e-5, rtol=1e-5)


def feed_forward(block, vector):
    """A residual feed-forward block."""
    norm, (first, _, second) = block.norm, block.mlp
    normed = torch.nn.functional.layer_norm(vector, (32,), norm.weight, norm.bias, norm.eps)
    hidden = gelu(linear(normed, first.weight, first.bias))
    return vector + linear(hidden, second.weight, second.bias)


@torch.no_grad()
def test_concat(states):
    fusion = built("concat", depth=1)
    weights, bias = fusion.readout[0].weight, fusion.readout[0].bias
    joined = torch.cat([states[name].pooled for name in MODALITIES], dim=1)
    close(fusion, states, feed_forward(fusion.layers[0], gelu(joined @ weights.T + bias)))


@torch.no_grad()
def test_sum(states):
    fusion = built("sum", depth=1)
    total = sum(fusion.weights[number] * states[name].pooled for number, name in enumerate(MODALITIES))
    close(fusion, states, feed_forward(fusion.layers[0], total))


@torch.no_grad()
def test_gated_multimodal_unit(states):
    """h_i = tanh(W_i x_i), z_i = sigmoid(W_zi [x_1, …, x_k]), h = sum of z_i h_i (Arevalo et al. 2017)."""
    fusion = built("gated", depth=0)
    seen = torch.cat([states[name].pooled for name in MODALITIES], dim=1)
    expected = torch.zeros(4, 32)
    for number, name in enumerate(MODALITIES):
        feature, score = fusion.features[number], fusion.gate_scores[number]
        hidden = torch.tanh(states[name].pooled @ feature.weight.T + feature.bias)
        expected += torch.sigmoid(seen @ score.weight.T + score.bias) * hidden
    close(fusion, states, expected)


@torch.no_grad()
def test_deep_and_cross(states):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l beside a plain network (DCN v2, Wang et al. 2021, equation 1)."""
    fusion = built("deep_cross", depth=2)
    first = crossed = deep = torch.cat([states[name].pooled for name in MODALITIES], dim=1)
    for layer in fusion.layers:
        crossed = first * (crossed @ layer.cross.weight.T + layer.cross.bias) + crossed
        deep = gelu(deep @ layer.deep.weight.T + layer.deep.bias)
    readout = fusion.readout[0]
    close(fusion, states, gelu(torch.cat([crossed, deep], dim=1) @ readout.weight.T + readout.bias))


@torch.no_grad()
def test_late(states):
    fusion = built("late", depth=1)
    shares = fusion.weights.exp() / fusion.weights.exp().sum()
    expected = torch.zeros(4, 32)
    for number, name in enumerate(MODALITIES):
        head, vector = fusion.heads[name], feed_forward(fusion.layers[0][name], states[name].pooled)
        expected += shares[number] * (vector @ head.weight.T + head.bias)
    close(fusion, states, expected)


def read(fusion, states, vectors):
    """The readout of the fusions of tokens: [asked; others; products; what the blocks made]."""
    asked, *answers = (states[name].pooled for name in ("text", "vision", "audio"))
    parts = torch.cat([asked, *answers, *(asked * answer for answer in answers), *vectors], dim=1)
    return gelu(parts @ fusion.readout[0].weight.T + fusion.readout[0].bias)


@torch.no_grad()
def test_cross_attention(states):
    """The text's tokens attend to themselves and then to all others, in every layer to the same ones."""
    fusion = built("cross_attention", depth=2)
    memory, tokens = torch.cat([states["vision"].tokens, states["audio"].tokens], dim=1), states["text"].tokens
    for block in fusion.layers:
        tokens, _, _ = block(tokens, block.cross_attn.k_proj(memory), block.cross_attn.v_proj(memory))
    close(fusion, states, read(fusion, states, [fusion.norm(tokens).mean(1)]))


@torch.no_grad()
def test_co_attention(states):
    """Each modality looks at what the layer below made of the others (METER, Dou et al. 2022)."""
    fusion = built("co_attention", depth=2)
    streams = {name: states[name].tokens for name in MODALITIES}
    for layer in fusion.layers:
        made = {}
        for name, others in (("vision", "text audio"), ("text", "vision audio"), ("audio", "vision text")):
            memory = torch.cat([layer.memory_norms[other](streams[other]) for other in others.split()], dim=1)
            block = layer.blocks[name]
            keys, values = block.cross_attn.k_proj(memory), block.cross_attn.v_proj(memory)
            made[name], _, _ = block(streams[name], keys, values)
        streams = made
    close(fusion, states, read(fusion, states, [fusion.norm(streams[name]).mean(1) for name in MODALITIES]))


@torch.no_grad()
def test_merged_attention(states):
    fusion = built("merged_attention", depth=2)
    tokens = torch.cat([states[name].tokens for name in MODALITIES], dim=1)
    for block in fusion.layers:
        tokens, _, _ = block(tokens, None, None)
    parts = fusion.norm(tokens).split(list(LENGTHS.values()), dim=1)
    close(fusion, states, read(fusion, states, [part.mean(1) for part in parts]))


@torch.no_grad()
def test_bottleneck(states):
    """[z_i; fsn_i] = block_i([z_i; fsn]), then fsn is the mean of all fsn_i (MBT, Nagrani et al. 2021, 3.2.3)."""
    fusion = built("bottleneck", depth=2, num_latents=3)
    streams, latents = {name: states[name].tokens for name in MODALITIES}, fusion.latents.expand(4, 3, 32)
    for layer in fusion.layers:
        made = []
        for name in MODALITIES:
            tokens, _, _ = layer[name](torch.cat([streams[name], latents], dim=1), None, None)
            streams[name] = tokens[:, : LENGTHS[name]]
            made.append(tokens[:, LENGTHS[name] :])
        latents = (made[0] + made[1] + made[2]) / 3
    vectors = [fusion.norm(streams[name]).mean(1) for name in MODALITIES]
    close(fusion, states, read(fusion, states, [*vectors, fusion.norm(latents).mean(1)]))
