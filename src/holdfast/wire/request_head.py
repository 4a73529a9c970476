"""What a request says before its body (RFC 9112), read strictly: what two readers could understand in two ways is none.

Only paths are targets: no proxy stands in front of a server of ours that would send whole URLs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from holdfast.auth import signing
from holdfast.wire.heads import LENGTH, BadHead, parse_lines

_REQUEST = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) "
    r"((/[!$%&'()*+,\-./0-9:;=@A-Z_a-z~]*)(?:\?([!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]*))?) HTTP/1\.([01])"
)
_HOST = re.compile(r"[!$%&'()*+\-.0-9:;=A-Z\[\]_a-z~]*")
_ONCE = frozenset({*signing.REQUEST_HEADERS, "signature", "signature-input", "host", "transfer-encoding", "expect"})
_HOPELESS = re.compile(rb"\A[^!#$%&'*+.^_`|~0-9A-Za-z-]|(?<!\r)\n")


class RequestHead(NamedTuple):
    """Request line and fields. Field names are lower-case."""

    method: str
    target: str
    """Path and query as they were sent: what a signature covers."""
    path: str
    query: str
    headers: Mapping[str, str]
    keep: bool
    """Whether the client lets the connection go on."""
    size: int | None
    """Bytes of the body, None if nothing says that there is one."""
    coded: bool
    """In a transfer coding, so that nobody knows where the body ends."""
    asks: bool
    """Whether the client waits with the body until it is asked for it."""


def parse_request(data: bytes) -> RequestHead:
    """The head of a request, without the empty line that ends it; BadHead."""
    first, headers = parse_lines(data, _ONCE)
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise BadHead("no request line with a path")
    method, target, path, query, minor = found.groups("")
    host = headers.get("host")
    if (host is None and minor == "1") or _HOST.fullmatch(host or "") is None:
        raise BadHead("no Host, or one that is no address")
    length, coded = headers.get("content-length"), "transfer-encoding" in headers
    if length is not None and (coded or LENGTH.fullmatch(length) is None):
        raise BadHead("a Content-Length that is no number, or not the only word on the length")
    keep = minor == "1" and "close" not in headers.get("connection", "").lower()
    asks = minor == "1" and headers.get("expect", "").lower() == "100-continue"
    size = None if length is None else int(length)
    return RequestHead(method, target, path, query, headers, keep, size, coded, asks)


def is_hopeless(begin: bytes | bytearray) -> bool:
    """Can this never become a request, whatever follows?"""
    return _HOPELESS.search(begin) is not None
