"""The flags of `mm_hf evaluate`, and what they share with those of `mm_hf search`."""

from dataclasses import dataclass, field

from .data_arguments import DatasetArguments
from .flags import ArgumentParser
from .values import check_least, check_range, option


TORCH, ONNX = "torch", "onnx"  # what answers
COVERAGE_RANGE = (0.5, 0.999)  # of `COVERAGES`, which imports torch: `--help` need not


@dataclass
class EvaluateArguments:
    """What is measured, and how."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    split: str | None = option(None, "Part to measure; left out, test, or the only part where there is but one.")
    output_dir: str | None = option(
        None, "Folder of the report; left out, <model>/evaluation, for a Hub id runs/<name>/evaluation."
    )
    missing: bool = option(
        False, "Measure what it costs when 30, 50, 70 percent and all of the rows lose each modality."
    )
    evidence: bool = option(
        True, "Say what the answers rest on: what each modality gave to those to 200 rows, drawn at random."
    )
    calibrate: bool = option(
        False,
        "Learn from the validation part of the run how sure answers are (temperature, sets, intervals), keep that in "
        "its config.json, and measure it.",
    )
    coverage: float = option(
        0.9, "Share of rows whose truth sets and intervals are to hold, which is measured where a run is calibrated."
    )
    costs: str | None = option(
        None,
        "A .csv (columns class and cost, a line abstain) or .json of what a wrong answer costs and what none does: "
        "measures what is paid where `mm_hf predict --costs` chooses.",
    )
    backend: str = option(
        TORCH,
        "What is measured: torch, the checkpoint; onnx, its export, through runtime.py on the CPU, beside what torch "
        "says of the same rows.",
        choices=[TORCH, ONNX],
    )
    export_folder: str | None = option(
        None, "With --backend onnx: what `mm_hf export` wrote; left out, <model>/onnx.", metavar="FOLDER"
    )
    group_column: str | None = option(
        None, "Rows with equal values are drawn together for the intervals; left out, those of one picture."
    )
    bootstrap_samples: int = option(1000, "Resamples that an interval is read from.")
    max_rows: int | None = option(None, "Measure so many rows, drawn at random: a first look.")
    seed: int = option(0, "Of resamples, of rows that are drawn, and of wrong pairs.")
    per_device_eval_batch_size: int = option(128, "Rows a process and step.")
    dataloader_num_workers: int = option(0, "Processes that prepare batches.")

    def __post_init__(self):
        check_least(self, 1, "bootstrap_samples", "max_rows", "per_device_eval_batch_size")
        check_range("coverage", self.coverage, *COVERAGE_RANGE)
        if self.export_folder is not None and self.backend != ONNX:
            raise ValueError(f"export_folder is {self.export_folder!r}, which is for --backend onnx.")
        if self.calibrate and self.backend == ONNX:
            raise ValueError(
                "calibrate learns from what torch says and writes into the config.json of the run, which exports "
                "after it have: leave out --backend onnx, then export anew."
            )


def measuring_parser(
    description: str,
    prog: str,
    group: type = EvaluateArguments,
    commands: tuple[str, ...] = (),
    usage: str | None = None,
) -> ArgumentParser:
    """The flags of a verb that measures a checkpoint: its own group, `model` among them, and those of the data.
    `commands` are what its first word may be; `usage` stands in place of one that begins with RUN, or with a
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
