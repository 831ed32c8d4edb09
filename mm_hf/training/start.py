"""A run that starts from a checkpoint (`init_from`): opens the checkpoint, and settles the recipe keys that depend on
it.

The run keeps a copy of its start in its folder, under `start`. A resumed run and the floors start from this copy, even
if the checkpoint has changed or is gone.
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub.errors import HFValidationError
from PIL import Image
from transformers import AutoConfig

from .. import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ..checkpoints import fault_of, list_checkpoints
from ..models.configuration_mm_fusion import check_source, part_of_composite
from ..models.files import read_json
from ..models.modality import modality_of
from ..models.series import Series
from ..models.sound import Sound
from ..models.text import Text
from ..models.vision import Vision
from ..parts import class_of
from ..tasks import task_of_head
from .by_modality import columns_by_modality, encoder_of, poolings_of, pretrained_modalities
from .data_arguments import DataArguments
from .heads import TASK_OF, task_of_class
from .model_arguments import ModelArguments
from .places import find_data
from .recipe import fields_of
from .run_folder import is_begun, read_recipe_of
from .splits import seed_of_cut


START = "start"  # within the run's folder
ABOUT = "start.json"


@dataclass
class Start:
    """The checkpoint that a run starts from.

    Args:
        source: folder or Hub id of the checkpoint, as in the recipe.
        name: its name in printed lines and cards: for a folder the last name.
        folder: the folder where the run keeps its copy of the start.
        config, processor: of the checkpoint; for a resumed run, of the copy.
        recipe: of the run that wrote the checkpoint; empty if there is none.
        kept: the run is resumed, so everything is in `folder`.
        lines: say where each part of the model comes from.
        settled: recipe keys with values from the checkpoint.
        fresh: modalities that the checkpoint has for other columns, so that their encoder is fresh.
    """

    source: str
    name: str
    folder: Path
    config: MMFusionConfig
    processor: MMFusionProcessor
    recipe: dict[str, Any] = field(default_factory=dict)
    kept: bool = False
    lines: list[str] = field(default_factory=list)
    settled: dict[str, Any] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        """The name of the checkpoint's model class."""
        return class_of(self.config, self.source).__name__

    def load(self, **kwargs: Any) -> MMFusionPreTrainedModel:
        """The model at the start of training."""
        config = MMFusionConfig.from_pretrained(self.folder)
        return class_of(config, self.folder).from_pretrained(self.folder, **kwargs)


def open_start(
    model_args: ModelArguments, data_args: DataArguments, output_dir: Path, overwrite: bool, given: set[str]
) -> Start:
    """Opens the checkpoint that `init_from` names, and settles the recipe keys that depend on it.

    Args:
        model_args, data_args: keys that were left out are filled in, in place.
        output_dir: the run's folder. If the run has begun, its copy of the start is used, not the checkpoint.
        overwrite: the run starts again from the beginning in any case.
        given: see `given_keys`.

    Raises:
        ValueError: `init_from` is the run's own folder, a key contradicts the checkpoint, there is no modality in
            common, or the copy of the start in the run's folder is damaged.
        OSError: there is no such checkpoint.
    """
    source, folder = str(model_args.init_from), output_dir / START
    run_folder = output_dir.resolve()
    if os.path.isdir(source) and run_folder in (Path(source).resolve(), *Path(source).resolve().parents):
        raise ValueError(f"init_from is {source}, which is in output_dir {output_dir}: name another --output_dir.")
    if is_begun(output_dir) and not overwrite and read_recipe_of(output_dir).get("init_from") == source:
        start = reopen(source, folder)
    else:
        start = open_checkpoint(source, folder)
        start.settled = settle(start, model_args, data_args, given)
    for key, value in start.settled.items():
        if key not in given:
            setattr(data_args if hasattr(data_args, key) else model_args, key, value)
    return start


def reopen(source: str, folder: Path) -> Start:
    """The copy of its start that a run keeps in its folder."""
    fault = fault_of(folder, checksums=True)
    if fault is not None:
        raise ValueError(
            f"{folder}, where this run keeps a copy of its start, is damaged: {fault}. --overwrite_output_dir starts "
            "again from the beginning."
        )
    about = read_json(folder / ABOUT)
    config, processor = MMFusionConfig.from_pretrained(folder), MMFusionProcessor.from_pretrained(folder)
    more = {key: about[key] for key in ("name", "lines", "settled")}
    return Start(source, folder=folder, config=config, processor=processor, kept=True, **more)


