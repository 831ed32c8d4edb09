"""The flags of `mm_hf serve`. This module does not import torch, so that `--help` comes at once."""

from dataclasses import dataclass, field

from ..training.flags import ArgumentParser
from ..training.measuring_arguments import ONNX, TORCH
from ..training.values import check_least, check_range, option


KEY_VARIABLE = "MM_HF_API_KEY"


@dataclass
class ServeArguments:
    """What is served, and where."""

    host: str = option(
        "127.0.0.1", "Address to listen on. With 0.0.0.0, other machines can reach the server: then set a key."
    )
    port: int = option(8000, "Port; 0: any free port, which is printed.")
    api_key: str | None = option(
        None,
        f"Key that requests must send in the header `Authorization: Bearer KEY`. Other users of the machine can see "
        f"the flags of a process; the variable {KEY_VARIABLE} sets the key without a flag.",
    )
    backend: str | None = option(
        None,
        "torch: the checkpoint answers; onnx: its export answers, on the CPU. Default: onnx if RUN is the folder of "
        "an export, else torch.",
        choices=[TORCH, ONNX],
    )
    export_folder: str | None = option(
        None, "With --backend onnx: the folder that `mm_hf export` wrote. Default: RUN/onnx.", metavar="FOLDER"
    )
    device: str | None = option(None, "cpu, cuda, cuda:1… Default: the GPU, if there is one.")
    dtype: str | None = option(
        None,
        "Data type of the weights in memory. The 16-bit types take half the memory. Default: the checkpoint's.",
        choices=["float32", "bfloat16", "float16"],
    )
    threads: int | None = option(None, "Threads of torch or onnxruntime. Default: one per core.")
    keep_encoded: float = option(
        0.0,
        "Memory in MB for encoder outputs of pictures, texts, sounds… An item that comes again is then not encoded "
        "again. 0: no cache.",
    )
    trust_remote_code: bool = option(
        False, "Run the code in the checkpoint. By default it does not run: mm_hf's own classes are used."
    )
    docs: bool = option(True, "Serve the documentation page (/docs, /openapi.json).")
    write_handler: str | None = option(
        None,
        "Do not serve. Write the checkpoint, its code and a handler.py for Hugging Face's inference endpoints into "
        "this folder.",
        metavar="FOLDER",
    )
    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Python files that define the parts of the checkpoint that are not in mm_hf. Default: the imports "
            "of its run.",
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
    """How rows are batched and answered."""

    max_batch: int = option(32, "Maximum number of rows in one batch; 1: no micro-batching.")
    max_wait_ms: float = option(
        5.0,
        "Maximum time that a row waits for rows of other requests, in milliseconds. A row waits only while other "
        "requests are being read.",
    )
    max_new_tokens: int | None = option(None, "For a model that writes: maximum length of a text, in tokens.")
    num_beams: int | None = option(None, "For a model that writes: number of beams.")

    def __post_init__(self):
        check_least(self, 1, "max_batch", "max_new_tokens", "num_beams")
        check_range("max_wait_ms", self.max_wait_ms, 0, 10_000)


@dataclass
class LimitArguments:
    """The limits of a request. A request beyond a limit is refused with a message and the HTTP status in brackets."""

    max_body_bytes: int = option(20_000_000, "Maximum size of one request, in bytes (413).")
    max_rows: int = option(64, "Maximum number of rows in one request (413).")
    max_queue: int = option(
        256, "Maximum number of waiting rows, and of requests at the same time (503, with Retry-After)."
    )
    max_seconds: float = option(30.0, "Maximum time for one request, in seconds (504).")
    max_pixels: int = option(50_000_000, "Maximum number of pixels of a picture or video frame.")
    max_sound_seconds: float = option(300.0, "Maximum length of a sound or video, in seconds.")
    max_characters: int = option(100_000, "Maximum number of characters of a text.")
    max_steps: int = option(100_000, "Maximum number of steps of a series.")

    def __post_init__(self):
        check_least(self, 1, "max_body_bytes", "max_rows", "max_queue", "max_pixels", "max_characters", "max_steps")
        check_range("max_seconds", self.max_seconds, 0.001, 86_400)
        check_range("max_sound_seconds", self.max_sound_seconds, 0.001, 3600)
        if self.max_rows > self.max_queue:
            raise ValueError(
                f"max_rows is {self.max_rows}, but the queue takes only {self.max_queue} rows (max_queue). A request "
                "with more rows would never be answered: lower max_rows, or raise max_queue."
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
