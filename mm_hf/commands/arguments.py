"""The flags of `compare`, `predict`, `explain`, `export`, `search` and `chat`.

This module does not import torch, so that `--help` comes at once.
"""

import argparse
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from ..training.data_arguments import DatasetArguments, keep_plain
from ..training.flags import ArgumentParser
from ..training.measuring_arguments import COVERAGE_RANGE, TORCH, EvaluateArguments, measuring_parser
from ..training.values import check_least, check_range, option


COMMANDS = ("evaluate", "build", "query")


@dataclass
class RetrieveArguments:
    """The model, the gallery and the query of a search."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    gallery: str | None = option(None, "build, query: folder that holds the embedded data set.")
    text: str | None = option(None, "query: find pictures, or sounds, by this text.")
    image: str | None = option(None, "query: find texts by this picture.")
    audio: str | None = option(None, "query: find texts by this sound.")
    top_k: int = option(5, "query: number of results.")
    rerank_top: int = option(20, "Number of best results that the fusion scores again; 0: no reranking.")
    rerank_weight: float | None = option(
        None,
        "Weight of the fusion's score in the reranking. Default: the weight that evaluate chose on the validation "
        "part, or 1.",
    )
    index_factory: str = option("Flat", "Name of the faiss index; Flat is exact.")
    output: str | None = option(None, "query: picture file to write. Default: query.png in the gallery.")
    split: str | None = option(
        None, "Part to search. Default: evaluate takes test, or the only part; build takes all parts."
    )
    bootstrap_samples: int = option(1000, "evaluate: number of bootstrap resamples for the intervals.")
    max_rows: int | None = option(None, "Search at most this many rows, drawn at random.")
    seed: int = option(0, "Seed for the resamples and for drawing rows.")
    per_device_eval_batch_size: int = option(128, "Items per batch.")
    command: str = option("", "The same as the first word.")

    def __post_init__(self):
        check_least(self, 1, "top_k", "bootstrap_samples", "max_rows", "per_device_eval_batch_size")
        if self.rerank_top < 0 or (self.rerank_weight is not None and self.rerank_weight < 0):
            raise ValueError(
                f"rerank_top and rerank_weight must be at least 0, got {self.rerank_top}, {self.rerank_weight}."
            )

    @property
    def gallery_folder(self) -> str:
        """The folder of the gallery.

        Raises:
            ValueError: --gallery was not given.
        """
        if self.gallery is None:
            raise ValueError("gallery is missing: give --gallery FOLDER.")
        return self.gallery


def search_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf search`."""
    return measuring_parser(description, prog, RetrieveArguments, COMMANDS)


@dataclass
class ChatArguments:
    """The questions, and the picture that they are about."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    image: str = field(metadata={"help": "The picture."})
    question: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Ask these questions one after the other, then end. The flag may be repeated. Default: read questions from "
        "the terminal.",
        action="extend",  # argparse's default would keep only the last --question
    )
    turns: int = option(
        3,
        "Number of earlier turns to put in front of a question. A model that was trained on single questions "
        "answers best with 0.",
    )
    max_new_tokens: int | None = option(None, "Maximum length of an answer, in tokens. Default: the checkpoint's.")
    num_beams: int | None = option(None, "Number of beams. Default: the checkpoint's.")
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Python files that define the parts of the checkpoint that are not in mm_hf. Default: the imports "
            "of its run.",
            "flag": "import",
        },
    )

    def __post_init__(self):
        check_least(self, 0, "turns")
        check_least(self, 1, "max_new_tokens", "num_beams")


def chat_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf chat`."""
    usage = f"{prog} --model MODEL --image IMAGE [flags]"
    return ArgumentParser(ChatArguments, prog=prog, usage=usage, description=description)


COMPARING = "mm_hf compare RUN_A RUN_B [flags]"


