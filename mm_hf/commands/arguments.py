"""The flags of `compare`, `predict`, `explain`, `export`, `search` and `chat`, read without torch: for `--help`."""

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
    """What is searched, and for what."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    gallery: str | None = option(None, "build, query: folder of the embedded data set.")
    text: str | None = option(None, "query: find pictures, or sounds, by this text.")
    image: str | None = option(None, "query: find texts by this picture.")
    audio: str | None = option(None, "query: find texts by this sound.")
    top_k: int = option(5, "query: how many to find.")
    rerank_top: int = option(20, "How many of the best the fusion looks at again; 0: none.")
    rerank_weight: float | None = option(
        None, "How much its word counts; left out, as evaluate chose it on validation, else 1."
    )
    index_factory: str = option("Flat", "faiss's name of the index; Flat is exact.")
    output: str | None = option(None, "query: the picture to draw; left out, query.png in the gallery.")
    split: str | None = option(
        None, "Part to search; left out, evaluate takes test, or the only part, and build all parts."
    )
    bootstrap_samples: int = option(1000, "evaluate: resamples of the intervals.")
    max_rows: int | None = option(None, "Search so many rows, drawn at random.")
    seed: int = option(0, "Of resamples and rows that are drawn.")
    per_device_eval_batch_size: int = option(128, "Items a step.")
    command: str = option("", "The same as the first word.")

    def __post_init__(self):
        check_least(self, 1, "top_k", "bootstrap_samples", "max_rows", "per_device_eval_batch_size")
        if self.rerank_top < 0 or (self.rerank_weight is not None and self.rerank_weight < 0):
            raise ValueError(
                f"rerank_top and rerank_weight must be at least 0, got {self.rerank_top}, {self.rerank_weight}."
            )

    @property
    def gallery_folder(self) -> str:
        """The gallery; a ValueError where none is named."""
        if self.gallery is None:
            raise ValueError("gallery is missing: give --gallery.")
        return self.gallery


def search_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf search`."""
    return measuring_parser(description, prog, RetrieveArguments, COMMANDS)


@dataclass
class ChatArguments:
    """What is asked, and about what."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    image: str = field(metadata={"help": "The picture."})
    question: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Ask these, one after the other, and end; may be given several times; left out, ask in the terminal.",
        action="extend",  # argparse's own choice would keep the last --question alone
    )
    turns: int = option(
        3,
        "Earlier turns that are put in front of a question. A model that was trained on single questions "
        "answers best with 0.",
    )
    max_new_tokens: int | None = option(None, "Longest answer, in tokens; left out, as the checkpoint says.")
    num_beams: int | None = option(None, "Beams; left out, as the checkpoint says.")
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of Python that bring what the checkpoint has from outside mm_hf; left out, its run's.",
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
    """What is compared, and how."""

    model: str = option("", argparse.SUPPRESS)  # the first two words stand in its place
    missing: bool = option(False, argparse.SUPPRESS)
    calibrate: bool = option(False, argparse.SUPPRESS)
    costs: str | None = option(None, argparse.SUPPRESS)
    coverage: float = option(0.9, argparse.SUPPRESS)
    backend: str = option(TORCH, argparse.SUPPRESS)
    export_folder: str | None = option(None, argparse.SUPPRESS)
    output_dir: str | None = option(None, "Folder of what is found; left out, runs/compare-<A>-<B>.")

    def __post_init__(self):
        super().__post_init__()
        for name in ("missing", "calibrate", "costs", "backend", "export_folder"):
            if getattr(self, name) not in (False, None, TORCH):
                raise ValueError(f"--{name} belongs to `mm_hf evaluate`, which measures one run.")


def compare_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf compare`, which are for both runs."""
    return measuring_parser(description, prog, CompareArguments, usage=COMPARING)


TYPES = "image audio video"  # of files that some encoder reads


@dataclass
class FetchArguments:
    """What is downloaded, and how much at most."""

    column: str = field(metadata={"help": "Column of the URLs."})
    into: str | None = option(None, "Folder of the files; left out, one beside the rows, called after them.")
    output: str | None = option(None, "The rows with the paths; left out, <rows>_fetched.", aliases=["-o"])
    path_column: str | None = option(None, "Name of the new column; left out, <column>_path.")
    types: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Kinds of files that are kept, as servers name them; left out, image, audio and video."
    )
    max_bytes: int = option(2**25, "Bytes of a file at most.")
    max_total_bytes: int = option(10 * 2**30, "Bytes of all files at most, those that are there already among them.")
    timeout: float = option(60.0, "Seconds a file may take.")
    parallel: int = option(8, "Files that are downloaded at the same time.")
    user_agent: str | None = option(None, "What servers are told of who asks; left out, mm_hf and its version.")
    allow_private: bool = option(False, "Also from this machine and from private networks.")

    def __post_init__(self):
        check_least(self, 1, "max_bytes", "max_total_bytes", "parallel")
        check_range("parallel", self.parallel, 1, 64)
        self.types = self.types or TYPES.split()
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0, got {self.timeout}.")


