"""A voice command and the state of the heating: what should the heating do?

    mm_hf prepare smart_home data/fsdd data/smart_home

It is made from the output of `mm_hf prepare fsdd`. A person says the level that the heating should have, 0 to 9 (a
real recording). The state of the heating is columns of a table: its `level`, its `mode` (on; eco, which allows at most
5; or locked) and whether a `window` is open. The action is one of

    refuse     the mode is locked, or it is eco and the person says more than 5
    wait       a window is open, and the heating would have to heat up
    up, down   change to the level that was said
    nothing    the level is already right

The states are drawn so that all actions are equally frequent. The voice alone, or the state alone, decides few of
them. The recordings of each part come from the same part of FSDD, so no recording is in two parts.

`--random_columns 3` adds columns without information, numbers and categories in turn. An explanation of an answer must
not name them.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from .common import build_dataset


ACTIONS = ("up", "down", "nothing", "wait", "refuse")
MODES, MOST_OF_ECO = ("on", "eco", "locked"), 5
ROUNDS = {"train": 2, "test": 2}

CARD = """---
license: cc-by-sa-4.0
language: en
---

# Smart home

Made by `mm_hf prepare smart_home` of mm_hf (seed {seed}): recordings of the [Free Spoken Digit
Dataset](https://github.com/Jakobovski/free-spoken-digit-dataset) (Jackson et al., CC-BY-SA-4.0), each with an invented
state of a heating. {rows} rows. The voices are real; the states and the rules are not.
"""


def action_of(said: int, state: dict[str, Any]) -> str:
    """The action of the heating, see the top of the file."""
    if state["mode"] == "locked" or (state["mode"] == "eco" and said > MOST_OF_ECO):
        return "refuse"
    if said == state["level"]:
        return "nothing"
    if said < state["level"]:
        return "down"
    return "wait" if state["window"] == "open" else "up"


def draw_state(said: int, action: str, draw: random.Random) -> dict[str, Any] | None:
    """A random state that leads to this action. None if there is none; for instance, nothing is below level 0."""
    states = [
        {"level": level, "mode": mode, "window": window}
        for level in range(10)
        for mode in MODES
        for window in ("open", "closed")
    ]
    states = [state for state in states if action_of(said, state) == action]
    # "locked" alone already means "refuse", so this reason is used only if there is no other.
    unlocked = [state for state in states if state["mode"] != "locked"]
    return draw.choice(unlocked or states) if states else None


def commands(part: Dataset, rounds: int, seed: int) -> Dataset:
    """The rows of one part. Each recording is used `rounds` times, each time with the rarest possible action."""
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    recordings = part.select_columns(["audio", "digit", "speaker"])
    order = list(range(len(recordings)))
    for _ in range(rounds):
        draw.shuffle(order)
        for place in order:
            recording = recordings[place]
            by_rarity = sorted(ACTIONS, key=lambda action: (counts[action], draw.random()))
            states = ((action, draw_state(recording["digit"], action, draw)) for action in by_rarity)
            action, state = next((action, state) for action, state in states if state is not None)
            counts[action] += 1
            rows.append({**recording, "said": recording["digit"], **state, "action": action, "row_id": len(rows)})
    return Dataset.from_list(rows).remove_columns("digit").cast_column("action", ClassLabel(names=list(ACTIONS)))


def add_random_columns(part: Dataset, count: int, draw: random.Random) -> Dataset:
    """The part with more columns `random_1`, `random_2` and so on: normally distributed numbers, or one of four
    letters."""
    for number in range(1, count + 1):
        values: list[Any] = [draw.gauss(0, 1) if number % 2 else draw.choice("abcd") for _ in range(len(part))]
        part = part.add_column(f"random_{number}", values)
    return part


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(parts: DatasetDict, seed: int, random_columns: int) -> DatasetDict:
        made = {name: commands(part, ROUNDS.get(name, 1), seed) for name, part in parts.items()}
        draw = random.Random(f"random columns {seed}")
        return DatasetDict({name: add_random_columns(part, random_columns, draw) for name, part in made.items()})

    counts = {"random_columns": "number of columns without information (random_1 and so on)"}
    build_dataset("smart_home", __doc__, "fsdd", build, CARD, arguments, counts=counts)