@dataclass
class CompareArguments(EvaluateArguments):
    """How two runs are compared."""

    model: str = option("", argparse.SUPPRESS)  # replaced by the first two words of the command
    missing: bool = option(False, argparse.SUPPRESS)
    calibrate: bool = option(False, argparse.SUPPRESS)
    costs: str | None = option(None, argparse.SUPPRESS)
    coverage: float = option(0.9, argparse.SUPPRESS)
    backend: str = option(TORCH, argparse.SUPPRESS)
    export_folder: str | None = option(None, argparse.SUPPRESS)
    output_dir: str | None = option(None, "Folder for the results. Default: runs/compare-<A>-<B>.")

    def __post_init__(self):
        super().__post_init__()
        for name in ("missing", "calibrate", "costs", "backend", "export_folder"):
            if getattr(self, name) not in (False, None, TORCH):
                raise ValueError(
                    f"--{name} belongs to `mm_hf evaluate`, which measures one run: leave it out of `mm_hf compare`."
                )


def compare_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf compare`. They apply to both runs."""
    return measuring_parser(description, prog, CompareArguments, usage=COMPARING)


TYPES = "image audio video"  # the kinds of files that encoders read


@dataclass
class FetchArguments:
    """What is downloaded, and the limits."""

    column: str = field(metadata={"help": "Column that holds the URLs."})
    into: str | None = option(None, "Folder for the files. Default: <rows>_files, next to the rows.")
    output: str | None = option(None, "File for the rows with the paths. Default: <rows>_fetched.", aliases=["-o"])
    path_column: str | None = option(None, "Name of the new column. Default: <column>_path.")
    types: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Kinds of files to keep, as in the Content-Type of the server. Default: image, audio and video."
    )
    max_bytes: int = option(2**25, "Maximum size of one file, in bytes.")
    max_total_bytes: int = option(
        10 * 2**30, "Maximum size of all files together, in bytes. Files that are already there count too."
    )
    timeout: float = option(60.0, "Maximum time for one file, in seconds.")
    parallel: int = option(8, "Number of files to download at the same time.")
    user_agent: str | None = option(None, "User-Agent header that servers see. Default: mm_hf and its version.")
    allow_private: bool = option(False, "Also download from this machine and from private networks.")

    def __post_init__(self):
        check_least(self, 1, "max_bytes", "max_total_bytes", "parallel")
        check_range("parallel", self.parallel, 1, 64)
        self.types = self.types or TYPES.split()
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {self.timeout}.")


def fetch_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf fetch`."""
    usage = f"{prog} ROWS --column NAME [flags]"
    parser = ArgumentParser(FetchArguments, prog=prog, usage=usage, description=description)
    parser.add_argument("rows", metavar="ROWS", help="A .csv, .tsv, .jsonl or .parquet file.")
    return parser


IN_COLUMNS = [key.name for key in fields(DatasetArguments) if "names_columns" in key.metadata]
OF_DATA = [*IN_COLUMNS, "import_files", "data_root", "on_error", "max_bad_fraction"]
HELP = {
    "data_root": {
        "help": "Folder that image paths are relative to. Paths outside it are refused. Default: the folder of the "
        "rows."
    },
    "on_error": {
        "help": "raise: stop at a bad row; skip: keep it with an empty prediction, and write the reason into a column."
    },
    "max_bad_fraction": {"help": "With --on_error skip: stop when the share of bad rows exceeds this."},
}

# The flags of training that name columns and say how bad rows are handled.
ColumnArguments: Any = make_dataclass(
    "ColumnArguments",
    [
        (key.name, key.type, field(default=key.default, metadata={**key.metadata, **HELP.get(key.name, {})}))
        for key in fields(DatasetArguments)
        if key.name in OF_DATA
    ],
    namespace={"__post_init__": keep_plain},
)
ColumnArguments.__doc__ = "The columns of the rows, and how bad rows are handled."


@dataclass
class PredictArguments:
    """What is predicted, and which columns are written."""

    split: str | None = option(
        None,
        "Part to predict, if the rows have several parts. For the run's own rows, also a part that the run cut from "
        "them.",
    )
    top_k: int = option(1, "Number of best classes to write, with their probabilities.")
    probabilities: str = option(
        "best",
        "all: write one probability column per class. A task with several labels always writes them.",
        choices=["best", "all"],
    )
    coverage: float | None = option(
        None,
        "For a calibrated run, such as 0.9. For classes: write the set of classes that contains the true class in "
        "this share of new rows. For numbers: write the interval that contains the true number.",
    )
    abstain_below: float | None = option(
        None, "For one of several classes: leave the prediction empty if its probability is below this threshold."
    )
    costs: str | None = option(
        None,
        "A .csv file (columns class and cost, one line abstain) or a .json file with the cost of a wrong answer and "
        "of no answer. The prediction is then the answer with the lowest expected cost, or empty.",
    )
    prefix: str = option("", "Prefix for the names of the new columns.")
    overwrite: bool = option(
        False, "Replace a finished output. Start again if the output was begun with other rows or settings."
    )
    bf16: bool = option(False, "Compute in bfloat16. Use it if it is faster on the device.")
    per_device_eval_batch_size: int = option(128, "Rows per batch and process.")
    dataloader_num_workers: int = option(0, "Number of processes that prepare batches.")

    def __post_init__(self):
        check_least(self, 1, "top_k", "per_device_eval_batch_size")
        if self.coverage is not None:
            check_range("coverage", self.coverage, *COVERAGE_RANGE)
        if self.abstain_below is not None:
            check_range("abstain_below", self.abstain_below, 0, 1)
        if self.costs is not None and (self.abstain_below is not None or self.top_k > 1):
            other = "top_k" if self.abstain_below is None else "abstain_below"
            raise ValueError(
                f"costs and {other} are both given. With costs, the prediction is the answer with the lowest expected "
                f"cost, not the most probable one: leave {other} out."
            )


MAP_METHODS = ("occlusion", "input_occlusion", "integrated_gradients", "relevance", "attention")
NO_MAPS = "none"


@dataclass
class ExplainArguments:
    """Which rows are explained, and how."""

    split: str | None = option(
        None, "Part to explain. Default: test of the run's own rows, or the only part of other rows."
    )
    max_rows: int = option(100, "Explain at most this many rows, drawn at random; 0: all.", aliases=["--rows"])
    absence: str = option(
        "other_rows",
        "What replaces a modality that is removed. other_rows: items of training rows (the answers are averaged over "
        "them). token: the learned token of an absent item; it is meaningful only if the model was trained with "
        "modality_dropout.",
        choices=["other_rows", "token"],
    )
    background: int | None = option(
        None,
        "Number of training rows that replace a removed modality. Default: 15 for two modalities, 5 for more. More "
        "rows give more stable results.",
    )
    method: str | None = option(
        None,
        "Method for the maps, which show the parts of items that mattered. Default: the method that measured best "
        "for the model and the modality. none: no maps.",
        choices=[*MAP_METHODS, NO_MAPS],
    )
    check: bool = option(
        False, "Measure how far the maps can be trusted, on 24 rows. It takes a few times as long as the maps."
    )
    png: bool = option(False, "Also write a picture of each row.")
    seed: int = option(0, "Seed for drawing the explained rows and the replacement rows.")
    overwrite: bool = option(False, "Replace the output of an earlier call.")
    missing: bool = option(
        False, "Estimate what each missing modality of a row would add, from the run's validation rows."
    )
    prices: str | None = option(
        None,
        "With --missing: the price of each modality, such as vision=5,audio=1 (default 1). The report then says "
        "which modality to obtain next, and in which order.",
    )
    until: float | None = option(
        None, "With --missing: the expected score (1: certainly right) at which a row needs no further modality."
    )
    given: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "With --missing and without ROWS: modalities that every row has from the start, when the score is measured "
        "against the price. Default: none.",
    )

    def __post_init__(self):
        check_least(self, 0, "max_rows", "seed")
        check_least(self, 1, "background")
        if not self.missing:
            for name in ("prices", "until", "given"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"--{name} is {value!r}, but it works only with --missing: add --missing, or leave --{name} "
                        "out."
                    )


def explain_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf explain`."""
    more = 'If a recipe.json lies beside the checkpoint, its columns are the defaults. "" means: no such column.'
    parser = ArgumentParser(
        (ExplainArguments, ColumnArguments),
        prog=prog,
        usage=f"{prog} RUN [ROWS] [flags]",
        description=f"{description.rstrip()}\n\n{more}",
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    parser.add_argument(
        "file",
        metavar="ROWS",
        nargs="?",
        help="A .csv, .jsonl or .parquet file, or any data that training reads. Default: the run's own data.",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="Folder to write. Default: RUN/evidence.")
    return parser


@dataclass
class ExportArguments:
    """The format of the export."""

    to: str = option(
        "onnx",
        "onnx: graphs for onnxruntime and other programs that read ONNX; torch: programs of torch.export.",
        choices=["onnx", "torch"],
    )
    int8: bool = option(
        False,
        "Store the weights of matrix products and embedding tables in 8 bits: a quarter of the size, and faster on "
        "CPUs.",
    )
    overwrite: bool = option(False, "Replace an existing export.")
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Python files that define the parts of the checkpoint that are not in mm_hf. Default: the imports "
            "of its run.",
            "flag": "import",
        },
    )

    def __post_init__(self):
        if self.int8 and self.to != "onnx":
            raise ValueError(f"int8 works only with --to onnx, and --to is {self.to!r}: leave one of them out.")