def open_checkpoint(source: str, folder: Path) -> Start:
    """Opens a checkpoint as the start of a new run."""
    local = os.path.isdir(source)
    if local and not (Path(source) / "config.json").exists():
        states = [path.name for path in list_checkpoints(source)]
        hint = f"; it only has training states, {states}, because that run has not finished" if states else ""
        raise ValueError(f"init_from is {source}, which holds no checkpoint: there is no config.json{hint}.")
    check_source("init_from", source)
    try:
        config = AutoConfig.from_pretrained(source)
    except HFValidationError as error:
        raise OSError(str(error)) from None
    if not isinstance(config, MMFusionConfig):
        raise ValueError(
            f"init_from is {source}, a checkpoint of type {config.model_type!r}, but it must be a checkpoint of "
            "mm_hf. Name an encoder as vision_encoder, text_encoder or audio_encoder."
        )
    class_of(config, source)
    if local and not (Path(source) / "processor_config.json").exists():
        raise ValueError(
            f"init_from is {source}, which has no processor_config.json: name the folder of a complete run, or write "
            "the file with processor.save_pretrained."
        )
    file = Path(source) / "recipe.json"
    recipe = find_data(read_json(file), file.parent)[0] if file.exists() else {}
    name = Path(source).resolve().name if local else source
    return Start(source, name, folder, config, MMFusionProcessor.from_pretrained(source), recipe)


# Keys of the recipe


def row_modalities(data_args: DataArguments) -> list[str]:
    """The modalities of the new rows."""
    return list(columns_by_modality(data_args))


def settle(start: Start, model_args: ModelArguments, data_args: DataArguments, given: set[str]) -> dict[str, Any]:
    """The keys that depend on the checkpoint, with its values.

    Raises:
        ValueError: keys are given with other values, or there is no modality in common.
    """
    config, processor = start.config, start.processor
    modalities = row_modalities(data_args)
    if strange := [name for name in modalities if modality_of(name).extra and modality_of(name).pretrained]:
        raise ValueError(
            f"init_from does not work with {strange}: these modalities are from outside mm_hf and have pretrained "
            "encoders, and a checkpoint does not say where these come from. Leave out init_from, or their columns."
        )
    shared = [name for name in modalities if name in config.modalities]
    if not shared:
        raise ValueError(
            f"init_from {start.name} reads {config.modalities}, but the rows only have {modalities}, so nothing of it "
            "can be used. The new columns have to be named: --image_column, --text_column, --table_columns …"
        )
    module: Any = config.fusion_module_config
    fixed: dict[str, Any] = {
        "fusion": module.fusion_type,
        "fusion_hidden_size": module.hidden_size,
        "fusion_layers": module.num_hidden_layers,
        "fusion_heads": module.num_attention_heads,
        "memory_layers": module.memory_layers,
        "distance_bias": module.distance_bias,
        "num_latents": module.num_latents,
    }
    if "query_modality" in given:
        fixed["query_modality"] = module.query_modality
    free: dict[str, Any] = {
        "fusion_dropout": module.hidden_dropout_prob,
        "classifier_dropout": config.classifier_dropout,
        "modality_dropout": module.modality_dropout,
    }
    if isinstance(module.modality_dropout, dict):
        free["modality_dropout"] = {name: rate for name, rate in module.modality_dropout.items() if name in shared}
    if Vision.name in shared:
        fixed["vision_feature_layer"] = config.feature_layers[Vision.name]
        fixed["vision_feature_join"] = config.vision_feature_join
        fixed["image_size"] = side_of(processor)
        if isinstance(processor.image_background, str):
            free["image_background"] = processor.image_background
        if data_args.video_column and config.num_images > 1:
            free["num_frames"] = config.num_frames or config.num_images
    if Text.name in shared:
        fixed["text_pooling"] = config.poolings[Text.name]
        cuts = "cut" if "long_text" in given else None  # None means the same as "cut"
        fixed["long_text"] = "windows" if processor.text_windows else cuts
        fixed["text_windows"] = processor.text_windows
    if Sound.name in shared:
        seconds = getattr(processor.feature_extractor, "max_audio_seconds", None)
        of_one_length = getattr(config.audio_config, "max_source_positions", None) is not None
        (fixed if of_one_length else free)["max_audio_seconds"] = seconds
    if Series.name in shared:
        fixed["series_rnn_type"] = config.series_config.rnn_type
    free |= of_task(start, model_args, data_args) | of_cut(start, data_args)
    check_order(start, data_args)
    names = [name for name in pretrained_modalities() if name in shared]
    writer = task_of_head(model_args.task or free.get("task"))
    if writer is not None and writer.decodes and task_of_class(start.head) is writer:
        names.append("decoder")
        fixed["decoder_layers"] = getattr(config.decoder_config, "num_hidden_layers", None)
    wrong = {
        key: value for key, value in fixed.items() if key in given and getattr(model_args, key) not in (None, value)
    }
    asked_poolings = poolings_of(model_args, shared) if "pooling" in given else None
    if any(config.poolings[name] != how for name, how in (asked_poolings or {}).items()):
        wrong["pooling"] = {name: config.poolings[name] for name in shared}
    for name in names:
        key = name if name == "decoder" else f"{name}_encoder"
        known, asked = start.recipe.get(key), model_args.decoder if name == "decoder" else encoder_of(model_args, name)
        encoder_config = config.decoder_config if name == "decoder" else config.encoder_config(name)
        if key in given and asked is not None and not is_same_encoder(asked, known, encoder_config, name):
            wrong[key] = known or encoder_config.model_type
        fixed[key] = known or (None if name == "decoder" and Text.name in shared else encoder_config.model_type)
    if wrong:
        differences = ", ".join(
            f"{key} ({value!r}, here {getattr(model_args, key)!r})" for key, value in wrong.items()
        )
        raise ValueError(
            f"init_from {start.name} has other values of {', '.join(wrong)}: {differences}. Leave {', '.join(wrong)} "
            "out, or start without init_from."
        )
    return {**fixed, **free}


