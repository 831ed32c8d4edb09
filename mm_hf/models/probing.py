# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Finds out by trial what encoders do and their configs do not say: whether they are causal, whether padding changes
their output, whether they draw random numbers, how long a text may be.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .encoders import construct_encoder
from .encoding import run_encoder
from .modality import modality_of


logger = logging.get_logger(__name__)

# The largest difference of two states that count as equal, as a share of the largest number in them.
SAME = 1e-5
# Text encoders that are not causal, but do not represent a text in its first token: T5 and similar were trained to be
# averaged or read as a whole, XLNet's CLS is its last token.
POOLING_OF_BIDIRECTIONAL = {"t5": "mean", "mt5": "mean", "umt5": "mean", "longt5": "mean", "t5gemma": "mean"}
POOLING_OF_BIDIRECTIONAL |= {"t5gemma2": "mean", "xlnet": "last"}
# Names of the config keys for the number of layers.
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")


@dataclass
class Findings:
    """What `probe_encoder` found.

    Args:
        causal: whether no state depends on later tokens.
        by_length: whether padding changes the states of an item in spite of the mask.
        random: whether two calls return different states.
        blind: whether no state depends on any other token.
    """

    causal: bool = False
    blind: bool = False
    by_length: bool = False
    random: bool = False


def pooling_of(config: PreTrainedConfig, findings: Findings) -> str | None:
    """How one vector is read from the tokens of a text encoder; None if the default is right."""
    return "last" if findings.causal else POOLING_OF_BIDIRECTIONAL.get(config.model_type)


def keep_all_patches(config: PreTrainedConfig):
    """Lets a ViT-MAE see the whole picture. As pretrained, it drops three quarters of the patches at random, in eval
    mode too."""
    if getattr(config, "mask_ratio", None) and config.model_type == "vit_mae":
        config.mask_ratio = 0.0  # type: ignore[attr-defined]


@torch.no_grad()
def takes_pictures_of(encoder: PreTrainedModel, image_size: int) -> bool:
    """Whether a vision encoder must stretch its positions to take pictures of this height and width.

    Raises:
        ValueError: it cannot take such pictures.
    """
    check_image_size(image_size)
    channels = getattr(encoder.config, "num_channels", 3)
    picture = torch.zeros(1, channels, image_size, image_size, device=encoder.device, dtype=encoder.dtype)
    failure: Exception | None = None
    for interpolate in (False, True):
        try:
            run_encoder(encoder, {"pixel_values": picture}, None, interpolate)
        except Exception as error:
            failure = error
        else:
            return interpolate
    trained_size = getattr(encoder.config, "image_size", None)
    raise ValueError(
        f"image_size is {image_size}, but the vision encoder ({encoder.config.model_type}) cannot take such pictures: "
        f"{failure} It was made for {trained_size}: leave image_size out, or give a size that fits its patches."
    ) from failure


def check_image_size(image_size: int):
    """Raises a ValueError if the value is not a valid height and width."""
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1:
        raise ValueError(f"image_size must be a whole number of at least 1, got {image_size!r}.")


def probe_encoder(encoder: PreTrainedModel, modality: str) -> Findings:
    """Runs a whole encoder with its weights, in eval mode, on a few short inputs. The encoder is not used afterwards:
    in 16 bits, rounding would hide the differences, so it is converted to float32."""
    if encoder.dtype in (torch.float16, torch.bfloat16):
        encoder.float()
    try:
        with torch.random.fork_rng(devices=[]):
            findings = try_encoder(encoder, modality)
    except Exception as error:  # a strange model may raise any exception
        logger.warning(
            f"The {modality} encoder ({encoder.config.model_type}) could not be tried. It is treated as not causal, "
            f"and as not changed by padding: {type(error).__name__}: {error}"
        )
        return Findings()
    if findings.blind:
        logger.warning(
            f"In the {modality} encoder ({encoder.config.model_type}), no token depends on any other on this machine, "
            "so it reads single words. Its attention may need a kernel that is not installed."
        )
    return findings


