"""Reads recipe files: YAML, with error messages that name the line."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..models.files import regular_file
from ..models.names import did_you_mean, shown
from .by_modality import over


MAX_BYTES = 2**20
MAX_DEPTH = 16
MAX_PAIRS = 1000  # keys of one dict, with the keys that are merged into it
RECIPE_ENDINGS = (".yaml", ".yml")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def packaged_recipes() -> dict[str, Path]:
    """The recipes in the package, by file name."""
    folder = Path(str(files("mm_hf") / "recipes"))
    return {file.name: file for file in sorted(folder.glob("*.yaml"))}


class YamlError(ValueError):
    """An error in a recipe; its message is one line."""


def place_of(mark: Any) -> str:
    """The line of a mark, counted from 1."""
    return f"line {mark.line + 1}"


class RecipeLoader(yaml.SafeLoader):
    """Plain values, lists and dicts, as from `yaml.safe_load`, with three differences. A key that is given twice is
    refused (`safe_load` silently keeps the last one). Numbers that YAML 1.1 reads in an unexpected way are refused
    (`12:30` is 750, `010` is 8). Files that are nested too deeply or grow without limit are refused."""

    depth = 0

    def compose_node(self, parent, index):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise YamlError(f"{place_of(self.peek_event().start_mark)}: nested more than {MAX_DEPTH} deep.")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], Any] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = (key.tag, key.value)
            if name in lines:
                raise YamlError(
                    f"{key.value!r} is given twice, in {place_of(lines[name])} and {place_of(key.start_mark)}: keep "
                    "one."
                )
            lines[name] = key.start_mark
        return node

    def flatten_mapping(self, node):
        """See the library's method. The limit is needed because a merged dict may be merged again, and can double each
        time."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_PAIRS:
            raise YamlError(f"{place_of(node.start_mark)}: more than {MAX_PAIRS} keys are merged.")

    def construct_number(self, node):
        """A number, if YAML reads it as it looks."""
        text = str(node.value)
        try:
            value = (self.construct_yaml_int if node.tag.endswith("int") else self.construct_yaml_float)(node)
        except ValueError:  # thousands of digits, or "!!int four"
            raise YamlError(f"{place_of(node.start_mark)}: {text:.40} cannot be read as a number.") from None
        digits = text.lstrip("+-")
        if ":" in text or (len(digits) > 1 and digits[0] == "0" and digits.isdigit()):
            raise YamlError(
                f"{place_of(node.start_mark)}: YAML reads {text} as {value}. Write {value} if you mean this number, "
                "or "
                f'"{text}" in quotes if you mean a text.'
            )
        return value


for _kind in ("int", "float"):
    RecipeLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", RecipeLoader.construct_number)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YamlError: one line that says what is wrong, and in which line of the text.
    """
    try:
        return yaml.load(text, Loader=RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark, tab = error.problem_mark or error.context_mark, "'\\t'" in str(error.problem)
        where = f"{place_of(mark)}, column {mark.column + 1}: " if mark is not None else ""
        hint = " (this is a tab: YAML is indented with spaces)" if tab else ""
        raise YamlError(f"{where}{error.problem or error.context}{hint}.") from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlError("the values are nested too deeply.") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, in UTF-8 (with or without a byte order mark) or in UTF-16 with one.

    Raises:
        ValueError: there is no such file, or it is a folder, no text, or no YAML. The message is one line. It names
            the file, and a similar name in its folder if there is one.
    """
    if not path.exists():
        beside = path.parent
        names = sorted(file.name for file in beside.iterdir()) if beside.is_dir() else []
        recipes = [name for name in names if name.endswith(RECIPE_ENDINGS)]
        meant = did_you_mean(path.name, recipes) or did_you_mean(f"{path.name}.yaml", recipes)
        where = "" if beside.is_dir() else f" There is no folder {str(beside)!r} either."
        raise YamlError(f"there is no file {str(path)!r}.{meant}{where}")
    if path.is_dir():
        raise YamlError(f"{str(path)!r} is a folder: name one of the recipes inside it.")
    with open(regular_file(path, "recipe"), "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(
            f"{path.name} has more than {MAX_BYTES:,} bytes. A recipe is a short file with lines of `key: value`."
        )
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f"{path.name} is not a text in UTF-8: {error.reason} at byte {error.start}.") from None
    return parse_yaml(text)


def read_recipe(
    path: Path, spell: Callable[[dict[str, Any]], dict[str, Any]] = dict, below: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The keys of a recipe, and of the recipes that it is based on.

    Args:
        path: path of the file.
        spell: a function that converts the keys of each file before they override the keys of its base.
        below: the recipes that this one is a base of.

    Raises:
        ValueError: the file does not consist of keys and values; or its base is not the name of a file in the same
            folder, or leads back to the recipe.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else type(values).__name__
        raise YamlError(f"a recipe has lines of `key: value`, got {kind} in {path.name}.")
    if "base" not in values:
        return spell(values)
    base = values.pop("base")
    if not isinstance(base, str) or Path(base).name != base:
        raise YamlError(f"base must be the name of a recipe in the same folder, got {shown(base)}.")
    if path.with_name(base) in (*below, path):
        raise YamlError(f"base {base!r} of {path.name} leads back to itself.")
    return over(read_recipe(path.with_name(base), spell, (*below, path)), spell(values))
