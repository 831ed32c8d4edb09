"""What a training state holds, looked at before a run resumes from it: tensors that are finite and fit, random states
that can be set, numbers that make sense. The library and Accelerate pass over much of that without a word.

Functions called `fault_of_…` say what is wrong with a file, naming it; None where nothing is.
"""

import contextlib
import json
import math
import random
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils import load as load_tensors  # torch.load of tensors and numpy's arrays alone
from safetensors import SafetensorError, safe_open
from torch import nn

from .checkpoints import clear_staging, newest_checkpoint
from .optim import NonFiniteLossError


T = TypeVar("T")
Rules = Mapping[str, Callable[[Any], bool]]
# Under which keys Accelerate and the library keep the random states of Python, numpy, torch and CUDA.
ACCELERATE_KEYS = ("random_state", "numpy_random_seed", "torch_manual_seed", "torch_cuda_manual_seed")
TRAINER_KEYS = ("python", "numpy", "cpu", "cuda")


class NonFiniteWeightsError(NonFiniteLossError):
    """Weights, their average or an optimizer's moments are not finite, so they are neither kept nor measured."""


class DamagedFileError(ValueError):
    """A file of a training state cannot be read."""


# Tensors


def is_finite(tensor: torch.Tensor, mask: bool = False) -> bool:
    """Whether there is neither NaN nor an infinite number in a tensor; `mask`: negative infinity may be."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    if hasattr(tensor, "to_local"):  # of a sharded model this process's part
        tensor = tensor.to_local()
    if tensor.element_size() == 1:  # 8 bits know no sum
        tensor = tensor.float()
    # A sum reads once and stores nothing; where it overflows, each number is looked at.
    if tensor.is_floating_point() and math.isfinite(tensor.sum().item()):
        return True
    if mask:
        tensor = tensor.masked_fill(tensor.isneginf(), 0)
    return bool(tensor.isfinite().all())


def nonfinite_tensor(tensors: Iterable[tuple[str, torch.Tensor]], masks: Collection[str] = ()) -> str | None:
    """The name of the first tensor that is not finite; None where all are. `masks`: of those with infinity below 0."""
    return next((name for name, tensor in tensors if not is_finite(tensor, name in masks)), None)


def masks_of(model: nn.Module) -> set[str]:
    """Names of the tensors that are no parameters: masks among them may hold negative infinity."""
    return {name for name, _ in model.named_buffers()}


def kept_tensors(model: nn.Module, frozen: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, those that do not train among them or not, and the buffers that are saved with them, by name."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if frozen or parameter.requires_grad)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """What an optimizer keeps of each parameter, by names that say so."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"the optimizer's {key} of {names.get(parameter, 'a parameter')}", value


def check_finite(
    model: nn.Module,
    run_dir: str | Path | None = None,
    more: Iterable[tuple[str, torch.Tensor]] = (),
    frozen: bool = True,
):
    """Stops what would keep or measure a model whose weights are not finite.

    Args:
        model: its parameters, and all buffers that are saved with it.
        run_dir: holds the run's checkpoints: the message names the newest that is complete.
        more: further tensors by name.
        frozen: look at the parameters that do not train too: False where that has been done.

    Raises:
        NonFiniteWeightsError: naming the tensor.
    """
    with torch.no_grad():
        bad = nonfinite_tensor(kept_tensors(model, frozen), masks_of(model)) or nonfinite_tensor(more)
    if bad is not None:
        last = None if run_dir is None else newest_checkpoint(run_dir)
        raise NonFiniteWeightsError(
            f"{bad} is not finite (NaN or infinite), so the weights are neither kept nor measured. "
            + ("" if last is None else f"The last complete checkpoint is {last}. ")
            + "Try a lower learning rate, or gradients that are clipped (max_grad_norm above 0)."
        )


def keep_if_finite(looking: Future, run_dir: str | Path):
    """Waits for a `check_finite` that went on beside the writing of a checkpoint, and throws away what was written
    where that found something.

    Raises:
        NonFiniteWeightsError: see there.
    """
    try:
        looking.result()
    except NonFiniteWeightsError:
        clear_staging(run_dir)
        raise


