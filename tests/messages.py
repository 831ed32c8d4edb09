"""What tests ask of a message: its values, and not its sentence, so that it can be said in better words."""

import re


def says(*values: object) -> str:
    """A pattern for `match=` and `re.search`: a message that has these values as a whole, in this order.

    Example: `says("ema_decay", 1, "1.0")` fits "ema_decay must be below 1, got 1.0."
    """
    whole = []
    for text in map(str, values):
        before = r"(?<![\w.-])" if text[:1].isdigit() else r"(?<!\w)" if text[:1].isalpha() else ""
        after = r"(?!\.?\w)" if text[-1:].isalnum() else ""
        whole.append(before + re.escape(text) + after)
    return "(?s)" + ".*?".join(whole)
