"""The documentation: its links lead somewhere, its blocks run, its commands and names are there."""

import re
import sys
from pathlib import Path

import doc_blocks
import pytest
import yaml

import mm_hf
from mm_hf import cli


REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
sys.path.insert(0, str(DOCS))
import docstrings  # noqa: E402
import hooks  # noqa: E402


SITE_PAGES = sorted(DOCS.rglob("*.md"))
PAGES = [*SITE_PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md", REPOSITORY / "CHANGELOG.md"]
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in doc_blocks.blocks_of(page))]
TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
DOCUMENTED = {
    name
    for page in (DOCS / "reference/api").glob("*.md")
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
}


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link, on GitHub and on the site."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+?)(?: \{[^}]*\})?$", hooks.FENCED.sub("", text), flags=re.MULTILINE)
    given = set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)) | set(re.findall(r'id="([^"]+)"', text))
    return {hooks.slug(re.sub(r"[`*]|\]\([^)]*\)", "", heading)) for heading in headings} | given


# --- Links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", hooks.FENCED.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^):]+)\)", text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md" and not hooks.FILL.search(file.read_text(encoding="utf-8")):
            assert anchor in anchors(file), target


def test_links_lead_to_pages_of_the_site_or_into_the_repository():
    pages = {"CHANGELOG.md": "changelog.md", "model_cards/sensors.md": "model_cards/sensors.md"}

    def link(target: str, written_in: str, shown_on: str) -> str:
        return hooks.link(target, REPOSITORY / written_in, shown_on, pages, "https://example.org/mm")

    assert link("data.md#forms", "docs/guide.md", "guide.md") == "data.md#forms"
    assert link("../data.md", "docs/reference/flags.md", "reference/flags.md") == "../data.md"
    assert link("docs/data.md#forms", "CONTRIBUTING.md", "contributing.md") == "data.md#forms"
    assert link("../model_cards/sensors.md", "docs/guide.md", "guide.md") == "model_cards/sensors.md"
    assert link("../CHANGELOG.md", "docs/guide.md", "guide.md") == "changelog.md"
    assert (
        link("../mm_hf/cli.py#L1", "docs/guide.md", "guide.md") == "https://example.org/mm/blob/main/mm_hf/cli.py#L1"
    )
    assert link("../examples", "docs/guide.md", "guide.md") == "https://example.org/mm/tree/main/examples"
    for same in ("#forms", "https://example.org", "nothing.md", "mailto:me@example.org"):
        assert link(same, "docs/guide.md", "guide.md") == same
    code = "[a](../README.md)\n```\n[a](../README.md)\n```\n"
    shown = hooks.with_links(code, DOCS / "guide.md", "guide.md", pages, "https://example.org/mm")
    assert shown == code.replace("../README.md", "https://example.org/mm/blob/main/README.md", 1)


def test_what_is_wrong_with_a_built_site_is_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/index.html").write_text('<h1 id="here"></h1><a href="#here">x</a><a href="../b.html#there">x</a>')
    (tmp_path / "b.html").write_text('<h1 id="there"></h1><a href="a/#here">x</a><a href="https://example.org">x</a>')
    assert hooks.faults_of_site(tmp_path) == []
    (tmp_path / "c.html").write_text(
        '<a href="a/#gone">x</a><a href="gone.html">x</a><script src="https://example.org/x.js"></script>'
        '<img src="a.png"><link rel="stylesheet" href="//example.org/x.css">'
    )
    faults = hooks.faults_of_site(tmp_path)
    wrong = ("a/#gone", "gone.html", "https://example.org/x.js", "a.png", "//example.org/x.css")
    assert len(faults) == len(wrong)
    assert all(any(target in fault for fault in faults) for target in wrong)


def test_all_pages_stand_in_the_navigation():
    """The strict build finds this too, but takes longer."""
    config = re.sub(r"!!\S+", "", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages_of(entry) -> list[str]:
        values = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ()
        return [entry] if isinstance(entry, str) else [page for value in values for page in pages_of(value)]

    told = pages_of(yaml.safe_load(config)["nav"])
    assert len(told) == len(set(told))
    assert set(told) == {page.relative_to(DOCS).as_posix() for page in SITE_PAGES}


# --- Blocks of code


@pytest.fixture(scope="module")
def local_encoders(tmp_path_factory) -> dict[str, Path]:
    return doc_blocks.local_encoders(tmp_path_factory.mktemp("whisper"))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_run(page, local_encoders, tmp_path, monkeypatch):
    doc_blocks.keep_pushes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    doc_blocks.run_python(page, local_encoders, doc_blocks.given_names())


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "README.md"], ids=name_of)
def test_commands_are_there(page):
    for block in doc_blocks.blocks_of(page):
        assert block.reason != "", f"{page.name}:{block.line}: no-run needs a reason"
        if block.language in doc_blocks.SHELL and block.reason is None:
            for words in doc_blocks.commands_of(block.code):
                fault = doc_blocks.fault_of_command(words)
                assert fault is None, f"{page.name}:{block.line}: {' '.join(words)}: {fault}"


def test_commands_that_are_not_there_are_found():
    wrong = """
    mm_hf tran houses.csv
    mm_hf train houses.csv --lable price
    mm_hf train houses.csv --learning_rate quick  # no number
    A=1 mm_hf prepare easy_vqa data --colour red && mm_hf results
    mm_hf evaluate --missing
    mm_hf prepare nothing data/nothing
    make nothing
    pip install "mm_hf[nothing]"
    accelerate launch -m mm_hf.training.train houses.csv --nothing 1
    python examples/nothing.py
    frobnicate --all
    """
    faults = [doc_blocks.fault_of_command(words) for words in doc_blocks.commands_of(wrong)]
    assert len(faults) == 12
    assert [number for number, fault in enumerate(faults) if fault is None] == [4]  # of `mm_hf results`
    right = "mm_hf evaluate runs/a --missing; mm_hf compare runs/a runs/b > out.txt\n$ HF=1 make test"
    assert not any(map(doc_blocks.fault_of_command, doc_blocks.commands_of(right)))


