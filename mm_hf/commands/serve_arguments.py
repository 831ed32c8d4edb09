"""The flags of `mm_hf serve`, which can be read without torch: for `--help`."""

from dataclasses import dataclass, field

from ..training.flags import ArgumentParser
from ..training.measuring_arguments import ONNX, TORCH
from ..training.values import check_least, check_range, option


KEY_VARIABLE = "MM_HF_API_KEY"


@dataclass
class ServeArguments:
    """What is served, and where."""

    host: str = option(
        "127.0.0.1", "Address to listen on. Others than this machine reach it on 0.0.0.0: then set a key."
    )
    port: int = option(8000, "Port; 0: any free one, which is printed.")
    api_key: str | None = option(
        None,
        f"Requests must have the header `Authorization: Bearer KEY`. Others see the flags of a process: the variable "
        f"{KEY_VARIABLE} does the same.",
    )
    backend: str | None = option(
        None,
        "What answers: torch, the checkpoint, or onnx, its export, on the CPU. Left out, torch, and onnx where RUN is "
        "the folder of an export.",
        choices=[TORCH, ONNX],
    )
    export_folder: str | None = option(
        None, "With --backend onnx: what `mm_hf export` wrote; left out, RUN/onnx.", metavar="FOLDER"
    )
    device: str | None = option(None, "cpu, cuda, cuda:1…; left out, the GPU where there is one.")
    dtype: str | None = option(
        None,
        "Of the weights in memory: in 16 bits they take half of it. Left out, as the checkpoint has them.",
        choices=["float32", "bfloat16", "float16"],
    )
    threads: int | None = option(None, "Threads of torch or onnxruntime; left out, one for each core.")
    keep_encoded: float = option(
        0.0,
        "MB of memory for what encoders gave for pictures, texts, sounds…: one that comes again is not encoded again. "
        "0: nothing is kept.",
    )
    trust_remote_code: bool = option(
        False, "Run the code that came with the checkpoint. Left out, nothing of it runs: the classes are mm_hf's own."
    )
    docs: bool = option(True, "Show the page of documentation (/docs, /openapi.json).")
    write_handler: str | None = option(
        None,
        "Serve nothing: write into this folder the checkpoint, its code and a handler.py for Hugging Face's inference "
        "endpoints.",
        metavar="FOLDER",
    )
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of Python that bring what the checkpoint has from outside mm_hf; left out, its run's.",
            "flag": "import",
        },
    )

    def __post_init__(self):
        check_range("port", self.port, 0, 65535)
        check_least(self, 1, "threads")
        check_range("keep_encoded", self.keep_encoded, 0, 1e6)
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api_key is empty: give a key, or leave it out.")


@dataclass
class BatchArguments:
    """How rows are answered."""

    max_batch: int = option(32, "Rows that go through the model together; 1: no micro-batching.")
    max_wait_ms: float = option(
        5.0, "How long a row waits for those of other requests, and only while such are being read."
    )
    max_new_tokens: int | None = option(None, "Of a model that writes: the longest text.")
    num_beams: int | None = option(None, "Of a model that writes: beams.")

    def __post_init__(self):
        check_least(self, 1, "max_batch", "max_new_tokens", "num_beams")
        check_range("max_wait_ms", self.max_wait_ms, 0, 10_000)


@dataclass
class LimitArguments:
    """The most that is taken on; what is more is refused with a sentence."""

    max_body_bytes: int = option(20_000_000, "Bytes of one request (413).")
    max_rows: int = option(64, "Rows of one request (413).")
    max_queue: int = option(256, "Rows that wait, and requests in work (503, with Retry-After).")
    max_seconds: float = option(30.0, "Seconds for one request (504).")
    max_pixels: int = option(50_000_000, "Pixels of a picture, or of a frame of a video.")
    max_sound_seconds: float = option(300.0, "Seconds of a sound, or of a video.")
    max_characters: int = option(100_000, "Characters of a text.")
    max_steps: int = option(100_000, "Steps of a series.")

    def __post_init__(self):
        check_least(self, 1, "max_body_bytes", "max_rows", "max_queue", "max_pixels", "max_characters", "max_steps")
        check_range("max_seconds", self.max_seconds, 0.001, 86_400)
        check_range("max_sound_seconds", self.max_sound_seconds, 0.001, 3600)
        if self.max_rows > self.max_queue:
            raise ValueError(
                f"max_rows is {self.max_rows}, but the queue takes {self.max_queue} (max_queue): such a request would "
                "never be answered."
            )


def serve_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf serve`."""
    parser = ArgumentParser(
        (ServeArguments, BatchArguments, LimitArguments),
        prog=prog,
        usage=f"{prog} RUN [flags]",
        description=description,
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run, checkpoint or export, or Hub id.")
    return parser
