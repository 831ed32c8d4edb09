"""The part of `MMTrainer` that writes checkpoints and resumes from them."""

import dataclasses
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import SAFE_WEIGHTS_NAME

from .checkpoints import MANIFEST, checkpoint_to_resume, fault_of, has_checksums, is_checkpoint, step_of
from .json_files import (
    DamagedFileError,
    Rules,
    fault_of_values,
    is_count,
    is_dict_of,
    is_duration,
    is_list_of,
    is_number,
    read_json,
)
from .nonfinite import masks_of, moments
from .states import (
    TRAINER_KEYS,
    agreed,
    check_moments,
    check_processes,
    fault_of_pickled,
    fault_of_random_states,
    fault_of_tensors,
    new_checkpoint,
    restore_random_states,
    taking_up,
)


# The keys of `trainer_state.json` that a resume relies on; the library's class knows the other keys.
OF_STATE: Rules = {
    "global_step": is_count,
    "max_steps": is_count,
    "epoch": lambda value: value is None or is_duration(value),
    "best_metric": lambda value: value is None or (is_number(value) and not math.isnan(value)),
    "best_global_step": lambda value: value is None or is_count(value),
    "best_model_checkpoint": lambda value: value is None or isinstance(value, str),
    "log_history": lambda value: is_list_of(
        value, lambda entry: isinstance(entry, dict) and is_count(entry.get("step"))
    ),
    "stateful_callbacks": lambda value: is_dict_of(value, is_kept_callback),
}


