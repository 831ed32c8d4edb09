"""The recurrent encoder is torch's LSTM and GRU, whatever is padded."""

import pytest
import torch
from tiny_models import VOCABULARY
from torch import nn
from transformers import AutoConfig, AutoModel

from mm_hf.models.recurrent import RNNS, RecurrentConfig, RecurrentModel


def tiny(**changes) -> RecurrentModel:
    torch.manual_seed(0)
    return RecurrentModel(
        RecurrentConfig(**{"vocab_size": VOCABULARY, "embedding_size": 12, "hidden_size": 16, **changes})
    ).eval()


def as_torch_has_it(model: RecurrentModel) -> nn.Module:
    """Torch's own stack of layers with the same weights."""
    config = model.config
    directions = 2 if config.bidirectional else 1
    stack = RNNS[config.rnn_type](
        config.input_size or config.embedding_size,
        config.hidden_size // directions,
        config.num_hidden_layers,
        batch_first=True,
        bidirectional=config.bidirectional,
    )
    weights = {
        name.replace("_l0", f"_l{number}{'_reverse' * direction}"): value
        for number, layer in enumerate(model.layers)
        for direction, rnn in enumerate(layer.directions)
        for name, value in rnn.state_dict().items()
    }
    stack.load_state_dict(weights, strict=True)
    return stack


EVERY_KIND = pytest.mark.parametrize(
    "kind",
    [
        {"rnn_type": rnn_type, "bidirectional": both, "num_hidden_layers": layers}
        for rnn_type in RNNS
        for both in (True, False)
        for layers in (1, 2)
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)


@EVERY_KIND
def test_it_is_torchs_stack_on_packed_sequences(kind):
    model = tiny(**kind)
    words = torch.randint(1, VOCABULARY, (4, 7))
    lengths = torch.tensor([7, 3, 1, 5])
    mask = torch.arange(7) < lengths[:, None]
    with torch.no_grad():
        packed = nn.utils.rnn.pack_padded_sequence(
            model.embeddings(words), lengths, batch_first=True, enforce_sorted=False
        )
        expected, _ = nn.utils.rnn.pad_packed_sequence(as_torch_has_it(model)(packed)[0], batch_first=True)
        found = model(words, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@EVERY_KIND
def test_padding_changes_nothing_on_either_side(kind):
    model = tiny(**kind)
    words = torch.randint(1, VOCABULARY, (2, 5))
    padded = torch.randint(1, VOCABULARY, (2, 11))  # not the padding token: the mask alone decides
    padded[:, 2:7] = words
    mask = torch.zeros(2, 11, dtype=torch.long)
    mask[:, 2:7] = 1
    with torch.no_grad():
        alone = model(words, output_hidden_states=True)
        among = model(padded, attention_mask=mask, output_hidden_states=True)
    for small, large in zip(alone.hidden_states, among.hidden_states):
        torch.testing.assert_close(large[:, 2:7], small, atol=1e-6, rtol=1e-5)
        assert large[:, :2].abs().max() == large[:, 7:].abs().max() == 0


@pytest.mark.parametrize("rnn_type", list(RNNS))
def test_it_learns_under_autocast(rnn_type):
    """Torch has no LSTM in bfloat16 for many a CPU."""
    model, words = tiny(rnn_type=rnn_type), torch.randint(1, VOCABULARY, (4, 7))
    with torch.autocast("cpu", torch.bfloat16):
        found = model(words).last_hidden_state
    found.float().square().sum().backward()
    torch.testing.assert_close(found.float(), model(words).last_hidden_state, atol=0.01, rtol=0.01)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_frames_in_place_of_words():
    model = tiny(input_size=6)
    frames = torch.randn(3, 9, 6)
    mask = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    assert model.main_input_name == "input_features"
    with torch.no_grad():
        together = model(input_features=frames, attention_mask=mask).last_hidden_state
        alone = model(input_features=frames[1:2, :4]).last_hidden_state
        expected = as_torch_has_it(model)(frames[:1])[0]
    torch.testing.assert_close(together[1:2, :4], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together[:1], expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="input_size 6"):
        model.get_input_embeddings()


@pytest.mark.parametrize("rnn_type", RNNS)
def test_first_weights(rnn_type):
    layer = tiny(rnn_type=rnn_type, pad_token_id=3).layers[0].directions[0]
    for weight in layer.weight_hh_l0.chunk(len(layer.weight_hh_l0) // layer.hidden_size):
        assert weight.std() > 0.1
    torch.testing.assert_close(
        layer.weight_hh_l0.T @ layer.weight_hh_l0, torch.eye(layer.hidden_size), atol=1e-5, rtol=0
    )
    forgotten = layer.bias_ih_l0 + layer.bias_hh_l0
    gates = forgotten.chunk(len(forgotten) // layer.hidden_size)
    assert [gate.unique().tolist() for gate in gates] == ([[0], [1], [0], [0]] if rnn_type == "lstm" else [[0]] * 3)
    assert tiny(pad_token_id=3).embeddings.weight[3].abs().max() == 0


def test_it_goes_through_the_auto_classes(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is RecurrentConfig
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    words = torch.randint(1, VOCABULARY, (2, 5))
    assert type(loaded) is RecurrentModel
    assert torch.equal(loaded(words).last_hidden_state, model(words).last_hidden_state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnn_type": "rnn"}, r"\['lstm', 'gru'\].*'rnn'"),
        ({"hidden_size": 15}, "even: .*15"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers.*\b1, .*\b0\b"),
        ({"input_size": 0}, r"input_size.*\b1, .*\b0\b"),
    ],
)
def test_a_bad_config(settings, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({}, {"input_features": torch.zeros(1, 2, 3)}, r"\['input_ids', 'inputs_embeds'\], got \['input_features'\]"),
        ({}, {}, r"\['input_ids', 'inputs_embeds'\]"),
        ({"input_size": 3}, {"input_ids": torch.zeros(1, 2).long()}, r"\['input_features'\], got \['input_ids'\]"),
        (
            {},
            {"input_ids": torch.zeros(1, 2).long(), "inputs_embeds": torch.zeros(1, 2, 12)},
            r"got \['input_ids', 'inputs_embeds'\]",
        ),
    ],
)
def test_bad_inputs(settings, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)(**inputs)