def test_blocks_are_found_and_run_in_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```python\na = 1\n```\n\n- b\n\n  ```python\n  a += 1\n  ```\n\n<!-- no-run: needs a GPU -->\n"
        "```python\n1 / 0\n```\n\n```text\nno code\n```\n\n```python\n{}[a]\n```\n"
    )
    reasons = [block.reason for block in doc_blocks.blocks_of(page)]
    assert reasons == [None, None, "needs a GPU", None, None]
    with pytest.raises(KeyError, match="2") as error:
        doc_blocks.run_python(page, {}, {})
    assert (error.traceback[-1].path, error.traceback[-1].lineno + 1) == (page, 23)


# --- Names


def test_every_verb_is_told_and_is_there():
    table = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| .* \| `mm_hf \1 ", table, flags=re.MULTILINE)) == set(cli.VERBS)
    for command in set(re.findall(r"`mm_hf ([a-z][^`\n]*)`", TEXT)):
        name, *words = command.replace("[", " ").replace("]", " ").split()
        assert name in cli.VERBS, command
        assert {"NAME", "--import"} & set(words) or doc_blocks.unknown_flags(name, words) == [], command


def test_tests_that_are_told_are_there():
    text = (DOCS / "deployment_problems.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)[:-1]
    rows = re.findall(r"^\| (?!problem|---).*$", text, flags=re.MULTILINE)
    assert len(rows) == len(sections) == 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), test


def test_recipes_that_are_told_are_there():
    told = re.findall(r"(?:Recipes?:|[Tt]he recipe|, recipe)\s((?:`\w+`(?:,\s)?)+)", TEXT)
    names = {name for names in told for name in re.findall(r"\w+", names)}
    names |= set(re.findall(r"mm_hf recipes (?:show|copy) (\w+)", TEXT))
    assert {"sensors", "speech_seq2seq", "easy_vqa"} <= names
    assert names <= {file.stem for file in (REPOSITORY / "mm_hf/recipes").glob("*.yaml")}


def test_every_public_name_is_in_the_reference():
    modules = {name.rsplit(".", 1)[0] for name in DOCUMENTED}
    assert {name for name in mm_hf.__all__ if f"mm_hf.{name}" not in DOCUMENTED | modules} == set()
    for module in ("data", "evaluation", "tasks"):  # these offer what they import
        text = (REPOSITORY / f"mm_hf/{module}/__init__.py").read_text(encoding="utf-8")
        offered = {
            name for line in re.findall(r"^from \.\w+ import (.+)$", text, re.MULTILINE) for name in line.split(", ")
        }
        assert {name for name in offered if f"mm_hf.{module}.{name}" not in DOCUMENTED} == set(), module
    for module in ("retrieval", "evidence", "export", "demo"):
        text = (REPOSITORY / f"mm_hf/{module}").with_suffix(".py")
        text = text if text.exists() else REPOSITORY / f"mm_hf/{module}/__init__.py"
        offered = re.search(r"^__all__ = \[(.*?)\]", text.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
        assert {
            name for name in re.findall(r'"(\w+)"', offered) if f"mm_hf.{module}.{name}" not in DOCUMENTED
        } == set()


# --- What the site fills in


def test_every_key_is_in_the_reference():
    from argparse import SUPPRESS
    from dataclasses import fields

    from mm_hf.training.recipe import ALL_ARGUMENTS

    text = hooks.recipe_keys()
    keys = [key for group in ALL_ARGUMENTS for key in fields(group) if key.metadata["help"] is not SUPPRESS]
    rows = re.findall(r'^\| <span id="(\w+)">', text, flags=re.MULTILINE)
    assert rows == [key.metadata.get("flag", key.name) for key in keys]
    row = next(row for row in text.split("\n") if 'id="learning_rate"' in row)
    assert "default `0.0001`" in row
    assert "number or mapping to number" in row
    aliases = {alias for key in keys for alias in key.metadata.get("aliases", ())}
    assert aliases
    assert all(f"`{alias}`" in text for alias in aliases)


def test_every_verb_has_its_flags_in_the_reference():
    sections = re.split(r"^## ", hooks.flags(), flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == list(cli.VERBS)
    assert all("usage: mm_hf" in section or "recipe_keys.md" in section for section in sections)


def test_every_card_is_in_the_gallery():
    cards = sorted((REPOSITORY / "model_cards").glob("*.md"))
    text = hooks.cards()
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == [card.stem for card in cards]
    pictures = list((REPOSITORY / "model_cards/pictures").glob("*"))
    assert {picture.stem for picture in pictures} <= {card.stem for card in cards}
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 2_000_000
    assert len(re.findall(r"!\[", text)) == len(pictures)


def test_docstrings_are_brought_into_griffes_form():
    text = (
        "A line.\n\nArgs:\n    a, b: of both,\n        and more.\n    c (`int` or `str`,\n        *optional*): one."
        "\n\nReturns:\n    it: both."
    )
    assert docstrings.in_griffes_form(text).split("\n")[2:] == [
        "Args:",
        *("    a: of both,", "        and more.", "    b: of both,", "        and more."),
        *("    c (int or str, optional): one.", "", "Returns:", "    : it: both."),
    ]