def fault_of_answers(logits: Any) -> str | None:
    """Why what a model answered cannot be measured; None where it can.

    Args:
        logits: `(N, C)`, or a dict of them: see `Predictions`. Negative infinity may be, for what is ruled out.
    """
    for name, values in nested(logits):
        if isinstance(values, torch.Tensor) and not is_finite(values, mask=True):
            rows = (~values.isfinite() & ~values.isneginf()).flatten(1).any(1).nonzero().flatten().tolist()
            of_task = f" of {name}" if name else ""
            return f"{len(rows)} of {len(values)} answers{of_task} are not finite, the first to row {rows[0]}"
    return None


def nested(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All that dicts, lists and tuples hold, each with the way to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from nested(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from nested(inner, f"{name}[{place}]")
    else:
        yield name, value


def fault_of_tensors(
    file: Path,
    expected: Mapping[str, torch.Tensor] | None = None,
    masks: Collection[str] = (),
    optional: Collection[str] = (),
) -> str | None:
    """Looks at a safetensors file, one tensor after the other.

    Args:
        file: may be missing.
        expected: tensors of the names and shapes that must be in it; None: whatever they are.
        masks: see `nonfinite_tensor`.
        optional: of `expected` those that may be left out.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            if expected is not None:
                missing, unknown = sorted(set(expected) - set(names) - {*optional}), sorted(set(names) - set(expected))
                if missing:
                    return f"{file.name} lacks {named(missing)}"
                if unknown:
                    return f"{file.name} has {named(unknown)}, which this run does not know"
                for name in names:
                    shape, wanted = tuple(tensors.get_slice(name).get_shape()), tuple(expected[name].shape)
                    if shape != wanted:
                        return f"{file.name}: {name} has the shape {shape} in place of {wanted}"
            bad = nonfinite_tensor(((name, tensors.get_tensor(name)) for name in names), masks)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
        return unreadable(file, error)
    return None if bad is None else f"{file.name}: {bad} is not finite"


def named(names: list[str]) -> str:
    """One of several names, and how many there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def unreadable(file: Path, error: Exception) -> str:
    """What is said of a file that a library fails to read."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{file.name} cannot be read ({type(error).__name__}: {first})"


def read_pickled(file: Path, checked: bool) -> Any:
    """What `torch.save` wrote into a file: tensors, numbers and texts, nothing that runs.

    Args:
        file: the file.
        checked: it has been compared with its checksum. Else those in the file itself (a zip archive) are looked at:
            torch leaves them aside.

    Raises:
        DamagedFileError: naming the file, where it cannot be read.
    """
    try:
        if not checked and zipfile.is_zipfile(file) and (torn := zipfile.ZipFile(file).testzip()):
            raise ValueError(f"the checksum of {torn} differs")
        return load_tensors(file, map_location="cpu")
    except FileNotFoundError:
        raise DamagedFileError(f"{file.name} is missing") from None
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise DamagedFileError(unreadable(file, error)) from error


def fault_of_pickled(file: Path, checked: bool, infinite: bool = False) -> str | None:
    """Looks at a state of an optimizer, a schedule or a scaler: see `read_pickled`. `infinite`: it may hold infinite
    numbers, as a schedule that waits for a first score does."""
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
    """Sees to it that what an optimizer took up belongs to its parameters.

    Raises:
        ValueError: naming the file, where a moment has another shape than its parameter.
    """
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
    """Tries the random states in a file, without a change to those of this process. For `keys` see `TRAINER_KEYS`.

    Raises:
        ValueError: they have none for the GPU that this process is on.
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
        raise ValueError(f"{file} has no random states of a GPU, and this run is on one: resume without it.")
    return None


@contextlib.contextmanager
def taking_up(folder: str | Path):
    """Within, a state is loaded: whatever fails there ends in one line that names it.

    Raises:
        ValueError: with the reason.
    """
    try:
        yield
    except Exception as error:  # what a damaged file raises is anybody's guess
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{folder} cannot be taken up ({kind}{error}). Rename it to go on from the checkpoint before it."
        ) from error


def restore_random_states(file: Path, keys: tuple[str, str, str, str]):
    """Sets the random states of this process. Accelerate and the library do so too, but go on where they fail.

    Raises:
        ValueError: naming the file, where they cannot be set.
    """
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
            f"The random states in {file} cannot be restored here ({type(error).__name__}: {error}): without them the "
            "run would not go on as it began."
        ) from error


