"""The README's claim, by running it: `make test-slow`, some 15 minutes on 2 cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[2]
TWO_PROCESSES = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
TWO_PROCESSES += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "launcher", "processes"), [(0, (), 1), (1, (), 1), (2, (), 1), (0, TWO_PROCESSES, 2)]
)
def test_accuracy(seed, launcher, processes, encoders, easy_vqa_folder, tmp_path):
    batch = 310 // processes  # the global batch stays what it was
    command = [sys.executable, *launcher, "training/train.py", "training/recipes/easy_vqa.yaml", "--seed", seed]
    command += ["--vision_encoder", encoders / "mobilenet-v2", "--text_encoder", encoders / "minilm-l6"]
    command += ["--dataset", easy_vqa_folder, "--output_dir", tmp_path, "--floors", "false"]
    command += ["--per_device_train_batch_size", batch]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(2 // processes)}
    subprocess.run([str(word) for word in command], cwd=REPOSITORY, env=environment, check=True)
    results = json.loads((tmp_path / "results.json").read_text())
    print(f"seed {seed}, {processes} process(es): {results['metrics']}, {results['seconds']}")
    assert results["num_processes"] == processes
    assert results["metrics"]["accuracy"] >= 0.995
