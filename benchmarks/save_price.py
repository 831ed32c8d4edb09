"""The cost of saving a training state: with checksums, and with the check that every number is finite.

    python benchmarks/save_price.py [--saves 21] [--frozen]

Saves one run of easy-VQA with the real encoders, in turn in the usual way and without each of the two. Prints medians
and the extra time.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from mm_hf import checkpoints, states
from mm_hf.training import loop
from mm_hf.training.open_run import open_run


ROOT = Path(__file__).resolve().parent.parent


def main():
    """Prints one line per way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--saves", type=int, default=21, help="saves per way")
    parser.add_argument("--frozen", action="store_true", help="freeze the encoders, so that the state is small")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cache = ROOT / ".cache"
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        training = one_step(cache, Path(folder), given.frozen)
        without = (
            mock.patch.object(checkpoints, "can_check", return_value=False),
            mock.patch.object(states, "check_finite"),
        )
        ways = {"neither": without, "checksums alone": without[1:], "both": ()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(given.saves + 1):  # the first save warms up
            for way, patches in ways.items():
                with contextlib.ExitStack() as stack:
                    for patch in patches:
                        stack.enter_context(patch)
                    began = time.perf_counter()
                    training.save()
                    seconds[way].append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in (Path(folder) / "run/checkpoint-1").rglob("*")) / 1e6
    base = statistics.median(seconds["neither"][1:])
    print(f"a state of {size:.0f} MB, {given.saves} saves each, {given.threads} thread(s)")
    for way, samples in seconds.items():
        median = statistics.median(samples[1:])
        print(f"{way:<16} {median:.3f} s (fastest {min(samples[1:]):.3f})  {100 * (median / base - 1):+.1f} %")


def one_step(cache: Path, folder: Path, frozen: bool) -> "loop.Training":
    """A training after one step and one evaluation, so that the optimizer has moments."""
    keys = {
        "vision_encoder": cache / "encoders/mobilenet-v2",
        "text_encoder": cache / "encoders/minilm-l6",
        "dataset": cache / "easy_vqa",
        "freeze_encoders": str(frozen).lower(),
        "ema_decay": 0.9,
        "output_dir": folder / "run",
        "report_to": "none",
        "floors": "false",
        "max_steps": 1,
        "save_total_limit": 1,
        "per_device_train_batch_size": 8,
    }
    words = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
    with mock.patch.object(sys, "argv", ["train.py", str(ROOT / "training/recipes/easy_vqa.yaml"), *words]):
        run = open_run("", "train.py")
    training = loop.Training(run, run.model, run.collator, run.train_args, run.output_dir)
    training.loader.set_epoch(0)
    training.make_step([next(iter(training.loader))])
    training.progress.best = 0.5
    training.train_state.best_weights = {
        name: p.detach().cpu().clone() for name, p in run.model.named_parameters() if p.requires_grad
    }
    return training


if __name__ == "__main__":
    main()
