"""Makes the twelve data sets of strangers that lie beside this file as archives: `python tests/strangers/make.py`.

They are what people export from shops, forms, labs and notebooks, with the faults that such files have. What each
column should be taken for stands in expected.yaml, which was written before the code that takes them.
"""

import csv
import io
import json
import math
import random
import string
import wave
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from PIL import Image, ImageDraw


ADJECTIVES = ("sturdy", "light", "warm", "quiet", "heavy", "small", "bright", "soft", "plain", "old")
THINGS = ("lamp", "chair", "kettle", "jacket", "drill", "basket", "mirror", "clock", "tent", "bowl")
PLACES = ("kitchen", "garden", "office", "bedroom", "workshop", "balcony")
PRAISE = ("works as described", "arrived early", "my family likes it", "would buy it again", "does what it should")
BLAME = ("broke after a week", "the colour is wrong", "too small for us", "never arrived", "smells of plastic")
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "grey": (128, 128, 128)}


def picture(draw: random.Random, colour: str, size: tuple[int, int], form: str = "ellipse") -> Image.Image:
    """A coloured form on a light ground with some noise, as a small photograph may look."""
    ground = tuple(draw.randint(200, 255) for _ in range(3))
    image = Image.new("RGB", size, ground)
    pen = ImageDraw.Draw(image)
    left, top = draw.randint(2, size[0] // 3), draw.randint(2, size[1] // 3)
    box = (left, top, left + size[0] // 2, top + size[1] // 2)
    getattr(pen, form)(box, fill=COLOURS[colour])
    for _ in range(40):
        pen.point((draw.randrange(size[0]), draw.randrange(size[1])), fill=(draw.randrange(256),) * 3)
    return image


def tone(draw: random.Random, hertz: float, seconds: float, rate: int = 8000) -> bytes:
    """A wav of one tone with noise, 16 bits, one channel."""
    samples = (
        int(9000 * math.sin(2 * math.pi * hertz * step / rate)) + draw.randint(-500, 500)
        for step in range(int(seconds * rate))
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))
    return file.getvalue()


def sentence(draw: random.Random, good: bool) -> str:
    """Some words about a thing, two to four sentences."""
    parts = [f"The {draw.choice(ADJECTIVES)} {draw.choice(THINGS)} for the {draw.choice(PLACES)}"]
    parts += draw.sample(PRAISE if good else BLAME, draw.randint(1, 3))
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def write_csv(file: Path, rows: list[dict], **kwargs):
    """Rows of equal keys as a CSV, as a spreadsheet writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    encoding = kwargs.pop("encoding", "utf-8")
    with file.open("w", newline="", encoding=encoding) as out:
        writer = csv.DictWriter(out, list(rows[0]), **kwargs)
        writer.writeheader()
        writer.writerows(rows)


def save(image: Image.Image, file: Path, **kwargs) -> str:
    """Writes a picture and gives its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **kwargs)
    return file.name


def catalogue(folder: Path, draw: random.Random):
    """A shop's export: SKU, texts, a price, a path of a photo, a URL of the supplier, a constant currency."""
    rows = []
    for number in range(60):
        colour, thing = draw.choice(list(COLOURS)), draw.choice(THINGS)
        form = "rectangle" if thing in THINGS[:5] else "ellipse"
        name = save(picture(draw, colour, (48, 36), form), folder / "images" / f"p{number:03d}.jpg", quality=70)
        rows.append(
            {
                "SKU": f"{draw.choice('ABC')}-{10_000 + 37 * number}",
                "Name": f"{draw.choice(ADJECTIVES).title()} {thing}",
                "Description": sentence(draw, good=True),
                "Colour": colour,
                "Price": f"{4 + 20 * draw.random() + (15 if form == 'rectangle' else 0):.2f}",
                "Currency": "EUR",
                "In stock": draw.choice(["yes", "no"]),
                "Weight (g)": draw.choice(["", str(draw.randint(80, 4000))])
                if number % 9 == 0
                else draw.randint(80, 4000),
                "Photo": f"images/{name}",
                "Supplier page": f"https://supplier.example.com/items/{number * 91 % 1000}",
                "Department": "furniture" if form == "rectangle" else "household",
            }
        )
    write_csv(folder / "catalogue.csv", rows)