def check_order(start: Start, data_args: DataArguments):
    """Refuses the columns of the checkpoint in another order: the weights of each place were trained on its own
    column, and a reader from outside may use its columns by their order.

    Raises:
        ValueError: names both orders.
    """
    empty = dict.fromkeys(key.name for key in fields(data_args))
    known = columns_by_modality(SimpleNamespace(**{**empty, **fields_of(start.recipe)}))
    for name, columns in columns_by_modality(data_args).items():
        old = known.get(name, columns)
        in_order = modality_of(name).several_places or modality_of(name).extra
        if in_order and columns != old and sorted(columns) == sorted(old):
            raise ValueError(
                f"init_from {start.name} has the columns {old} of {name}, but here they are {columns}. Each column "
                "has its own place in the model: name them in the same order."
            )


def side_of(processor: MMFusionProcessor) -> int | None:
    """The side in pixels of the pictures that an image processor makes; None if they are not square."""
    made = processor(images=[Image.new("RGB", (53, 37))])["pixel_values"]
    height, width = made.shape[-2:]
    return height if height == width else None


def of_task(start: Start, model_args: ModelArguments, data_args: DataArguments) -> dict[str, Any]:
    """Keys of the head with the values of the checkpoint, if the task is the same."""
    labels, known = data_args.label_column, task_of_class(start.head)
    keys: dict[str, Any] = {}
    searches = known is not None and not known.needs_labels
    if model_args.task is None and not isinstance(labels, list) and searches == (labels is None):
        fits = known is None or known.can_answer(data_args)
        keys["task"] = TASK_OF.get(start.head) if fits else None
    if known is not None and task_of_head(model_args.task or keys.get("task")) is known:
        keys |= known.head_keys(start, data_args)
    return keys


def of_cut(start: Start, data_args: DataArguments) -> dict[str, Any]:
    """Keys about the split into parts, if the checkpoint was trained on rows of the same data. With the same split the
    test part holds none of its training rows."""
    recipe = start.recipe
    before = recipe.get("dataset")
    if before is None or "seed" not in recipe or os.path.realpath(before) != os.path.realpath(data_args.source):
        return {}
    keys = ("validation_fraction", "test_fraction", "group_column")
    return {"split_seed": seed_of_cut(recipe), **{key: recipe[key] for key in keys if key in recipe}}


def is_same_encoder(asked: str, known: str | None, config: Any, name: str) -> bool:
    """Whether the folder or Hub id in the recipe is the encoder that a checkpoint was made from. It is compared with
    `known`, from the checkpoint's own recipe, or if that is None, with the encoder's config in the checkpoint. `name`
    is a modality, or "decoder"."""
    if known is not None:
        return os.path.realpath(asked) == os.path.realpath(known) or Path(asked).name == Path(known).name
    check_source(f"{name}_encoder", asked)
    loaded = AutoConfig.from_pretrained(asked)
    other = (loaded if name == "decoder" else part_of_composite(loaded, name)).to_dict()
    values, sizes = config.to_dict(), ("size", "width", "dim", "layers", "heads", "d_model")
    keys = [key for key in values if key.endswith(sizes) and isinstance(values[key], int)]
    return values["model_type"] == other["model_type"] and all(other.get(key) in (values[key], None) for key in keys)