def fetch_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf fetch`."""
    usage = f"{prog} ROWS --column NAME [flags]"
    parser = ArgumentParser(FetchArguments, prog=prog, usage=usage, description=description)
    parser.add_argument("rows", metavar="ROWS", help="A .csv, .tsv, .jsonl or .parquet file.")
    return parser


IN_COLUMNS = [key.name for key in fields(DatasetArguments) if "names_columns" in key.metadata]
OF_DATA = [*IN_COLUMNS, "import_files", "data_root", "on_error", "max_bad_fraction"]
HELP = {
    "data_root": {"help": "Folder that image paths are relative to and cannot leave; left out, that of the rows."},
    "on_error": {
        "help": "raise: a bad row stops it; skip: it is kept with an empty prediction, and a column says why."
    },
    "max_bad_fraction": {"help": "Share of bad rows above which it stops all the same."},
}

# The flags of training that name columns and say what becomes of bad rows.
ColumnArguments: Any = make_dataclass(
    "ColumnArguments",
    [
        (key.name, key.type, field(default=key.default, metadata={**key.metadata, **HELP.get(key.name, {})}))
        for key in fields(DatasetArguments)
        if key.name in OF_DATA
    ],
    namespace={"__post_init__": keep_plain},
)
ColumnArguments.__doc__ = "The columns of the rows, and what becomes of bad ones."


@dataclass
class PredictArguments:
    """What is predicted, and how it is said."""

    split: str | None = option(
        None, "Part of the rows, where they have several; of the run's own rows also a part that it cut from them."
    )
    top_k: int = option(1, "So many of the best classes, with their probabilities.")
    probabilities: str = option(
        "best", "all: one column for each class; several labels have them always.", choices=["best", "all"]
    )
    coverage: float | None = option(
        None,
        "Such as 0.9, for a calibrated run: the set of classes that holds the true one in this share of new rows, and "
        "of numbers from where to where they lie.",
    )
    abstain_below: float | None = option(
        None, "Leave the prediction of one of several classes empty where its probability is below this."
    )
    costs: str | None = option(
        None,
        "A .csv (columns class and cost, a line abstain) or .json of what a wrong answer costs and what none does: "
        "the prediction is the one of least expected cost, or empty.",
    )
    prefix: str = option("", "What the new columns begin with.")
    overwrite: bool = option(
        False, "Replace a finished output, and begin anew where one was begun with other rows or settings."
    )
    bf16: bool = option(False, "Work in bfloat16, where the device is faster with it.")
    per_device_eval_batch_size: int = option(128, "Rows a process and step.")
    dataloader_num_workers: int = option(0, "Processes that prepare batches.")

    def __post_init__(self):
        check_least(self, 1, "top_k", "per_device_eval_batch_size")
        if self.coverage is not None:
            check_range("coverage", self.coverage, *COVERAGE_RANGE)
        if self.abstain_below is not None:
            check_range("abstain_below", self.abstain_below, 0, 1)
        if self.costs is not None and (self.abstain_below is not None or self.top_k > 1):
            other = "top_k" if self.abstain_below is None else "abstain_below"
            raise ValueError(
                f"costs and {other} are both given: with costs the prediction is the one of least expected cost, and "
                f"not the likeliest; leave {other} out."
            )


MAP_METHODS = ("occlusion", "input_occlusion", "integrated_gradients", "relevance", "attention")
NO_MAPS = "none"


@dataclass
class ExplainArguments:
    """What is explained, and how."""

    split: str | None = option(
        None, "Part of the rows; left out, test of the run's own rows, or the only part of others."
    )
    max_rows: int = option(100, "Explain so many rows, drawn at random; 0: all.", aliases=["--rows"])
    absence: str = option(
        "other_rows",
        "What stands in for a modality that is taken away: items of training rows (the mean over them), or the "
        "learned token of an absent item, which says something where the model was trained with modality_dropout.",
        choices=["other_rows", "token"],
    )
    background: int | None = option(
        None, "Training rows that stand in; left out, 15 for two modalities and 5 for more. More are steadier."
    )
    method: str | None = option(
        None,
        "How parts of items are told that mattered; left out, the one that measures best for the model and the "
        "modality; none: no maps.",
        choices=[*MAP_METHODS, NO_MAPS],
    )
    check: bool = option(False, "Check how far the maps can be believed, on 24 rows: a few times their price.")
    png: bool = option(False, "Write a picture of each row too.")
    seed: int = option(0, "Of rows that are drawn, those that stand in among them.")
    overwrite: bool = option(False, "Replace what an earlier call wrote.")
    missing: bool = option(
        False, "Say what the modalities that a row lacks would bring, as the run's validation rows tell."
    )
    prices: str | None = option(
        None,
        "With --missing: what each costs, such as vision=5,audio=1 (1 where nothing is said): then it says "
        "what to obtain next, and in which order.",
    )
    until: float | None = option(
        None, "With --missing: the score to expect, 1 for certainly right, at which a row asks for nothing more."
    )
    given: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "With --missing, and no ROWS: modalities that rows have from the beginning, where score against price is "
        "measured; left out, none.",
    )

    def __post_init__(self):
        check_least(self, 0, "max_rows", "seed")
        check_least(self, 1, "background")
        if not self.missing:
            for name in ("prices", "until", "given"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"--{name} is {value!r}, but it belongs to --missing, which says what to ask for next."
                    )


def explain_parser(description: str, prog: str) -> ArgumentParser:
    """What `mm_hf explain` takes."""
    more = 'With a recipe.json beside the checkpoint, its columns are the defaults; "" is no column.'
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
        help="A .csv, .jsonl or .parquet file, or whatever training reads; left out, the run's own data.",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="What is written; left out, RUN/evidence.")
    return parser


@dataclass
class ExportArguments:
    """What is written."""

    to: str = option(
        "onnx",
        "onnx: graphs for onnxruntime and whatever else reads ONNX; torch: programs of torch.export, for torch.",
        choices=["onnx", "torch"],
    )
    int8: bool = option(
        False, "Matrix products and tables of embeddings in 8 bits: a quarter of their size, and faster on CPUs."
    )
    overwrite: bool = option(False, "Replace an export that is there.")
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of Python that bring what the checkpoint has from outside mm_hf; left out, its run's.",
            "flag": "import",
        },
    )

    def __post_init__(self):
        if self.int8 and self.to != "onnx":
            raise ValueError(f"int8 is for onnx, and --to is {self.to!r}: leave one of them out.")


def export_parser(description: str, prog: str) -> ArgumentParser:
    """What `mm_hf export` takes."""
    usage = f"{prog} RUN [--to onnx|torch] [--int8] [-o FOLDER]"
    parser = ArgumentParser(ExportArguments, prog=prog, usage=usage, description=description)
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="What is written; left out, RUN/onnx, or as --to says, with -int8."
    )
    return parser


@dataclass
class DemoArguments:
    """The page, and where it is served."""

    host: str = option("127.0.0.1", "Address to listen at; this machine alone reaches the default.")
    port: int = option(7860, "Port; 0: any that is free.")
    title: str | None = option(None, "Heading of the page; left out, the name of the checkpoint.")
    examples: int | None = option(
        None,
        "Rows of the run's test part to try at once; left out, 5, and none with --space: they are copied into its "
        "folder, where everybody sees them.",
    )
    evidence: bool = option(True, "Say what each modality gave to an answer.")
    method: str | None = option(
        None,
        "How parts of items are told that mattered; left out, the one that measures best for the model and the "
        "modality; none: no maps.",
        choices=[*MAP_METHODS, NO_MAPS],
    )
    background: int | None = option(
        None,
        "Training rows that stand in for what is taken away; left out, 15 for two modalities and 5 for more. Where "
        "the data are gone, the learned token of an absent item stands in.",
    )
    max_file_mb: int = option(50, "Megabytes of a file that somebody gives at most.")
    seed: int = option(0, "Of rows that are drawn.")
    space: str | None = option(
        None, "Write the folder of a Space of the Hugging Face Hub in place of serving the page; nothing is uploaded."
    )

    def __post_init__(self):
        check_least(self, 0, "examples", "seed")
        check_least(self, 1, "background", "max_file_mb")
        check_range("port", self.port, 0, 65535)


def demo_parser(description: str, prog: str) -> ArgumentParser:
    """What `mm_hf demo` takes."""
    more = 'With a recipe.json beside the checkpoint, its columns are the defaults; "" is no field on the page.'
    parser = ArgumentParser(
        (DemoArguments, ColumnArguments),
        prog=prog,
        usage=f"{prog} RUN [flags]",
        description=f"{description.rstrip()}\n\n{more}",
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    return parser


def predict_parser(description: str, prog: str) -> ArgumentParser:
    """What `mm_hf predict` takes."""
    more = 'With a recipe.json beside the checkpoint, its columns are the defaults; "" is no column.'
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
        help="A .csv, .jsonl or .parquet file, - for JSON lines on standard input, or whatever training reads.",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="A .csv, .tsv, .jsonl or .parquet file to write."
    )
    return parser
