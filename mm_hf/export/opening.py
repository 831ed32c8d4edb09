"""Opens an export of `mm_hf export`, to measure or serve it. It runs with the code of this package. The `runtime.py`
in the folder is not used, so that no foreign code runs."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..models.checkpoint_files import is_weights, read_checksums
from ..models.files import read_json
from ..models.series import SeriesScaler
from ..models.table_schema import TableSchema
from . import runtime
from .tracing import ONNX, SUFFIXES
from .write import FORMAT, MANIFEST, RUNTIME


CODE = ".py"


def usual_folder(run: str | os.PathLike, to: str = ONNX, int8: bool = False) -> Path:
    """The default folder of an export: inside the folder of the run; for a Hub id, in the current folder."""
    name = to + ("-int8" if int8 else "")
    return Path(run) / name if os.path.isdir(run) else Path(f"{Path(run).name}-{name}")


def is_export(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an export and not a checkpoint."""
    return (Path(folder) / MANIFEST).is_file() and not (Path(folder) / "config.json").is_file()


def export_line(run: str | os.PathLike, folder: Path, manifest: dict[str, Any] | None = None) -> str:
    """The command that writes an export into a folder. `manifest` is the manifest of an existing export there."""
    int8 = folder == usual_folder(run, int8=True) if manifest is None else bool(manifest.get("int8"))
    words = ["mm_hf export", str(run)] + (["--int8"] if int8 else [])
    words += [] if folder == usual_folder(run, int8=int8) else ["-o", str(folder)]
    return " ".join([*words, *([] if manifest is None else ["--overwrite"])])


def checkpoint_state(run: str | os.PathLike) -> dict[str, str]:
    """The stored checksums of the files that an export depends on: weights, config and the parts of the processor.
    Empty if there are no stored checksums, or for a Hub id."""
    lines = read_checksums(run) if os.path.isdir(run) else {}
    return {name: line for name, line in lines.items() if not name.endswith(CODE)}


def read_manifest(folder: str | os.PathLike, run: str | os.PathLike | None = None) -> dict[str, Any]:
    """The manifest of an export that this package can run.

    Args:
        folder: of the export.
        run: the checkpoint that it must belong to; None: not checked.

    Raises:
        ValueError: there is no export; it has another format, is damaged, or names files outside its folder; or it
            belongs to another state of the checkpoint.
    """
    folder = Path(folder)
    way = "`mm_hf export RUN` writes one" if run is None else f"`{export_line(run, folder)}` writes it"
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"There is no export in {folder}: {way}.")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has the format {manifest.get('format')!r:.80}, but this mm_hf reads {FORMAT}: export again."
        )
    try:
        graphs = [graph["file"] for graph in manifest["graphs"].values()]
        prepared = [modality["prepare"] for modality in manifest["modalities"]]
        outside = [modality["name"] for modality in manifest["modalities"] if modality["prepare"] is None]
        parts = [*filter(None, prepared), manifest["tokenizer"] or {}]
        files = [*graphs, *(part[key] for part in parts for key in ("file", "arrays") if part.get(key) is not None)]
        elsewhere = [name for name in files if os.path.basename(name) != name or name in ("", ".", "..")]
        _ = manifest["answers"]["kind"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error!s:.80}): {way}.") from None
    if elsewhere:
        raise ValueError(
            f"{folder / MANIFEST} names {elsewhere[0]!r:.200}, which is not a file in its folder: export again."
        )
    if others := [name for name in graphs if not name.endswith(SUFFIXES[ONNX])]:
        raise ValueError(f"{folder} holds {others[0]}, but only ONNX graphs are supported here: export `--to onnx`.")
    if outside:
        raise ValueError(
            f"{folder} reads {outside[0]!r}, a modality from outside mm_hf. runtime.py cannot prepare its items: use "
            "the checkpoint with torch."
        )
    if run is not None:
        check_state(folder, manifest, run)
    return manifest


def check_state(folder: Path, manifest: dict[str, Any], run: str | os.PathLike):
    """Refuses an export if the checkpoint has changed since. An export without a stored state is accepted.

    Raises:
        ValueError: with the files that differ.
    """
    exported, now = manifest.get("checkpoint") or {}, checkpoint_state(run)
    changed = sorted(name for name, line in now.items() if exported.get(name, line) != line)
    if changed:
        what = "other weights" if any(map(is_weights, changed)) else f"another {' and another '.join(changed)}"
        raise ValueError(
            f"{folder} was exported from {what} than {run} has now: `{export_line(run, folder, manifest)}`."
        )


def check_runtime(folder: Path, run: str | os.PathLike, manifest: dict[str, Any]):
    """Refuses an export with another `runtime.py` than this package's. The measured code must be the code that the
    folder answers with.

    Raises:
        ValueError: the files differ.
    """
    file = folder / RUNTIME
    if not file.is_file() or file.read_bytes() != Path(str(runtime.__file__)).read_bytes():
        made = (manifest.get("versions") or {}).get("mm_hf", "of another version")
        raise ValueError(
            f"{file} differs from the runtime.py of this mm_hf (the export was made by mm_hf {made}), so its answers "
            f"cannot be measured here. Export again: `{export_line(run, folder, manifest)}`."
        )


def open_export(folder: str | os.PathLike, threads: int | None = None) -> runtime.Model:
    """The model of an export. `read_manifest` must have checked its manifest.

    Args:
        threads: of onnxruntime; None: one per core.

    Raises:
        ValueError: the export is damaged, or a package is missing.
    """
    try:
        return runtime.Model(folder, threads)
    except ImportError as error:
        raise ValueError(f"{folder} requires {error.name}, not installed here: pip install 'mm_hf[export]'.") from None
    except Exception as error:  # onnxruntime and tokenizers raise their own types
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} cannot be opened ({type(error).__name__}: {reason:.200}): export again.") from None


def config_of_manifest(manifest: dict[str, Any]) -> Any:
    """The attributes of a `MMFusionConfig` about the rows of a model: its modalities and their places."""
    modalities = manifest["modalities"]
    pictures = next((each for each in modalities if each["frames_key"] is not None), None)
    return SimpleNamespace(
        architectures=[manifest["model"]],
        model_type=manifest["model"],
        modalities=[each["name"] for each in modalities],
        num_images=1 if pictures is None else pictures["places"],
        num_frames=None if pictures is None else pictures["frames"] or None,
        places={each["name"]: each["places"] for each in modalities if each is not pictures},
    )


def processor_of_manifest(manifest: dict[str, Any]) -> Any:
    """The attributes of a `MMFusionProcessor` about the items of rows: the columns of a table, the channels of series,
    and whether long texts are split into windows.

    Raises:
        ValueError: the manifest is damaged.
    """
    by_kind = {each["prepare"]["kind"]: each["prepare"] for each in manifest["modalities"]}
    columns, steps = by_kind.get("columns"), by_kind.get("steps")
    return SimpleNamespace(
        table_schema=None if columns is None else TableSchema.from_dict(columns["schema"]),
        series_scaler=None if steps is None else SeriesScaler(steps["means"], steps["stds"], steps["widths"]),
        text_windows=by_kind.get("texts", {}).get("windows"),
    )
