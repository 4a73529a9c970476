"""Whom to ask, and where: an id, and a server's address in its one form."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from holdfast.auth.identity import Id
from holdfast.errors import BadConfig

_HOST = re.compile(r"[\w.:%~-]{1,255}")


class Target(NamedTuple):
    """Whom to ask, and where: ``url`` is ``http(s)://host:port`` without a path."""

    id: Id
    url: str


@functools.lru_cache(maxsize=1024)
def checked_url(text: str) -> str:
    """A server's address in the one form used for signing; BadConfig if it is none, or holds a password or a path."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise BadConfig(f"{text!r} is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or _HOST.fullmatch(parts.hostname) is None:
        raise BadConfig(f"{text!r}: a URL of the form http://HOST:PORT is needed")
    if parts.username or parts.password:
        raise BadConfig("a URL must not hold a user or password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadConfig(f"{text!r}: only http://HOST:PORT, no path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