class WholeCheckpoints(Trainer):
    """A `transformers.Trainer` that writes complete checkpoints or none, and checks one before it resumes from it.

    See `MMTrainer` for the differences from the library's class. A subclass that saves more than the library does adds
    it to `save_extra_state`, `tensors_to_keep` and `faults_of_state`.
    """

    _staging: Path | None = None  # the folder of the checkpoint that is being written
    _checked: str | None = None  # the checkpoint that was checked last

    def train(self, resume_from_checkpoint=None, **kwargs):
        """See the library's method; `choose_checkpoint` finds the checkpoint to resume from."""
        folder, self._checked = self.choose_checkpoint(resume_from_checkpoint), None
        return super().train(resume_from_checkpoint=folder, **kwargs)

    def choose_checkpoint(self, asked: str | os.PathLike | bool | None) -> str | None:
        """The checkpoint to resume from: complete, and fit for this trainer. All processes call it.

        Args:
            asked: a checkpoint; True for the newest one in `output_dir` that can be resumed from (newer ones are
                renamed). None or False: none.

        Raises:
            ValueError: the given checkpoint, or every one in `output_dir`, is damaged or does not fit; there is none;
                or another number of processes wrote it.
        """
        if not asked:
            return None
        if asked is True:
            newest = agreed(lambda: checkpoint_to_resume(str(self.args.output_dir), self.fault_of_state))
            if newest is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
            self._checked = str(newest)
        elif str(asked) != self._checked:
            folder = Path(asked)
            fault = agreed(lambda: self.fault_of_named(folder))
            if fault is not None:
                raise ValueError(f"{folder} cannot be resumed from: {fault}.")
            self._checked = str(folder)
        return self._checked

    def fault_of_named(self, folder: Path) -> str | None:
        """Why a checkpoint that was given by name cannot be used. A checkpoint that the library wrote by itself has no
        list of its files, so only their content is checked."""
        if not folder.is_dir():
            return "the folder does not exist"
        if (folder / MANIFEST).exists():
            fault = fault_of(folder, checksums=True)
            if fault is not None:
                return fault
        else:
            warnings.warn(f"{folder} has no {MANIFEST}, so changes to its files cannot be found.")
        return self.fault_of_state(folder)

    def fault_of_state(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be resumed from although its files are complete; None if it can. Changes nothing.

        Raises:
            ValueError: another number of processes wrote it, or a process without a GPU; or it has only weights.
        """
        check_processes(folder, "rng_state*.pth", [file.name for file in self.random_states(folder)])
        try:
            return next(filter(None, self.faults_of_state(folder)), None)
        except DamagedFileError as error:
            return str(error)

    def faults_of_state(self, folder: Path) -> Iterator[str | None]:
        """Checks file after file; yields what is wrong with each, or None. Each check assumes that the files before it
        are fine. A subclass adds checks of the files that it saves in addition (`save_extra_state`)."""
        checked = (folder / MANIFEST).exists() and has_checksums(folder)
        state = read_json(folder / TRAINER_STATE_NAME)
        yield fault_of_trainer_state(state, folder)
        yield self.fault_of_weights(folder)
        if self.args.load_best_model_at_end and state.get("best_model_checkpoint") is not None:
            best = self.best_checkpoint(state["best_model_checkpoint"], folder.parent)
            fault = None if best == folder else self.fault_of_best(best)
            yield None if fault is None else f"{TRAINER_STATE_NAME}: best_model_checkpoint is {best}: {fault}"
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            yield fault_of_pickled(folder / OPTIMIZER_NAME, checked)
            yield fault_of_pickled(folder / SCHEDULER_NAME, checked, infinite=True)
            if self.accelerator.scaler is not None:
                yield fault_of_pickled(folder / SCALER_NAME, checked)
        for file in self.random_states(folder):
            yield fault_of_random_states(file, TRAINER_KEYS, checked)

    def random_states(self, folder: Path) -> list[Path]:
        """The files with random states that the library writes, one per process."""
        if self.args.world_size == 1:
            return [folder / "rng_state.pth"]
        return [folder / f"rng_state_{rank}.pth" for rank in range(self.args.world_size)]

    def fault_of_weights(self, folder: Path) -> str | None:
        """Why the weights in a checkpoint cannot be loaded; None if they can. The weights of sharded models are left
        to the libraries that shard them."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return None
        model = cast(nn.Module, self.model)
        tensors = model.state_dict()
        shared = [name for names in shared_names(tensors) for name in names]
        optional = {*shared, *(getattr(model, "_keys_to_ignore_on_save", None) or [])}
        files = sorted(folder.rglob("*.safetensors"))
        if not files and not list(folder.glob("*.bin")):
            return "it holds no weights"
        for file in files:
            expected = tensors if file.name == SAFE_WEIGHTS_NAME else None
            if fault := fault_of_tensors(file, expected, masks_of(model), optional):
                return fault
        return None

    def best_checkpoint(self, recorded: str, run_dir: Path) -> Path:
        """The path of the best checkpoint. It is looked for in the run's folder, which may have been moved or
        copied."""
        beside = run_dir / Path(recorded).name
        return beside if beside.is_dir() else Path(recorded)

    def fault_of_best(self, folder: Path) -> str | None:
        """Why the best checkpoint cannot be loaded; None if it can."""
        if not folder.is_dir():
            return "the folder does not exist"
        fault = fault_of(folder, checksums=True) if (folder / MANIFEST).exists() else None
        return fault or self.fault_of_weights(folder)

    def _init_training_state(self, max_steps, updates, epochs, resume_from_checkpoint, trial):
        if resume_from_checkpoint is None:
            return super()._init_training_state(max_steps, updates, epochs, None, trial)
        folder = Path(resume_from_checkpoint)
        with taking_up(folder):
            trained = super()._init_training_state(max_steps, updates, epochs, resume_from_checkpoint, trial)
            recorded = read_json(folder / TRAINER_STATE_NAME).get("best_model_checkpoint")
        if recorded is not None:
            best = self.best_checkpoint(recorded, folder.parent)
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return trained

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with taking_up(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)
                check_moments(cast(torch.optim.Optimizer, self.optimizer), Path(checkpoint, OPTIMIZER_NAME))

    def _load_scaler(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                rank = self.args.process_index if self.args.world_size > 1 else 0
                restore_random_states(self.random_states(Path(checkpoint))[rank], TRAINER_KEYS)
                super()._load_rng_state(checkpoint)  # sets the states of other accelerators too

    def _load_best_model(self):
        best = Path(cast(str, self.state.best_model_checkpoint))
        fault = agreed(lambda: self.fault_of_best(best))
        if fault is not None:
            raise ValueError(f"{best} has the best validation score, but cannot be loaded: {fault}.")
        with taking_up(best):
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result):
        """The library loads with `strict=False` and only warns, but missing weights would stay random: this raises."""
        super()._issue_warnings_after_load(load_result)
        model = cast(nn.Module, self.model)
        missing, unknown = set(load_result.missing_keys), sorted(load_result.unexpected_keys)
        missing -= set(getattr(model, "_keys_to_ignore_on_save", None) or [])
        for names in shared_names(model.state_dict()):
            if not set(names) <= missing:  # one of the shared names was in the file
                missing -= set(names)
        if missing or unknown:
            raise ValueError(f"The weights do not fit the model: missing {sorted(missing)}, unknown {unknown}.")

    def _determine_best_metric(self, metrics, trial):
        """As in the library, but a score that is not finite is never the best."""
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        value = metrics.get(f"eval_{name}")
        if value is not None and not math.isfinite(value):
            warnings.warn(f"eval_{name} is {value} after step {self.state.global_step}: this score is ignored.")
            return False
        return super()._determine_best_metric(metrics, trial)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def tensors_to_keep(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that a checkpoint keeps beside the weights, by name: they must be finite."""
        if self.optimizer is not None and not self.is_deepspeed_enabled:
            yield from moments(cast(nn.Module, self.model), self.optimizer)

    def save_extra_state(self, folder: Path):
        """Writes the files that a subclass needs in addition to resume exactly; every process calls it."""

    def _save_checkpoint(self, model: nn.Module, trial):
        """Lets the library write the checkpoint into a staging folder, and moves it to its place when it is
        complete."""
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        # The library looks for the best checkpoint in the folder that it writes to.
        best, beside = self.state.best_model_checkpoint, run_dir / f"checkpoint-{self.state.best_global_step}"
        if beside == folder or beside.is_dir():
            best = str(beside)
        with new_checkpoint(
            folder,
            cast(nn.Module, self.model),
            self.tensors_to_keep(),
            main=self.args.should_save,
            wait=self.accelerator.wait_for_everyone,
            limit=self.args.save_total_limit,
            keep=(best,),
        ) as written:
            self._staging = written.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.state.best_model_checkpoint = best
            if self.args.should_save:
                self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            self.save_extra_state(written)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """See the library's method.

        Raises:
            ValueError: the model has adapters: only this trainer could load such a folder again.
        """
        if hasattr(self.model, "peft_config") and not _internal_call:
            raise ValueError("The model has adapters: call merge_lora(model) first, or save_lora(model, folder).")
        super().save_model(output_dir, _internal_call)


def shared_names(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """Groups of names in a state that share one tensor: a file holds the tensor once."""
    names: dict[tuple, list[str]] = {}
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.numel():
            names.setdefault((tensor.device, tensor.data_ptr(), tensor.shape), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def fault_of_trainer_state(state: dict[str, Any], folder: Path) -> str | None:
    """Checks that the numbers of `trainer_state.json` make sense, and agree with one another and the folder's name."""
    unknown = sorted(set(state) - {field.name for field in dataclasses.fields(TrainerState)})
    if unknown:
        return f"{TRAINER_STATE_NAME} has the unknown key {unknown[0]!r}"
    fault = fault_of_values(TRAINER_STATE_NAME, {name: state.get(name) for name in OF_STATE}, OF_STATE)
    if fault is not None:
        return fault
    step, best = state["global_step"], state["best_metric"]
    if is_checkpoint(folder) and step != step_of(folder):
        return f"{TRAINER_STATE_NAME}: global_step is {step}, but the folder's name says {step_of(folder)}"
    last = {"best_global_step": state["best_global_step"] or 0}
    last["log_history"] = max((entry["step"] for entry in state["log_history"]), default=0)
    for name, at in last.items():
        if at > step:
            return f"{TRAINER_STATE_NAME}: {name} is at step {at}, after step {step}"
    if step > state["max_steps"]:
        return f"{TRAINER_STATE_NAME}: global_step is {step}, max_steps {state['max_steps']}"
    if state["best_model_checkpoint"] is not None and not (best is not None and math.isfinite(best)):
        return f"{TRAINER_STATE_NAME}: best_metric is {best}"
    return None


def is_kept_callback(value: Any) -> bool:
    """Whether a value is what the library saves of a callback, or a list of such values."""
    if isinstance(value, list):
        return all(map(is_kept_callback, value))
    return isinstance(value, dict) and all(isinstance(value.get(part, {}), dict) for part in ("args", "attributes"))
