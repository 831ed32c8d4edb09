"""Do maps over the parts of items point at the right place? Measured on data where the right place is known.

    python benchmarks/explain_parts.py sort_of_clevr runs/sort_of_clevr --output benchmarks/results/explain_parts.json
    python benchmarks/explain_parts.py easy_vqa runs/easy_vqa --output …
    python benchmarks/explain_parts.py cost --output …

Sort-of-CLEVR: new scenes, with questions about one object that the model answers right. The builder knows the centre
of the object. A map *points* right if its highest cell touches the object; its *mass* is the share of its sum in
cells that touch it. *Deletion*: cells of the picture are painted white in the order of the map, and the probability
of the answer is measured along the way. The result is how much smaller the area under this curve is than with random
orders. Everything is repeated with random weights in the fusion, and with a closed gate of the cross-attention. Then
the model cannot know the answer, so a method that still points right is not informative.

Easy-VQA: words that matter for the question (its colour, its shape, "not", "is there", "what color") are compared with
articles, "in the image" and the like. Measured is in how many rows the highest word of the first kind is above all
words of the second kind, and for how many pairs this is so.

Cost: regions of a picture with 7x7 cells compared with one prediction, ViT-B/16 and BERT-base, including encoders, in
CPU seconds.
"""

import argparse
import io
import itertools
import json
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import load_from_disk
from transformers import BertConfig, ViTConfig
from transformers.utils import logging

from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.evidence.checks import check_parts, redrawn
from mm_hf.evidence.methods import METHODS, NoMap, occlusion
from mm_hf.evidence.parts import Answer, EncodedRows, PartMap
from mm_hf.prepare.sort_of_clevr import RADIUS, SIDE, generate_rows


PAINTED = (2, 4, 8, 16, 24, 32, 48)  # numbers of painted cells of 64, in addition to none and all
FRESH_SEED = 20261130


def open_run(folder: Path) -> tuple[Any, Any]:
    """The model and the processor of a run."""
    model = MMFusionForQuestionAnswering.from_pretrained(folder).eval()
    return model, MMFusionProcessor.from_pretrained(folder)


def encode(model, processor, pictures: Sequence[Any], questions: Sequence[str], background=None) -> EncodedRows:
    """Rows of pictures and questions. Pictures that are the same Python object are shared."""
    distinct = list({id(picture): picture for picture in pictures}.values())
    numbers = {id(picture): number for number, picture in enumerate(distinct)}
    batch = dict(processor(images=distinct)) | dict(processor(text=list(questions)))
    batch["vision_index"] = torch.tensor([numbers[id(picture)] for picture in pictures])
    batch["text_index"] = torch.arange(len(questions))
    items = {"vision": distinct, "text": list(questions)}
    return EncodedRows(model, batch, background=background, items=items, processor=processor)


def background_of(processor, rows: Iterable[tuple[Any, str]]) -> dict[str, Any]:
    """Inputs of other rows."""
    pictures, questions = zip(*rows)
    batch = dict(processor(images=list(pictures), text=list(questions)))
    return {name: value for name, value in batch.items() if not name.endswith("_index")}


# ---- Sort-of-CLEVR


def fresh_scenes(count: int, seed: int = FRESH_SEED) -> list[dict[str, Any]]:
    """Questions about one object each, on scenes that are in no data set."""
    rows: list[dict[str, Any]] = []
    for number in itertools.count():
        if len(rows) >= count:
            return rows[:count]
        picture = None
        for row in generate_rows("fresh", number, seed, 0):
            if row["kind"] != "non-relational":
                continue
            picture = picture or open_png(row["image"]["bytes"])
            (asked,) = (thing for thing in row["objects"] if f"the {thing['color']} object" in row["question"])
            rows.append({**row, "picture": picture, "x": asked["x"], "y": asked["y"]})
    return rows


def open_png(content: bytes) -> PIL.Image.Image:
    """The picture in an in-memory file."""
    return PIL.Image.open(io.BytesIO(content)).convert("RGB")


def cells_of_object(row: dict[str, Any], shape: tuple[int, int]) -> torch.Tensor:
    """The cells that the object touches, `(rows, columns)` bool."""
    touched = []
    for centre, count in ((row["y"], shape[0]), (row["x"], shape[1])):
        edges = torch.arange(count + 1) * SIDE / count
        touched.append((edges[1:] > centre - RADIUS) & (edges[:-1] < centre + RADIUS + 1))
    return touched[0][:, None] & touched[1][None]


def painted(picture: PIL.Image.Image, cells: Sequence[int], shape: tuple[int, int]) -> PIL.Image.Image:
    """The picture with some cells painted white."""
    pixels = np.array(picture)
    for cell in cells:
        row, column = divmod(int(cell), shape[1])
        top, bottom = (round(place * SIDE / shape[0]) for place in (row, row + 1))
        left, right = (round(place * SIDE / shape[1]) for place in (column, column + 1))
        pixels[top:bottom, left:right] = 255
    return PIL.Image.fromarray(pixels)


