"""Serves a checkpoint over HTTP: rows in, answers out.

    mm_hf serve runs/houses
    curl http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d '{"rows": [{"text": "what is it?"}]}'
    curl http://127.0.0.1:8000/predict -F image=@circle.png -F 'question=what color is it?'

POST /predict and /explain take JSON rows, whose files are base 64 ({"image": {"base64": "..."}}), or a form of one
row. Paths and addresses in a request are not opened. GET /docs describes what this checkpoint takes and answers, with
an example that works; /health, /ready and /metrics are for whoever runs it. SIGTERM: what was taken on is answered.

    mm_hf serve runs/houses --write_handler endpoint    # a folder for Hugging Face's inference endpoints
"""

import ipaddress
import os
import sys
from functools import partial
from pathlib import Path

import torch
from transformers.utils import logging

from ..serve.backend import PipelineBackend
from ..serve.endpoint import write_handler
from ..serve.limits import Limits
from ..serve.logs import log_to_stderr
from ..serve.server import check_packages, listen, serve
from ..serve.service import Settings
from ..training.exits import ANSWERING, run_script
from ..training.recipe import import_files_for
from .prediction.arguments import load_config
from .serve_arguments import KEY_VARIABLE, BatchArguments, LimitArguments, ServeArguments, serve_parser


def main():
    """All of it, from top to bottom."""
    parser = serve_parser(__doc__ or "", "mm_hf serve")
    try:
        args, batch, most, words = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    logging.disable_progress_bar()  # of loading weights: seconds
    import_files_for(words.run, args.import_files)
    load_config(words.run, searches=True)
    if args.write_handler is not None:
        print(f"written: {write_handler(words.run, args.write_handler)}", flush=True)
        return
    check_packages()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings = settings_of(words.run, args, batch, most)
    sock = listen(args.host, args.port)
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {words.run} on http://{shown}:{port} (documentation: /docs)", flush=True)
    if not is_loopback(args.host):
        warning = "the server can be reached from other machines"
        way = "" if settings.api_key else f", by anybody: set a key, --api_key or the variable {KEY_VARIABLE}"
        print(f"warning: {warning}{way}. It speaks plain HTTP: put a proxy with TLS before it.", file=sys.stderr)
    log_to_stderr()
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    given = {"dtype": dtype, "max_new_tokens": batch.max_new_tokens, "num_beams": batch.num_beams}
    opened = partial(
        PipelineBackend.open,
        words.run,
        args.trust_remote_code,
        args.device,
        **{name: value for name, value in given.items() if value is not None},
    )
    serve(settings, opened, sock)


def settings_of(run: str, args: ServeArguments, batch: BatchArguments, most: LimitArguments) -> Settings:
    """How the service works, as the flags say."""
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
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def script():
    """The command line."""
    run_script(main, ANSWERING)


if __name__ == "__main__":
    script()
