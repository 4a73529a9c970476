"""The head of an answer as the HTTP client takes it, and that of the request before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from holdfast.wire.heads import LENGTH, BadHead, encode_lines, parse_lines

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")


class BadAnswer(ConnectionError):
    """What came is not an answer as this client takes it."""


class Head(NamedTuple):
    """Status line and fields of an answer. Field names are lower-case; of a repeated field the values are joined."""

    status: int
    headers: Mapping[str, str]
    keep: bool
    """Whether the connection may be used again after the body."""


def parse_head(data: bytes) -> Head:
    """The head of an answer, without the empty line that ends it; BadAnswer."""
    try:
        first, headers = parse_lines(data)
    except BadHead as error:
        raise BadAnswer(str(error)) from error
    found = _STATUS.fullmatch(first)
    if found is None:
        raise BadAnswer("no HTTP/1.1 status line")
    keep = found[1] == "1" and ("connection" not in headers or "close" not in headers["connection"].lower())
    return Head(int(found[2]), headers, keep)


def body_bytes(method: str, head: Head) -> int:
    """How many bytes follow this head (RFC 9112, section 6.3); BadAnswer if it does not say."""
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if "transfer-encoding" in head.headers:
        raise BadAnswer("an answer in a transfer coding")
    length = head.headers.get("content-length", "")
    if LENGTH.fullmatch(length) is None:
        raise BadAnswer("an answer without its length")
    return int(length)


def encode_head(method: str, where: str, headers: Mapping[str, str]) -> bytes:
    """A request's head. ValueError for a line break or anything else than ASCII in it."""
    return encode_lines(f"{method} {where} HTTP/1.1", headers)
