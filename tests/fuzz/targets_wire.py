"""Parsers of what comes over HTTP, on either side: messages, manifests, header fields, addresses, answers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from tests.fuzz.target import Target
from tests.fuzz.targets_auth import US

from holdfast import errors, inventory
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.errors import BadConfig, BadRequest, RangeInvalid, TooLarge
from holdfast.gateway.build_cache import _token
from holdfast.node.exchange.manifest_routes import precondition
from holdfast.outbox import http_state
from holdfast.peers import discovery, manifest
from holdfast.stores import url as store_url
from holdfast.stores.nats import layout as nats_layout
from holdfast.wire import answer_head, foreign, heads, request_head, routes
from holdfast.wire import messages as m
from holdfast.wire.http import checked_url
from holdfast.wire.routes import Route
from holdfast.wire.serve import parse_range

ALL_ROUTES: tuple[Route[Any, Any], ...] = tuple(dict.fromkeys(routes.COORDINATOR_ROUTES + routes.NODE_ROUTES))
REQUESTS = sorted(
    {route.request for route in ALL_ROUTES if route.request not in (None, msgspec.Raw)}, key=lambda kind: kind.__name__
)
ANSWERS = sorted(
    {route.answer for route in ALL_ROUTES if route.answer is not msgspec.Raw} | {m.Problem},
    key=lambda kind: kind.__name__,
)


def example(kind: Any) -> Any:
    """JSON values that fit a type, from its schema: all its fields are there."""
    match msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind:
        case msgspec.inspect.StructType() as found:
            fields = [example(field.type) for field in found.fields]
            return (
                fields
                if found.array_like
                else {f.encode_name: value for f, value in zip(found.fields, fields, strict=True)}
            )
        case msgspec.inspect.CustomType() as found:
            return "ab" * 32 if found.cls is Digest else str(US.id) if found.cls is Id else None
        case msgspec.inspect.UnionType() as found:
            return example(found.types[0])
        case msgspec.inspect.LiteralType() as found:
            return found.values[0]
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType() | msgspec.inspect.SetType() as found:
            return [example(found.item_type)]
        case msgspec.inspect.TupleType() as found:
            return [example(item) for item in found.item_types]
        case msgspec.inspect.DictType() as found:
            return {example(found.key_type): example(found.value_type)}
        case msgspec.inspect.StrType() as found:
            return "http://one:7420"
        case msgspec.inspect.IntType() as found:
            return max(found.ge or 0, 1)
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.BytesType():
            return "AAAAAAAAAAAAAAAAAAAAAA=="
        case _:
            return {}


def _messages(kinds: Sequence[type[Any]]) -> Callable[[bytes], bytes]:
    """The first byte says as which of ``kinds`` the rest is read."""

    def parse(data: bytes) -> bytes:
        if not data:
            raise BadRequest("nothing")
        kind = kinds[data[0] % len(kinds)]
        return data[:1] + m.encode(m.decode(data[1:], kind))

    return parse


def _seeds(kinds: Sequence[type[Any]]) -> list[bytes]:
    return [bytes([number]) + json.dumps(example(kind)).encode() for number, kind in enumerate(kinds)]


def _query(data: bytes) -> bytes | None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        fields = dict(parse_qsl(text, keep_blank_values=True))
    except ValueError:
        return None
    for kind in REQUESTS:
        try:
            m.convert(fields, kind)
        except BadRequest:
            continue
    return None


def _manifest(data: bytes) -> bytes:
    found = manifest.decode(data)
    known = {entry.digest: entry.size or 0 for entry in found.objects.values() if entry.size is not None}
    try:
        return manifest.encode(found.completed({digest: known.get(digest, 5) for digest in found.digests()}))
    except BadRequest:
        return manifest.encode(manifest.make("x", ()))  # two sizes for one digest


MANIFEST = manifest.encode(
    manifest.make(
        "set-1", [("a/b", manifest.Entry(Digest.of(b"1"), 1)), ("c", manifest.Entry(Digest.of(b"2"), 7, 0o755))]
    )
)


def _range(data: bytes) -> bytes | None:
    for total in (0, 1, 1000, 1 << 62):
        try:
            found = parse_range(data.decode("utf-8", "surrogateescape"), total)
        except RangeInvalid:
            continue
        assert found is not None
        assert 0 <= found[0] < found[1] <= total
    return None


def _conditions(data: bytes) -> bytes | None:
    text = data.decode("utf-8", "surrogateescape")
    for name in ("if-match", "if-none-match", "if-unmodified-since"):
        try:
            precondition({name: text})
        except BadRequest:
            continue
    return None


def _state(data: bytes) -> bytes | None:
    """What a foreign server says of itself; nothing of it may raise."""
    text = data.decode("utf-8", "surrogateescape")
    names = ("content-length", "etag", "last-modified", "retry-after", "date")
    headers = dict(zip(names, text.split("\n"), strict=False))
    present = http_state.present_of(headers)
    for base in ({}, {"absent": True}, {"etag": '"a"'}, {"modified": "Wed, 21 Oct 2015 07:28:00 GMT", "digest": b""}):
        http_state.matches(base, present)
    http_state.matches(present.base(), present)
    http_state.conditions(present.base())
    found = http_state.retry_after(headers, 1e9)
    assert found is None or 0 <= found <= 3600
    return None


def _head(data: bytes) -> bytes | None:
    head = answer_head.parse_head(data)
    for method in ("GET", "HEAD"):
        assert 0 <= answer_head.body_bytes(method, head) < 10**18
    assert all("\r" not in text and "\n" not in text for pair in head.headers.items() for text in pair)
    return None


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\nHoldfast-Epoch: 1.2\r\n"
    b'ETag: "x"\r\nConnection: close'
)


def _request_head(data: bytes) -> bytes | None:
    head = request_head.parse_request(data)
    assert not request_head.is_hopeless(data)
    assert head.target == head.path + ("?" + head.query if head.target != head.path else "")
    assert head.size is None or (0 <= head.size < 10**18 and not head.coded)
    assert "," not in head.headers.get("host", "")
    assert all(
        text.isascii() and "\r" not in text and "\n" not in text for pair in head.headers.items() for text in pair
    )
    return None


REQUEST_HEAD = (
    b"PUT /v1/blobs/ab?x=1 HTTP/1.1\r\nHost: a:7420\r\nContent-Length: 12\r\nExpect: 100-continue\r\nConnection: close"
)


def _addresses(data: bytes) -> bytes | None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        url = checked_url(text)
        parts = urlsplit(url)
        assert parts.scheme in ("http", "https")
        assert not parts.username
        assert not parts.password
        assert not parts.query
        assert parts.path in ("", "/")
        assert checked_url(url) == url
    except BadConfig:
        pass
    for parse in (discovery.parse_peer, foreign.checked_target):
        try:
            parse(text)
        except (BadConfig, BadRequest):
            continue
    return None


def _store(data: bytes) -> bytes:
    return str(store_url.parse(data.decode("utf-8", "surrogateescape"))).encode("utf-8", "surrogateescape")


def _shown_peer(data: bytes) -> bytes | None:
    fields: dict[bytes, bytes | None] = {b"id": str(US.id).encode(), b"scheme": b"http", b"name": b"one"}
    for number, part in enumerate(data.split(b"\n", 3)):
        if number < 3:
            fields[(b"id", b"scheme", b"name")[number]] = part
        else:
            found = discovery.address_of(fields, [part.decode("latin-1")], 7420)
            assert found is None or found.name.isprintable()
    return None


def _problem(data: bytes) -> bytes | None:
    found = m.decode(data, m.Problem)
    error = errors.from_problem(found.status, found.type, found.detail, found.extra)
    assert errors.meaning(error).exit
    return None


def _roots(data: bytes) -> bytes | None:
    for parse in (inventory.differing, inventory.differing_inside):
        try:
            assert all(0 <= prefix < 256 for prefix in parse(data, bytes(4096)))
        except BadRequest:
            continue
    with contextlib.suppress(BadRequest):
        assert len(m.bits_of(data, 64 * 8)) == 64 * 8
    return None


def _meta(data: bytes) -> bytes | None:
    digest = Digest.of(b"1")
    found = nats_layout.Meta.decode(digest, data)
    if found is not None:
        offset, sequence = found.start_at(100)
        assert 0 <= offset <= 100
        assert sequence >= 1
    return None


META = json.dumps(
    {
        "name": "x",
        "options": {"max_chunk_size": 1024},
        "nuid": "N" * 22,
        "size": 9,
        "chunks": 1,
        "digest": "SHA-256=" + base64.urlsafe_b64encode(Digest.of(b"1")).decode(),
        "metadata": {"holdfast-sequences": "7"},
    }
).encode()


def _bearer(data: bytes) -> bytes | None:
    _token(data.decode("utf-8", "surrogateescape"))
    return None


JSON_WORDS = (b'":', b"[]", b"null", b"true", b"1e3", b"-0", b"18446744073709551616", b"9223372036854775808")

TARGETS = (
    Target("requests", _seeds(REQUESTS), _messages(REQUESTS), (BadRequest,), words=JSON_WORDS),
    Target("answers", _seeds(ANSWERS), _messages(ANSWERS), (BadRequest,), words=JSON_WORDS),
    Target(
        "query", [b"after=0&limit=10", b"prefix=0a.0b0c&past=" + b"ab" * 32, b"parent=" + b"cd" * 32, b"wait=1"], _query
    ),
    Target(
        "manifest",
        [MANIFEST, MANIFEST.replace(b'"mode":420,', b"")],
        _manifest,
        (BadRequest, TooLarge),
        words=(b'"a":', b"{}", b'"' + b"ab" * 32 + b'"', b"\\u0000", b"../", b"1e5", b"\\ud800"),
    ),
    Target("range", [b"bytes=0-1", b"bytes=-5", b"bytes=7-"], _range),
    Target(
        "conditions",
        [b"*", b'"' + b"ab" * 32 + b'"', b"Wed, 21 Oct 2015 07:28:00 GMT"],
        _conditions,
        words=(b" -9999", b"31 Dec 9999", b"1 Jan 0001"),
    ),
    Target(
        "foreign-state",
        [b'5\n"a"\nWed, 21 Oct 2015 07:28:00 GMT\n120\nWed, 21 Oct 2015 07:28:00 GMT'],
        _state,
        words=(b" -9999", b"31 Dec 9999", b"1 Jan 0001"),
    ),
    Target(
        "http-head",
        [HEAD],
        _head,
        (answer_head.BadAnswer,),
        words=(b"\r\n", b"HTTP/1.1 ", b"Transfer-Encoding: chunked", b": "),
        bytes_max=16384,
    ),
    Target(
        "request-head",
        [REQUEST_HEAD],
        _request_head,
        (heads.BadHead,),
        words=(
            b"\r\n",
            b"\n",
            b"\r\n ",
            b" HTTP/1.0",
            b"Transfer-Encoding: chunked",
            b"Content-Length: 5",
            b"Host: b",
            b" :",
        ),
        bytes_max=16384,
    ),
    Target(
        "addresses",
        [b"http://a:1", b"https://[::1]:7420", b"http://dav.example/x/y", str(US.id).encode() + b"@http://a:1"],
        _addresses,
    ),
    Target(
        "store-url",
        [b"file:///srv/hf", b"memory:", b"nats://h:4222,i/b?replicas=3&tls", b"s3://b/p?endpoint=http://h&region=x"],
        _store,
        (BadConfig,),
    ),
    Target(
        "mdns",
        [str(US.id).encode() + b"\nhttp\none\n10.0.0.1", str(US.id).encode() + b"\nhttps\ntwo\nfe80::1%eth0"],
        _shown_peer,
    ),
    Target(
        "problem",
        [json.dumps(example(m.Problem)).encode(), b'{"type":"conflict","title":"x","status":412,"detail":"y"}'],
        _problem,
        (BadRequest,),
    ),
    Target("roots", [bytes(4096), bytes(2048), bytes(64)], _roots),
    Target("nats-meta", [META], _meta, words=(b'{"', b"7-", b"null")),
    Target("bearer", [b"Bearer abc", b"Basic dTpw"], _bearer),
)
