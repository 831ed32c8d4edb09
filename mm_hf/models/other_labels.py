# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Loads a checkpoint with other labels, another problem or other tasks than it was saved with."""

from typing import Any

from transformers.utils import logging

from .losses import LOSS_SETTINGS
from .tasks import NUMBERS, label_kind_of, task_head_of


logger = logging.get_logger(__name__)

# The config keys with one number per label.
PER_LABEL = ("class_weights", "class_priors", "label_mean", "label_scale")
OF_NUMBERS = ("label_mean", "label_scale")
NAMES = ("id2label", "label2id")
# The config keys that define what a head answers: they are checked together.
OF_ANSWERS = ("problem_type", *NAMES, "tasks", "task_weighting")
MEANING = tuple(dict.fromkeys((*OF_ANSWERS, *LOSS_SETTINGS, *PER_LABEL, "confidence")))


def for_other_labels(config_dict: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The config of a checkpoint when it is loaded with other labels. Settings that belong to the old labels are
    removed (settings of the loss with one number per label, or for another problem; tasks), and the given ones are
    added. The `changes` are arguments of `from_pretrained`; those that define what the head answers are taken out.

    A warning lists what is removed. Another warns of a head that keeps its rows although they now mean something else:
    weights are matched by place, not by the names of labels. `load_parts` matches them by name."""
    if not {"num_labels", *MEANING} & set(changes):
        return config_dict
    given = {name: changes.pop(name) for name in MEANING if name in changes}
    name_labels(given)
    new, old = count_of(changes | given), count_of(config_dict) or 2  # 2 is the library's default
    single = new is not None or given.get("problem_type") is not None
    new = old if new is None else new
    loaded = {**config_dict, **given}
    stored = [name for name in MEANING if name not in given and config_dict.get(name)]
    dropped = []
    if given.get("tasks"):
        dropped = [name for name in stored if name in (*LOSS_SETTINGS, *PER_LABEL, "problem_type", "confidence")]
    elif "tasks" in stored and single:
        dropped = [name for name in stored if name in ("tasks", "task_weighting")]
    else:
        if "problem_type" in stored and new != old and 1 in (new, old):  # from classes to a number, or the reverse
            dropped.append("problem_type")
        problem = None if "problem_type" in dropped else loaded.get("problem_type")
        numbers = gives_numbers(problem, new)
        settings = LOSS_SETTINGS if problem is None else task_head_of(problem).settings
        for name in stored:
            of_others = name in LOSS_SETTINGS and (numbers or name not in settings)
            of_others |= name in OF_NUMBERS and not numbers
            if of_others or (name in PER_LABEL and len(config_dict[name]) != new):
                dropped.append(name)
        if "confidence" in stored and (new != old or other_answers(config_dict, given)):
            dropped.append("confidence")
    unnamed = not set(NAMES) & set(given) and (new != old or (given.get("tasks") and not config_dict.get("tasks")))
    gone = {*dropped, *(NAMES if unnamed else ())}
    loaded = {name: value for name, value in loaded.items() if name not in gone}
    if told := [name for name in dropped if name != "task_weighting"]:
        what = f"the tasks {sorted(given['tasks'])}" if given.get("tasks") else str(new)
        what += f" as {given['problem_type']}" if given.get("problem_type") else ""
        logger.warning_once(
            f"The checkpoint has {old} labels and is loaded with {what}, so settings for its own labels are removed: "
            f"{', '.join(told)}. This is said once."
        )
    for stays in stays_as_it_is(config_dict, loaded, old, new):
        logger.warning_once(
            f"The weights of the head stay in their places, but now mean something else: {stays}. "
            "mm_hf.parts.load_parts matches them by the names of labels, and numbers by their unit. This is said "
            "once."
        )
    return loaded


def other_answers(config_dict: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the given arguments define other answers than the checkpoint does."""
    names = [{int(key): name for key, name in (one.get("id2label") or {}).items()} for one in (given, config_dict)]
    told = [key for key in ("problem_type", *OF_NUMBERS) if key in given]
    return (bool(names[0]) and names[0] != names[1]) or any(given[key] != config_dict.get(key) for key in told)


def gives_numbers(problem_type: str | None, count: int) -> bool:
    """Whether a head with this number of outputs predicts numbers."""
    return count == 1 if problem_type is None else label_kind_of(problem_type) == NUMBERS


def name_labels(given: dict[str, Any]):
    """Fills in `id2label` or `label2id`, if only one is given; refuses two that contradict each other."""
    names, numbers = given.get("id2label"), given.get("label2id")
    if names:
        expected = {name: int(number) for number, name in names.items()}
        same = not numbers or {name: int(number) for name, number in numbers.items()} == expected
        if not same and len(expected) == len(names):
            raise ValueError(f"id2label {names} and label2id {numbers} contradict each other: give only one of them.")
        given["label2id"] = numbers or expected
    elif numbers:
        given["id2label"] = {int(number): name for name, number in sorted(numbers.items(), key=lambda item: item[1])}


def count_of(source: dict[str, Any]) -> int | None:
    """How many labels a config, or the arguments for one, define."""
    named = source.get("id2label") or source.get("label2id")
    return source.get("num_labels") or (len(named) if named else None)


def stays_as_it_is(config_dict: dict[str, Any], loaded: dict[str, Any], old: int, new: int) -> list[str]:
    """Heads that keep their shape, and so their weights, although they now answer something else. Compares the config
    in the checkpoint with the config as it is loaded, and their numbers of labels."""
    tasks, old_tasks = loaded.get("tasks") or {}, config_dict.get("tasks") or {}
    if not tasks and not old_tasks:
        pairs = {"the labels": (answer_of(config_dict, old), answer_of(loaded, new))}
    else:
        both = [name for name in tasks if name in old_tasks]
        pairs = {
            f"those of task {name!r}": tuple(answer_of(one[name], 1) for one in (old_tasks, tasks)) for name in both
        }
    return [line for what, (before, now) in pairs.items() if (line := change_of(what, before, now))]


def answer_of(source: dict[str, Any], count: int) -> dict[str, Any]:
    """What a head answers, from a config or from a task; `count` is used if it does not name its labels."""
    names = source.get("labels")
    if source.get("id2label"):
        names = [source["id2label"][key] for key in sorted(source["id2label"], key=int)]
        names = None if names == [f"LABEL_{number}" for number in range(len(names))] else names
    count = len(names) if names else source.get("num_labels") or count
    numbers = gives_numbers(source.get("problem_type"), count)
    return {"names": names, "count": count, "numbers": numbers, "unit": [source.get(name) for name in OF_NUMBERS]}


def change_of(what: str, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What changes in the answers of a head that keeps its size; None if nothing does."""
    if old["count"] != new["count"]:
        return None
    if old["numbers"] != new["numbers"]:
        kinds = [("numbers" if one["numbers"] else "classes") for one in (old, new)]
        return f"{what} were {kinds[0]}, now {kinds[1]}"
    if new["numbers"] and old["unit"] != new["unit"]:
        return f"{what} had label_mean and label_scale {old['unit']}, now {new['unit']}"
    if old["names"] and new["names"] and list(old["names"]) != list(new["names"]):
        return f"{what} were {list(old['names'])[:20]}, now {list(new['names'])[:20]}"
    return None
