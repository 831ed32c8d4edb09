"""Trains a fusion of encoders with Accelerate, measures it, and writes one Hub checkpoint.

    mm_hf train easy_vqa.yaml
    accelerate launch -m mm_hf.training.train easy_vqa.yaml --learning_rate 1e-3
    mm_hf train my.csv --image_column photo --text_column question --label answer

The folder of a run holds the checkpoint (weights, config, processor, code), results.json, curves.png, predictions.png
and the model card, README.md. If a run was killed, the same command resumes it from its last checkpoint, and ends with
exactly the weights of a run that was never stopped.
"""

import time

from .exits import run_script
from .finish import finish
from .folds import runs_of
from .linear_fit import fit_of
from .loop import fit
from .open_run import open_run
from .search_fusions import search_fusions


def main():
    """All runs that the command line asks for: one run, or several with `--folds`."""
    for words in runs_of(__doc__, "train.py"):
        train(words)


def train(words: list[str] | None):
    """One whole run, from start to end; `words` replaces the command line."""
    started = time.perf_counter()
    run = open_run(__doc__, "train.py", words)
    if run is None:
        return
    run.seconds["prepare"] = time.perf_counter() - started
    search_fusions(run, fit)
    run.accelerator.init_trackers("tensorboard" if run.train_args.report_to == "tensorboard" else run.name)
    trained_by = fit_of(run, fit)
    history = trained_by(run, run.model, run.collator, run.train_args, run.output_dir)
    finish(run, trained_by, history)


def script():
    """The command line."""
    run_script(main)


if __name__ == "__main__":
    script()
