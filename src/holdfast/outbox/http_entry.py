"""Entries of kind ``http``: a PUT or DELETE of one URL, on any web server or on a holdfast node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from holdfast.auth.identity import Id
from holdfast.errors import BadRequest
from holdfast.outbox.entry import NewEntry
from holdfast.outbox.http_state import ANY, NOTHING, http_date
from holdfast.wire.foreign import checked_target, origin

KIND = "http"
HEADERS_MAX = 32
HEADER_BYTES_MAX = 8192

_OURS = frozenset(
    (
        "authorization", "connection", "content-digest", "content-length", "cookie", "expect", "host", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "proxy-authorization",
        "range", "te", "trailer", "transfer-encoding", "upgrade",
    )
)  # fmt: skip
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

Purpose = Literal["create", "update", "delete", "confirmation", "configuration", "hint"]


def put(
    url: str,
    *,
    purpose: Purpose = "update",
    content_type: str = "application/octet-stream",
    if_match: str | None = None,
    if_unmodified_since: str | None = None,
    if_absent: bool = False,
    headers: Mapping[str, str] | None = None,
    token_file: Path | None = None,
    node: Id | None = None,
    etag: str | None = None,
) -> NewEntry:
    """A PUT; its body is given to ``Outbox.enqueue``.

    ``if_match``: the ETag that was seen when the write was made; ``if_unmodified_since``: an HTTP date where no ETag
    was ever seen; ``if_absent``: there was nothing. Without any of them it overwrites what it finds, except after an
    earlier entry for the same URL, whose result it then expects. ``token_file`` holds a bearer token and is read at
    each try. ``node``: a holdfast node with this id, which is spoken to by signed requests. ``etag``: what the
    target's ETag will be, if that is known.
    """
    base = _base(if_match, if_unmodified_since, if_absent)
    return _entry("PUT", url, purpose, base, content_type, headers, token_file, node, etag)


def delete(
    url: str,
    *,
    purpose: Purpose = "delete",
    if_match: str | None = None,
    if_unmodified_since: str | None = None,
    headers: Mapping[str, str] | None = None,
    token_file: Path | None = None,
    node: Id | None = None,
) -> NewEntry:
    """A DELETE; parameters as for ``put``. A URL that is gone already counts as delivered."""
    base = _base(if_match, if_unmodified_since, False)
    return _entry("DELETE", url, purpose, base, None, headers, token_file, node, None)


def _base(if_match: str | None, if_unmodified_since: str | None, if_absent: bool) -> Mapping[str, Any]:
    if sum((if_match is not None, if_unmodified_since is not None, if_absent)) > 1:
        raise BadRequest("a write has one precondition: if_match, if_unmodified_since or if_absent")
    if if_match is not None:
        plain = if_match.removeprefix("W/")
        if len(plain) < 2 or plain[0] != '"' or plain[-1] != '"' or '"' in plain[1:-1]:
            raise BadRequest(f"{if_match!r} is not an ETag; it stands in quotes")
        return {"etag": if_match}
    if if_unmodified_since is not None:
        if http_date(if_unmodified_since) is None:
            raise BadRequest(f"{if_unmodified_since!r} is not an HTTP date")
        return {"modified": if_unmodified_since}
    return NOTHING if if_absent else ANY


def _entry(
    method: str,
    url: str,
    purpose: str,
    base: Mapping[str, Any],
    content_type: str | None,
    headers: Mapping[str, str] | None,
    token_file: Path | None,
    node: Id | None,
    etag: str | None,
) -> NewEntry:
    checked_target(url)
    if node is not None and (token_file is not None or urlsplit(url).query):
        raise BadRequest("a holdfast node is asked by signed requests: no token, and no query in the URL")
    payload: dict[str, Any] = {"method": method, "url": url, "base": dict(base)}
    kept = _checked_headers(headers or {})
    if content_type is not None:
        kept["content-type"] = _checked_value("content-type", content_type)
    payload["headers"] = kept
    if token_file is not None:
        payload["token_file"] = str(token_file.absolute())
    if node is not None:
        payload["node"] = str(node)
    if etag is not None:
        payload["etag"] = etag
    return NewEntry(KIND, purpose, (url,), origin(url), payload)


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    if len(headers) > HEADERS_MAX:
        raise BadRequest(f"an entry has at most {HEADERS_MAX} headers")
    found = {}
    for name, value in headers.items():
        lower = name.lower()
        if not lower or not set(lower) <= _TOKEN:
            raise BadRequest(f"{name!r} is not a header's name")
        if lower in _OURS:
            raise BadRequest(f"the header {lower} is set by the delivery itself (a token comes from token_file)")
        found[lower] = _checked_value(lower, value)
    return found


def _checked_value(name: str, value: str) -> str:
    if not value.isascii() or not value.isprintable() or len(value) > HEADER_BYTES_MAX:
        raise BadRequest(f"the header {name} has a value that cannot be sent")
    return value
