"""Adds maps to the answers of rows, and checks how far maps and Shapley values can be trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data import MultimodalCollator
from ..data.modalities import reader_of
from ..models.evidence import CoalitionValues
from ..models.modeling_outputs import EncoderStates
from .checks import check, check_parts
from .methods import METHODS, NoMap, default_method
from .parts import Answer, EncodedRows, PartMap, video_record


EXACT = 1e-5  # allowed error of the sum of Shapley values, as a share


def encoded_rows(
    model: Any,
    collator: MultimodalCollator,
    rows: Sequence[dict[str, Any]],
    batch: Mapping[str, Any],
    states: dict[str, EncoderStates],
    background: Mapping[str, Any] | None,
) -> EncodedRows:
    """Encoded rows with the items that name their parts.

    Args:
        rows, batch, states: the rows as the collator takes them, its batch, and the result of `encode`.
        background: the inputs of the replacement rows, with their `encoder_states`.
    """
    items = {name: distinct_items(collator, rows, name, states[name]) for name in states if collator.parts.get(name)}
    return EncodedRows(model, {**batch, "encoder_states": states}, background, items, collator.processor)


def distinct_items(
    collator: MultimodalCollator, rows: Sequence[dict[str, Any]], modality: str, states: EncoderStates
) -> list[Any]:
    """The items of a batch as the processor takes them, in the order of its index."""
    known: dict[int, Any] = {}
    columns, index = collator.parts[modality], states.index
    if index is None:
        return []
    for row, numbers in zip(rows, index.reshape(len(rows), -1).tolist()):
        for column, number in zip(columns, numbers):
            if number >= 0 and number not in known:
                known[number] = reader_of(modality).load(row, column, collator)
    return [known[number] for number in sorted(known)]


def answer_of(model: Any, task: str | None, said: torch.Tensor, number: int) -> Answer:
    """The explained quantity of the answers to some rows: one of K numbers.

    Args:
        said: see `EvidenceMixin.answers_said`, for all rows.
    """
    if task in model.last_layers() and not model.reads_tokens:
        return Answer.of(model, said[:, number], task)
    return Answer(
        lambda outputs, rows: model.explained(outputs, {task: said[rows]})[task][0][:, 0],
        reads_tokens=model.reads_tokens,
    )


def said_by_all(model: Any, values: Sequence[Mapping[str | None, CoalitionValues]], task: str | None) -> torch.Tensor:
    """The answers of the model to all rows of a batch."""
    return torch.stack([row[task].said for row in values]).to(model.device)


def maps_of(
    rows: EncodedRows, answer: Answer, modality: str, method: str | None
) -> tuple[str, list[PartMap], str | None]:
    """The method (the default if None is given), the maps of a modality, and the reason if there are none."""
    method = default_method(rows, modality) if method is None else method
    try:
        return method, METHODS[method](rows, answer, modality), None
    except NoMap as error:
        return method, [], str(error)


def add_maps(
    rows: EncodedRows,
    values: Sequence[Mapping[str | None, CoalitionValues]],
    records: Mapping[int, dict[str, Any]],
    method: str | None,
) -> set[str]:
    """Adds maps to the answers of records. Returns the reasons why maps are missing.

    Args:
        values: of the rows, see `coalition_values`.
        records: by the place of the row in the batch.
        method: one of `METHODS`; None: the method that measured best.
    """
    reasons, numbers = set(), dict.fromkeys(records, 0)
    for task in values[0]:
        said = said_by_all(rows.model, values, task)
        for number in range(len(rows.model.explained_in_words(task, values[0][task].said))):
            answer = answer_of(rows.model, task, said, number)
            for modality, states in rows.states.items():
                if not states.levels or not any(place >= 0 for row in rows.item_index(modality) for place in row):
                    continue
                _, maps, reason = maps_of(rows, answer, modality, method)
                reasons |= {reason} if reason else set()
                for place, record in records.items():
                    answers = record["answers"][numbers[place]]
                    answers["parts"] += parts_of(record["items"], modality, [m for m in maps if m.row == place])
            numbers = {place: count + 1 for place, count in numbers.items()}
    return reasons


def parts_of(items: Sequence[Mapping[str, Any]], modality: str, maps: Sequence[PartMap]) -> list[dict[str, Any]]:
    """The maps of one row and modality, assigned to its items. The frames of a video are one item."""
    places = {item["place"]: number for number, item in enumerate(items) if item["modality"] == modality}
    video = next((n for n in places.values() if len(items[n]["shown"].get("frames", ())) > 0), None)
    if video is None:
        return [part.record(places[part.place]) for part in maps if part.place in places]
    first = items[video]["place"]  # the place of its first frame; frames come after all pictures
    frames = [part for part in maps if part.place >= first]
    parts = [part.record(places[part.place]) for part in maps if part.place < first and part.place in places]
    return [*parts, video_record(frames, video)] if frames else parts


def checks_of(
    rows: EncodedRows, values: Sequence[Mapping[str | None, CoalitionValues]], method: str | None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Checks of the maps and Shapley values of some rows, see `check_parts`; by task, modality and name."""
    worst = 0.0
    checks: dict[str, dict[str, Any]] = {}
    for task in values[0]:
        for row in values:
            evidence = row[task].evidence()
            missed = evidence["value"] - evidence["base"] - sum(m["value"] for m in evidence["modalities"].values())
            worst = max(worst, abs(missed) / max(1.0, abs(evidence["value"] - evidence["base"])))
        said = said_by_all(rows.model, values, task)
        answer = answer_of(rows.model, task, said, 0)
        for modality, states in rows.states.items():
            if states.levels:
                chosen, maps, reason = maps_of(rows, answer, modality, method)
                title = f"{task}, " if task else ""
                made = {} if reason else check_parts(rows, answer, modality, chosen, maps, seed)
                checks |= {f"{title}{modality}: {name}": one for name, one in made.items()}
    words = f"The sum of the Shapley values of the modalities is wrong by a relative {worst:.1e}."
    return {"modalities: completeness": check(worst, EXACT, worst <= EXACT, words), **checks}
