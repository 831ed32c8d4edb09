# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Loads complete checkpoints, or none. Tensors that are missing, unknown, of another type or size, or not finite are
refused, and so are weights that have changed since they were saved.

The library would fill missing tensors with random numbers, and only warn.
"""

import copy
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import core_model_loading
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.modeling_utils import PreTrainedModel

from .checkpoint_files import (
    damaged_weights,
    differing,
    folder_with_checksums,
    names_of_unreadable_files,
    read_checksums,
    refuse_nan,
    tell_changed_files,
    weights_with_lines,
)
from .files import read_json
from .vision import Vision


# With one of these arguments, the caller does not want a complete checkpoint.
OTHER_WAYS = ("state_dict", "ignore_mismatched_sizes", "quantization_config", "output_loading_info")
WAY_OUT = "To load it anyway, and to see what is wrong, set output_loading_info=True."
NAMED = 3  # how many tensors an error names

KINDS = {
    **dict.fromkeys(("F64", "F32", "F16", "BF16"), "float"),
    **dict.fromkeys(("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"), "int"),
    "BOOL": "bool",
}


class CheckpointError(ValueError, RuntimeError):
    """The checkpoint is not complete. Also a `RuntimeError`, which the library raises if sizes differ."""


class Loading:
    """One call of `from_pretrained`, with its keyword arguments."""

    def __init__(self, asked: Mapping[str, Any]):
        # Compared with None, because arrays have no truth value, and an empty state dict counts as given.
        self.strict = not any(asked.get(key) is not None and asked.get(key) is not False for key in OTHER_WAYS)
        self.pool: ThreadPoolExecutor | None = None
        self.folder = ""
        self.damaged: Future[list[str]] | None = None
        self.new: set[str] = set()  # tensors that the caller asked for, and that the checkpoint cannot have

    def before_weights(self, model: PreTrainedModel, files: list[str] | None, load_config: Any):
        """Checks what is known before any weight is in memory: the headers of the files. Starts to compute their
        checksums, which runs while the weights are loaded. Refuses tensors that do not fit the model, and a file that
        is not a safetensors file."""
        if not (self.strict and files) or getattr(load_config, "hf_quantizer", None) is not None:
            return
        source = getattr(load_config, "pretrained_model_name_or_path", None)
        hub_kwargs = getattr(load_config, "download_kwargs", None) or {}
        self.folder = os.path.normpath(folder_with_checksums(source, files[0], **hub_kwargs))
        lines = read_checksums(self.folder)
        if names := weights_with_lines(lines, files):
            self.pool = ThreadPoolExecutor(1)
            self.damaged = self.pool.submit(differing, self.folder, lines, names)
        if lines:
            tell_changed_files(self.folder, lines, complete=os.path.isdir(str(source)))
        if is_deepspeed_zero3_enabled() or not all(file.endswith(".safetensors") for file in files):
            return
        headers = headers_of(files)
        self.new = new_places(model, files[0])
        # These are internals of the library. A release without them reports the same names after the weights are
        # loaded.
        helpers = (
            hasattr(core_model_loading, "rename_source_key"),
            hasattr(model, "_adjust_missing_and_unexpected_keys"),
        )
        if is_own_class(model) and all(helpers):
            refuse_other_tensors(model, headers, getattr(load_config, "weight_mapping", None) or [], source, self.new)

    def finish(self, loaded: PreTrainedModel, info: Mapping[str, Iterable]):
        """Checks what is known afterwards: refuses weights that have changed since they were saved or are not finite,
        and weights that the library had to make up."""
        self.refuse_damaged()
        if not self.strict or getattr(loaded, "hf_quantizer", None) is not None:
            return
        if is_own_class(loaded):
            faults = {
                "missing": set(info.get("missing_keys", ())) - self.new,
                "not known to the model": info.get("unexpected_keys", ()),
                "of another size": [f"{key[0]} {tuple(key[1])}" for key in info.get("mismatched_keys", ())],
            }
            refuse(faults, loaded, loaded.config.name_or_path)
        if not (is_deepspeed_zero3_enabled() or (is_fsdp_enabled() and os.environ.get("LOCAL_RANK", "0") != "0")):
            # On each machine, the first process reads the weights, and FSDP sends them to the others.
            check_loaded(loaded, loaded.config.name_or_path)

    def refuse_damaged(self):
        """Waits for the checksums, and raises if weights have changed since they were saved."""
        if self.damaged is not None and (names := self.damaged.result()):
            raise CheckpointError(damaged_weights(self.folder, names))


LOADING: ContextVar[Loading | None] = ContextVar("LOADING", default=None)


def load_strictly(load: Callable[..., Any], source: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Calls the library's `from_pretrained`, bound to its class, and refuses a checkpoint that is not complete.

    Raises:
        CheckpointError: see `Loading`.
        OSError: a file cannot be read.
    """
    loading = Loading(kwargs)
    folder = os.path.normpath(os.path.join(str(source), kwargs.get("subfolder") or ""))
    local = source is not None and os.path.isdir(folder)
    names = ("config.json", "adapter_config.json")
    if local and kwargs.get("config") is None and not any(os.path.isfile(os.path.join(folder, n)) for n in names):
        raise OSError(f"{folder} is not a checkpoint: it has no config.json.")
    if local:
        refuse_nan(folder, ("config.json", "generation_config.json"))
    if loading.strict:
        kwargs = {**kwargs, "output_loading_info": True}
    token = LOADING.set(loading)
    try:
        with names_of_unreadable_files(folder if local else None):
            loaded = load(source, *args, **kwargs)
        if loading.strict:
            loaded, info = loaded
            loading.finish(loaded, info)
        return loaded
    except SafetensorError as error:
        loading.refuse_damaged()
        raise OSError(f"The weights of {source} cannot be read: {error}.") from error
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        if not isinstance(error, CheckpointError):
            loading.refuse_damaged()
        raise
    finally:
        LOADING.reset(token)
        if loading.pool is not None:
            loading.pool.shutdown(wait=True)


