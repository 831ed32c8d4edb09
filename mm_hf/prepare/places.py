"""The commands that make the folders in the recipes. A message shows the command if a folder is missing."""

import os
from pathlib import Path


BUILDERS = (
    *("encoders", "recurrent", "easy_vqa", "sort_of_clevr", "openmoji", "mismatch", "emoji_records", "caption_steps"),
    *("movielens", "clothing_reviews", "moving_shapes", "basic_motions", "fsdd", "spoken_numbers", "smart_home"),
    *("houses", "flickr8k"),
)
# By the name of a folder, the arguments of `mm_hf prepare`; `{}` is the folder, `{parent}` its parent folder.
ENCODERS = {
    **dict.fromkeys(("mobilenet-v2", "minilm-l6", "whisper-tiny-en"), "encoders {parent}"),
    "lstm-easy-vqa": "recurrent {} --dataset data/easy_vqa --text_column question",
    "gru-easy-vqa": "recurrent {} --rnn_type gru --dataset data/easy_vqa --text_column question",
    "lstm-openmoji": "recurrent {} --dataset data/openmoji --text_column name --min_count 2 --dropout 0.5",
    "lstm-reviews": "recurrent {} --dataset data/clothing_reviews --text_column text --min_count 3 --dropout 0.3",
    "lstm-captions": "recurrent {} --dataset data/caption_steps --text_column so_far --dropout 0.3",
    "lstm-sound": "recurrent {} --mel_bins 80",
}
DATA = {
    **{name: f"{name} {{}}" for name in ("easy_vqa", "sort_of_clevr", "openmoji", "movielens", "clothing_reviews")},
    **{name: f"{name} {{}}" for name in ("moving_shapes", "basic_motions")},
    **{name: f"{name} data/openmoji {{}}" for name in ("mismatch", "emoji_records", "caption_steps")},
    "fsdd": "fsdd FSDD.zip {}",
    "houses": "houses HOUSES.zip {}",
    "flickr8k": "flickr8k FLICKR.zip {}",
    **{name: f"{name} data/fsdd {{}}" for name in ("spoken_numbers", "smart_home")},
}


def how_to_make(place: object) -> str | None:
    """The command that makes a folder of encoders or data in a recipe. None if the folder exists, or if no builder
    makes it (a Hub id, or the user's own data)."""
    if not isinstance(place, str) or os.path.exists(place):
        return None
    folder = Path(place)
    command = {**ENCODERS, **DATA}.get(folder.name)
    local = folder.is_absolute() or folder.parts[0] in ("data", ".", "..") or folder.parent.is_dir()
    if command is None or not local:
        return None
    return f"mm_hf prepare {command.format(place, parent=folder.parent)}"