def survey(folder: Path, draw: random.Random):
    """A form's export: a time stamp, answers from 1 to 5, a free text that most leave empty, a question as header."""
    begin = datetime(2025, 3, 1, 8)
    rows = []
    for _ in range(120):
        mood = draw.random()
        likert = [min(5, max(1, round(1 + 4 * mood + draw.gauss(0, 0.8)))) for _ in range(3)]
        begin += timedelta(minutes=draw.randint(1, 400))
        rows.append(
            {
                "Timestamp": begin.strftime("%m/%d/%Y %H:%M:%S"),
                "Respondent": "".join(draw.choices(string.hexdigits.lower()[:16], k=12)),
                "How old are you?": draw.randint(17, 78),
                "Country": draw.choices(["Austria", "Kenya", "Peru", "Viet Nam"], [5, 3, 2, 1])[0],
                "The service was fast": likert[0],
                "The staff was kind": likert[1],
                "I found what I needed": likert[2],
                "Anything else?": sentence(draw, mood > 0.5) if draw.random() < 0.45 else "",
                "Wave": 3,
                "Newsletter": draw.choice(["Yes", "No", "Prefer not to say"]),
                "Would you come again?": "Yes" if mood + draw.gauss(0, 0.15) > 0.5 else "No",
            }
        )
    write_csv(folder / "survey.csv", rows, quoting=csv.QUOTE_ALL)


