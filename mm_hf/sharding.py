"""Models too large for one device: FSDP2, torch's `fully_shard`, and checkpoints of sharded models.

DDP keeps weights, gradients and optimizer states whole on every process; FSDP2 keeps a part of each, and gathers the
weights of one group of layers at a time. docs/scaling.md says when that pays.
"""

import copy
import functools
import os
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from .models.attention import MMFusionCrossAttention
from .models.modality import modality_of
from .models.modeling_mm_fusion import MMFusionModel
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel


# The methods of `MMFusionModel` that may be called in place of `forward`.
FORWARD_METHODS = ("encode", "project", "prepare", "fuse")


def shard_model(
    model: MMFusionPreTrainedModel, mesh: DeviceMesh | None = None, mixed_precision: torch.dtype | None = None
) -> MMFusionPreTrainedModel:
    """Shards a model in place: a group for every layer of an encoder and every block of the fusion (their
    `_no_split_modules`), one for the rest of each encoder, one for projections and readout, one for the head.

    A group may hold trainable and frozen parameters (FSDP2 shards each parameter by itself), but here none of a frozen
    encoder shares one with the rest. Optimizers are made afterwards, from the sharded parameters. The first call after
    sharding has to go through the `forward` of the whole model: torch finds its root there.

    Args:
        model: with equal weights on every process.
        mesh: the processes to shard over; one of two dimensions replicates over the first (HSDP). None: all processes.
        mixed_precision: compute in this dtype; weights and the sums of gradients stay as they are. None: in the
            weights' own.

    Returns:
        the same model.

    Raises:
        RuntimeError: `torch.distributed` has not been started.
    """
    if not torch.distributed.is_initialized():
        raise RuntimeError("shard_model needs torch.distributed.init_process_group, which has not been called.")
    policy = MixedPrecisionPolicy()
    if mixed_precision is not None:
        policy = MixedPrecisionPolicy(param_dtype=mixed_precision, reduce_dtype=torch.float32)
    shard = functools.partial(fully_shard, mesh=mesh, mp_policy=policy)

    base = model.base_model
    for encoder in base.encoders.values():
        norms: list[nn.Module] = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            # Their statistics are buffers, which stay in full precision, and their weights must match them.
            fully_shard(norms, mesh=mesh)
        for layer in modules_named(encoder, encoder._no_split_modules):
            shard(layer)
        shard(encoder)
    for module in list(base.fusion.modules()):
        if isinstance(module, MMFusionCrossAttention):
            # `prepare` computes keys and values outside of the block that they belong to.
            shard([module.k_proj, module.v_proj])
    for block in modules_named(base.fusion, model._no_split_modules):
        shard(block)

    keep_processes_in_step(base)
    # What is left is small, and read by several methods in turn: it stays gathered until the backward pass is through.
    shard(base, reshard_after_forward=False)
    if base is not model:
        shard(model)
    for method in FORWARD_METHODS:
        register_fsdp_forward_method(base, method)
    return model


def modules_named(root: nn.Module, class_names) -> list[nn.Module]:
    """The modules below `root` of classes with these names, children before their parents."""
    chosen = [
        module for module in root.modules() if module is not root and type(module).__name__ in (class_names or ())
    ]
    return chosen[::-1]


def keep_processes_in_step(model: MMFusionModel):
    """Makes `encode` run every encoder in every call, where it has no item on a dummy that no row uses.

    Gathering the weights of a sharded encoder takes all processes: one that has no image in its batch and leaves the
    vision encoder out, as frozen encoders and evaluation do, would answer the others' call with its next group, and
    all hang or fail. What was encoded before is not encoded again, so it has to be given on all processes or on none.
    """
    encode = model.encode

    @functools.wraps(encode)
    def encode_all(indices=None, encoder_states=None, **inputs):
        indices, given = dict(indices or {}), encoder_states or {}
        items = {
            name: next((inputs[key] for key in modality_of(name).inputs if inputs.get(key) is not None), ())
            for name in model.encoders
            if name not in given
        }
        rows = [len(index) for index in indices.values() if index is not None]
        rows += [len(states.levels[0] if states.index is None else states.index) for states in given.values()]
        rows += [len(item) for item in items.values() if len(item)]
        for name in [name for name, item in items.items() if rows and not len(item)]:
            encoder = cast(Any, model.encoders[name])
            inputs.update(dict.fromkeys(modality_of(name).inputs))
            inputs.update(modality_of(name).dummy_inputs(encoder.config, device=encoder.device, dtype=encoder.dtype))
            indices[name] = torch.full((rows[0],), -1, device=encoder.device)
        return encode(indices, encoder_states, **inputs)

    model.encode = encode_all  # type: ignore[method-assign]


def gathered_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The full weights of a sharded model on the CPU of the first process, nothing on the others. All processes have
    to call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))


def save_sharded(model: MMFusionPreTrainedModel, save_directory: str | os.PathLike, **kwargs):
    """Saves a sharded model as `save_pretrained` saves any other: one folder that `from_pretrained` loads without a
    process group. All processes have to call it; the first one writes."""
    state_dict = gathered_state_dict(model)
    if torch.distributed.get_rank() == 0:
        # Sharding gives the model a subclass named FSDP…, whose name and file must not reach the checkpoint. Calling
        # that makes an object of the original class.
        with torch.device("meta"):
            plain = cast(Any, type(model))(copy.deepcopy(model.config))
        plain.save_pretrained(save_directory, state_dict=state_dict, **kwargs)
    torch.distributed.barrier()