def export_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf export`."""
    usage = f"{prog} RUN [--to onnx|torch] [--int8] [-o FOLDER]"
    parser = ArgumentParser(ExportArguments, prog=prog, usage=usage, description=description)
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="Folder to write. Default: RUN/onnx or RUN/torch, with -int8 added."
    )
    return parser


@dataclass
class DemoArguments:
    """What the page shows, and where it is served."""

    host: str = option("127.0.0.1", "Address to listen on. Only this machine can reach the default address.")
    port: int = option(7860, "Port; 0: any free port.")
    title: str | None = option(None, "Heading of the page. Default: the name of the checkpoint.")
    examples: int | None = option(
        None,
        "Number of example rows from the run's test part. Default: 5, but 0 with --space, because the examples are "
        "copied into the Space, where everybody can see them.",
    )
    evidence: bool = option(True, "Show what each modality contributed to an answer.")
    method: str | None = option(
        None,
        "Method for the maps, which show the parts of items that mattered. Default: the method that measured best "
        "for the model and the modality. none: no maps.",
        choices=[*MAP_METHODS, NO_MAPS],
    )
    background: int | None = option(
        None,
        "Number of training rows that replace a removed modality. Default: 15 for two modalities, 5 for more. If the "
        "training data are not available, the learned token of an absent item replaces it.",
    )
    max_file_mb: int = option(50, "Maximum size of an uploaded file, in megabytes.")
    seed: int = option(0, "Seed for drawing rows.")
    space: str | None = option(
        None, "Do not serve the page. Write the folder of a Hugging Face Space instead. Nothing is uploaded."
    )

    def __post_init__(self):
        check_least(self, 0, "examples", "seed")
        check_least(self, 1, "background", "max_file_mb")
        check_range("port", self.port, 0, 65535)


def demo_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf demo`."""
    more = 'If a recipe.json lies beside the checkpoint, its columns are the defaults. "" means: no field on the page.'
    parser = ArgumentParser(
        (DemoArguments, ColumnArguments),
        prog=prog,
        usage=f"{prog} RUN [flags]",
        description=f"{description.rstrip()}\n\n{more}",
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    return parser


def predict_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf predict`."""
    more = 'If a recipe.json lies beside the checkpoint, its columns are the defaults. "" means: no such column.'
    parser = ArgumentParser(
        (PredictArguments, ColumnArguments),
        prog=prog,
        usage=f"{prog} RUN ROWS -o FILE [flags]",
        description=f"{description.rstrip()}\n\n{more}",
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    parser.add_argument(
        "rows",
        metavar="ROWS",
        help="A .csv, .jsonl or .parquet file, - for JSON lines on standard input, or any data that training reads.",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="A .csv, .tsv, .jsonl or .parquet file to write."
    )
    return parser
