"""What tests ask of a message: its values, and not its sentence, so that it can be said in better words."""

import re


def says(*values: object) -> str:
    """A pattern for `match=` and `re.search`: a message that has these values as a whole, in this order.

    Example: `says("ema_decay", 1, "1.0")` fits "ema_decay must be below 1, got 1.0."
    """
    whole = (
        ("(?<![\\w.-])" if text[:1].isalnum() else "")
        + re.escape(text)
        + ("(?!\\.?\\w)" if text[-1:].isalnum() else "")
        for text in map(str, values)
    )
    return "(?s)" + ".*?".join(whole)
