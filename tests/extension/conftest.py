"""Small data sets of a stranger for the examples in `examples/custom_*.py`, and what these cost."""

import csv
import math
import random
from pathlib import Path

import pytest
from PIL import Image


REPOSITORY = Path(__file__).parents[2]


def pytest_terminal_summary(terminalreporter):
    """Prints the price of each extension."""
    terminalreporter.write_line(f"\n{'extension from outside':<32}{'files':>6}{'lines':>6}")
    for file in sorted((REPOSITORY / "examples").glob("custom_*.py")):
        terminalreporter.write_line(f"{file.name:<32}{1:>6}{len(file.read_text(encoding='utf-8').splitlines()):>6}")


def write_csv(file: Path, header: list[str], rows: list[list]) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([header, *rows])
    return file


@pytest.fixture(scope="session")
def colours_csv(tmp_path_factory) -> Path:
    """Is the picture of the colour that the text names? Either alone tells nothing. One row has no picture."""
    folder, draw = tmp_path_factory.mktemp("colours"), random.Random(0)
    colours = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
    for name, colour in colours.items():
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    rows = []
    for number in range(200):
        shown = draw.choice(list(colours))
        named = shown if number % 2 else draw.choice([name for name in colours if name != shown])
        rows.append([f"{shown}.png" if number else "", f"is this {named}?", "yes" if shown == named else "no"])
    return write_csv(folder / "colours.csv", ["photo", "question", "answer"], rows)


@pytest.fixture(scope="session")
def homes_csv(tmp_path_factory) -> Path:
    """Homes of one town, with a point on the map: near the middle the walls are old, and the advert does not say so.
    One has no point, one no advert."""
    folder, draw = tmp_path_factory.mktemp("homes"), random.Random(0)
    rows = []
    for number in range(240):
        far, around = math.sqrt(draw.random()) * 0.1, draw.random() * 2 * math.pi
        place = [52.5 + far * math.sin(around), 13.4 + far * math.cos(around) / math.cos(math.radians(52.5))]
        place = ["", ""] if number == 3 else [f"{degrees:.5f}" for degrees in place]
        advert = "" if number == 5 else f"a home of {draw.randint(1, 6)} rooms"
        rows.append([*place, advert, "old" if far < 0.06 else "new"])
    return write_csv(folder / "homes.csv", ["latitude", "longitude", "advert", "walls"], rows)


OPINIONS = {
    1: ["awful, it fell apart", "terrible, i sent it back"],
    2: ["rather poor", "disappointing"],
    3: ["it is all right", "average, neither good nor bad"],
    4: ["good, i like it", "nice"],
    5: ["excellent, i love it", "perfect in every way"],
}
GARMENTS = {"scarf": 15, "shirt": 30, "dress": 60, "coat": 120}


@pytest.fixture(scope="session")
def reviews_csv(tmp_path_factory) -> Path:
    """Reviews with stars, from 1 to 5, and the price of what is reviewed. One has no stars, one no price."""
    folder, draw = tmp_path_factory.mktemp("reviews"), random.Random(0)
    rows = []
    for number in range(240):
        stars, garment = draw.choice(list(OPINIONS)), draw.choice(list(GARMENTS))
        text = f"{garment}: {draw.choice(OPINIONS[stars])}"
        price = GARMENTS[garment] + draw.randint(-3, 3)
        rows.append([text, draw.randint(18, 80), "" if number == 3 else stars, "" if number == 5 else price])
    return write_csv(folder / "reviews.csv", ["review", "age", "stars", "price"], rows)
