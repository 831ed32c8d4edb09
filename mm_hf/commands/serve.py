"""Serves a checkpoint over HTTP: rows in, answers out.

    mm_hf serve runs/houses
    curl http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d '{"rows": [{"text": "what is it?"}]}'
    curl http://127.0.0.1:8000/predict -F image=@circle.png -F 'question=what color is it?'

POST /predict and /explain take JSON rows with files in base 64 ({"image": {"base64": "..."}}), or a form with one row.
Paths and URLs in a request are not opened. GET /docs describes the inputs and answers of this checkpoint, with a
working example. /health, /ready and /metrics are for operators. After SIGTERM, accepted requests are still answered.

    mm_hf serve runs/houses --backend onnx              # the export that mm_hf export runs/houses wrote
    mm_hf serve houses_small                            # an export without its checkpoint
    mm_hf serve runs/houses --write_handler endpoint    # a folder for Hugging Face's inference endpoints
"""

import ipaddress
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..export.opening import is_export, read_manifest, usual_folder
from ..serve.backend import Backend, PipelineBackend
from ..serve.endpoint import write_handler
from ..serve.limits import Limits
from ..serve.logs import log_to_stderr
from ..serve.onnx_backend import OnnxBackend
from ..serve.server import check_packages, listen, serve
from ..serve.service import Settings
from ..training.exits import ANSWERING, run_script
from ..training.recipe import import_files_for
from .prediction.arguments import load_config
from .serve_arguments import KEY_VARIABLE, ONNX, TORCH, BatchArguments, LimitArguments, ServeArguments, serve_parser


def main():
    """All of it, from top to bottom."""
    parser = serve_parser(__doc__ or "", "mm_hf serve")
    try:
        args, batch, most, words = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    logging.disable_progress_bar()  # of loading weights: seconds
    folder = export_of(words.run, args)
    if folder is None:
        import_files_for(words.run, args.import_files)
        load_config(words.run, searches=True)
    if args.write_handler is not None:
        print(f"written: {write_handler(words.run, args.write_handler)}", flush=True)
        return
    check_packages()
    opened = backend_of(words.run, folder, args, batch)
    settings = settings_of(words.run, args, batch, most)
    sock = listen(args.host, args.port)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {words.run} on http://{shown}:{port} (documentation: /docs)", flush=True)
    if not is_loopback(args.host):
        warning = "the server can be reached from other machines"
        way = "" if settings.api_key else f" by anybody: set a key with --api_key or the variable {KEY_VARIABLE}"
        print(f"warning: {warning}{way}. It uses plain HTTP: put a proxy with TLS in front of it.", file=sys.stderr)
    log_to_stderr()
    serve(settings, opened, sock)


def export_of(run: str, args: ServeArguments) -> Path | None:
    """The folder of the export that answers; None if the checkpoint answers.

    Raises:
        ValueError: there is no export, or a flag works only with a checkpoint.
    """
    alone = is_export(run)
    if (args.backend or (ONNX if alone else TORCH)) != ONNX:
        if alone:
            raise ValueError(
                f"{run} is an export, and --backend is {args.backend!r}: leave --backend out, or name the run instead."
            )
        if args.export_folder is not None:
            raise ValueError(
                f"--export_folder is {args.export_folder!r}, but it works only with --backend {ONNX}: add it, or "
                "leave --export_folder out."
            )
        return None
    if alone and args.export_folder is not None:
        raise ValueError(
            f"{run} is an export, and --export_folder names another, {args.export_folder!r}: leave one of them out."
        )
    for_torch: dict[str, Any] = {"write_handler": args.write_handler, "trust_remote_code": args.trust_remote_code}
    for_torch |= {"import": args.import_files, "device": None if args.device == "cpu" else args.device}
    for_torch |= {"dtype": args.dtype, "keep_encoded": args.keep_encoded}
    if given := [name for name, value in for_torch.items() if value]:
        raise ValueError(
            f"--{given[0]} is {for_torch[given[0]]!r}, but it works only with a checkpoint: an export runs on the CPU "
            f"and brings no code. Leave --{given[0]} out, or use --backend torch."
        )
    folder = Path(run) if alone else Path(args.export_folder or usual_folder(run))
    read_manifest(folder, None if alone else run)
    return folder


def backend_of(run: str, folder: Path | None, args: ServeArguments, batch: BatchArguments) -> Callable[[], Backend]:
    """The function that loads the model: from the export if a folder is given, else from the checkpoint.

    Raises:
        ValueError: an export is used with several beams.
    """
    writes = {"max_new_tokens": batch.max_new_tokens, "num_beams": batch.num_beams}
    asked: dict[str, Any] = {name: value for name, value in writes.items() if value is not None}
    if folder is None:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if args.dtype is not None:
            asked["dtype"] = getattr(torch, args.dtype)
        kept = round(args.keep_encoded * 1e6)
        return partial(PipelineBackend.open, run, args.trust_remote_code, args.device, kept, **asked)
    if asked.pop("num_beams", 1) != 1:
        raise ValueError(
            f"--num_beams is {batch.num_beams}, but an export always takes the most probable token (1 beam): leave "
            "--num_beams out, or use --backend torch."
        )
    return partial(OnnxBackend.open, folder, args.threads, **asked)


def settings_of(run: str, args: ServeArguments, batch: BatchArguments, most: LimitArguments) -> Settings:
    """The settings of the service, from the flags."""
    limits = Limits(
        body_bytes=most.max_body_bytes,
        rows=most.max_rows,
        queue=most.max_queue,
        seconds=most.max_seconds,
        pixels=most.max_pixels,
        sound_seconds=most.max_sound_seconds,
        characters=most.max_characters,
        steps=most.max_steps,
    )
    key = args.api_key or os.environ.get(KEY_VARIABLE, "").strip() or None
    title = Path(run).resolve().name if os.path.isdir(run) else run
    return Settings(limits, batch.max_batch, batch.max_wait_ms / 1000, key, args.docs, title)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def script():
    """The command line."""
    run_script(main, ANSWERING)


if __name__ == "__main__":
    script()
