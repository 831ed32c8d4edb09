"""What belongs to a released project: its version in all places, its licences, and what runs on GitHub.

The workflows cannot run here: these tests load them, and compare what they name with the Makefile and pyproject.toml.
"""

import re
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mm_hf
from mm_hf.prepare.encoders import ENCODERS, MINILM_CARD, MOBILENET_CARD
from mm_hf.prepare.places import BUILDERS
from mm_hf.prepare.whisper import WHISPER_CARD


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
LICENCES = (REPOSITORY / "docs/licenses.md").read_text(encoding="utf-8")
GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
# What a package's metadata say, in one of three fields, and what this page calls it.
WORDS = {
    "Apache-2.0": "apache",
    "BSD-3-Clause": "bsd",
    "BSD-2-Clause": "bsd",
    "MIT-CMU": "mit-cmu",
    "MIT": "mit",
    "MPL-2.0": "mpl-2.0",
    "Python Software Foundation": "python software foundation",
}


def loaded(file: Path) -> dict:
    """A YAML file; the key `on` is the truth in YAML 1.1."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in values.items()}


def rows_under(heading: str) -> list[list[str]]:
    """The rows of the table under a heading of docs/licenses.md, without its first two lines."""
    section = LICENCES.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def licence_of(card: str) -> str | None:
    """What the head of a card says."""
    found = re.search(r"^license: (\S+)$", card.split("---")[1], flags=re.MULTILINE)
    return found and found[1]


# ---- The version


def test_the_version_is_the_same_in_all_places():
    citation = loaded(REPOSITORY / "CITATION.cff")
    version, date = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", CHANGELOG, flags=re.MULTILINE)[0]
    assert citation["version"] == version == mm_hf.__version__
    assert citation["date-released"] == date
    assert re.search(r"^## Unreleased$", CHANGELOG, flags=re.MULTILINE)


def test_the_citation_has_what_the_format_asks_for():
    citation = loaded(REPOSITORY / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    assert citation["message"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


# ---- What runs on GitHub


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_runs_what_there_is(file):
    workflow = loaded(file)
    text = file.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert {"name", "on", "jobs", "permissions"} <= set(workflow)
    for step in steps:
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            command, target, *others = step["run"].split()
            assert (command, others) == ("make", ["PYTHON=python"]), step
            assert target in targets, target
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(?:v|release/v)\d+", step["uses"]), step
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert "secrets." not in text


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_do_little(file):
    """It reads the code; what publishes may also show who it is, and what writes the site may write the site."""
    workflow = loaded(file)
    assert workflow["permissions"] == {"contents": "read"}
    given = [set(job.get("permissions", {}).items()) for job in workflow["jobs"].values()]
    most = {"release": {("id-token", "write")}, "docs": {("id-token", "write"), ("pages", "write")}}
    assert set().union(*given) == most.get(file.stem, set())
    for job in workflow["jobs"].values():
        if "permissions" in job:  # nothing of the repository runs with them
            assert not any("run" in step or "checkout" in step["uses"] for step in job["steps"])


def test_workflows_take_the_versions_of_python_that_are_allowed():
    allowed = SpecifierSet(PROJECT["requires-python"])
    (lowest,) = (bound.version for bound in allowed)
    texts = "".join(file.read_text(encoding="utf-8") for file in WORKFLOWS)
    matrix = loaded(GITHUB / "workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    versions = {*re.findall(r'python-version: "([\d.]+)"', texts), *matrix}
    assert all(isinstance(version, str) and version in allowed for version in versions)  # 3.10 is no number
    assert lowest in matrix
    assert re.search(r"^PYTHON \?= python(\S+)$", MAKEFILE, flags=re.MULTILINE)[1] in matrix


def test_forms_and_updates_can_be_read():
    forms = {file.stem: loaded(file) for file in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
    assert forms.pop("config")["blank_issues_enabled"] is True
    assert set(forms) == {"bug", "feature", "question"}
    for form in forms.values():
        assert form["name"]
        assert form["description"]
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)) > 0
        assert all(part["attributes"].get("label") for part in form["body"] if part["type"] != "markdown")
    assert {"command", "output", "rows", "versions"} <= {part.get("id") for part in forms["bug"]["body"]}
    updates = loaded(GITHUB / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}


# ---- Licences


def test_every_builder_is_listed_with_the_licence_of_its_card():
    listed = {row[0].strip("`"): row for row in rows_under("Data sets")}
    assert {*listed, "encoders", "recurrent"} == set(BUILDERS)
    for name, row in listed.items():
        module = import_module(f"mm_hf.prepare.{name}")
        said = licence_of(module.CARD)
        assert row[3] == (said or "not stated"), name
        packages = [getattr(module, "PACKAGE", ""), *getattr(module, "PACKAGES", ())]
        packages = [
            package for package in packages if package and "resvg" not in package
        ]  # it draws, and leaves nothing
        assert all(f"`{package}`" in row[2] for package in packages), name
        words = " ".join(module.CARD.lower().split())
        forbidden = "not pass the data on" in words or "not redistributed" in words
        assert row[5].startswith("**no**") == forbidden, name


def test_every_encoder_is_listed_with_the_licence_of_its_card():
    listed = {row[1].strip("`"): row for row in rows_under("Encoders") if row[0] == "`encoders`"}
    cards = dict(zip(ENCODERS, (MOBILENET_CARD, MINILM_CARD, WHISPER_CARD)))
    assert set(listed) == set(cards)
    assert {name: row[3] for name, row in listed.items()} == {name: licence_of(card) for name, card in cards.items()}


def test_every_package_is_listed_with_the_licence_that_it_names():
    extras = {name: list(lines) for name, lines in PROJECT["optional-dependencies"].items()}
    for name in ("dev", "docs", "browser"):  # of those who work on mm_hf
        extras.pop(name, None)
    needed = {Requirement(line).name for lines in (PROJECT["dependencies"], *extras.values()) for line in lines}
    listed = {row[0].strip("`"): row[2] for row in rows_under("Packages")}
    assert set(listed) == needed - {"mm_hf"}
    compared = 0
    for package, licence in listed.items():
        try:
            about = metadata(package)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        kinds = [kind for kind in about.get_all("Classifier", []) if kind.startswith("License")]
        said = " ".join([about.get("License-Expression") or "", (about.get("License") or "")[:80], *kinds]).lower()
        if not said.strip():
            said = (about.get("Summary") or "").lower()
        ours = [word for name, word in WORDS.items() if re.search(rf"\b{re.escape(name)}\b(?!-)", licence)]
        assert ours, package
        assert all(word in said for word in ours), (package, licence, said)
        compared += 1
    assert compared >= 20
