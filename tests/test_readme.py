"""The README: its commands are there, its examples print what it shows, its figures are those of the runs, and the
Chinese one says the same."""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from mm_hf import pipeline


REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CHINESE = (REPOSITORY / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:bash|python|text)\n(.*?)\n```", README, flags=re.DOTALL)
LONGEST = 150  # lines
HUB_IDS = {"google/vit-base-patch16-224": "mobilenet-v2", "google-bert/bert-base-uncased": "minilm-l6"}


def block_with(words: str) -> str:
    """The first block that has these words."""
    return next(block for block in BLOCKS if words in block)


def after(block: str) -> str:
    """The block behind another one: what it prints."""
    return BLOCKS[BLOCKS.index(block) + 1]


def results(name: str):
    """What a benchmark wrote."""
    return json.loads((REPOSITORY / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", [README, CHINESE], ids=["english", "chinese"])
def test_it_is_short(text):
    assert len(text.splitlines()) <= LONGEST


def test_python_prints_what_is_shown(encoders, tmp_path, monkeypatch):
    shown = block_with("from_encoders_pretrained")
    block = shown
    for hub_id, folder in HUB_IDS.items():
        assert hub_id in block
        block = block.replace(hub_id, str(encoders / folder))
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, "README.md", "exec"), {})
    assert printed.getvalue().strip() == after(shown)
    assert (tmp_path / "answers/config.json").exists()


def test_the_pipeline_answers_in_that_form(tmp_path, monkeypatch):
    """The block itself, but for the model and who loads it: a stored checkpoint, by the package."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "blue").save("circle.png")
    shown = block_with("from transformers import pipeline")
    stored = REPOSITORY / "tests/data/checkpoints/heads/question_answering"
    block = shown.replace("from transformers import pipeline", "").replace("runs/easy_vqa", str(stored))
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(block, "README.md", "exec"), {"pipeline": lambda task, model, **_: pipeline(task, model=model)})
    ours, theirs = (json.loads(text.replace("'", '"')) for text in (printed.getvalue(), after(shown)))
    assert [set(best) for best in ours] == [set(best) for best in theirs]
    assert 1 >= theirs[0]["score"] > theirs[1]["score"] > 0


def test_the_server_is_asked_for_what_the_pipeline_takes():
    fields = [word.split("=", 1)[0] for word in shlex.split(block_with("curl ")) if "=" in word]
    assert fields == ["image", "question", "top_k"]
    assert all(f'"{name}"' in block_with("from transformers import pipeline") for name in fields[:2])


def test_what_is_printed_is_what_was_printed():
    """`benchmarks/front_page.py` ran the commands, and kept what they said."""
    said = results("front_page")["said"]
    train = block_with("mm_hf train houses.csv")
    lines = {" ".join(line.split()) for line in said[train]}
    shown = [" ".join(line.split()) for line in after(train).splitlines() if line != "…"]
    assert len(shown) > 9
    for line in shown:  # a cell may end before what the command adds in brackets
        assert any(line == whole or line == re.sub(r" \(else: [^)]*\)", "", whole) for whole in lines), line
    assert after(block_with("from transformers import pipeline")) in said["pipeline"]
    seconds = next(re.search(r"train (\d+) s", line) for line in said[train] if line.startswith("prepare"))[1]
    assert f"trained for {seconds} seconds" in README
    assert all(command in said for command in ("mm_hf predict runs/houses new.csv -o prices.csv", train))


def test_figures_are_those_of_the_runs():
    runs = {run["setting"]: run for run in results("defaults") if run["data"] == "easy_vqa"}
    floors = {**runs["floors"]["floors"], "linear": runs["linear"]["score"]}
    relations = {name: entry["scores"]["relational"] for name, entry in fusions()["sort_of_clevr"].items()}

    def percent(name: str) -> str:
        return f"{100 * relations[name]['mean']:.1f} ± {100 * relations[name]['half_width']:.1f}"

    figures = [f"{floors[name]:.3f}".lstrip("0") for name in ("majority", "text_only", "linear")]
    figures += [f"**{runs['default']['score']:.4f}".replace("0.", "."), percent("concat"), percent("deep_cross")]
    figures += ["**" + percent("cross_attention + memory_layers")]
    figures += [f"**{results('pair_scoring')['median_ratio']['blip']:.0f} ×"]
    for text in (README, CHINESE):
        assert [figure for figure in figures if figure not in text] == []


def fusions() -> dict:
    return results("fusions")["summary"]


def test_recipes_that_are_named_are_there():
    known = {file.stem for file in (REPOSITORY / "mm_hf/recipes").glob("*.yaml")}
    table = README[README.index("## What goes in") : README.index("## Results")]
    named = {name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 12
    assert named <= known
    assert f"[all {len(known)}]" in README


def test_the_chinese_one_has_the_same_commands_and_figures():
    """Code word for word; figures and links in any order."""
    assert re.findall(r"```(?:bash|python|text)\n(.*?)\n```", CHINESE, flags=re.DOTALL) == BLOCKS
    prose, theirs = (re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in (README, CHINESE))
    prose = prose.replace("README.zh-CN.md", "README.md")  # each leads to the other
    for pattern in (r"\d[\d.,]*(?<![.,])", r"\]\(([^)]+)\)", r"`([^`]+)`"):
        assert sorted(re.findall(pattern, prose)) == sorted(re.findall(pattern, theirs))


@pytest.mark.parametrize("command", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_make_targets_exist(command):
    assert re.search(rf"^{command}:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)


def test_flags_exist():
    from dataclasses import fields

    from mm_hf.commands.arguments import ExportArguments, PredictArguments
    from mm_hf.commands.serve_arguments import ServeArguments
    from mm_hf.training.recipe import ALL_ARGUMENTS
    from mm_hf.training.reopen import EvaluateArguments

    groups = (*ALL_ARGUMENTS, EvaluateArguments, PredictArguments, ExportArguments, ServeArguments)
    known = {field.name for group in groups for field in fields(group)}
    known |= {alias.lstrip("-") for group in groups for f in fields(group) for alias in f.metadata.get("aliases", ())}
    assert set(re.findall(r"--([a-z][a-z0-9_]*)", README)) <= known


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:\]\(|src=\"|srcset=\")([^)#:\"]+)", README))))
def test_links_lead_somewhere(path):
    assert (REPOSITORY / path).exists()


def test_drawings_are_what_their_script_draws():
    import importlib.util

    spec = importlib.util.spec_from_file_location("drawings", REPOSITORY / "docs/drawings.py")
    drawings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawings)
    for draw in drawings.DRAWINGS:
        for theme in drawings.THEMES:
            path = REPOSITORY / f"docs/assets/{draw.__name__}-{theme}.svg"
            assert path.read_text(encoding="utf-8") == draw(theme).svg(), path.name