@torch.no_grad()
def chances(model, processor, pictures, questions, said, batch_size: int = 200) -> torch.Tensor:
    """The probability of the given answer to each row."""
    values = []
    for start in range(0, len(pictures), batch_size):
        part = slice(start, start + batch_size)
        batch = processor(images=list(pictures[part]), text=list(questions[part]))
        logits = model(**batch).logits
        values.append(logits.softmax(-1).gather(-1, said[part, None])[:, 0])
    return torch.cat(values)


def area(model, processor, rows, said, orders: list[torch.Tensor], shape, ends: torch.Tensor) -> torch.Tensor:
    """The area under the curve of each answer's probability, while cells are painted white in an order, from none to
    all."""
    curve = [ends[0]]
    for count in PAINTED:
        pictures = [painted(row["picture"], order[:count], shape) for row, order in zip(rows, orders)]
        curve.append(chances(model, processor, pictures, [row["question"] for row in rows], said))
    share = torch.tensor([0, *PAINTED, shape[0] * shape[1]]) / (shape[0] * shape[1])
    return torch.trapezoid(torch.stack([*curve, ends[1]], dim=1), share, dim=1)


def pointing(maps: list[PartMap], rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The share of rows in which the highest cell touches the object, and the share of the map's sum in such cells."""
    hits, shares = [], []
    for part in maps:
        inside, values = cells_of_object(rows[part.row], part.parts.shape), part.values.clamp(min=0)
        hits.append(bool(inside.flatten()[values.argmax()]))
        shares.append(float(values[inside].sum() / values.sum().clamp(min=1e-30)))
    return statistics.mean(hits), statistics.mean(shares)


def sort_of_clevr(options: argparse.Namespace) -> dict[str, Any]:
    """See the head of this file."""
    model, processor = open_run(options.run)
    data = load_from_disk(str(options.data / "sort_of_clevr"))["train"]
    background = background_of(
        processor,
        [(row["image"], row["question"]) for row in (data[20 * place] for place in range(options.background))],
    )
    rows = fresh_scenes(options.rows + options.rows // 5)
    names = model.config.id2label

    def encoded(chosen):
        pictures, questions = [row["picture"] for row in chosen], [row["question"] for row in chosen]
        return encode(model, processor, pictures, questions, background)

    with torch.no_grad():
        all_rows = encoded(rows)
        answers = model(token_states=all_rows.tokens).logits.argmax(-1)
    right = [names[answer] == row["answer"] for answer, row in zip(answers.tolist(), rows)]
    accuracy = statistics.mean(right)
    rows = [row for row, good in zip(rows, right) if good][: options.rows]
    said = torch.tensor([model.config.label2id[row["answer"]] for row in rows])
    of_rows = encoded(rows)
    answer = Answer.of(model, said)
    report: dict[str, Any] = {"accuracy": accuracy, "rows": len(rows), "methods": {}}
    pictures, questions = [row["picture"] for row in rows], [row["question"] for row in rows]
    shape = of_rows.parts("vision", 0).shape
    white = [painted(picture, range(shape[0] * shape[1]), shape) for picture in pictures]
    ends = torch.stack([chances(model, processor, shown, questions, said) for shown in (pictures, white)])
    generator = torch.Generator().manual_seed(0)
    size = shape[0] * shape[1]
    random = [torch.randperm(size, generator=generator) for _ in rows]
    by_chance = area(model, processor, rows, said, random, shape, ends)
    shut = [layer.gates for layer in model.base_model.fusion.layers]
    for name in options.methods:
        about: dict[str, Any] = {}
        start = time.perf_counter()
        maps = METHODS[name](of_rows, answer, "vision")
        about["seconds"] = time.perf_counter() - start
        about["pointing"], about["mass"] = pointing(maps, rows)
        orders = [part.values.flatten().argsort(descending=True) for part in maps]
        about["deletion_gain"] = float((by_chance - area(model, processor, rows, said, orders, shape, ends)).mean())
        with redrawn(model.base_model.fusion, seed=1):
            about["drawn_anew"] = pointing(METHODS[name](of_rows, answer, "vision"), rows)[0]
        before = [gates.detach().clone() for gates in shut]
        with torch.no_grad():
            for gates in shut:
                gates[1] = 0
            logits = model(token_states=of_rows.tokens).logits
        about["gate_shut_accuracy"] = float((logits.argmax(-1) == said).double().mean())
        about["gate_shut"] = pointing(METHODS[name](of_rows, answer, "vision"), rows)[0]
        with torch.no_grad():
            for gates, value in zip(shut, before):
                gates.copy_(value)
        report["methods"][name] = about
        print(name, {key: round(value, 3) for key, value in about.items()}, flush=True)
    few = encoded(rows[:32])
    report["checks"] = check_parts(few, Answer.of(model, said[:32]), "vision", options.methods[0])
    for name, check in report["checks"].items():
        print(name, check, flush=True)
    return report


# ---- Easy-VQA

NAMES = "black|gray|red|blue|green|yellow|teal|brown|circle|rectangle|triangle"
# The words that matter in a question: what it asks for; for yes-or-no questions also a negation and the form of it.
CARRIES = {
    True: re.compile(rf"{NAMES}|not|no|is|there|does|contain|present"),
    False: re.compile("what|which|color|shape"),
}
# "a" and "an" are counted separately: other questions have a negation in this place ("is there no circle").
FILLERS = {"first": r"the|of|in|image|[?.,]", "first_with_articles": r"the|a|an|of|in|image|[?.,]"}


def easy_vqa(options: argparse.Namespace) -> dict[str, Any]:
    """See the head of this file."""
    model, processor = open_run(options.run)
    data = load_from_disk(str(options.data / "easy_vqa"))
    train, test = data["train"], data["test"].shuffle(seed=1)
    background = background_of(
        processor, [(row["image"], row["question"]) for row in train.select(range(0, 6400, 100))]
    )
    rows = list(test.select(range(2 * options.rows)))
    report: dict[str, Any] = {"methods": {}}
    pictures, questions = [row["image"] for row in rows], [row["question"] for row in rows]
    encoded = encode(model, processor, pictures, questions, background)
    with torch.no_grad():
        said = model(token_states=encoded.tokens).logits.argmax(-1)
    names = test.features["answer"].names
    right = [model.config.id2label[int(answer)] == names[row["answer"]] for answer, row in zip(said, rows)]
    report["accuracy"] = statistics.mean(right)
    answer = Answer.of(model, said)
    for name in options.methods:
        try:
            maps = METHODS[name](encoded, answer, "text")
        except (NoMap, ImportError) as error:
            print(name, error)
            continue
        ranked: dict[str, list[bool]] = {measure: [] for measure in FILLERS}
        above = []
        for part in maps:
            text, values = questions[part.row].lower(), part.values.abs().tolist()
            words = [text[start:end] for start, end in part.parts.where["spans"]]
            carrying = CARRIES[not text.startswith(("what", "which"))]
            carries = [value for word, value in zip(words, values) if carrying.fullmatch(word)]
            for measure, filler in FILLERS.items():
                others = [value for word, value in zip(words, values) if re.fullmatch(filler, word)]
                if right[part.row] and carries and others:
                    ranked[measure].append(max(carries) > max(others))
                    above.append(statistics.mean(one > other for one in carries for other in others))
        figures = {measure: statistics.mean(known) for measure, known in ranked.items()}
        report["methods"][name] = {"rows": len(ranked["first"]), "pairs": statistics.mean(above[::2]), **figures}
        print(name, report["methods"][name], flush=True)
        for part in maps[: options.shown]:
            words = [questions[part.row][a:b] for a, b in part.parts.where["spans"]]
            print("   ", [(word, round(value, 3)) for word, value in zip(words, part.values.tolist())])
    return report


# ---- Cost


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Regions against one prediction: ViT-B/16, BERT-base and the default fusion, 12 tokens of text."""
    torch.manual_seed(0)
    config = MMFusionConfig(
        vision_config=ViTConfig(), text_config=BertConfig(), num_labels=13, fusion_module_config={}
    )
    model = MMFusionForClassification(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(0.5)
    batch = {
        "pixel_values": torch.randn(1, 3, 224, 224),
        "input_ids": torch.randint(1000, 20000, (1, 12)),
        "attention_mask": torch.ones(1, 12, dtype=torch.int64),
    }
    times: dict[str, list[float]] = {"prediction": [], "regions": []}
    with torch.no_grad():
        said = model(**batch).logits.argmax(-1)
    for turn in range(options.rounds + 1):
        start = time.process_time()
        with torch.no_grad():
            model(**batch)
        middle = time.process_time()
        rows = EncodedRows(model, batch)
        maps = occlusion(rows, Answer.of(model, said), "vision")
        end = time.process_time()
        if turn:
            times["prediction"].append(middle - start)
            times["regions"].append(end - middle)
    shape = list(maps[0].parts.shape)
    medians = {name: statistics.median(values) for name, values in times.items()}
    report = {"shape": shape, **medians, "ratio": medians["regions"] / medians["prediction"]}
    print(report)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=["sort_of_clevr", "easy_vqa", "cost"])
    parser.add_argument("run", type=Path, nargs="?", help="folder of a run of that recipe")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the data sets; default: %(default)s"
    )
    parser.add_argument("--rows", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--background", type=int, default=64, help="rows that replace items; default: %(default)s")
    parser.add_argument("--methods", nargs="+", default=["occlusion"], help=f"of {list(METHODS)}; default: occlusion")
    parser.add_argument("--rounds", type=int, default=5, help="rounds for the cost; default: %(default)s")
    parser.add_argument("--shown", type=int, default=0, help="number of maps of words to print")
    parser.add_argument("--name", help="key of the results in the output; default: the name of the measurement")
    parser.add_argument("--output", type=Path, help="JSON file that the results are added to")
    options = parser.parse_args()
    logging.set_verbosity_error()
    report = globals()[options.what](options)
    if options.output:
        known = json.loads(options.output.read_text()) if options.output.exists() else {}
        known[options.name or options.what] = report
        options.output.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
