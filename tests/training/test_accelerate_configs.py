"""The launch set-ups in training/accelerate: accelerate reads each as it was meant, and ddp.yaml really launches two
processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env


REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "training/accelerate"
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
}


def launch_arguments(name: str, *flags: str):
    """The arguments of `accelerate launch` once the file has been read into them."""
    arguments = launch_command_parser().parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), *flags, "x.py"])
    return _validate_launch_command(arguments)[0]


def test_every_file_is_tested():
    assert {file.stem for file in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # raises on keys that it does not know
    assert config.distributed_type == KINDS[name]
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (1, 8, "bf16")
    # Of the nested keys accelerate checks nothing: each has to be a flag of its launcher.
    known = vars(launch_command_parser().parse_args(["x.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= set(known)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert all(f"\n# {part}: " in text for part in ("When", "Costs", "Tested"))


def test_flags_win_over_the_file():
    assert launch_arguments("ddp").num_processes == 8
    assert launch_arguments("ddp", "--num_processes", "2").num_processes == 2


def test_what_fsdp2_becomes(monkeypatch):
    arguments = launch_arguments("fsdp2")
    arguments.main_process_port = 29500
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(key, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    # The fusion's blocks may not be wrapped, and they are what stands in for an empty list.
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer", "ViTLayer"]
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert not plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing
    assert plugin.cpu_offload.__class__.__name__ == "OffloadPolicy"


@pytest.mark.parametrize(("name", "stage"), [("deepspeed_zero2", 2), ("deepspeed_zero3", 3)])
def test_what_deepspeed_becomes(name, stage):
    arguments = launch_arguments(name)
    assert arguments.use_deepspeed
    assert arguments.zero_stage == stage
    assert (arguments.offload_optimizer_device, arguments.offload_param_device) == ("none", "none")
    assert not arguments.zero3_init_flag
    assert bool(arguments.zero3_save_16bit_model) == (stage == 3)
    # Not given: the plugin's 'auto', which the Trainer fills in.
    assert arguments.gradient_accumulation_steps is None
    assert arguments.gradient_clipping is None


SCRIPT = """
import json, os, sys, time, torch
from accelerate import Accelerator
from accelerate.utils import gather_object
accelerator = Accelerator()
model = accelerator.prepare(torch.nn.Linear(2, 1, bias=False))
torch.nn.init.zeros_(accelerator.unwrap_model(model).weight)
accelerator.backward(model(torch.full((1, 2), 1.0 + accelerator.process_index)).sum())
seen = {
    "processes": accelerator.num_processes,
    "kind": type(model).__name__,
    "device": accelerator.device.type,
    "precision": accelerator.mixed_precision,
    "gradient": accelerator.unwrap_model(model).weight.grad.tolist(),
    "ranks": gather_object([accelerator.process_index]),
}
if accelerator.is_main_process:
    with open(sys.argv[1], "w") as file:
        json.dump(seen, file)
accelerator.wait_for_everyone()
# Not `end_training`: now and then a thread of gloo is still alive when the interpreter ends, and aborts the process.
time.sleep(0.5)
os._exit(0)
"""


@pytest.mark.parametrize("name", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_on_the_cpu(name, tmp_path):
    """ddp.yaml launches two; so does fsdp2.yaml, but on the CPU accelerate makes DDP of it without a word."""
    (tmp_path / "script.py").write_text(SCRIPT)
    flags = ["--config_file", str(FOLDER / f"{name}.yaml"), "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *flags, "script.py", "seen.json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "seen.json").read_text()) == {
        "processes": 2,
        "kind": "DistributedDataParallel",
        "device": "cpu",
        "precision": "bf16",
        "gradient": [[1.5, 1.5]],  # the mean over both processes
        "ranks": [0, 1],
    }
