"""The documentation: its links lead somewhere, and its commands are there."""

import re
from pathlib import Path

import pytest

from mm_hf import cli


REPOSITORY = Path(__file__).parent.parent
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "SECURITY.md"]


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_verb_is_told_and_is_there():
    table = (REPOSITORY / "docs/commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| .* \| `mm_hf \1 ", table, flags=re.MULTILINE)) == set(cli.VERBS)
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"(?:`|^)mm_hf ([a-z]+)", pages, flags=re.MULTILINE)) <= set(cli.VERBS)


def test_tests_that_are_told_are_there():
    text = (REPOSITORY / "docs/deployment_problems.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)[:-1]
    rows = re.findall(r"^\| (?!problem|---).*$", text, flags=re.MULTILINE)
    assert len(rows) == len(sections) == 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), test


def test_recipes_that_are_told_are_there():
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    told = re.findall(r"(?:Recipes?:|[Tt]he recipe|, recipe)\s((?:`\w+`(?:,\s)?)+)", pages)
    names = {name for names in told for name in re.findall(r"\w+", names)}
    names |= set(re.findall(r"mm_hf recipes (?:show|copy) (\w+)", pages))
    assert {"sensors", "speech_seq2seq", "easy_vqa"} <= names
    assert names <= {file.stem for file in (REPOSITORY / "mm_hf/recipes").glob("*.yaml")}