def sensors(folder: Path, draw: random.Random):
    """A lab's JSON lines: two series of other rates, a machine, a firmware that never changes, a start."""
    begin, lines = datetime(2026, 1, 5), []
    for number in range(90):
        state = draw.choice(["idle", "running", "worn"])
        speed, shake = {"idle": (0.1, 0.05), "running": (1.0, 0.2), "worn": (1.0, 0.7)}[state]
        steps = draw.randint(20, 40)
        vibration = [
            [round(speed * math.sin(0.5 * step + axis) + draw.gauss(0, shake), 3) for axis in range(3)]
            for step in range(steps)
        ]
        begin += timedelta(hours=3)
        record = {
            "run": number,
            "machine": draw.choice(["M1", "M2", "M7"]),
            "started": begin.isoformat() + "Z",
            "vibration": vibration,
            "temperature": [round(21 + 9 * speed + draw.gauss(0, 1), 2) for _ in range(draw.randint(8, 12))],
            "load": round(40 * speed + draw.gauss(0, 5), 1),
            "firmware": "2.4.1",
            "state": state,
        }
        if number % 17 == 0:
            record["temperature"] = None
        lines.append(json.dumps(record))
    folder.mkdir(parents=True)
    (folder / "sensors.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sounds(folder: Path, draw: random.Random):
    """A folder of recordings with a table of who speaks and what."""
    rows = []
    for number in range(60):
        word = draw.choice(["low", "high"])
        data = tone(draw, draw.uniform(180, 260) if word == "low" else draw.uniform(700, 900), draw.uniform(0.1, 0.2))
        name = f"rec_{number:02d}.wav"
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        (folder / "clips" / name).write_bytes(data)
        rows.append(
            {
                "file": f"clips/{name}",
                "speaker": draw.choice(["ana", "ben", "chi"]),
                "microphone": draw.choice(["phone", "headset"]),
                "room_temperature": round(draw.gauss(21, 2), 1),
                "word": word,
            }
        )
    write_csv(folder / "labels.csv", rows, delimiter="\t")


def pets(folder: Path, draw: random.Random):
    """A shelter's table: two photos, one of them often missing, names that repeat, an age, a story."""
    rows = []
    for number in range(60):
        kind, colour = draw.choice(["cat", "dog"]), draw.choice(["red", "grey", "blue"])
        form = "ellipse" if kind == "cat" else "rectangle"
        front = save(picture(draw, colour, (40, 40), form), folder / "photos" / f"{number}_front.png")
        side = ""
        if draw.random() < 0.6:
            side = save(picture(draw, colour, (40, 30), form), folder / "photos" / f"{number}_side.png")
        months = draw.randint(2, 140)
        rows.append(
            {
                "pet_id": f"{number + 1:05d}",
                "name": draw.choice(["Luna", "Max", "Bella", "Simba", "Nala", "Rocky", "Milo"]),
                "breed": draw.choice(["mixed", "mixed", "shorthair", "terrier", "siamese"]),
                "age_months": months,
                "vaccinated": draw.choice([0, 1]),
                "photo_front": front,
                "photo_side": side,
                "story": f"{sentence(draw, months < 60)} Looking for a home in the {draw.choice(PLACES)}.",
                "adopted": int(months + draw.gauss(0, 20) < 60),
            }
        )
    write_csv(folder / "pets.csv", rows)


def houses(folder: Path, draw: random.Random):
    """Homes for sale: three photos, a few numbers, a zip code with leading zeros, the day it was listed, a price."""
    rows = []
    for number in range(50):
        area, beds = draw.randint(600, 4200), draw.randint(1, 6)
        colours = [draw.choice(list(COLOURS)) for _ in range(3)]
        names = [
            save(picture(draw, colour, (44, 33), "rectangle"), folder / "img" / f"{number}_{room}.jpg", quality=70)
            for room, colour in zip(("front", "kitchen", "bath"), colours)
        ]
        rows.append(
            {
                "front": f"img/{names[0]}",
                "kitchen": f"img/{names[1]}",
                "bath": f"img/{names[2]}",
                "beds": beds,
                "baths": draw.choice([1, 1.5, 2, 2.5, 3]),
                "sqft": area,
                "zip": draw.choice(["02134", "02139", "90210", "93446"]),
                "listed": (datetime(2024, 1, 1) + timedelta(days=draw.randint(0, 700))).strftime("%Y-%m-%d"),
                "price": round((80_000 + 210 * area + 15_000 * beds) * math.exp(draw.gauss(0, 0.2)), -2),
            }
        )
    write_csv(folder / "houses.csv", rows)


def reviews(folder: Path, draw: random.Random):
    """A market place's reviews: title and body, stars, who, when, votes; some bodies are long, some in Spanish."""
    rows = []
    for number in range(150):
        stars = draw.choices([1, 2, 3, 4, 5], [2, 1, 1, 3, 5])[0]
        body = " ".join(sentence(draw, stars > 3) for _ in range(draw.choice([1, 2, 3, 12])))
        if number % 10 == 0:
            body = "Muy buena, la volvería a comprar. " if stars > 3 else "Llegó rota y nadie contesta. "
        titles = ["Great", "Good value", "As expected"] if stars > 3 else ["Bad", "Do not buy", "Hmm"]
        rows.append(
            {
                "review_id": f"R{''.join(draw.choices(string.ascii_uppercase + string.digits, k=12))}",
                "user": f"user{draw.randint(1, 60)}",
                "title": draw.choice(titles) + draw.choice(["", "!", f" {draw.choice(THINGS)}"]),
                "body": body.strip(),
                "date": (datetime(2023, 5, 1) + timedelta(days=draw.randint(0, 500))).strftime("%d %B %Y"),
                "helpful_votes": max(0, int(draw.gauss(2, 4))),
                "verified": draw.choice([True, False]),
                "stars": stars,
            }
        )
    write_csv(folder / "reviews.csv", rows)


def competition(folder: Path, draw: random.Random):
    """A competition's folder: train.csv, test.csv without the label, sample_submission.csv, and the pictures."""
    rows = []
    for _ in range(100):
        colour = draw.choice(["red", "green"])
        stem = f"{draw.getrandbits(32):08x}"
        save(picture(draw, colour, (32, 32)), folder / "images" / f"{stem}.jpg", quality=70)
        rows.append(
            {
                "id": stem,
                "image": f"images/{stem}.jpg",
                "plot": draw.randint(1, 9),
                "rainfall_mm": round(draw.gauss(600, 150), 1),
                "soil": draw.choice(["clay", "loam", "sand"]),
                "note": sentence(draw, colour == "green") if draw.random() < 0.8 else "",
                "disease": "rust" if colour == "red" else "healthy",
            }
        )
    write_csv(folder / "train.csv", rows[:80])
    test = [{key: value for key, value in row.items() if key != "disease"} for row in rows[80:]]
    write_csv(folder / "test.csv", test)
    write_csv(folder / "sample_submission.csv", [{"id": row["id"], "disease": "healthy"} for row in test])


def german(folder: Path, draw: random.Random):
    """A German spreadsheet's CSV: `;` between cells, decimal commas, points for thousands, a byte order mark."""
    rows = []
    for number in range(90):
        area = draw.uniform(24, 180)
        rent = area * draw.uniform(9, 14)
        rows.append(
            {
                "Kennung": f"WHG{number:04d}",
                "Stadtteil": draw.choice(["Altona", "Eimsbüttel", "Harburg", "Wandsbek"]),
                "Fläche": f"{area:.1f}".replace(".", ","),
                "Zimmer": draw.choice(["1", "1,5", "2", "2,5", "3", "4"]),
                "Baujahr": draw.randint(1890, 2022),
                "Balkon": draw.choice(["ja", "nein"]),
                "Inseriert": (datetime(2025, 1, 1) + timedelta(days=draw.randint(0, 360))).strftime("%d.%m.%Y"),
                "Beschreibung": draw.choice(["Helle", "Ruhige", "Schöne", "Sanierte"])
                + f" Wohnung mit {draw.choice(['Garten', 'Einbauküche', 'Stellplatz', 'Aussicht'])}, "
                + draw.choice(["nahe der U-Bahn.", "direkt am Park gelegen.", "für Familien geeignet; frei ab Mai."]),
                "Kaltmiete": f"{rent:,.2f}".replace(",", "·").replace(".", ",").replace("·", "."),
            }
        )
    write_csv(folder / "wohnungen.csv", rows, delimiter=";", encoding="utf-8-sig")


def nested(folder: Path, draw: random.Random):
    """An API's JSON lines: records within records, a list of pictures, tags, an id, a language that never changes."""
    lines = []
    for number in range(60):
        price, thing = round(draw.uniform(3, 90), 2), draw.choice(THINGS)
        names = [
            save(picture(draw, draw.choice(list(COLOURS)), (36, 36)), folder / f"{number}-{place}.jpg", quality=70)
            for place in range(2)
        ]
        record = {
            "_id": f"{draw.getrandbits(96):024x}",
            "product": {
                "title": f"{draw.choice(ADJECTIVES)} {thing}",
                "details": {"text": sentence(draw, price > 40), "material": draw.choice(["wood", "steel", "wool"])},
                "price": price,
            },
            "media": {"cover": names[0], "back": names[1] if number % 4 else None},
            "lang": "en",
            "seller": {"country": draw.choice(["PL", "PT", "RO"]), "sales": draw.randint(0, 5000)},
            "sold": price > 40 if draw.random() < 0.9 else price <= 40,
        }
        lines.append(json.dumps(record))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def parquet(folder: Path, draw: random.Random):
    """Parquet with the pictures inside, as bytes, beside a caption and numbers of 32 bits."""
    rows = []
    for _ in range(70):
        colour = draw.choice(list(COLOURS))
        file = io.BytesIO()
        picture(draw, colour, (40, 28)).save(file, "PNG")
        rows.append(
            {
                "png": file.getvalue(),
                "caption": f"a {draw.choice(ADJECTIVES)} {draw.choice(THINGS)} left in the {draw.choice(PLACES)}",
                "camera": draw.choice(["front", "rear"]),
                "exposure": draw.uniform(0.001, 0.05),
                "colour": colour,
            }
        )
    folder.mkdir(parents=True)
    frame = pd.DataFrame(rows).astype({"exposure": "float32", "camera": "category"})
    frame.to_parquet(folder / "shots.parquet", index=False)


def indexed(folder: Path, draw: random.Random):
    """A notebook's `to_csv`, with the index as a first column without a name, and a constant, and much missing."""
    hours = pd.date_range("2025-06-01", periods=140, freq="h")
    temperature = [15 + 8 * math.sin(hour.hour / 24 * 2 * math.pi) + draw.gauss(0, 1) for hour in hours]
    frame = pd.DataFrame(
        {
            "time": hours,
            "station": [draw.choice(["north", "south"]) for _ in hours],
            "temperature": temperature,
            "humidity": [None if draw.random() < 0.3 else round(draw.uniform(30, 95), 1) for _ in hours],
            "wind_direction": [draw.choice(["N", "E", "S", "W", None]) for _ in hours],
            "sensor_version": 7,
            "empty": None,
            "ozone": [round(40 + 2.5 * each + draw.gauss(0, 4), 2) for each in temperature],
        }
    )
    folder.mkdir(parents=True)
    frame.to_csv(folder / "weather.csv")


def pack(folder: Path, archive: Path):
    """Puts a folder into an archive that depends on its files alone."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            out.writestr(zipfile.ZipInfo(str(file.relative_to(folder))), file.read_bytes(), zipfile.ZIP_DEFLATED)


DATA_SETS = (
    *(catalogue, survey, sensors, sounds, pets, houses),
    *(reviews, competition, german, nested, parquet, indexed),
)

if __name__ == "__main__":
    for place, make in enumerate(DATA_SETS):
        with TemporaryDirectory() as folder:
            make(Path(folder) / make.__name__, random.Random(place))
            pack(Path(folder) / make.__name__, Path(__file__).parent / f"{make.__name__}.zip")
