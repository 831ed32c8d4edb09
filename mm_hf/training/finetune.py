"""The same run as `mm_hf train` through `transformers.Trainer`: the same recipes, the same run folder.

    mm_hf finetune easy_vqa.yaml
    accelerate launch -m mm_hf.training.finetune easy_vqa.yaml --learning_rate 1e-3

Choose it to use what belongs to the Trainer: its callbacks, trackers, hyperparameter search. The same command takes up
a run that was killed where its last checkpoint left it.
"""

import time

from .exits import run_script
from .finish import finish
from .open_run import open_run
from .recipe_trainer import fit
from .search_fusions import search_fusions


def main():
    """The whole run, from top to bottom."""
    started = time.perf_counter()
    run = open_run(__doc__, "finetune.py")
    if run is None:
        return
    run.seconds["prepare"] = time.perf_counter() - started
    search_fusions(run, fit)
    history = fit(run, run.model, run.collator, run.train_args, run.output_dir)
    finish(run, fit, history)


def script():
    """The command line."""
    run_script(main)


if __name__ == "__main__":
    script()
