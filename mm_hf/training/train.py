"""Trains a fusion of encoders with Accelerate, measures it, and leaves one Hub checkpoint.

    mm_hf train easy_vqa.yaml
    accelerate launch -m mm_hf.training.train easy_vqa.yaml --learning_rate 1e-3
    mm_hf train my.csv --image_column photo --text_column question --label answer

A run leaves in its folder the checkpoint (weights, config, processor, code), results.json, curves.png,
predictions.png and the model card, README.md. The same command takes up a run that was killed where its last
checkpoint left it, and ends with the very weights that it would have had.
"""

import time

from .exits import run_script
from .finish import finish
from .loop import fit
from .open_run import open_run
from .search_fusions import search_fusions


def main():
    """The whole run, from top to bottom."""
    started = time.perf_counter()
    run = open_run(__doc__, "train.py")
    if run is None:
        return
    run.seconds["prepare"] = time.perf_counter() - started
    search_fusions(run, fit)
    run.accelerator.init_trackers("tensorboard" if run.train_args.report_to == "tensorboard" else run.name)
    history = fit(run, run.model, run.collator, run.train_args, run.output_dir)
    finish(run, fit, history)


def script():
    """The command line."""
    run_script(main)


if __name__ == "__main__":
    script()
