"""A run that starts from a checkpoint (`init_from`): what it names, and the keys of the recipe that it decides.

What a run started from is kept in its folder, under `start`: it goes on from there, and its floors start there,
whatever has become of the checkpoint by then.
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
    """What a run starts from.

    Args:
        source: folder or Hub id of the checkpoint, as the recipe names it.
        name: what lines and cards call it: of a folder the last name.
        folder: where the run keeps what it started from.
        config, processor: of the checkpoint; of a run that goes on, those that it started with.
        recipe: of the run that left the checkpoint, empty where it is not there.
        kept: it goes on: all is in `folder`.
        lines: where each part came from.
        settled: keys of the recipe that the checkpoint has settled.
        fresh: modalities that the checkpoint has too, but for other columns.
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
        """The class of the checkpoint."""
        return class_of(self.config, self.source).__name__

    def load(self, **kwargs: Any) -> MMFusionPreTrainedModel:
        """The model as it starts."""
        config = MMFusionConfig.from_pretrained(self.folder)
        return class_of(config, self.folder).from_pretrained(self.folder, **kwargs)


def open_start(
    model_args: ModelArguments, data_args: DataArguments, output_dir: Path, overwrite: bool, given: set[str]
) -> Start:
    """Opens what `init_from` names, and settles the keys of the recipe that it decides.

    Args:
        model_args, data_args: keys that were left out are filled in, in place.
        output_dir: the run's folder. Where the run has begun, what it keeps there counts, not the checkpoint.
        overwrite: it starts anew all the same.
        given: see `given_keys`.

    Raises:
        ValueError: the run's own folder, a key that contradicts the checkpoint, no modality in common, or a folder
            that has begun and lacks what it started from.
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
    """What a run that has begun keeps of its start."""
    fault = fault_of(folder, checksums=True)
    if fault is not None:
        raise ValueError(
            f"{folder}, where this run keeps what it started from, is damaged: {fault}. --overwrite_output_dir starts "
            "anew."
        )
    about = read_json(folder / ABOUT)
    config, processor = MMFusionConfig.from_pretrained(folder), MMFusionProcessor.from_pretrained(folder)
    more = {key: about[key] for key in ("name", "lines", "settled")}
    return Start(source, folder=folder, config=config, processor=processor, kept=True, **more)


def open_checkpoint(source: str, folder: Path) -> Start:
    """A checkpoint that a run is to start from."""
    local = os.path.isdir(source)
    if local and not (Path(source) / "config.json").exists():
        states = [path.name for path in list_checkpoints(source)]
        hint = f"; it has training states alone, {states}: that run has not ended" if states else ""
        raise ValueError(f"init_from is {source}, which holds no checkpoint: there is no config.json{hint}.")
    check_source("init_from", source)
    try:
        config = AutoConfig.from_pretrained(source)
    except HFValidationError as error:
        raise OSError(str(error)) from None
    if not isinstance(config, MMFusionConfig):
        raise ValueError(
            f"init_from is {source}, a checkpoint of type {config.model_type!r}: it takes what mm_hf saved. An "
            "encoder goes to vision_encoder, text_encoder or audio_encoder."
        )
    class_of(config, source)
    if local and not (Path(source) / "processor_config.json").exists():
        raise ValueError(
            f"init_from is {source}, which has no processor_config.json: name the folder of a whole run, or put it "
            "there by processor.save_pretrained."
        )
    file = Path(source) / "recipe.json"
    recipe = find_data(read_json(file), file.parent)[0] if file.exists() else {}
    name = Path(source).resolve().name if local else source
    return Start(source, name, folder, config, MMFusionProcessor.from_pretrained(source), recipe)


# Keys of the recipe


def row_modalities(data_args: DataArguments) -> list[str]:
    """The modalities that the new rows have."""
    return list(columns_by_modality(data_args))


def settle(start: Start, model_args: ModelArguments, data_args: DataArguments, given: set[str]) -> dict[str, Any]:
    """The keys that the checkpoint decides, with its values.

    Raises:
        ValueError: keys that were given with other values, or no modality in common.
    """
    config, processor = start.config, start.processor
    modalities = row_modalities(data_args)
    if strange := [name for name in modalities if modality_of(name).extra and modality_of(name).pretrained]:
        raise ValueError(
            f"init_from does not go with {strange}, from outside mm_hf, whose encoders come from elsewhere: a "
            "checkpoint does not say where from. Leave init_from, or their columns, out."
        )
    shared = [name for name in modalities if name in config.modalities]
    if not shared:
        raise ValueError(
            f"init_from {start.name} reads {config.modalities}, and the rows have {modalities} alone: "
            "there is nothing to start from. Columns are named anew: --image_column, --text_column, --table_columns …"
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
        cuts = "cut" if "long_text" in given else None  # which is what no value means
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
            f"init_from {start.name} has another {', '.join(wrong)}: {differences}. Leave {', '.join(wrong)} out, or "
            "start without init_from."
        )
    return {**fixed, **free}


def check_order(start: Start, data_args: DataArguments):
    """Refuses the columns of the checkpoint in another order: each place has learned what its own column holds, and a
    reader from outside may take its columns by their order.

    Raises:
        ValueError: naming both orders.
    """
    empty = dict.fromkeys(key.name for key in fields(data_args))
    known = columns_by_modality(SimpleNamespace(**{**empty, **fields_of(start.recipe)}))
    for name, columns in columns_by_modality(data_args).items():
        old = known.get(name, columns)
        in_order = modality_of(name).several_places or modality_of(name).extra
        if in_order and columns != old and sorted(columns) == sorted(old):
            raise ValueError(
                f"init_from {start.name} has the columns {old} of {name}, here {columns}: each has a place of its "
                "own. Name them in the same order."
            )


def side_of(processor: MMFusionProcessor) -> int | None:
    """The side in pixels of what an image processor makes; None where the pictures are not square."""
    made = processor(images=[Image.new("RGB", (53, 37))])["pixel_values"]
    height, width = made.shape[-2:]
    return height if height == width else None


def of_task(start: Start, model_args: ModelArguments, data_args: DataArguments) -> dict[str, Any]:
    """Keys of the head, as the checkpoint has them, where it answers alike."""
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
    """Keys that cut rows into parts, where the checkpoint has learned rows of the same data: cut as they were for it,
    the test part holds none of them."""
    recipe = start.recipe
    before = recipe.get("dataset")
    if before is None or "seed" not in recipe or os.path.realpath(before) != os.path.realpath(data_args.source):
        return {}
    keys = ("validation_fraction", "test_fraction", "group_column")
    return {"split_seed": seed_of_cut(recipe), **{key: recipe[key] for key in keys if key in recipe}}


def is_same_encoder(asked: str, known: str | None, config: Any, name: str) -> bool:
    """Whether a folder or Hub id that the recipe names is what a checkpoint was made from: by what the checkpoint's
    own recipe says, if it is `known`, else by the encoder's config in the checkpoint. `name` is a modality, or
    "decoder"."""
    if known is not None:
        return os.path.realpath(asked) == os.path.realpath(known) or Path(asked).name == Path(known).name
    check_source(f"{name}_encoder", asked)
    loaded = AutoConfig.from_pretrained(asked)
    other = (loaded if name == "decoder" else part_of_composite(loaded, name)).to_dict()
    values, sizes = config.to_dict(), ("size", "width", "dim", "layers", "heads", "d_model")
    keys = [key for key in values if key.endswith(sizes) and isinstance(values[key], int)]
    return values["model_type"] == other["model_type"] and all(other.get(key) in (values[key], None) for key in keys)