def is_own_class(model: PreTrainedModel) -> bool:
    """Whether a model has the class that its checkpoint was saved from. Another head ignores and lacks weights."""
    return (getattr(model.config, "architectures", None) or [None])[0] == type(model).__name__


def headers_of(files: Iterable[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in some files. Nothing else is read.

    Raises:
        OSError: a file is damaged, or not a safetensors file.
    """
    headers = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                for name in names:
                    part = file.get_slice(name)
                    headers[name] = part.get_dtype(), tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise OSError(
                f"{path} is damaged, or not a safetensors file: {error}. Copy or download it again."
            ) from error
    return headers


def new_places(model: PreTrainedModel, beside: str) -> set[str]:
    """The place embeddings of a modality that is loaded with several places (`num_images`, `places`) from a checkpoint
    with one (`beside` is one of its files). The checkpoint does not have them, so they start fresh; the library
    warns."""
    file = os.path.join(os.path.dirname(beside), "config.json")
    if not os.path.isfile(file):
        return set()
    stored = read_json(file)
    before = {**(stored.get("places") or {}), Vision.name: stored.get("num_images", 1)}
    names = [name for name, _ in model.named_parameters() if name.endswith(".place_embeddings")]
    return {name for name in names if before.get(name.split(".")[-2], 1) == 1}


def refuse_other_tensors(
    model: PreTrainedModel,
    headers: Mapping[str, tuple[str, tuple[int, ...]]],
    mapping: list,
    source: Any,
    new: Collection[str] = (),
):
    """Compares the headers of files (see `headers_of`) with a model on the meta device, before its weights are in
    memory. `mapping`: how the library renames the tensors of older releases. `new`: tensors that may be
    missing.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another type or size.
    """
    expected = model.state_dict()
    mapping = copy.deepcopy(mapping)  # the objects in it record what they were used for
    renamings = [entry for entry in mapping if isinstance(entry, core_model_loading.WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, core_model_loading.WeightConverter)]
    unexpected, retyped, resized, present = set(), [], [], set()
    for original, (dtype, shape) in headers.items():
        name, converted = original, None
        if original not in expected:
            name, converted = core_model_loading.rename_source_key(
                original, renamings, converters, model.base_model_prefix, expected
            )
        if converted is not None:  # several tensors become one: the library knows whether they can
            return
        if name not in expected:
            unexpected.add(name)
            continue
        present.add(name)
        kind = kind_of(expected[name])
        if KINDS.get(dtype, dtype) != kind:
            retyped.append(f"{name} ({dtype}, not {kind})")
        elif shape != tuple(expected[name].shape):
            resized.append(f"{name} {shape}, not {tuple(expected[name].shape)}")
    names: Any = SimpleNamespace(
        missing_keys=set(expected) - with_tied(model, present) - set(new), unexpected_keys=unexpected
    )
    model._adjust_missing_and_unexpected_keys(names)  # removes names that the encoders allow to be missing
    faults = {
        "missing": names.missing_keys,
        "not known to the model": names.unexpected_keys,
        "of another type": retyped,
        "of another size than the config says": resized,
    }
    refuse(faults, model, source)


def kind_of(tensor: torch.Tensor) -> str:
    """The kind of numbers in a tensor, whatever their width."""
    if tensor.dtype is torch.bool:
        return "bool"
    return "float" if tensor.is_floating_point() else "int"


def with_tied(model: PreTrainedModel, names: set[str]) -> set[str]:
    """The given names of tensors, and all names that are tied to them, because a file has a tied tensor once."""
    groups = [{one, other} for one, other in getattr(model, "all_tied_weights_keys", {}).items()]
    shared: dict[int, set[str]] = {}
    for tensors in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            shared.setdefault(id(tensor), set()).add(name)
    groups += [group for group in shared.values() if len(group) > 1]
    reached = set(names)
    while grown := set().union(*(group for group in groups if group & reached and not group <= reached)):
        reached |= grown
    return reached


def refuse(faults: Mapping[str, Iterable], model: PreTrainedModel, source: Any):
    """Raises a CheckpointError, in one line, if there is any fault. It names the first tensors of each fault and their
    number."""
    told = []
    for fault, names in faults.items():
        if names := sorted(names):
            rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            told.append(f"{len(names)} {fault}: {', '.join(names[:NAMED])}{rest}")
    if told:
        resized = any(key.startswith("of another size") and list(names) for key, names in faults.items())
        other = "For another number of labels, set ignore_mismatched_sizes=True. " if resized else ""
        raise CheckpointError(
            f"The weights of {source} do not fit a {type(model).__name__} with its config. Tensors "
            f"{'; '.join(told)}. {other}{WAY_OUT}"
        )


@torch.no_grad()
def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that contain NaN or infinite numbers; nothing is copied."""
    faulty = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.numel():
            continue
        if not tensor.is_floating_point():
            continue
        values = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        values = values.float() if values.element_size() == 1 else values  # float8 has no sum
        # A sum reads each number once, and is NaN if one is. A sum of large numbers may be infinite too; then all are
        # checked.
        if values.numel() and not values.sum().isfinite():
            low, high = values.aminmax()
            if not (low.isfinite() and high.isfinite()):
                faulty.append(name)
    return faulty


def check_loaded(model: torch.nn.Module, source: Any = None):
    """Refuses a model if parameters or saved buffers are not finite: its training has diverged, or a file was
    damaged.

    Raises:
        CheckpointError: names the source of the weights and the first such tensors.
    """
    if names := not_finite(model.state_dict()):
        rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise CheckpointError(
            f"{source or type(model).__name__} has {len(names)} tensors with numbers that are not finite: "
            f"{', '.join(names[:NAMED])}{rest}. Its training diverged, or it is damaged, or its dtype cannot hold "
            f"these numbers. {WAY_OUT}"
        )
