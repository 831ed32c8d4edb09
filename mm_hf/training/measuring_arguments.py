"""The flags of `mm_hf evaluate`, and the part that `mm_hf search` shares."""

from dataclasses import dataclass, field

from .data_arguments import DatasetArguments
from .flags import ArgumentParser
from .values import check_least, check_range, option


TORCH, ONNX = "torch", "onnx"  # the backends
COVERAGE_RANGE = (0.5, 0.999)  # the range of `COVERAGES`, repeated here because that module imports torch


@dataclass
class EvaluateArguments:
    """The model and the part to measure, and how."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    split: str | None = option(None, "Part to measure; left out, test, or the only part if there is just one.")
    output_dir: str | None = option(
        None, "Folder of the report; left out, <model>/evaluation, or runs/<name>/evaluation for a Hub id."
    )
    missing: bool = option(
        False, "Measure the loss in score when 30, 50, 70 or 100 percent of the rows lose each modality."
    )
    evidence: bool = option(
        True, "Measure what the answers depend on: the effect of each modality on the answers to 200 random rows."
    )
    calibrate: bool = option(
        False,
        "Learn from the validation part of the run how sure answers are (temperature, sets, intervals), keep that in "
        "the run's config.json, and measure it.",
    )
    coverage: float = option(
        0.9, "For a calibrated run: the share of rows for which sets and intervals should contain the true value."
    )
    costs: str | None = option(
        None,
        "A .csv (columns class and cost, a line abstain) or .json with the cost of a wrong answer and of no answer. "
        "Measures the total cost of the answers that `mm_hf predict --costs` chooses.",
    )
    backend: str = option(
        TORCH,
        "torch: measure the checkpoint. onnx: measure its export, with runtime.py on the CPU, and compare it with "
        "torch on the same rows.",
        choices=[TORCH, ONNX],
    )
    export_folder: str | None = option(
        None, "With --backend onnx: the folder that `mm_hf export` wrote; left out, <model>/onnx.", metavar="FOLDER"
    )
    group_column: str | None = option(
        None,
        "For the intervals, rows with equal values are resampled together; left out, rows with the same picture are.",
    )
    bootstrap_samples: int = option(1000, "Bootstrap resamples for an interval.")
    max_rows: int | None = option(None, "Measure only so many rows, drawn at random, for a quick look.")
    seed: int = option(0, "Seed of resamples, of random rows, and of wrong pairs.")
    per_device_eval_batch_size: int = option(128, "Rows per process and step.")
    dataloader_num_workers: int = option(0, "Processes that prepare batches.")

    def __post_init__(self):
        check_least(self, 1, "bootstrap_samples", "max_rows", "per_device_eval_batch_size")
        check_range("coverage", self.coverage, *COVERAGE_RANGE)
        if self.export_folder is not None and self.backend != ONNX:
            raise ValueError(f"export_folder is {self.export_folder!r}, but it needs --backend onnx.")
        if self.calibrate and self.backend == ONNX:
            raise ValueError(
                "calibrate learns from the answers of torch and writes into the config.json of the run; only later "
                "exports contain it. Leave out --backend onnx, then export again."
            )


def measuring_parser(
    description: str,
    prog: str,
    group: type = EvaluateArguments,
    commands: tuple[str, ...] = (),
    usage: str | None = None,
) -> ArgumentParser:
    """The flags of a command that measures a checkpoint: its own group, with `model`, and the flags of the data.
    `commands` are the possible first words. `usage` replaces the default usage line, which begins with RUN or with a
    command."""
    first = f"{{{','.join(commands)}}} --model MODEL" if commands else "RUN"
    more = 'With a recipe.json beside the checkpoint, its data set and columns are the defaults; "" is no column.'
    parser = ArgumentParser(
        (group, DatasetArguments),
        prog=prog,
        usage=usage or f"{prog} {first} [flags]",
        description=f"{description.rstrip()}\n\n{more}",
    )
    if commands:
        parser.add_argument("word", choices=commands, metavar="|".join(commands), help="what to do")
    return parser
