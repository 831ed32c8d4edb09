"""Turn the Houses data set into a `datasets.DatasetDict`: four photographs and a table for each house, and its price.

    mm_hf prepare houses HOUSES.zip data/houses
    HOUSES_ZIP=HOUSES.zip mm_hf prepare houses data/houses --seed 1       # another random split

HOUSES_ZIP is the data set of Ahmed and Moustafa (2016, arXiv 1609.08399) as its authors publish it, as a folder or a
zip. It has `HousesInfo.txt`, in which line k has bedrooms, bathrooms, area in square feet, zip code and price in
dollars of house k, and the photographs `k_frontal.jpg`, `k_bedroom.jpg`, `k_bathroom.jpg` and `k_kitchen.jpg`. Each
row has the four photographs, the table, `price`, `log_price` (its logarithm to the base 10) and `house`. The seed
decides which houses are in which part: 70, 10 and 20 % of them. The data set is for research. Do not pass it on.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value

from .common import SETTINGS, PreparationError, builder_parser, built, cut_at_random, folder_in_place
from .photographs import PhotographFiles, photograph_files, some_of


VARIABLE = "HOUSES_ZIP"
INFO = "HousesInfo.txt"
PHOTOGRAPHS = ("frontal", "bedroom", "bathroom", "kitchen")
TABLE = ("bedrooms", "bathrooms", "area", "zip")
FEWEST = 10  # houses that are needed, so that no part is empty
WRITTEN = ("train", "validation", "test", "dataset_dict.json", "README.md", SETTINGS)
FEATURES = Features(
    {
        **{name: Image() for name in PHOTOGRAPHS},
        **{name: Value("float64") for name in TABLE[:3]},
        "zip": Value("string"),  # it names a place and is not a number
        "price": Value("int64"),
        "log_price": Value("float64"),
        "house": Value("int64"),
    }
)

CARD = """---
license: other
license_name: research-only
task_categories:
- tabular-regression
pretty_name: Houses
---

# Houses

Four photographs, a table and the price of each of {count} houses, from Ahmed and Moustafa, "House price estimation
from visual and textual features" (2016, arXiv 1609.08399). The content is unchanged. The rows were made by `mm_hf
prepare houses --seed {seed}` of mm_hf. **For research. Cite the paper. Do not pass the data on, including these
rows.**

| part | houses | mean price in dollars |
|---|---|---|
{rows}

| column | content |
|---|---|
| `frontal`, `bedroom`, `bathroom`, `kitchen` | photographs |
| `bedrooms`, `bathrooms`, `area` | numbers; the area in square feet |
| `zip` | zip code, a text |
| `price`, `log_price` | in dollars, and its logarithm to the base 10 |
| `house` | line of HousesInfo.txt, from 1 |
"""


def read_house(number: int, line: str) -> dict[str, Any]:
    """The table and the price of a house.

    Raises:
        PreparationError: the line has another form.
    """
    words = line.split()
    try:
        bedrooms, bathrooms, area = map(float, words[:3])
        code, price = words[3], int(words[4])
        if len(words) > 5 or price <= 0 or not all(map(math.isfinite, (bedrooms, bathrooms, area))):
            raise ValueError
    except (ValueError, IndexError):
        raise PreparationError(
            f"line {number} of {INFO} is {line[:80]!r}, expected bedrooms, bathrooms, area, zip code and price"
        ) from None
    table = dict(zip(TABLE, (bedrooms, bathrooms, area, code)))
    return {**table, "price": price, "log_price": math.log10(price), "house": number}


def read_houses(files: PhotographFiles) -> Dataset:
    """All houses, in the order of their lines.

    Raises:
        PreparationError: a line does not describe a house, or a photograph is missing.
    """
    lines = {number: line for number, line in enumerate(files.text(INFO).splitlines(), start=1) if line.strip()}
    named = {number: {name: f"{number}_{name}.jpg" for name in PHOTOGRAPHS} for number in lines}
    missing = {file for of_house in named.values() for file in of_house.values()} - set(files.paths)
    if missing:
        raise PreparationError(
            f"{files.source} has {len(lines)} houses, but {len(missing)} photographs are missing: {some_of(missing)}"
        )
    if len(lines) < FEWEST:
        raise PreparationError(f"{files.source} has {len(lines)} houses, expected {FEWEST} or more")
    rows = []
    for number, line in lines.items():
        photographs = {name: files.photograph(file) for name, file in named[number].items()}
        rows.append({**photographs, **read_house(number, line)})
    return Dataset.from_list(rows, features=FEATURES)


def write(files: PhotographFiles, output: Path, settings: dict[str, Any]) -> DatasetDict:
    """Builds the data set and writes it to `output`, with its card and settings."""
    with folder_in_place(output, WRITTEN) as folder:
        splits = cut_at_random(read_houses(files), settings["seed"])
        splits.save_to_disk(folder)
        lines = [f"| {part} | {count} | {price} |" for part, count, price in describe(splits)]
        card = CARD.format(count=sum(map(len, splits.values())), rows="\n".join(lines), **settings)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return splits


def describe(splits: DatasetDict) -> list[tuple[str, int, str]]:
    """Name, houses and mean price of each part."""
    return [(part, len(rows), f"{sum(rows['price'][:]) / len(rows):,.0f}") for part, rows in splits.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    archive = "ZIP?", f"folder or archive of the houses; default: the environment variable {VARIABLE}"
    parser = builder_parser("houses", __doc__.split("\n")[0], source=archive)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")
    options = parser.parse_args(arguments)

    def write_all(folder: Path, settings: dict[str, Any]) -> DatasetDict:
        with photograph_files(options.source, VARIABLE) as files:
            return write(files, folder, settings)

    titles = ("part", "houses", "mean price")
    built(options, {"seed": options.seed}, WRITTEN, write_all, describe, "{:<12}{:>8}{:>12}", titles)