@torch.no_grad()
def try_encoder(encoder: PreTrainedModel, modality: str) -> Findings:
    """See `probe_encoder`."""
    items = modality_of(modality).probe_items(encoder)
    item, findings = items[0], Findings()

    def states(item: dict[str, torch.Tensor], seeded: bool = True) -> torch.Tensor:
        return run_encoder(encoder, item, None, seeded=seeded)[0][0]  # (T, H)

    first = states(item)
    findings.random = not all(alike(first, states(item, seeded=False)) for _ in range(4))
    findings.random |= getattr(encoder.config, "hash_seed", 0) is None  # Reformer draws only for longer texts
    if len(items) > 1 and len(first) > 2:
        later, earlier = (states(other) for other in items[1:])
        findings.blind = alike(first[0], later[0]) and alike(first[-1], earlier[-1])
        findings.causal = alike(first[0], later[0]) and not findings.blind
    if "attention_mask" in item:
        steps = item["attention_mask"].shape[1]
        more = max(3, steps // 2)
        padded = {  # (U, T, …): padding after the steps
            name: nn.functional.pad(value, [*[0, 0] * (value.ndim - 2), 0, more]) for name, value in item.items()
        }
        for name, value in item.items():
            if name != "attention_mask" and not value.is_floating_point():
                padded[name][:, steps:] = value[:, :1]  # not zeros: the mask must hide any padding
        try:
            findings.by_length = not alike(first, states(padded)[: len(first)])
        except (RuntimeError, ValueError, IndexError) as error:  # it takes only some lengths
            logger.debug("%s takes no padding: %s", encoder.config.model_type, error)
            findings.by_length = True
    return findings


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two states are equal, except for rounding."""
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= SAME * one.abs().max().clamp(min=1e-6))


class PositionWatch(TorchFunctionMode):
    """Records which tables are used for the positions of a text: tables that are read at consecutive rows, one per
    token.

    Args:
        tokens: the number of tokens of the one text that is encoded meanwhile; all have the same id.

    Attributes:
        longest: the number of tokens that the shortest of these tables has positions for; None if there is no such
            table.
    """

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.longest: int | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        table = index = None
        rows = 0  # the size of the dimension that is indexed
        if name == "embedding":
            given = dict(zip(("input", "weight"), args)) | kwargs
            index, table = given["input"], given["weight"]
        elif name == "index_select":
            given = dict(zip(("input", "dim", "index"), args)) | kwargs
            index, table, rows = given["index"], given["input"], given["dim"]
        elif name == "gather":
            given = dict(zip(("input", "dim", "index"), args)) | kwargs
            index, table, rows = given["index"].movedim(given["dim"], -1), given["input"], given["dim"]
        elif name == "__getitem__":
            table = args[0]
            index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        if (
            isinstance(index, torch.Tensor)
            and index.dtype == torch.int64
            and isinstance(table, torch.Tensor)
            and table.is_floating_point()
        ):
            self.note(index, table.shape[rows])
        return func(*args, **kwargs)

    def note(self, index: torch.Tensor, rows: int):
        """Records a table with this number of rows, if the index is one of positions. (Reordered states have as many
        rows as there are tokens; relative positions almost twice as many.)"""
        if not index.ndim or index.shape[-1] < self.tokens or not index.numel() or rows <= 2 * self.tokens:
            return
        # Longformer pads texts to whole windows: the values after the tokens do not matter.
        runs = index.detach()[..., : self.tokens].reshape(-1, self.tokens)
        start = int(runs[0, 0])
        if torch.equal(runs, (start + torch.arange(self.tokens)).expand_as(runs)):
            longest = rows - start
            self.longest = longest if self.longest is None else min(self.longest, longest)


def longest_text(config: PreTrainedConfig) -> int | None:
    """How many tokens the text encoder of a config has positions for: the rows of its position table, without rows
    that it keeps for other purposes (RoBERTa, CamemBERT, BART). It is measured, because configs count them in
    different ways. None if positions are relative or computed, and so have no limit."""
    from .text import Text  # here, because that file imports this one

    tokens = 5
    failures: list[Exception] = []
    for tried in (with_one_layer(config), copy.deepcopy(config)):
        watch = PositionWatch(tokens)
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"), init.no_init_weights():
                encoder = construct_encoder(tried, Text.name).eval()
            ordinary = modality_of(Text.name).probe_items(encoder)[0]["input_ids"][0, 0]
            inputs = {"input_ids": ordinary.repeat(1, tokens), "attention_mask": torch.ones(1, tokens).long()}
            with torch.no_grad(), watch:
                run_encoder(encoder, inputs, None)
        except Exception as error:  # its type does not allow one layer, or the weights have no values
            failures.append(error)
            if watch.longest is None:
                continue
        # Some models keep fewer position numbers than rows (CANINE), or more (RoBERTa).
        numbers = [buffer.shape[-1] for name, buffer in encoder.named_buffers() if name.endswith("position_ids")]
        if watch.longest is not None:
            return min([watch.longest, *numbers])
        return getattr(config, "max_seq_len", None)  # MPT's distances, made for this number of tokens
    logger.debug("The longest text of %s could not be measured: %s", config.model_type, failures)
    return said_positions(config)


def said_positions(config: PreTrainedConfig) -> int | None:
    """The number of positions in a config, without those that RoBERTa and similar models keep for padding."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet's -1: no limit
        return None
    return positions - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


def with_one_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config with one layer: the first layer is enough to see where positions come from."""
    small: Any = copy.deepcopy(config)
    for name in LAYER_COUNTS:
        with contextlib.suppress(NotImplementedError, ValueError):  # Funnel computes its number of layers
            if isinstance(getattr(small, name, None), int):
                setattr(small, name, 1)
    return small
