"""The shape of the house: what may import what. Held by reading the code, and once by running it."""

import ast
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "mm_hf"
TRAVELLING = sorted(file for file in (PACKAGE / "models").glob("*.py") if file.name != "__init__.py")
HEAVY = ["matplotlib", "torchmetrics", "skimage", "torchvision", "peft", "timm"]
# Installed and loaded by huggingface_hub itself, but not for the package to build on.
TRAINING_ONLY = [*HEAVY, "yaml"]
# What runs and is not imported by `mm_hf` itself may need more.
RUNNING = ("training", "commands", "prepare")

# How the library finds siblings: by these expressions on the raw text, docstrings included.
FROM = re.compile(r"^\s*from\s+\.(\S*)\s+import", re.MULTILINE)
PLAIN = re.compile(r"^\s*import\s+\.(\S+)", re.MULTILINE)


def name_of(file: Path) -> str:
    return str(file.relative_to(REPOSITORY))


def imported(file: Path) -> list[tuple[int, str]]:
    """Every import of a file: its level (the number of dots) and the module; relative ones in full where they are."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def layer_of(file: Path, level: int, module: str) -> str | None:
    """The part of `mm_hf` that an import names, as its first part below the package; None outside of it."""
    if level == 0:
        parts = module.split(".")
        return None if parts[0] != "mm_hf" else ".".join(parts[1:2])
    folder = file.parent
    for _ in range(level - 1):
        folder = folder.parent
    parts = [*folder.relative_to(PACKAGE).parts, *module.split(".")]
    return parts[0]


def test_the_files_are_found():
    assert {"modeling_mm_fusion.py", "fusion.py", "processing_mm_fusion.py"} <= {file.name for file in TRAVELLING}


@pytest.mark.parametrize("file", TRAVELLING, ids=lambda file: file.name)
def test_travelling_code_imports_flat_siblings_alone(file):
    siblings = {sibling.stem for sibling in TRAVELLING}
    for level, module in imported(file):
        if level == 0:
            assert module.split(".")[0] not in ("mm_hf", "training"), f"{file.name} imports {module}"
        else:
            assert level == 1, f"{file.name} reaches out of its folder: {'.' * level}{module}"
            assert module in siblings, f"{file.name}: 'from .{module} import' is no flat sibling"
    # The library reads text: what looks like an import but is none, as in a docstring, breaks saving or loading.
    text = file.read_text()
    assert PLAIN.findall(text) == []
    assert sorted(FROM.findall(text)) == sorted(module for level, module in imported(file) if level)


def test_all_of_the_travelling_code_is_reached_from_the_model():
    """The library copies what the file of the saved class imports, directly or not."""
    reached, waiting = set(), ["modeling_mm_fusion", "retrieval_mm_fusion", "generation_mm_fusion", "ctc_mm_fusion"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += FROM.findall((PACKAGE / "models" / f"{name}.py").read_text())
    assert reached == {file.stem for file in TRAVELLING}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_the_package_imports_no_script_and_no_test(file):
    assert {module.split(".")[0] for level, module in imported(file) if level == 0}.isdisjoint({"training", "tests"})


# The parts of the package that a part may use beside itself. A module at its top may use all but those that run, but
# for `progress_bar`, which uses nothing of the package and which all but `models` may use.
ALLOWED = {
    "progress_bar": set(),
    "models": set(),
    "data": {"models", "progress_bar"},
    "evaluation": {"models", "progress_bar"},
    "prepare": {"models", "data", "progress_bar"},
    "tasks": {"models", "data", "evaluation", "progress_bar"},
}
ORDER = ("training", "commands", "cli", "__main__")  # of what runs: each may use what stands before it, and all below


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_dependencies_point_one_way(file):
    """`models` uses nothing of the package; `data` and `evaluation` use `models`; the modules above use all three, and
    what runs uses all of them."""
    own = Path(file.relative_to(PACKAGE).parts[0]).stem
    used = {layer_of(file, level, module) for level, module in imported(file)} - {None, "", own}
    if own in ALLOWED:
        assert used <= ALLOWED[own], f"{name_of(file)} uses {sorted(used - ALLOWED[own])}"
    above = ORDER[ORDER.index(own) + 1 :] if own in ORDER else ORDER
    assert used.isdisjoint(above), f"{name_of(file)} uses {sorted(used & {*above})}"


def used_in_training(name: str) -> set[str]:
    """The modules of mm_hf/training that one of them imports when it is imported itself."""
    top = ast.parse((PACKAGE / f"training/{name}.py").read_text()).body
    names = {node.module for node in top if isinstance(node, ast.ImportFrom) and node.level == 1}
    return {name for name in names if (PACKAGE / f"training/{name}.py").exists()}


def test_modules_of_training_import_in_no_circle():
    waiting = {file.stem: used_in_training(file.stem) for file in (PACKAGE / "training").glob("*.py")}
    while waiting:
        free = {name for name, used in waiting.items() if used.isdisjoint(waiting)}
        assert free, f"in a circle: {sorted(waiting)}"
        waiting = {name: used for name, used in waiting.items() if name not in free}


def test_what_opens_a_checkpoint_needs_nothing_that_trains():
    reached, waiting = set(), ["reopen"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += used_in_training(name)
    assert "evaluator" in reached
    assert reached.isdisjoint({"run", "open_run", "build", "loop", "recipe_trainer", "finish"})


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(file):
    if file.relative_to(PACKAGE).parts[0] in RUNNING:
        return
    top = [node for node in ast.parse(file.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in names}.isdisjoint(TRAINING_ONLY)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "training").rglob("*.py")), ids=name_of)
def test_what_lies_outside_the_package_is_a_door(file):
    """It calls one function of the package, and holds nothing of its own."""
    docstring, *others = ast.parse(file.read_text()).body
    assert isinstance(docstring, ast.Expr)
    if file.name != "__init__.py":
        door, call = others
        assert isinstance(door, ast.ImportFrom)
        assert door.module.startswith("mm_hf.")
        assert isinstance(call, ast.If)
        assert len(call.body) == 1
        assert len(file.read_text().splitlines()) <= 12


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_nothing_changes_where_python_looks_for_modules(file):
    assert "sys.path" not in file.read_text()


def test_files_are_short():
    """The library wants a config and its models in one file each, and an export has one file that needs none beside
    it; what else grows beyond has two ideas."""
    long = {name_of(file) for file in PACKAGE.rglob("*.py") if len(file.read_text().splitlines()) > 450}
    models = {f"mm_hf/models/{name}_mm_fusion.py" for name in ("configuration", "modeling")}
    assert long == {*models, "mm_hf/export/runtime.py"}


def test_every_bar_is_ours():
    """Which prints no more than a line a minute where nobody looks at a terminal."""
    users = {name_of(f) for f in PACKAGE.rglob("*.py") for _, name in imported(f) if name.split(".")[0] == "tqdm"}
    assert users == {"mm_hf/progress_bar.py"}


def test_importing_the_package_is_light():
    """In a fresh process: no heavy module is loaded, and the network is not asked."""
    code = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise SystemExit('importing mm_hf asks the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import mm_hf\n"
        "from transformers import AutoConfig\n"  # where all is registered by now
        "assert AutoConfig.for_model('mm_fusion').__class__.__module__.startswith('mm_hf.')\n"
        "assert 'mm_hf.models.modeling_mm_fusion' in sys.modules\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, "-W", "error:::mm_hf", "-c", code], env=environment, cwd="/", capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"


# Names that only the files which own them may spell out; `prepare` names columns of its data sets by the same words.
MODALITY_NAMES = ("vision", "text", "audio", "tabular", "series")
TASK_NAMES = (
    *("single_label_classification", "multi_label_classification", "regression", "generation", "ctc", "retrieval"),
    *("classification", "question_answering", "multi_task"),
)


@functools.cache
def literals(file: Path) -> set[str]:
    """The string literals of a file, docstrings and the parts of messages aside."""
    tree = ast.parse(file.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts
    }


@pytest.mark.parametrize(
    ("name", "most"), [*((name, 5) for name in MODALITY_NAMES), *((name, 4) for name in TASK_NAMES)], ids=str
)
def test_who_spells_out_a_modality_or_a_task(name, most):
    files = [file for file in PACKAGE.rglob("*.py") if file.parent.name != "prepare" and file.name != "__init__.py"]
    spelling = [name_of(file) for file in files if name in literals(file)]
    assert 1 <= len(spelling) <= most, f"{name!r} is spelled out in {spelling}"


# They say nothing of what they hold. What has to stay: by file the names of arguments that others give by keyword.
EMPTY_NAMES = {"found", "there", "own"}
KEPT_NAMES: dict[str, set[str]] = {}


def names_in(file: Path) -> set[str]:
    """The variables, arguments, functions and attributes of a file."""
    field = {ast.Name: "id", ast.arg: "arg", ast.keyword: "arg", ast.Attribute: "attr"}
    field |= dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef), "name")
    return {getattr(node, field[type(node)]) for node in ast.walk(ast.parse(file.read_text())) if type(node) in field}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_names_say_what_they_hold(file):
    assert names_in(file) & EMPTY_NAMES == KEPT_NAMES.get(name_of(file), set())


# Words of a sentence: three in a row, in small letters, that are no name of a file, a flag or a key.
SENTENCE = re.compile(r"(?<![\w'/.-])[a-z]+(?:,? [a-z]+){2,}(?![\w'])")


def strings(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def asked_of_messages(test: ast.FunctionDef) -> set[str]:
    """What a test asks of messages: the strings of `match=` and of `says`, and those of the parameters, loops and
    variables that `match=` names."""
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call)]
    patterns: list[ast.AST] = [word.value for call in calls for word in call.keywords if word.arg == "match"]
    names = {part.id for pattern in patterns for part in ast.walk(pattern) if isinstance(part, ast.Name)}
    patterns += [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "says"]
    for call in (mark for mark in test.decorator_list if isinstance(mark, ast.Call) and len(mark.args) == 2):
        given = ast.literal_eval(call.args[0])
        given = given.split(",") if isinstance(given, str) else given
        for place in (place for place, name in enumerate(given) if name.strip() in names):
            for row in getattr(call.args[1], "elts", []):
                row = row if not isinstance(row, ast.Call) or not row.args else ast.Tuple(row.args)  # pytest.param
                patterns.append(row.elts[place] if len(given) > 1 and isinstance(row, ast.Tuple) else row)
    for node in ast.walk(test):
        if isinstance(node, (ast.For, ast.Assign)):
            targets = [node.target] if isinstance(node, ast.For) else node.targets
            if names & {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}:
                patterns.append(node.iter if isinstance(node, ast.For) else node.value)
    return set().union(*map(strings, patterns))


@pytest.mark.parametrize("file", sorted((REPOSITORY / "tests").rglob("*.py")), ids=name_of)
def test_messages_are_asked_for_values_and_not_for_sentences(file):
    """So that a message can be said in better words."""
    tests = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [text for test in tests for text in asked_of_messages(test) if SENTENCE.search(text)] == []


@pytest.mark.parametrize("entry", ["pipelines_mm_fusion", "processing_mm_fusion", "modeling_mm_fusion"])
def test_what_travels_knows_every_modality(entry):
    """Of a checkpoint the library loads each of these with a copy of its own of all that it imports, and no more."""
    models, seen, waiting = REPOSITORY / "mm_hf/models", set(), {entry}
    while waiting:
        seen |= waiting
        texts = [(models / f"{name}.py").read_text(encoding="utf-8") for name in waiting]
        waiting = {name for text in texts for name in re.findall(r"^from \.(\w+) import", text, re.MULTILINE)} - seen
    registering = {file.stem for file in models.glob("*.py") if "\n@register_modality\n" in file.read_text("utf-8")}
    assert len(registering) == 5
    assert registering <= seen