def check_processes(folder: Path, pattern: str, expected: list[str]):
    """Sees to it that as many processes wrote a state as are to resume from it.

    Args:
        folder: the state.
        pattern: of the files with random states, of which each process writes one.
        expected: their names, one a process.

    Raises:
        ValueError: naming the files.
    """
    found = sorted(path.name for path in folder.glob(pattern))
    if found and set(found) != set(expected):
        raise ValueError(
            f"{folder} holds the random states of {len(found)} process(es), {', '.join(found)}, and {len(expected)} "
            f"would resume from it ({', '.join(expected)}): start as many as began the run."
        )


# Numbers


def is_count(value: Any) -> bool:
    """Whether a value is a whole number, at least 0, that somebody may have counted to."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Whether a value is a number, NaN and infinity among them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number, and finite."""
    return is_number(value) and abs(value) < math.inf


def is_duration(value: Any) -> bool:
    """Whether a value is a finite number of seconds, at least 0."""
    return is_finite_number(value) and value >= 0


def is_point(value: Any) -> bool:
    """Whether a value is a point of a curve: step and number."""
    return isinstance(value, list) and len(value) == 2 and is_count(value[0]) and is_number(value[1])


def is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a value is a list, and all in it fit."""
    return isinstance(value, list) and all(map(fits, value))


def is_dict_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a value is a dict, and all its values fit."""
    return isinstance(value, dict) and all(map(fits, value.values()))


# What both scripts keep of the rows that were left out, and of the steps that were skipped.
BAD_ROWS: Rules = {
    "entries": lambda entries: is_list_of(
        entries, lambda entry: isinstance(entry, dict) and {"split", "row", "column"} <= set(entry)
    )
}
GUARD: Rules = {
    "total": is_count,
    "skipped": lambda steps: is_list_of(
        steps, lambda step: isinstance(step, dict) and is_count(step.get("step")) and "row_ids" in step
    ),
}


def read_json(file: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        DamagedFileError: naming the file.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedFileError(f"{file.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(unreadable(file, error)) from error
    if not isinstance(values, dict):
        raise DamagedFileError(f"{file.name} holds {short(values)}, and no names with values")
    return values


def fault_of_values(where: str, values: Any, rules: Rules) -> str | None:
    """What is wrong with the values of a state: of each key, and no other, the rule must hold.

    Args:
        where: the file, and the key within it.
        values: by key.
        rules: by key whether a value makes sense.
    """
    if not isinstance(values, dict):
        return f"{where} is {short(values)}"
    for name in rules:
        if name not in values:
            return f"{where} has no {name}"
    for name, value in values.items():
        if name not in rules:
            return f"{where} has {name!r}, which is not known"
        if not rules[name](value):
            return f"{where}: {name} is {short(value)}"
    return None


def short(value: Any) -> str:
    """A value as it is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# Processes


def agreed(choose: Callable[[], T]) -> T:
    """What a function gives on the main process, on all of them; what it raises there, all raise. All call it."""
    state = PartialState()
    if state.num_processes == 1:
        return choose()
    found: list[Any] = [None, None]
    error: Exception | None = None
    if state.is_main_process:
        try:
            found[0] = choose()
        except Exception as raised:  # the others wait
            found[1], error = str(raised), raised
    broadcast_object_list(found)
    if found[1] is not None:
        raise error or ValueError(found[1])
    return found[0]
