"""Command line flags from the fields of dataclasses, with readable help.

This module imports neither torch nor transformers (`HfArgumentParser` of transformers would import both), so that
`--help` is fast.
"""

import argparse
import ast
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

from ..models.names import did_you_mean
from .by_modality import COLUMNS, keys_from_outside, over, short_forms
from .recipe_files import parse_yaml
from .values import checked_values, finite_number, truth, whole_number


OF_RECIPES = ("aliases", "flag", "forms", "needs", "usual", "names_columns")  # metadata that argparse does not use
NOT_GIVEN = object()
METAVARS = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT"}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, lists each flag once, and shows its default if it has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """See the library's method. The spelling with hyphens (`--text-column`) is accepted, but not listed."""
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = [name for name in action.option_strings if "-" not in name.lstrip("-")]
        values = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return f"{', '.join(names)}{values}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """See the library's method."""
        default = "true" if action.default is True else action.default
        nothing = default is None or default is False or default in ("", "false", argparse.SUPPRESS)
        if nothing or action.help is None or "default" in action.help:
            return action.help
        return f"{action.help} (default: {default})"


class ArgumentParser(argparse.ArgumentParser):
    """A parser with the flags of dataclasses, one group of flags per class. Numbers must be finite and in range. An
    error is printed in one line, without the list of all flags before it.

    Args:
        groups: dataclasses. The metadata of a field may hold `help`, `choices`, `flag` (its name, if it differs from
            the field's), `aliases` (other flags for it), `forms` (other types that the value may have, written as
            in YAML), and all arguments of `add_argument`. The first line of a class's docstring is the title of its
            flags.
        kwargs: for `argparse.ArgumentParser`.
    """

    def __init__(self, groups: type | Sequence[type], **kwargs: Any):
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **kwargs})
        self.groups = [groups] if isinstance(groups, type) else list(groups)
        for group in self.groups:
            title = str(group.__doc__).split("\n")[0].rstrip(".")
            section, hints = self.add_argument_group(title), get_type_hints(group)
            for key in fields(group):
                add_flag(section, key, hints[key.name])
        self.outside: Any = None  # the flags of modalities from outside
        self.add_imported()

    def add_imported(self):
        """Adds the flags for the columns of modalities from outside that were imported in the meantime. Does nothing
        if this parser has no flags for columns.

        Raises:
            ValueError: such a flag exists already.
        """
        if all(key.name != COLUMNS.key for group in self.groups for key in fields(group)):
            return
        added = () if self.outside is None else {action.dest for action in self.outside._group_actions}
        for key, name in keys_from_outside().items():
            if key in added:
                continue
            if key in self.names():
                raise ValueError(
                    f"--{key} would name the columns of {name}, but this flag exists already: rename it in the "
                    "imported file."
                )
            self.outside = self.outside or self.add_argument_group("Columns of modalities from outside mm_hf")
            text = f'Columns of {name}, as --columns "{{{name}: […]}}".'
            self.outside.add_argument(
                *spellings(key), dest=key, nargs="+", metavar="TEXT", default=argparse.SUPPRESS, help=text
            )

    def error(self, message: str):
        """Prints the message and ends the script."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists all flags.)\n")

    def names(self) -> set[str]:
        """All flags, without their dashes."""
        return {name.lstrip("-") for action in self._actions for name in action.option_strings}

    def given(self, words: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The result of `parse_known_args`, with `NOT_GIVEN` for each field without a flag on the command line."""
        names = [key.name for group in self.groups for key in fields(group) if "action" not in key.metadata]
        return self.parse_known_args(words, argparse.Namespace(**dict.fromkeys(names, NOT_GIVEN)))

    def parse_args_into_dataclasses(self, words: list[str] | None = None) -> list[Any]:
        """One instance of each dataclass; if there are other arguments, a namespace with these comes last.

        Raises:
            ValueError: a word is no known flag and no expected value, or a dataclass refuses a value.
        """
        namespace, others = self.given(words)
        if others:
            flags = [word.split("=")[0] for word in others if word.startswith("-")]
            if flags:
                raise ValueError(f"unknown flag {flags[0]}.{did_you_mean(flags[0].lstrip('-'), self.names())}")
            raise ValueError(f"unexpected {others[0]!r:.80}: give each value after its flag.")
        given = {name: value for name, value in vars(namespace).items() if value is not NOT_GIVEN}
        below = {name: self.get_default(name) for name in vars(namespace) if name not in keys_from_outside()}
        short = short_forms(given, below)
        of_yaml = {
            name: value
            for name, value in short.items()
            if value is not given.get(name) or isinstance(value, dict | list)
        }
        values, instances = over(below, {**short, **checked_values(of_yaml, self.groups)}), []
        for group in self.groups:
            instances.append(group(**{key.name: values.pop(key.name) for key in fields(group)}))
        return [*instances, namespace] if values else instances


def add_flag(section: Any, key: Field, hint: Any):
    """Adds the flag of a field to a group of flags: `--text_column`, also as `--text-column`. A flag that is true by
    default, such as `--floors`, also gets `--no_floors`."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if get_origin(hint) is not list else []
    hint = kinds[0] if kinds else hint
    several = get_origin(hint) is list
    kind = get_args(hint)[0] if several else hint
    settings = {name: value for name, value in key.metadata.items() if name not in OF_RECIPES}
    settings |= {"required": True} if key.default is MISSING else {"default": key.default}
    if several:
        settings = {"nargs": "+", **settings}
    elif kind is bool:
        settings = {"nargs": "?", "const": True, **settings}
    readers = {int: partial(whole_number, name=key.name), float: partial(finite_number, name=key.name), bool: truth}
    if "choices" not in settings:
        settings = {"metavar": METAVARS[kind], **settings}
    reader: Any = readers.get(kind, kind)
    if key.metadata.get("forms") and "choices" not in settings:
        reader = partial(by_form, reader)
    names = [*spellings(key.metadata.get("flag", key.name)), *key.metadata.get("aliases", ())]
    section.add_argument(*names, type=reader, dest=key.name, **settings)
    if kind is bool and key.default is True:
        section.add_argument(
            *spellings(f"no_{key.name}"), dest=key.name, action="store_false", default=True, help=argparse.SUPPRESS
        )


def by_form(reader: Callable[[str], Any], text: str) -> Any:
    """The value of a flag that may also be a dict or a list in YAML.

    Raises:
        ArgumentTypeError: it is neither of these, and the reader does not accept it.
    """
    if not text.startswith(("{", "[")):
        return reader(text)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.80}: {error}") from None


def spellings(name: str) -> list[str]:
    """The flag of a key, with and without hyphens."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def docstring_of(module: str) -> str:
    """The docstring of a module of this package. The file is read, but the module is not run."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module {module}", name=module)
    with open(spec.origin, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())) or ""
