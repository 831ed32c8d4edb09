"""Figures of the pages: each is what a benchmark or a run wrote. The lists below say which."""

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest


REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def results(name: str) -> Any:
    """What a benchmark wrote."""
    return json.loads((REPOSITORY / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def page(name: str) -> str:
    """A page, with single spaces for line breaks."""
    return " ".join((DOCS / name).read_text(encoding="utf-8").split())


@cache
def benchmark(name: str) -> Any:
    """The module of a benchmark, which runs nothing when it is imported."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "benchmarks"))
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return module


def test_tables_are_those_that_the_benchmarks_write():
    recipes, fusions, choices = benchmark("recipes"), benchmark("fusions"), benchmark("training_choices")
    runs = [json.loads(line) for line in fusions.RUNS.read_text(encoding="utf-8").splitlines()]
    text = (DOCS / "fusions.md").read_text(encoding="utf-8")
    assert fusions.markdown(fusions.summarise(fusions.current(runs))) in text
    assert recipes.markdown(results("recipes")) in (DOCS / "recipes.md").read_text(encoding="utf-8")
    guide = (DOCS / "guide.md").read_text(encoding="utf-8")
    assert choices.write_tables(guide, results("training_choices")["runs"]) == guide
    assert benchmark("answers").table(results("answers")) in (DOCS / "deployment.md").read_text(encoding="utf-8")
    assert benchmark("defaults").markdown(results("defaults")) in guide


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def fraction(value: float, digits: int = 3) -> str:
    """As the pages write a share: `.875`."""
    return f"{value:.{digits}f}".removeprefix("0")


def subset(name: str, key: str) -> str:
    found = results("subsets")[name]["subsets"][key]
    return f"{percent(found['mean'])} ± {percent(found['interval'])}"


def multi_task(method: str, metric: str) -> str:
    return fraction(results("multi_task")["table"][method][metric]["mean"])


def made(name: str, share: str) -> list[float]:
    """Lowest and highest of the seeds."""
    shares = [seed[name]["shares"][share] for seed in results("explain")["made"].values()]
    return [min(shares), max(shares)]


def recommended(name: str) -> list[str]:
    return [fraction(results("recommended")[name][metric]["value"]) for metric in ("f1", "average_precision")]


MADE = [(f"{name}, other_rows", "unique") for name in ("sum", "one alone", "copies")] + [
    ("copies, token", "redundant")
]
# Page, a benchmark's result, and the figures of it that the page must have.
CLAIMS = [
    ("concepts/memory.md", "pair_scoring", lambda d: [f"{d['median_ratio']['blip']:.0f}th of the time"]),
    ("concepts/memory.md", "step_cost", lambda d: [f"costs {d['ratio_median']:.2f} times"]),
    ("serving.md", "serve", lambda d: [f"brought {d['ratio']:.1f} times", f"grew by {d['megabytes_grown']:.1f} MB"]),
    ("serving.md", "serve", lambda d: [f"{d['rounds'][number]['ratio']:.1f}" for number in range(3)]),
    ("modalities/texts.md", "subsets", lambda d: [subset("sentiment", "text + tabular"), subset("sentiment", "text")]),
    (
        "recipes.md",
        "subsets",
        lambda d: [subset("smart_home", key) for key in ("audio + tabular", "tabular", "audio")],
    ),
    ("recipes.md", "subsets", lambda d: [subset("video", key) for key in ("vision + text + audio", "vision + text")]),
    (
        "recipes.md",
        "movielens_floors",
        lambda d: [f"{d['rmse'][name]:.3f}" for name in ("biases", "matrix_factorisation")],
    ),
    ("recipes.md", "recommended", lambda d: recommended("text, lstm-reviews") + recommended("everybody recommends")),
    ("tasks/speech.md", "speakers", lambda d: [percent(d[name]["mean"]["wer"]) for name in d]),
    (
        "tasks/multi_task.md",
        "multi_task",
        lambda d: (
            [multi_task(name, "category_accuracy") for name in ("category alone", "shared network", "uncertainty")]
            + [multi_task(name, "sentiment_spearman") for name in ("sentiment alone", "shared network", "uncertainty")]
        ),
    ),
    ("data.md", "places", lambda d: [fraction(d["accuracy"][name]) for name in ("one_text", "two_places")]),
    (
        "concepts/evidence.md",
        "explain",
        lambda d: [fraction(share) for name, kind in MADE for share in made(name, kind)],
    ),
]


@pytest.mark.parametrize(("name", "source", "figures"), CLAIMS, ids=[f"{claim[0]}-{claim[1]}" for claim in CLAIMS])
def test_figures_are_those_of_the_benchmarks(name, source, figures):
    text = page(name)
    assert [figure for figure in figures(results(source)) if figure not in text] == []


def rounded(text: str) -> set[str]:
    """All figures of a text at two, three and four digits behind the point."""
    found = [float(number) for number in re.findall(r"-?\d*\.\d+", text.replace(",", ""))]
    found += [number / 100 for number in found]  # percent
    return {fraction(number, digits) for number in found for digits in (2, 3, 4)}


def rows_with_a_card() -> list[tuple[str, str, str]]:
    """Page, card and row of each row of a table that names one card."""
    rows = []
    for file in PAGES:
        for line in file.read_text(encoding="utf-8").splitlines():
            cards = re.findall(r"model_cards/(\w+)\.md", line)
            if line.startswith("|") and len(cards) == 1:
                rows.append((str(file.relative_to(DOCS)), cards[0], line))
    return rows


@pytest.mark.parametrize(("name", "card", "row"), rows_with_a_card())
def test_results_beside_a_card_are_those_of_the_card(name, card, row):
    known = rounded((REPOSITORY / f"model_cards/{card}.md").read_text(encoding="utf-8"))
    known |= rounded(json.dumps(results("recipes").get(card, {})))  # intervals
    shown = re.findall(r"(?<![\d.])\.\d{2,4}(?!\d)", row)
    assert [figure for figure in shown if figure not in known] == []


def test_every_benchmark_and_result_that_is_named_is_there():
    for file in PAGES:
        for path in re.findall(r"benchmarks/[\w/]+\.(?:py|jsonl?)\b", file.read_text(encoding="utf-8")):
            assert (REPOSITORY / path).exists(), (file.name, path)


def test_every_result_is_read_by_a_page_or_a_test():
    told = "".join(file.read_text(encoding="utf-8") for file in PAGES)
    told += Path(__file__).read_text(encoding="utf-8") + (REPOSITORY / "tests/test_readme.py").read_text(
        encoding="utf-8"
    )
    for file in (REPOSITORY / "benchmarks/results").glob("*.json"):
        assert re.search(rf"\b{file.stem}\b", told), file.name
