"""The same run as `mm_hf train`, but with `transformers.Trainer`: the same recipes, the same run folder.

    mm_hf finetune easy_vqa.yaml
    accelerate launch -m mm_hf.training.finetune easy_vqa.yaml --learning_rate 1e-3

Choose it to use features of the Trainer: its callbacks, trackers, hyperparameter search. If a run was killed, the same
command resumes it from its last checkpoint.
"""

import time

from .exits import run_script
from .finish import finish
from .folds import runs_of
from .linear_fit import fit_of
from .open_run import open_run
from .recipe_trainer import fit
from .search_fusions import search_fusions


def main():
    """All runs that the command line asks for: one run, or several with `--folds`."""
    for words in runs_of(__doc__, "finetune.py"):
        train(words)


def train(words: list[str] | None):
    """One whole run, from start to end; `words` replaces the command line."""
    started = time.perf_counter()
    run = open_run(__doc__, "finetune.py", words)
    if run is None:
        return
    run.seconds["prepare"] = time.perf_counter() - started
    search_fusions(run, fit)
    trained_by = fit_of(run, fit)
    history = trained_by(run, run.model, run.collator, run.train_args, run.output_dir)
    finish(run, trained_by, history)


def script():
    """The command line."""
    run_script(main)


if __name__ == "__main__":
    script()
