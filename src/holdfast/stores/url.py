"""The one way to name a store: a URL. Which class serves which scheme stands in ``open_url``.

``file:///srv/hf`` · ``memory:`` · ``nats://host:4222,two:4222/bucket?replicas=3&tls&sync=always&monitor=host:8222`` ·
``s3://bucket/prefix?endpoint=https://host&region=...&sync=always`` · ``http://host:7420`` or ``https://...`` (a node).
Secrets never stand in a URL: it ends in shell histories and logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from holdfast.errors import BadConfig

_OPTIONS: Mapping[str, frozenset[str]] = {
    "file": frozenset(),
    "memory": frozenset(),
    "nats": frozenset({"replicas", "tls", "sync", "monitor"}),
    "s3": frozenset({"endpoint", "region", "sync"}),
    "http": frozenset(),
    "https": frozenset(),
}


@dataclass(frozen=True)
class StoreUrl:
    """A store's address, taken apart. ``str()`` gives a URL that parses to the same."""

    scheme: str  # file, memory, nats, s3, http or https
    host: str = ""  # with its port; for s3 the bucket
    path: str = ""  # file: the absolute path; nats: the bucket; s3: the prefix, maybe empty; without outer slashes
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.scheme == "memory":
            return "memory:"
        path = "/" + quote(self.path.removeprefix("/")) if self.path else ""
        query = "?" + urlencode(self.options) if self.options else ""
        return f"{self.scheme}://{self.host}{path}{query}"


def parse(text: str) -> StoreUrl:
    """BadConfig, with a sentence that says what to write instead, for anything but the forms above."""
    try:
        text.encode("utf-8")
        parts = urlsplit(text)
        hosts = parts.netloc.split(",") if parts.scheme == "nats" else [parts.netloc]
        named = all(urlsplit(f"//{host}").hostname and urlsplit(f"//{host}").port != 0 for host in hosts)
    except ValueError as error:
        raise BadConfig(f"not a store's URL: {_shown(text)} ({error})") from error
    scheme = parts.scheme
    if scheme not in _OPTIONS:
        known = ", ".join(_OPTIONS)
        hint = f"; for a directory write file://{text}" if text.startswith("/") else ""
        raise BadConfig(f"{_shown(text)} does not begin with a known kind of store ({known}){hint}")
    if "@" in parts.netloc or "@" in parts.query:
        raise BadConfig(
            f"a store's URL holds no user or password ({_shown(text)}): "
            "put them in the environment or in the configuration file"
        )
    if parts.fragment:
        raise BadConfig(f"{_shown(text)}: what stands behind # means nothing here; write %23 for the character itself")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS[scheme]:
            known = ", ".join(sorted(_OPTIONS[scheme])) or "none"
            raise BadConfig(f"a {scheme} store has no option {name!r} (it has: {known})")
    path = unquote(parts.path)
    if "\0" in path:
        raise BadConfig(f"{_shown(text)}: a path holds no NUL")
    host = parts.netloc
    if scheme == "file":
        if host or not path.startswith("/"):
            raise BadConfig(
                f"{_shown(text)}: a file store is an absolute path with three slashes, file:///srv/holdfast"
            )
    elif scheme == "memory":
        if host or path:
            raise BadConfig(f"{_shown(text)}: a memory store is just memory:")
    else:
        path = path.strip("/")
        if not named:
            raise BadConfig(f"{_shown(text)}: names no {'bucket' if scheme == 's3' else 'host'}")
        if scheme == "nats" and (not path or "/" in path):
            raise BadConfig(f"{_shown(text)}: a nats store names one bucket, nats://host/bucket")
        if scheme in ("http", "https") and path:
            raise BadConfig(f"{_shown(text)}: a node's URL has no path, {scheme}://{host}")
    if options.get("sync", "always") != "always":
        raise BadConfig("sync has one value, always: say it only where every server syncs before it acknowledges")
    if options.get("tls", "1") not in {"", "1"}:
        raise BadConfig("tls takes no value; leave it out to speak in the clear")
    if "replicas" in options and options["replicas"] not in {"1", "2", "3", "4", "5"}:
        raise BadConfig("replicas is a number from 1 to 5")
    return StoreUrl(scheme, host, path, MappingProxyType(options))


def _shown(text: str) -> str:
    """A text for an error message, without what may be a password."""
    before, at, behind = text.rpartition("@")
    if at:
        text = before.partition("://")[0] + "://...@" + behind
    return repr(text[:200])
