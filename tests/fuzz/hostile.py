"""Requests that no client of ours would send, as bytes for a raw socket: malformed, oversized, smuggled, cut off.

One in three is signed by the server's own key, so that what is wrong with it is met behind the signature.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import msgspec
from tests.fuzz.mutate import NUMBERS, SCRAPS, mutated
from tests.fuzz.servers import Server
from tests.fuzz.targets_wire import JSON_WORDS, example

from holdfast.auth import signing
from holdfast.auth.documents import to_text
from holdfast.blob import Digest
from holdfast.gateway import build_cache
from holdfast.wire import routes
from holdfast.wire.routes import Route

BUILD_CACHE_ROUTES: tuple[Route[Any, Any], ...] = (
    build_cache.CAS_GET,
    build_cache.CAS_HEAD,
    build_cache.CAS_PUT,
    build_cache.AC_GET,
    build_cache.AC_HEAD,
    build_cache.AC_PUT,
    build_cache.AC_DELETE,
)
PATHS = (
    "/",
    "//",
    "///v1/health",
    "/v1//health",
    "/v1/health/",
    "/./v1/health",
    "/v1/../v1/health",
    "/../../etc/passwd",
    "/v1/blobs/../../node.json",
    "/v1/blobs/%2e%2e%2f%2e%2e%2fnode.json",
    "/v1/blobs/..%5c..%5cnode.json",
    "/v1/blobs/%00",
    "/v1/blobs/" + "a" * 64 + "%00",
    "/v1/blobs/" + "A" * 64,
    "/v1/blobs/" + "a" * 63,
    "/v1/manifests/..",
    "/v1/manifests/%2e%2e",
    "/v1/manifests/..%2fnode.json",
    "/v1/manifests/a%2fb",
    "/v1/manifests/.x",
    "/v1/manifests/CON",
    "/v1/manifests/a:b",
    "/v1/refs/..%2f..",
    "/v1/refs/%00/%00",
    "/cas/..",
    "/cas/%2e%2e/x",
    "/ac/..",
    "/ac/%2e%2e",
    "/ac/a%0d%0ab",
    "/v1/health?a=1",
    "/v1/health#x",
    "/v1/health;x",
    "/v1/health%3f",
    "*",
    "?",
    "/" + "a" * 9000,
    "/v1/" + "x/" * 3000,
    "/%ff%fe",
    "/%u0041",
    "/v1/h%65alth",
    "http://169.254.169.254/latest/meta-data",
    "http://evil.example/v1/health",
    "https://user:pw@evil/v1/health",
    "ftp://x/",
    "//evil.example/v1/health",
    "evil:80",
    "/\u00e9",
    "/\U0001f4a9",
    "/\x7f",
    "/<script>alert(1)</script>",
)
METHODS = (
    "GET",
    "PUT",
    "POST",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PATCH",
    "PRI",
    "get",
    "G\0T",
    "",
    "X" * 5000,
    "PROPFIND",
    "GET GET",
    "\u00fc",
)
NUMBER_TEXTS = ("-1", "+1", "0x10", "1e3", "1.5", "", " ", "00", "1 1", "1,1", "9" * 30, "9" * 5000, "NaN", "\u0661")


class Hostile(NamedTuple):
    """``data`` in the pieces in which it is sent. ``end``: what the client does then."""

    pieces: tuple[bytes, ...]
    end: str  # "wait" for the answer, "close" at once, "half" closes its side and waits


def requests_of(server: Server, random: Random, now: float) -> Hostile:
    """The next one for ``server``."""
    kind = random.choice(_FAMILIES)
    data = kind(server, random, now)
    if random.random() < 0.15:
        data = mutated(random, [data], WORDS, 200_000)
    pieces: tuple[bytes, ...] = (data,)
    if random.random() < 0.2 and len(data) > 2:
        at = random.randrange(1, len(data))
        pieces = (data[:at], data[at:])
    return Hostile(pieces, random.choice(("wait", "wait", "wait", "half", "close")))


WORDS = (
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b": ",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"HTTP/1.1",
    b"Host: a\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"\0",
    b"\xff\xfe",
    b"%2e%2e/",
)


def plain(server: Server, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {server.host}:{server.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def signed(server: Server, method: str, path: str, headers: dict[str, str], body: bytes, now: float) -> bytes:
    fields = {"content-length": str(len(body)), **headers, "holdfast-to": str(server.id)}
    if body:
        fields.setdefault("content-digest", signing.body_digest(body))
    known = {name.lower(): value for name, value in fields.items()}
    try:
        fields |= signing.sign_request(server.identity, method, server.url + path, known, now)
    except UnicodeEncodeError:
        fields |= {"signature": "hf=:x:", "signature-input": "hf=()"}
    return plain(server, method, path, fields, body)


def _routes(server: Server) -> tuple[Route[Any, Any], ...]:
    if server.kind == "coordinator":
        return routes.COORDINATOR_ROUTES
    return routes.NODE_ROUTES + (BUILD_CACHE_ROUTES if server.kind == "gateway" else ())


def _path(route: Route[Any, Any], random: Random) -> str:
    values = {
        "digest": "ab" * 32,
        "tag": "cd" * 32,
        "vault": "a" * 52,
        "id": "a" * 51 + "q",
        "ref": "set-1",
        "task": "0" * 16,
        "key": "k" * 8,
    }
    path = route.path
    for name, value in values.items():
        if random.random() < 0.3:
            value = random.choice(
                ("..", "%2e%2e", "%00", "a" * 300, "%ff", "*", value.upper(), value[:-1], value + "/x")
            )
        path = path.replace("{" + name + "}", value)
    return path


def _proper(server: Server, random: Random, now: float) -> bytes:
    """A request that is nearly right, signed: its body, its query or its headers are not."""
    route = random.choice(_routes(server))
    path, body, headers = _path(route, random), b"", {}
    if route.blob in ("up", "foreign"):
        body = random.randbytes(random.choice((0, 1, 100, 5000)))
        digest = Digest.of(body)
        if random.random() < 0.7:
            path = route.path.replace("{digest}", str(digest)).replace("{key}", "k")
        headers["content-digest"] = signing.content_digest(digest)
    elif route.request is not None and route.method in ("POST", "PUT"):
        seed = (
            b'{"name":"set-1","objects":{},"version":1}'
            if route.request is msgspec.Raw
            else json.dumps(example(route.request)).encode()
        )
        body = random.choice((seed, mutated(random, [seed], JSON_WORDS, 50_000)))
    elif route.request is not None:
        fields = example(route.request)
        query = "&".join(
            f"{name}={random.choice((value, *NUMBER_TEXTS, random.choice(NUMBERS), '%ff', '..'))}"
            for name, value in fields.items()
        )
        path += "?" + query.replace(" ", "%20")
    for name in random.sample(sorted(_HEADERS), random.choice((0, 0, 1, 2))):
        headers[name] = random.choice(_HEADERS[name])
    if random.random() < 0.25:
        return plain(server, route.method, path, headers | {"content-length": str(len(body))}, body)
    return signed(server, route.method, path, headers, body, now)


_HEADERS: dict[str, tuple[str, ...]] = {
    "range": (
        "bytes=0-",
        "bytes=-1",
        "bytes=5-1",
        "bytes=0-1,2-3",
        "bytes=" + "9" * 30 + "-",
        "lines=1",
        "\x7f",
        "bytes=0-\udcff",
    ),
    "if-match": ('"x"', "*", '"' + "ab" * 32 + '"', "W/" + '"x"', '"' * 500, ""),
    "if-none-match": ("*", '"' + "AB" * 32 + '"', ","),
    "if-unmodified-since": ("never", "Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:99999999999 GMT", "0"),
    "holdfast-grant": ("x", to_text(b"\x82\x40\x40"), to_text(b"\x81" * 300), "=" * 10, to_text(b"\xa0")),
    "authorization": ("Bearer \udcff", "Basic ====", "Basic \udcff", "Digest x", ""),
    "cache-control": ("only-if-cached", "no-peers", "," * 500),
    "expect": ("100-continue", "200-ok", "100-continue, 100-continue"),
    "content-encoding": ("gzip", "br", "deflate"),
    "content-type": ("text/html", "multipart/form-data; boundary=x", "application/json; charset=utf-7"),
    "idempotency-key": ("x" * 5000, "\x01"),
    "accept": ("text/html",),
    "origin": ("http://evil.example",),
    "upgrade": ("websocket", "h2c"),
    "host": ("evil.example", "", "a:b:c"),
}


def _line(server: Server, random: Random, now: float) -> bytes:
    """A bad request line."""
    version = random.choice(
        ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1.10", "http/1.1", "", "\0")
    )
    gap = random.choice((" ", " ", " ", "\t", "  ", "\r", ""))
    line = f"{random.choice(METHODS)}{gap}{random.choice(PATHS)}{gap}{version}"
    return (line + random.choice(("\r\n", "\n", "\r")) + f"Host: {server.host}\r\n\r\n").encode()


def _paths(server: Server, random: Random, now: float) -> bytes:
    method, path = random.choice(("GET", "PUT", "DELETE", "HEAD", "POST")), random.choice(PATHS)
    body = b"x" if method in ("PUT", "POST") else b""
    if path.startswith("/") and path.isascii() and random.random() < 0.5:
        return signed(server, method, path, {}, body, now)
    return plain(server, method, path, {"content-length": str(len(body))}, body)


def _bomb(server: Server, random: Random, now: float) -> bytes:
    """Too many or too long headers."""
    match random.randrange(4):
        case 0:
            lines = "".join(f"h{number}: x\r\n" for number in range(random.choice((100, 2000, 20_000))))
        case 1:
            lines = "a: " + "x" * random.choice((8 << 10, 16 << 10, 100 << 10)) + "\r\n"
        case 2:
            lines = "x" * (40 << 10) + ": 1\r\n"
        case _:
            lines = "a: 1\r\n b: folded\r\n\tmore\r\n" * random.choice((1, 500))
    return f"GET /v1/health HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()


def _lengths(server: Server, random: Random, now: float) -> bytes:
    """Bodies whose length is in doubt: the ways in which requests are smuggled."""
    number = random.choice((*NUMBER_TEXTS, "5", str(random.choice(NUMBERS))))
    other = random.choice(("5", "6", number))
    headers = random.choice(
        (
            f"Content-Length: {number}\r\n",
            f"Content-Length: {number}\r\nContent-Length: {other}\r\n",
            f"Content-Length: {number}\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding:\tchunked\r\nTransfer-Encoding: x\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
            f"Content-Length\0: {number}\r\n",
        )
    )
    body = random.choice(
        (
            b"hello",
            b"0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"5;ext=" + b"x" * 9000 + b"\r\nhello\r\n",
            b"-1\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"0\r\nGET /v1/info HTTP/1.1\r\n\r\n",
            b"",
            b"x" * 70_000,
            b"1\r\nZ\r\nQ\r\n\r\n",
            b"0\r\n" + b"t: x\r\n" * 500 + b"\r\n",
        )
    )
    method = random.choice(("POST", "PUT", "GET", "DELETE"))
    path = random.choice(("/v1/commit", "/v1/blobs/has", "/cas/" + "ab" * 32, "/ac/k", "/v1/health", "/v1/manifests/x"))
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode("latin-1", "replace") + body


def _cut(server: Server, random: Random, now: float) -> bytes:
    """A request that ends somewhere."""
    whole = _proper(server, random, now)
    return whole[: random.randrange(len(whole))]


def _pipelined(server: Server, random: Random, now: float) -> bytes:
    good = plain(server, "GET", "/v1/health", {})
    parts = [
        random.choice((good, _line(server, random, now), _lengths(server, random, now)))
        for _ in range(random.choice((2, 5, 50)))
    ]
    return b"".join(parts)


def _other(server: Server, random: Random, now: float) -> bytes:
    """What speaks something else."""
    return random.choice(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + random.randbytes(500),
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"EHLO a\r\n",
            b"\0" * 1000,
            random.randbytes(random.choice((1, 50, 5000))),
            b"\r\n" * 2000,
            b"GET",
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x7fELF" + bytes(100),
            b"GET /v1/health\r\n",
            "GET /v1/health HTTP/1.1\r\n\r\n".encode("utf-16"),
            b"GET /v1/health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: x\r\n\r\n\x81\x05",
        )
    )


def _scraps(server: Server, random: Random, now: float) -> bytes:
    name, value = random.choice(SCRAPS), random.choice(SCRAPS)
    return b"GET /v1/health HTTP/1.1\r\nHost: a\r\n" + name + b": " + value + b"\r\n\r\n"


_FAMILIES: tuple[Callable[[Server, Random, float], bytes], ...] = (
    _proper,
    _proper,
    _proper,
    _proper,
    _line,
    _paths,
    _bomb,
    _lengths,
    _lengths,
    _cut,
    _pipelined,
    _other,
    _scraps,
)
