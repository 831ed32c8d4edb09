# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""A recurrent encoder, which transformers lacks: LSTM or GRU over word vectors, spectral frames or sensor readings.

Notation used for tensor shapes: `U` items, `T` steps of each, `F` numbers a step, `E` width of a word vector, `H`
width of the encoder.
"""

from typing import cast

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .config_checks import (
    FINITE,
    MAX_LAYERS,
    MAX_WIDTH,
    MAX_WORDS,
    SHARE,
    check_number,
    check_ranges,
    told_in_one_line,
)


RECURRENT_RANGES = {
    "vocab_size": (1, MAX_WORDS),
    "input_size": (1, MAX_WIDTH),
    "embedding_size": (1, MAX_WIDTH),
    "hidden_size": (1, MAX_WIDTH),
    "num_hidden_layers": (1, MAX_LAYERS),
    "hidden_dropout_prob": SHARE,
    "initializer_range": (0, FINITE),
}
RNNS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@told_in_one_line
@strict
class RecurrentConfig(PreTrainedConfig):
    r"""The config of a recurrent encoder of words, or of frames.

    Args:
        rnn_type (`str`, defaults to `"lstm"`): `"lstm"` (Hochreiter and Schmidhuber 1997) or `"gru"` (Cho et al.
            2014).
        vocab_size (`int`, defaults to 30522): the number of words, for an encoder of `input_ids`.
        input_size (`int`, *optional*): numbers per step, for an encoder of `input_features`, which has no words.
        embedding_size (`int`, defaults to 100): width of the word vectors.
        hidden_size (`int`, defaults to 128): width of the output; with two directions, each has half of it.
        num_hidden_layers (`int`, defaults to 1): the number of recurrent layers.
        bidirectional (`bool`, defaults to `True`): read from both ends (Schuster and Paliwal 1997).
        hidden_dropout_prob (`float`, defaults to 0): dropout on the input of each layer.
        initializer_range (`float`, defaults to 1): standard deviation of new word vectors, as in torch: with BERT's
            0.02 the gates would not open.
        pad_token_id (`int`, defaults to 0): the word vector of this token is zero.

    Raises:
        ValueError: `rnn_type` is unknown, a size is below 1, or two directions cannot share the width evenly.
    """

    model_type = "mm_fusion_recurrent"

    rnn_type: str = "lstm"
    vocab_size: int = 30522
    input_size: int | None = None
    embedding_size: int = 100
    hidden_size: int = 128
    num_hidden_layers: int = 1
    bidirectional: bool = True
    hidden_dropout_prob: float | int = 0.0
    initializer_range: float | int = 1.0
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.validate_architecture()  # the library's own call would wrap the error

    def validate_architecture(self):
        """Checks the type and the sizes."""
        if self.rnn_type not in RNNS:
            raise ValueError(f"rnn_type must be one of {list(RNNS)}, got {self.rnn_type!r}.")
        check_ranges(self, RECURRENT_RANGES)
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(f"Two directions share hidden_size, which must be even: got {self.hidden_size}.")
        if self.pad_token_id is not None and self.input_size is None:
            check_number("pad_token_id", self.pad_token_id, -self.vocab_size, self.vocab_size - 1)


class RecurrentLayer(nn.Module):
    """One layer of the encoder, in one direction or both.

    Both directions start at a real step, whichever side was padded, because the real steps are moved to the front, in
    their order."""

    def __init__(self, config: RecurrentConfig, input_size: int):
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.directions = nn.ModuleList(
            RNNS[config.rnn_type](input_size, config.hidden_size // directions, batch_first=True)
            for _ in range(directions)
        )

    def forward(self, states: torch.Tensor, backwards: torch.Tensor) -> torch.Tensor:
        """Reads states `(U, T, E or H)` into `(U, T, H)`; `backwards` `(U, T)` int64 is the place of each step when
        the item is read from its end."""
        states = self.dropout(states)
        outputs = [read(self.directions[0], states)]
        if len(self.directions) > 1:
            outputs.append(take(read(self.directions[1], take(states, backwards)), backwards))
        return torch.cat(outputs, dim=-1)


def read(rnn: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """The output at each step, `(U, T, H)`. Autocast is turned off on CPUs: many have no LSTM in bfloat16."""
    if not torch.is_autocast_enabled("cpu"):
        return rnn(states)[0]
    with torch.autocast("cpu", enabled=False):
        return rnn(states.to(next(rnn.parameters()).dtype))[0]


class RecurrentModel(PreTrainedModel):
    """LSTM or GRU for `AutoModel`: it can be used wherever mm_hf takes BERT. Padding does not change the result."""

    config_class = RecurrentConfig
    config: RecurrentConfig
    base_model_prefix = "recurrent"

    def __init__(self, config: RecurrentConfig):
        super().__init__(config)
        self.embeddings: nn.Module | None = None
        width = config.input_size
        if width is None:
            width = config.embedding_size
            self.embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        widths = [width, *[config.hidden_size] * (config.num_hidden_layers - 1)]
        self.layers = nn.ModuleList(RecurrentLayer(config, width) for width in widths)
        self.post_init()

    @property
    def main_input_name(self) -> str:
        """`input_ids` for an encoder of words, `input_features` for one of frames."""
        return "input_ids" if self.embeddings is not None else "input_features"

    @torch.no_grad()
    def _init_weights(self, module):
        if not isinstance(module, tuple(RNNS.values())):
            super()._init_weights(module)
            return
        rnn = cast(nn.RNNBase, module)
        for name, parameter in rnn.named_parameters():
            if name.startswith("bias"):
                init.zeros_(parameter)
            elif name.startswith("weight_ih"):
                init.xavier_uniform_(parameter)
            else:  # orthogonal: the state keeps its length from step to step (Saxe et al. 2014)
                init.orthogonal_(parameter)
        if isinstance(rnn, nn.LSTM):  # forget gates start open (Jozefowicz et al. 2015, section 2.2)
            bias = cast(torch.Tensor, rnn.bias_ih_l0)
            gates = torch.zeros_like(bias)
            gates[rnn.hidden_size : 2 * rnn.hidden_size] = 1.0
            init.copy_(bias, gates)

    def get_input_embeddings(self) -> nn.Module:
        """The word vectors."""
        if self.embeddings is None:
            raise NotImplementedError(
                f"This encoder reads frames (input_size {self.config.input_size}), so it has no word vectors."
            )
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module):
        """Replaces the word vectors."""
        self.embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Reads the items.

        Args:
            input_ids: `(U, T)` int64.
            attention_mask: `(U, T)`, 1 for a step, 0 for padding, on whichever side.
            inputs_embeds: `(U, T, E)` float, instead of `input_ids`.
            input_features: `(U, T, F)` float, for an encoder of frames.
            output_hidden_states: return the input of the first layer and the output of each layer, too.
            kwargs: inputs of other encoders; they are ignored.

        Returns:
            `last_hidden_state` `(U, T, H)`, zero at padding.

        Raises:
            ValueError: none of the inputs that this encoder reads is given, or more than one.
        """
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "input_features": input_features}
        given = {name: value for name, value in given.items() if value is not None}
        readable = ["input_features"] if self.embeddings is None else ["input_ids", "inputs_embeds"]
        if len(given) != 1 or not set(given) <= set(readable):
            raise ValueError(f"This encoder reads one of {readable}, got {list(given) or 'neither'}.")
        (states,) = given.values()
        if input_ids is not None:
            states = self.embeddings(input_ids)  # (U, T, E)
        states = states.to(next(self.parameters()).dtype)
        items, steps = states.shape[:2]
        if attention_mask is None:
            attention_mask = torch.ones(items, steps, dtype=torch.bool, device=states.device)
        mask = attention_mask.bool()
        places = torch.arange(steps, device=states.device).expand(items, steps)
        lengths = mask.sum(1, keepdim=True)
        # Real steps go to the front. (Sorting would do the same, but exporters have trouble with it.)
        back = torch.where(mask, mask.cumsum(1) - 1, lengths + mask.logical_not().cumsum(1) - 1)  # (U, T)
        order = torch.zeros_like(back).scatter(1, back, places)
        backwards = torch.where(places < lengths, lengths - 1 - places, places)

        def given_out(states: torch.Tensor) -> torch.Tensor:
            return take(states, back) * mask.unsqueeze(-1).to(states.dtype)

        states = take(states, order)
        hidden_states = [given_out(states)]
        for layer in self.layers:
            states = layer(states, backwards)
            hidden_states.append(given_out(states))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return BaseModelOutput(
            last_hidden_state=hidden_states[-1],
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )


def take(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The steps of each item, `(U, T, …)`, in the order given by places `(U, T)` int64."""
    return states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModel.register(RecurrentConfig, RecurrentModel, exist_ok=True)
RecurrentConfig.register_for_auto_class()
RecurrentModel.register_for_auto_class("AutoModel")
