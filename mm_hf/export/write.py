"""Writes the export of a model: graphs, files that prepare their inputs, the manifest, and `runtime.py`."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..models.modality import Modality, modality_of
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from ..models.retrieval_mm_fusion import MMFusionForRetrieval
from ..models.vision import Vision
from .answering import answering_of
from .graphs import FUSE, STEP, Tensors, embedding_name, graphs_of, level_name, mask_name
from .preparation import made_up_items, preparation_of, tokenizer_settings
from .tracing import ONNX, ROWS, SUFFIXES, WRITTEN, cache_shapes, inputs_of_graphs, write_graph


FORMAT = 1
MANIFEST, RUNTIME = "manifest.json", "runtime.py"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ITEMS = (3, 2)  # number of items per modality in the two examples
SIZES = (3, 1)  # see `made_up_items`
VERSIONED = ("torch", "transformers", "onnxruntime", "numpy", "tokenizers", "pillow")


def export_model(
    model: MMFusionPreTrainedModel,
    processor: Any,
    folder: str | Path,
    to: str = ONNX,
    int8: bool = False,
    said: Callable[[str], None] = lambda line: None,
    checkpoint: Mapping[str, str] | None = None,
) -> list[str]:
    """Exports a model with a head, for an environment without torch.

    Args:
        model: in eval mode, on the CPU, float32.
        processor: a `MMFusionProcessor`.
        folder: an existing, empty folder to write into.
        to: `"onnx"`, or `"torch"` for programs of `torch.export`.
        int8: matrix products in 8 bits, see `quantize`.
        said: is called with one line per step.
        checkpoint: checksums of the files of the checkpoint. With them, a later change of the checkpoint is detected.

    Returns:
        notes for the user, one sentence each.

    Raises:
        NotImplementedError: the runtime does not support a part of the processor, or the head.
        ImportError: a package of the extra `export` is missing.
        ValueError: `to` has another value.
    """
    check_packages(to)
    folder = Path(folder)
    with torch.no_grad():
        modalities = {name: modality_of(name) for name in model.config.modalities}
        preparations = {name: preparation_of(each, processor, folder) for name, each in modalities.items()}
        examples = [
            {name: inputs_of_items(each, model, processor, count, size) for name, each in modalities.items()}
            for count, size in zip(ITEMS, SIZES)
        ]
        graphs = graphs_of(model)
        one, other = (
            inputs_of_graphs(model, graphs, items, rows, written)
            for items, rows, written in zip(examples, ROWS, WRITTEN)
        )
        for name, graph in graphs.items():
            said(f"{name}{SUFFIXES[to]}")
            write_graph(graph, one[name], other[name], folder / f"{name}{SUFFIXES[to]}")
        cache = cache_shapes(graphs[FUSE](**one[FUSE])) if STEP in graphs else None
    answers, notes = answering_of(model, cache)
    if int8:
        from .quantize import quantize_graphs

        said("int8")
        quantize_graphs(folder, list(graphs))
    manifest = {
        "format": FORMAT,
        "model": type(model).__name__,
        "modalities": [
            about_modality(model, each, preparations[name], one, other) for name, each in modalities.items()
        ],
        "graphs": {name: {"file": f"{name}{SUFFIXES[to]}", "inputs": list(one[name])} for name in graphs},
        "answers": answers,
        "tokenizer": tokenizer_settings(processor, folder) if answers["kind"] in ("written", "moments") else None,
        "int8": int8,
        "checkpoint": dict(checkpoint or {}),
        "versions": {"mm_hf": __version__, **versions()},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(RUNTIME), folder / RUNTIME)
    return notes


def check_packages(to: str):
    """Refuses an unknown format, or missing packages.

    Raises:
        ValueError: `to` has another value.
        ImportError: packages are missing.
    """
    if to not in SUFFIXES:
        raise ValueError(f"to must be one of {list(SUFFIXES)}, got {to!r}.")
    lacking = [name for name in (PACKAGES if to == ONNX else ()) if not versions((name,))]
    if importlib.util.find_spec("transformers.exporters") is None:
        lacking.append("transformers from 5.24 on")
    if lacking:
        raise ImportError(f"Exporting to {to} requires {', '.join(lacking)}: pip install 'mm_hf[export]'.")


def versions(names: tuple[str, ...] = VERSIONED) -> dict[str, str]:
    """The versions of the installed packages."""
    known = {}
    for name in names:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def inputs_of_items(modality: Modality, model: Any, processor: Any, count: int, size: int) -> Tensors:
    """The model's inputs for made-up items; for a modality from outside the package, zeros."""
    if modality.extra:
        dummy = modality.dummy_inputs(model.config.encoder_config(modality.name))
        return {name: value.expand(count, *value.shape[1:]).contiguous() for name, value in dummy.items()}
    items = made_up_items(modality, processor, count, size)
    checked = [modality.check(item, processor, {}) for item in items]
    made = processor.without_windows()(**{modality.argument: checked}, **modality.told(processor))
    given = {name: made[name] for name in modality.inputs if name in made}
    return {name: value if value.is_floating_point() else value.long() for name, value in given.items()}


def about_modality(
    model: MMFusionPreTrainedModel,
    modality: Modality,
    preparation: dict[str, Any] | None,
    one: dict[str, Tensors],
    other: dict[str, Tensors],
) -> dict[str, Any]:
    """The entry of a modality in the manifest."""
    config: Any = model.config
    name, graph = modality.name, f"encode_{modality.name}"
    fused, its = (each.get(FUSE, {}) for each in (one, other))  # a retrieval model may have no such graph
    levels: list[dict[str, Any]] = []
    while (key := level_name(name, len(levels))) in fused:
        sizes = zip(fused[key].shape[1:], its[key].shape[1:])  # dynamic sizes are 1 in an item of zeros
        levels.append({"name": key, "dummy": [1, *(1 if size != another else size for size, another in sizes)]})
    frames = getattr(config, "num_frames", None) or 0
    pictures = name == Vision.name
    return {
        "name": name,
        "index": modality.index_name,
        "places": config.places_of(name),
        "row_keys": list(modality.row_keys),
        "graph": graph,
        "levels": levels,
        "mask": mask_name(name) if mask_name(name) in fused else None,
        "embedding": embedding_name(name) if isinstance(model, MMFusionForRetrieval) else None,
        "by_length": config.encoding(name)["by_length"],
        "mask_input": next((key for key in one[graph] if key.endswith("attention_mask")), None),
        "frames": frames if pictures else 0,
        "frames_key": modality.row_keys[-1] if pictures else None,
        "lists_are_places": pictures or (modality.has_lengths and config.places_of(name) > 1),
        "depth": 2,
        "prepare": preparation,
    }
