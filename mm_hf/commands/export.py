"""Writes a checkpoint as graphs, for a service without torch.

    mm_hf export runs/houses
    mm_hf export runs/houses --int8 -o houses_small
    mm_hf export me/answers --to torch

Each encoder becomes one graph. The layers after the encoders become another graph, which takes any combination of
modalities. The folder also holds runtime.py. This file answers rows with only onnxruntime, numpy, tokenizers and
Pillow:

    python runs/houses/onnx/runtime.py '{"image": "front.jpg", "table": {"beds": 3}}'

The export is tested before it is written: on made-up rows, runtime.py has to give the same answers as the model.
"""

import shutil
import tempfile
from pathlib import Path

from transformers.utils import logging

from .. import MMFusionProcessor
from ..export import export_model
from ..export.check import check_export
from ..export.opening import checkpoint_state, usual_folder
from ..export.write import MANIFEST, check_packages
from ..progress_bar import progress_bar
from ..training.exits import ANSWERING, run_script
from ..training.recipe import import_files_for, import_named
from .arguments import ExportArguments, export_parser
from .prediction.arguments import load_config


def main():
    """All of it, from top to bottom."""
    parser = export_parser(__doc__, "mm_hf export")
    import_named(parser)
    try:
        args, words = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    try:
        check_packages(args.to)
        import_files_for(words.run, args.import_files)
        lines = export_run(words.run, output_folder(words.run, words.output, args), args)
    except (NotImplementedError, ImportError) as error:  # it cannot be exported; this is not a bug
        raise ValueError(str(error)) from None
    print("\n".join(lines), flush=True)


def output_folder(run: str, output: str | None, args: ExportArguments) -> Path:
    """Where the export goes."""
    if output is not None:
        return Path(output)
    return usual_folder(run, args.to, args.int8)


def export_run(run: str, folder: Path, args: ExportArguments) -> list[str]:
    """Exports a checkpoint into a folder. The folder is complete, or is not written at all.

    Returns:
        lines to print.

    Raises:
        ValueError: the folder exists already; see also `export_model` and `check_export`.
    """
    if folder.exists() and not (args.overwrite and (folder / MANIFEST).is_file()):
        is_export = (folder / MANIFEST).is_file()
        way = "--overwrite replaces it" if is_export else "it is not an export, so name another folder with --output"
        raise ValueError(f"{folder} exists already: {way}.")
    _, head = load_config(run, searches=True)
    logging.disable_progress_bar()  # of loading weights: seconds
    model, processor = head.from_pretrained(run).float().eval(), MMFusionProcessor.from_pretrained(run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as holder:
        fresh = Path(holder, "fresh")
        fresh.mkdir()
        with progress_bar(desc="exporting", unit=" graphs") as bar:
            state = checkpoint_state(run)
            notes = export_model(model, processor, fresh, args.to, args.int8, lambda line: bar.update(), state)
        worst = check_export(model, processor, fresh, args.int8)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    files = sorted((path.stat().st_size, path.name) for path in folder.iterdir())
    lines = [f"{name:<24}{size / 2**20:10.2f} MB" for size, name in reversed(files)]
    lines += [f"note: {note}." for note in notes]
    rounded = " (8 bits round; measure the export on your own rows)" if args.int8 else ""
    lines.append(f"On made-up rows, its numbers differ from the model's by a relative {worst:.1g}{rounded}.")
    return [*lines, f"{folder}: {sum(size for size, _ in files) / 2**20:.1f} MB. Try: python {folder}/runtime.py"]


def script():
    """The command line."""
    run_script(main, ANSWERING)


if __name__ == "__main__":
    script()
