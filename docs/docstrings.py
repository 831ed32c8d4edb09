"""An extension of griffe, which reads the docstrings for the site.

The docstrings of mm_hf write `limit, keep: what they are` on one line, of several arguments: the site has an entry for
each. They write types as transformers does, `limit (`int`, *optional*): …`, which griffe takes without the marks. And
they write what is returned in sentences, whose first colon griffe would take for the end of a type.
"""

import re
from typing import Any

import griffe


ARGUMENTS = re.compile(
    r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?:( .*)$", re.MULTILINE
)
RETURNED = re.compile(r"^((?:Returns|Yields):\n +)(?=\S)", re.MULTILINE)


def plain_type(entry: re.Match) -> str:
    """An entry with its type, if it has one, in griffe's notation."""
    words = " ".join(re.sub("[`*]", "", entry[3] or "").split())
    return f"{entry[1]}{entry[2]}{f' ({words})' * bool(words)}:{entry[4]}"


def in_griffes_form(text: str) -> str:
    """The text of a docstring, with an entry for each argument, types in griffe's notation, and a colon before what is
    returned: there is neither name nor type in front of it."""
    before, found, after = RETURNED.sub(r"\1: ", text).partition("Args:\n")
    lines, given = ARGUMENTS.sub(plain_type, after).split("\n"), []
    while lines:
        line = lines.pop(0)
        entry = ARGUMENTS.match(line)
        if entry is None or ", " not in entry[2]:
            given.append(line)
            continue
        more = []
        while lines and lines[0].startswith(f"{entry[1]}    "):
            more.append(lines.pop(0))
        for name in entry[2].split(", "):
            given += [line.replace(entry[2], name, 1), *more]
    return before + found + "\n".join(given)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any):
        """See the library's method."""
        if obj.docstring is not None:
            obj.docstring.value = in_griffes_form(obj.docstring.value)
