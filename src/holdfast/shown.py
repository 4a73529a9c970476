"""What others wrote, as it may stand on a terminal: nothing in it moves the cursor, hides or turns text round."""

from __future__ import annotations

import re

_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with everything that is not printed escaped, line breaks too."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii") for mark in text)


def visible_lines(text: str) -> str:
    """The same, but for line breaks and tabs, of a text of several lines."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(visible(cell) for cell in line.split("\t")) for line in text.split("\n"))


def visible_json(text: str) -> str:
    """JSON that means the same; characters that JSON need not escape, but terminals obey, are escaped."""
    return text if text.isascii() and "\x7f" not in text else _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
