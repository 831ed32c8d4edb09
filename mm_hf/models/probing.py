# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What encoders do and their configs do not say, found by trying: whether they are causal, whether padding changes
what they give, whether they draw at random, how long a text they can place.

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

# Of two states that should be equal: the largest difference, as a share of the largest number in them.
SAME = 1e-5
# Text encoders that are not causal and do not gather a text in its first token: T5's kin were trained to be averaged
# or read whole, XLNet's CLS is its last token.
POOLING_OF_BIDIRECTIONAL = {"t5": "mean", "mt5": "mean", "umt5": "mean", "longt5": "mean", "t5gemma": "mean"}
POOLING_OF_BIDIRECTIONAL |= {"t5gemma2": "mean", "xlnet": "last"}
# How many layers an encoder has, as configs name it.
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")


@dataclass
class Findings:
    """What `probe_encoder` found.

    Args:
        causal: no state depends on what comes later.
        by_length: padding changes the states of an item, mask or no mask.
        random: two calls give different states.
        blind: no state depends on another token at all.
    """

    causal: bool = False
    blind: bool = False
    by_length: bool = False
    random: bool = False


def pooling_of(config: PreTrainedConfig, findings: Findings) -> str | None:
    """How one vector is read from the tokens of a text encoder; None where the usual way will do."""
    return "last" if findings.causal else POOLING_OF_BIDIRECTIONAL.get(config.model_type)


def keep_all_patches(config: PreTrainedConfig):
    """Lets a ViT-MAE see the whole picture: as it was pretrained it draws three quarters of the patches, and drops
    them, in eval mode too."""
    if getattr(config, "mask_ratio", None) and config.model_type == "vit_mae":
        config.mask_ratio = 0.0  # type: ignore[attr-defined]


@torch.no_grad()
def takes_pictures_of(encoder: PreTrainedModel, image_size: int) -> bool:
    """Whether a vision encoder needs its positions stretched to take pictures of a height and width.

    Raises:
        ValueError: it does not take them at all.
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
        f"image_size is {image_size}, and the vision encoder ({encoder.config.model_type}) takes no such pictures: "
        f"{failure} It was made for {trained_size}: leave image_size out, or give a size that fits its patches."
    ) from failure


def check_image_size(image_size: int):
    """Raises a ValueError for what is no height and width."""
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1:
        raise ValueError(f"image_size must be a whole number from 1 up, got {image_size!r}.")


def probe_encoder(encoder: PreTrainedModel, modality: str) -> Findings:
    """Tries a whole encoder with its weights, in eval mode, on a few short inputs. It is to be thrown away: what is in
    16 bits, where rounding hides what is looked for, becomes float32."""
    if encoder.dtype in (torch.float16, torch.bfloat16):
        encoder.float()
    try:
        with torch.random.fork_rng(devices=[]):
            findings = try_encoder(encoder, modality)
    except Exception as error:  # whatever a strange model makes of the inputs
        logger.warning(
            f"The {modality} encoder ({encoder.config.model_type}) could not be tried, and is taken for one that is "
            f"neither causal nor changed by padding: {type(error).__name__}: {error}"
        )
        return Findings()
    if findings.blind:
        logger.warning(
            f"No token of the {modality} encoder ({encoder.config.model_type}) knows of any other on this machine: "
            "its attention may need a kernel that is not there. It reads single words."
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
    findings.random |= getattr(encoder.config, "hash_seed", 0) is None  # Reformer draws for texts of several chunks
    if len(items) > 1 and len(first) > 2:
        later, earlier = (states(other) for other in items[1:])
        findings.blind = alike(first[0], later[0]) and alike(first[-1], earlier[-1])
        findings.causal = alike(first[0], later[0]) and not findings.blind
    if "attention_mask" in item:
        steps = item["attention_mask"].shape[1]
        more = max(3, steps // 2)
        padded = {  # (U, T, …): behind the steps
            name: nn.functional.pad(value, [*[0, 0] * (value.ndim - 2), 0, more]) for name, value in item.items()
        }
        for name, value in item.items():
            if name != "attention_mask" and not value.is_floating_point():
                padded[name][:, steps:] = value[:, :1]  # not zeros: whatever pads, the mask has to hide it
        try:
            findings.by_length = not alike(first, states(padded)[: len(first)])
        except (RuntimeError, ValueError, IndexError) as error:  # it takes lengths of some kind alone
            logger.debug("%s takes no padding: %s", encoder.config.model_type, error)
            findings.by_length = True
    return findings


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two states are the same but for rounding."""
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= SAME * one.abs().max().clamp(min=1e-6))


class PositionWatch(TorchFunctionMode):
    """Sees which tables are asked for the positions of a text: for as many rows as there are tokens, one after
    another.

    Args:
        tokens: of the one text that is encoded meanwhile, all of one id.

    Attributes:
        longest: tokens that the shortest of these tables has positions for; None where there is no such table.
    """

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.longest: int | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        table = index = None
        rows = 0  # the dimension that the index is of
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
        """Takes down a table of so many rows, if the index is one of positions. (States that are reordered have as
        many rows as there are tokens, those of relative positions not quite twice as many.)"""
        if not index.ndim or index.shape[-1] < self.tokens or not index.numel() or rows <= 2 * self.tokens:
            return
        # Longformer pads texts to whole windows: behind the tokens anything may stand.
        runs = index.detach()[..., : self.tokens].reshape(-1, self.tokens)
        start = int(runs[0, 0])
        if torch.equal(runs, (start + torch.arange(self.tokens)).expand_as(runs)):
            longest = rows - start
            self.longest = longest if self.longest is None else min(self.longest, longest)


def longest_text(config: PreTrainedConfig) -> int | None:
    """Tokens that the text encoder of a config can place: the rows of its table of positions, without those that it
    keeps for other ends (RoBERTa's and CamemBERT's, BART's). Measured, since configs count them in different ways.
    None where positions are relative or computed, and have no end."""
    from .text import Text  # which imports this file

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
        except Exception as error:  # a model of one layer that its type forbids, or weights that are no numbers
            failures.append(error)
            if watch.longest is None:
                continue
        # Some keep the numbers of the positions, and have fewer of them than rows (CANINE, RoBERTa more).
        numbers = [buffer.shape[-1] for name, buffer in encoder.named_buffers() if name.endswith("position_ids")]
        if watch.longest is not None:
            return min([watch.longest, *numbers])
        return getattr(config, "max_seq_len", None)  # MPT's distances, made for so many tokens
    logger.debug("The longest text of %s could not be measured: %s", config.model_type, failures)
    return said_positions(config)


def said_positions(config: PreTrainedConfig) -> int | None:
    """Positions that a config names, those that RoBERTa and its kin keep for padding taken off."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet's -1: no end
        return None
    return positions - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


def with_one_layer(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config with one layer: where positions come from, the first one tells."""
    small: Any = copy.deepcopy(config)
    for name in LAYER_COUNTS:
        with contextlib.suppress(NotImplementedError, ValueError):  # Funnel counts its layers, and sets none
            if isinstance(getattr(small, name, None), int):
                setattr(small, name, 1)
    return small
