"""An extension of griffe, which reads the docstrings for the site.

The docstrings of mm_hf write `limit, keep: what they are` on one line, of several arguments: the site has an entry for
each. And they write types as transformers does, `limit (`int`, *optional*): …`: the site takes those of the signature.
"""

import re
from typing import Any

import griffe


ARGUMENTS = re.compile(r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((`[^()]*(?:\([^()]*\)[^()]*)*)\))?:( .*)$", re.MULTILINE)


def one_by_one(text: str) -> str:
    """The text of a docstring, with an entry for each argument and without the types in transformers' notation."""
    before, found, after = text.partition("Args:\n")
    lines, given = ARGUMENTS.sub(r"\1\2:\4", after).split("\n"), []
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
            given += [f"{entry[1]}{name}:{entry[4]}", *more]
    return before + found + "\n".join(given)


class JointArguments(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any):
        """See the library's method."""
        if obj.docstring is not None:
            obj.docstring.value = one_by_one(obj.docstring.value)
