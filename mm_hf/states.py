"""Checks the files of a training state before a run resumes from them: tensors must be finite and fit the model, and
it must be possible to set the random states. Transformers and Accelerate skip many of these checks without a message.

Functions named `fault_of_…` return what is wrong with a file, with its name, or None if nothing is.
"""

import contextlib
import math
import random
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils import load as load_tensors  # torch.load, for tensors and arrays of numpy only
from safetensors import SafetensorError, safe_open
from torch import nn

from .checkpoints import begin, clear_staging, publish, rotate, staging_folder, writing
from .json_files import DamagedFileError, unreadable
from .nonfinite import NonFiniteWeightsError, check_finite, is_finite, nested, nonfinite_tensor


T = TypeVar("T")
# The keys under which Accelerate and transformers keep the random states of Python, numpy, torch and CUDA.
ACCELERATE_KEYS = ("random_state", "numpy_random_seed", "torch_manual_seed", "torch_cuda_manual_seed")
TRAINER_KEYS = ("python", "numpy", "cpu", "cuda")


# Tensors


def fault_of_tensors(
    file: Path,
    expected: Mapping[str, torch.Tensor] | None = None,
    masks: Collection[str] = (),
    optional: Collection[str] = (),
) -> str | None:
    """Checks a safetensors file, tensor by tensor.

    Args:
        file: the file; it may be missing.
        expected: the names and shapes of the tensors that must be in it; None: any.
        masks: see `nonfinite_tensor`.
        optional: the names of `expected` that may be missing.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            if expected is not None:
                missing, unknown = sorted(set(expected) - set(names) - {*optional}), sorted(set(names) - set(expected))
                if missing:
                    return f"{file.name} lacks {named(missing)}"
                if unknown:
                    return f"{file.name} has {named(unknown)}, which is unknown in this run"
                for name in names:
                    shape, wanted = tuple(tensors.get_slice(name).get_shape()), tuple(expected[name].shape)
                    if shape != wanted:
                        return f"{file.name}: {name} has the shape {shape}, expected {wanted}"
            bad = nonfinite_tensor(((name, tensors.get_tensor(name)) for name in names), masks)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        return unreadable(file, error)
    return None if bad is None else f"{file.name}: {bad} is not finite"


def named(names: list[str]) -> str:
    """The first of several names, and the number of the others."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def read_pickled(file: Path, checked: bool) -> Any:
    """Reads a file that `torch.save` wrote: tensors, numbers and texts only, so no code runs.

    Args:
        checked: whether the file was already compared with its checksum. If not, the checksums inside the file (a zip
            archive) are checked, because torch ignores them.

    Raises:
        DamagedFileError: the file cannot be read; the message names it.
    """
    try:
        if not checked and zipfile.is_zipfile(file) and (torn := zipfile.ZipFile(file).testzip()):
            raise ValueError(f"the checksum of {torn} differs")
        return load_tensors(file, map_location="cpu")
    except FileNotFoundError:
        raise DamagedFileError(f"{file.name} is missing") from None
    except Exception as error:  # a damaged file can raise any exception
        raise DamagedFileError(unreadable(file, error)) from error


def fault_of_pickled(file: Path, checked: bool, infinite: bool = False) -> str | None:
    """Checks the state of an optimizer, a schedule or a scaler: see `read_pickled`. `infinite`: it may hold infinite
    numbers, as a schedule does before its first score."""
    try:
        state = read_pickled(file, checked)
    except DamagedFileError as error:
        return str(error)
    if not isinstance(state, dict) or not state:
        return f"{file.name} holds no state"
    for name, value in nested(state):
        if isinstance(value, torch.Tensor):
            fine = is_finite(value) or (infinite and not value.isnan().any())
        else:
            fine = not isinstance(value, float) or math.isfinite(value) or (infinite and not math.isnan(value))
        if not fine:
            return f"{file.name}: {name} is not finite"
    return None


