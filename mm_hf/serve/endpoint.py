"""Writes a checkpoint as a folder for Hugging Face's inference endpoints."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
import transformers

from ..heads import HEADS
from ..models.configuration_mm_fusion import MMFusionConfig
from ..models.processing_mm_fusion import MMFusionProcessor
from .rows import keys_of


HANDLER, REQUIREMENTS = "handler.py", "requirements.txt"
TEXTS, FILES = "TEXTS = ()", "FILES = ()"  # lines of the template to fill in


def write_handler(run: str, folder: str | Path) -> Path:
    """Writes a checkpoint with its code, and beside it `handler.py` and `requirements.txt` for Hugging Face's
    inference endpoints (`EndpointHandler`). The folder is complete: it can be copied or uploaded, and mm_hf need not
    be installed.

    Args:
        run: folder, or Hub id.
        folder: an empty folder, a folder that does not exist yet, or an earlier handler folder.

    Returns:
        the path of the handler.

    Raises:
        ValueError: the folder is the run itself, or holds other files.
        OSError, ValueError: the run is not a checkpoint.
    """
    target = Path(folder)
    if target.resolve() == Path(run).resolve():
        raise ValueError(f"{folder} is the run itself: name another folder for the handler.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not (target / HANDLER).is_file():
        raise ValueError(f"{folder} exists and holds other files: name an empty folder.")
    config = MMFusionConfig.from_pretrained(run)
    name = (config.architectures or [""])[0]
    classes = {head.__name__: head for head in HEADS.values()}
    if name not in classes:
        raise ValueError(f"{run} is a checkpoint of {name or config.model_type}; allowed are {list(classes)}.")
    if outside := [key for key, known in keys_of(config).items() if known.modality.extra]:
        raise ValueError(
            f"{run} reads {outside}. Their code comes from outside mm_hf, so it is not in the checkpoint, and no "
            "handler can be written. `mm_hf serve RUN --import FILE` serves such a run."
        )
    target.mkdir(parents=True, exist_ok=True)
    classes[name].from_pretrained(run).save_pretrained(target)
    MMFusionProcessor.from_pretrained(run).save_pretrained(target)
    if (Path(run) / "README.md").is_file():
        shutil.copyfile(Path(run) / "README.md", target / "README.md")
    keys = keys_of(config)
    texts = tuple(key for key, known in keys.items() if known.reader.takes_texts)
    of_files = tuple(key for key, known in keys.items() if known.reader.files)
    code = files(__package__).joinpath("handler_template.py").read_text(encoding="utf-8")
    for line, name, value in ((TEXTS, "TEXTS", texts), (FILES, "FILES", of_files)):
        if line not in code:
            raise RuntimeError(f"the template of the handler has no line {line!r}.")
        written = ", ".join(json.dumps(key) for key in value) + ("," if len(value) == 1 else "")
        code = code.replace(line, f"{name} = ({written})", 1)
    (target / HANDLER).write_text(code, encoding="utf-8")
    (target / REQUIREMENTS).write_text(requirements(config), encoding="utf-8")
    return target / HANDLER


def requirements(config: MMFusionConfig) -> str:
    """The packages that the checkpoint requires, in the installed versions."""
    version = torch.__version__.partition("+")[0]
    lines = [f"transformers=={transformers.__version__}", f"torch=={version}", "pillow"]
    for known in {known.modality.name: known for known in keys_of(config).values()}.values():
        lines += known.reader.packages
    return "\n".join([*lines, ""])
