"""The flags of `mm_hf search` and `mm_hf chat`, which can be read without torch: for `--help`."""

from dataclasses import dataclass, field

from ..training.flags import ArgumentParser
from ..training.measuring_arguments import measuring_parser


COMMANDS = ("evaluate", "build", "query")


@dataclass
class RetrieveArguments:
    """What is searched, and for what."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    gallery: str | None = field(default=None, metadata={"help": "build, query: folder of the embedded data set."})
    text: str | None = field(default=None, metadata={"help": "query: find pictures, or sounds, by this text."})
    image: str | None = field(default=None, metadata={"help": "query: find texts by this picture."})
    audio: str | None = field(default=None, metadata={"help": "query: find texts by this sound."})
    top_k: int = field(default=5, metadata={"help": "query: how many to find."})
    rerank_top: int = field(default=20, metadata={"help": "How many of the best the fusion looks at again; 0: none."})
    rerank_weight: float | None = field(
        default=None,
        metadata={"help": "How much its word counts; left out, as evaluate chose it on validation, else 1."},
    )
    index_factory: str = field(default="Flat", metadata={"help": "faiss's name of the index; Flat is exact."})
    output: str | None = field(
        default=None, metadata={"help": "query: the picture to draw; left out, query.png in the gallery."}
    )
    split: str | None = field(
        default=None,
        metadata={"help": "Part to search; left out, evaluate takes test, or the only part, and build all parts."},
    )
    bootstrap_samples: int = field(default=1000, metadata={"help": "evaluate: resamples of the intervals."})
    max_rows: int | None = field(default=None, metadata={"help": "Search so many rows, drawn at random."})
    seed: int = field(default=0, metadata={"help": "Of resamples and rows that are drawn."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Items a step."})
    command: str = field(default="", metadata={"help": "The same as the first word."})

    def __post_init__(self):
        for name in ("top_k", "bootstrap_samples", "max_rows", "per_device_eval_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.rerank_top < 0 or (self.rerank_weight is not None and self.rerank_weight < 0):
            raise ValueError(
                f"rerank_top and rerank_weight must be at least 0, got {self.rerank_top}, {self.rerank_weight}."
            )


def search_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf search`."""
    return measuring_parser(description, prog, RetrieveArguments, COMMANDS)


@dataclass
class ChatArguments:
    """What is asked, and about what."""

    model: str = field(metadata={"help": "Folder of a checkpoint, or Hub id."})
    image: str = field(metadata={"help": "The picture."})
    question: list[str] | None = field(
        default=None,
        metadata={
            "action": "extend",  # argparse's own choice would keep the last --question alone
            "help": "Ask these, one after the other, and end; may be given several times; left out, ask in the "
            "terminal.",
        },
    )
    turns: int = field(
        default=3,
        metadata={
            "help": "Earlier turns that are put in front of a question. A model that was trained on single questions "
            "answers best with 0."
        },
    )
    max_new_tokens: int | None = field(
        default=None, metadata={"help": "Longest answer, in tokens; left out, as the checkpoint says."}
    )
    num_beams: int | None = field(default=None, metadata={"help": "Beams; left out, as the checkpoint says."})

    def __post_init__(self):
        if self.turns < 0:
            raise ValueError(f"turns must be at least 0, got {self.turns}.")
        for name in ("max_new_tokens", "num_beams"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def chat_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf chat`."""
    usage = f"{prog} --model MODEL --image IMAGE [flags]"
    return ArgumentParser(ChatArguments, prog=prog, usage=usage, description=description)
