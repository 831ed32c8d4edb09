"""Models that are too large for one device: FSDP2, torch's `fully_shard`, and checkpoints of sharded models.

With DDP every process has all weights, gradients and optimizer states. With FSDP2 every process has a part of each,
and gathers the weights of one group of layers at a time. docs/scaling.md says when FSDP2 is worth it.
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


# The methods of `MMFusionModel` that may be called instead of `forward`.
FORWARD_METHODS = ("encode", "project", "prepare", "fuse")


def shard_model(
    model: MMFusionPreTrainedModel, mesh: DeviceMesh | None = None, mixed_precision: torch.dtype | None = None
) -> MMFusionPreTrainedModel:
    """Shards a model in place. Each layer of an encoder and each block of the fusion is a group (their
    `_no_split_modules`). The rest of each encoder, projections with readout, and the head are further groups.

    A group may hold trainable and frozen parameters, because FSDP2 shards each parameter by itself. Here, however, a
    frozen encoder never shares a group with other parts. Make optimizers afterwards, from the sharded parameters. The
    first call after sharding must go through the `forward` of the whole model: torch finds its root there.

    Args:
        model: must have equal weights on every process.
        mesh: the processes to shard over; a mesh with two dimensions replicates over the first (HSDP). None: all
            processes.
        mixed_precision: the dtype of the computation; weights and sums of gradients keep theirs. None: the dtype of
            the weights.

    Returns:
        the same model.

    Raises:
        RuntimeError: `torch.distributed` has not been started.
    """
    if not torch.distributed.is_initialized():
        raise RuntimeError("torch.distributed is not started: call init_process_group before shard_model.")
    policy = MixedPrecisionPolicy()
    if mixed_precision is not None:
        policy = MixedPrecisionPolicy(param_dtype=mixed_precision, reduce_dtype=torch.float32)
    shard = functools.partial(fully_shard, mesh=mesh, mp_policy=policy)

    base = model.base_model
    for encoder in base.encoders.values():
        norms: list[nn.Module] = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            # Their statistics are buffers, which stay in full precision. Their weights must have the same precision.
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
    # The rest is small, and several methods read it in turn. It stays gathered until the backward pass has ended.
    shard(base, reshard_after_forward=False)
    if base is not model:
        shard(model)
    for method in FORWARD_METHODS:
        register_fsdp_forward_method(base, method)
    return model


def modules_named(root: nn.Module, class_names) -> list[nn.Module]:
    """The modules below `root` whose class has one of these names, children before their parents."""
    chosen = [
        module for module in root.modules() if module is not root and type(module).__name__ in (class_names or ())
    ]
    return chosen[::-1]


def keep_processes_in_step(model: MMFusionModel):
    """Makes `encode` run every encoder in every call. An encoder without items runs a dummy item that no row uses.

    All processes must take part when the weights of a sharded encoder are gathered. Frozen encoders and evaluation
    normally skip an encoder without items. A process that skips the vision encoder would then answer the call of the
    others with its next group, and all would hang or fail. States that were encoded before are not encoded again, so
    give them on all processes or on none.
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
    """The full weights of a sharded model: on the CPU of the first process, empty on all others. All processes must
    call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))


def save_sharded(model: MMFusionPreTrainedModel, save_directory: str | os.PathLike, **kwargs):
    """Saves a sharded model as `save_pretrained` does: as one folder that `from_pretrained` loads without a process
    group. All processes must call it; the first one writes."""
    state_dict = gathered_state_dict(model)
    if torch.distributed.get_rank() == 0:
        # Sharding gives the model a subclass named FSDP…. Its name and file must not get into the checkpoint. Calling
        # it makes an object of the original class.
        with torch.device("meta"):
            plain = cast(Any, type(model))(copy.deepcopy(model.config))
        plain.save_pretrained(save_directory, state_dict=state_dict, **kwargs)
    torch.distributed.barrier()