def check_moments(optimizer: torch.optim.Optimizer, file: Path):
    """Refuses an optimizer if its moments have other shapes than its parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                    raise ValueError(
                        f"{file} belongs to another model: {name} has the shape {tuple(value.shape)}, its parameter "
                        f"{tuple(parameter.shape)}."
                    )


# Random states


def fault_of_random_states(file: Path, keys: tuple[str, str, str, str], checked: bool) -> str | None:
    """Checks the random states in a file, and does not change the states of this process. For `keys` see
    `TRAINER_KEYS`.

    Raises:
        ValueError: the file has no states for the GPU that this process uses.
    """
    try:
        states = read_pickled(file, checked)
    except DamagedFileError as error:
        return str(error)
    python, numpy, cpu, cuda = keys
    try:
        random.Random().setstate(states[python])
        np.random.RandomState().set_state(states[numpy])
        torch.Generator().set_state(states[cpu])
    except Exception as error:  # as above
        return f"{file.name} holds no random states that can be restored ({type(error).__name__}: {error})"
    if torch.cuda.is_available() and states.get(cuda) is None:
        raise ValueError(f"{file} has no random states of a GPU, but this run uses one: resume without a GPU.")
    return None


@contextlib.contextmanager
def taking_up(folder: str | Path):
    """Wraps the loading of a state: any error becomes one line that names the folder.

    Raises:
        ValueError: with the reason.
    """
    try:
        yield
    except Exception as error:  # a damaged file can raise any exception
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{folder} cannot be loaded ({kind}{error}). Rename it to continue from the checkpoint before it."
        ) from error


def restore_random_states(file: Path, keys: tuple[str, str, str, str]):
    """Sets the random states of this process. Accelerate and transformers do so too, but ignore errors."""
    states = read_pickled(file, checked=True)
    python, numpy, cpu, cuda = keys
    try:
        random.setstate(states[python])
        np.random.set_state(states[numpy])
        torch.set_rng_state(states[cpu])
        if torch.cuda.is_available():
            of_gpus = states[cuda]
            if isinstance(of_gpus, torch.Tensor):
                torch.cuda.set_rng_state(of_gpus)
            else:
                torch.cuda.set_rng_state_all(of_gpus)
    except Exception as error:  # as above
        raise ValueError(
            f"The random states in {file} cannot be restored here ({type(error).__name__}: {error}). Without them "
            "the run would not continue as it began."
        ) from error


def check_processes(folder: Path, pattern: str, expected: list[str]):
    """Checks that the number of processes is the same as when the state was written: each process writes one file with
    random states, with a name of this pattern."""
    files = sorted(path.name for path in folder.glob(pattern))
    if files and set(files) != set(expected):
        raise ValueError(
            f"{folder} holds the random states of {len(files)} process(es), {', '.join(files)}, but {len(expected)} "
            f"would resume from it ({', '.join(expected)}): start as many processes as the run began with."
        )


# Writing, and several processes


@contextlib.contextmanager
def new_checkpoint(
    folder: Path,
    model: nn.Module,
    more: Iterable[tuple[str, torch.Tensor]],
    *,
    main: bool,
    wait: Callable[[], None],
    limit: int | None,
    keep: tuple[str | Path | None, ...] = (),
) -> Iterator[Path]:
    """Gives a folder to write a checkpoint to, inside a `with` block. When all processes have written and all numbers
    are finite, the checkpoint gets its final name, and the oldest checkpoints are removed. All processes call it.

    Args:
        folder: the final path of the checkpoint: `run/checkpoint-7`.
        model: its trained parameters, and the buffers that are saved with it, must be finite.
        more: further tensors that must be finite, by name.
        main: whether this process makes and renames the folders; exactly one process does.
        limit, keep: how many checkpoints stay, and which ones stay in addition: see `rotate`.

    Raises:
        NonFiniteWeightsError: a tensor is not finite; the message names it. Nothing of the checkpoint is left.
        OSError: it could not be written; the last complete checkpoint is unchanged.
    """
    tensors = list(more)
    with ThreadPoolExecutor(1) as pool:  # it checks all numbers while the disk is busy
        # The frozen parameters were checked when the model was measured.
        finite = pool.submit(check_finite, model, folder.parent, tensors, frozen=False)
        with writing(folder):
            if main:
                begin(folder)
            wait()
            yield staging_folder(folder)
        try:
            finite.result()
        except NonFiniteWeightsError:
            clear_staging(folder.parent)
            raise
    with writing(folder):
        wait()
        if main:
            publish(folder)
            rotate(folder.parent, limit, keep)
    wait()


def agreed(choose: Callable[[], T]) -> T:
    """Calls a function on the main process and returns its result on all processes; an error is raised on all. All
    processes call it."""
    state = PartialState()
    if state.num_processes == 1:
        return choose()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if state.is_main_process:
        try:
            outcome[0] = choose()
        except Exception as raised:  # the other processes wait for the outcome
            outcome[1], error = str(raised), raised
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise error or ValueError(outcome[1])
    return outcome[0]
