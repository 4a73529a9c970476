"""The head of an HTTP/1.1 message (RFC 9112), as both sides write and read it: a first line and fields, all ASCII.

Stricter than the RFC where leniency is what requests are smuggled with: no folded lines, no bare CR or LF, no space
before a colon, no other control characters than the tab.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HEAD_BYTES_MAX = 16 << 10
FIELDS_MAX = 100
LENGTH = re.compile(r"[0-9]{1,18}")
"""A Content-Length, to be matched in full."""

_HEAD = re.compile(r"([ -~]*)((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*)*)")
_NOTHING: frozenset[str] = frozenset()


class BadHead(ValueError):
    """What came is no head. Its text repeats nothing of it."""


def parse_lines(data: bytes, once: frozenset[str] = _NOTHING) -> tuple[str, dict[str, str]]:
    """First line and fields of a head, without the empty line that ends it; BadHead.

    Field names are lower-case; the values of a repeated field are joined, and fields of ``once`` are not repeated.
    """
    try:
        found = _HEAD.fullmatch(data.decode("ascii"))
    except UnicodeDecodeError as error:
        raise BadHead("a header that is not ASCII") from error
    if found is None:
        raise BadHead("a header line that is none")
    lines = found[2].split("\r\n")
    if len(lines) > FIELDS_MAX + 1:
        raise BadHead("too many header fields")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in fields:
            if name in once:
                raise BadHead("a header field that came twice")
            value = f"{fields[name]}, {value}"
        fields[name] = value
    return found[1], fields


def encode_lines(first: str, fields: Mapping[str, str]) -> bytes:
    """A head, with the empty line that ends it. ValueError for a line break or anything else than ASCII in it."""
    text = "\r\n".join([first, *[f"{name}: {value}" for name, value in fields.items()], "", ""])
    if text.count("\n") != len(fields) + 2 or text.count("\r") != len(fields) + 2:
        raise ValueError("a line break in a header")
    return text.encode("ascii")
