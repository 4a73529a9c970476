"""The client and the server skeleton against each other over loopback, and against what is not holdfast."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from holdfast import errors
from holdfast.auth import signing
from holdfast.auth.identity import Identity
from holdfast.blob import Buffer, Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target, checked_url
from holdfast.wire.network import TcpNetwork
from holdfast.wire.serve import BytesReply, Call, FileReply, Reply, Service, parse_range
from holdfast.wire.throttle import Throttle

NODE, CLIENT, OTHER = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2, 3))
BLOB = bytes(range(256)) * 20_000
DIGEST = Digest.of(BLOB)


class Shelf:
    """Handlers that show what reached them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.kept = b""
        self.fail: Exception | None = None

    async def has(self, call: Call, request: m.HasRequest) -> m.HasAnswer:
        self.calls.append(call)
        if self.fail:
            raise self.fail
        return m.HasAnswer(bitmap=m.bitmap([digest == DIGEST for digest in request.digests]))

    async def get(self, call: Call, _: None) -> Any:
        self.calls.append(call)
        if Digest.parse(call.path["digest"]) != DIGEST:
            raise errors.NotFound("no such blob")
        range_ = parse_range(call.headers.get("range"), len(BLOB))
        if range_ and range_[1] - range_[0] <= 1000:
            return BytesReply(BLOB[range_[0] : range_[1]], len(BLOB), range_)
        return FileReply(_file(), len(BLOB), range_)

    async def put(self, call: Call, _: None) -> Reply:
        self.calls.append(call)
        if self.fail:
            raise self.fail
        kept = bytearray()
        async for piece in call.body():
            kept += piece
        self.kept = bytes(kept)
        return Reply(m.BlobStored(receipt=b"receipt"), status=201)

    async def info(self, call: Call, _: None) -> Any:
        raise ZeroDivisionError("a bug with a secret in it")


def _file() -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the service closes it
    file.write(BLOB)
    file.seek(0)
    return file


@asynccontextmanager
async def served(
    shelf: Shelf, *, json_bytes_max: int = m.JSON_BYTES_MAX
) -> AsyncIterator[tuple[Service, Target, HttpClient]]:
    network, clock = TcpNetwork(), SystemClock()
    service = Service(
        identity=NODE, role="node", name="n1", clock=clock, network=network, epoch=lambda: (3, 14),
        json_bytes_max=json_bytes_max,
    )  # fmt: skip
    service.add(routes.HAS, shelf.has)
    service.add(routes.BLOB_GET, shelf.get)
    service.add(routes.BLOB_PUT, shelf.put)
    service.add(routes.INFO, shelf.info)
    listener = await service.start("127.0.0.1", 0)
    client = HttpClient(identity=CLIENT, network=network, clock=clock)
    try:
        yield service, Target(NODE.id, f"http://127.0.0.1:{listener.port}"), client
    finally:
        await client.close()
        await service.stop(1)


async def test_a_signed_call_reaches_the_handler_and_its_answer_is_checked() -> None:
    shelf = Shelf()
    async with served(shelf) as (_, target, client):
        answer = await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST, Digest.of(b"")]), grant=b"grant")
        assert m.bits_of(answer.bitmap, 2) == [True, False]
        assert shelf.calls[0].caller == CLIENT.id
        assert shelf.calls[0].grant == b"grant"
        assert client.epoch == (0, 0), "where the network stands is not a node's to say"
        client.set_clock_source(NODE.id)
        await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]), grant=b"grant")
        assert client.epoch == (3, 14)


async def test_health_needs_no_signature() -> None:
    async with served(Shelf()) as (_, target, client):
        health = await client.health(target.url)
        assert (health.id, health.role, health.name, health.status) == (NODE.id, "node", "n1", "ok")


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"{}", b'{"status":"ok"}', b""])
async def test_a_captive_portal_is_no_holdfast(body: bytes) -> None:
    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    async with server, served(Shelf()) as (_, _, client):
        with pytest.raises(errors.Unavailable, match="not as holdfast does"):
            await client.health(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


async def test_another_id_at_the_address_is_not_believed() -> None:
    async with served(Shelf()) as (_, target, client):
        with pytest.raises(errors.Unavailable, match="401"):
            await client.call(Target(OTHER.id, target.url), routes.HAS, m.HasRequest(digests=[DIGEST]))


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("no"),
        errors.Denied("no"),
        errors.Conflict("no", etag="x"),
        errors.NoSpace("no"),
        errors.TooFewNodes("no", registered=1, needed=5),
        errors.StorePoisoned("no"),
    ],
)
async def test_errors_arrive_as_the_class_they_were(error: errors.HoldfastError) -> None:
    shelf = Shelf()
    shelf.fail = error
    async with served(shelf) as (_, target, client):
        with pytest.raises(type(error)) as caught:
            await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]))
        assert (caught.value.detail, caught.value.extra) == (error.detail, error.extra)


async def test_a_bug_is_an_internal_error_without_its_text() -> None:
    async with served(Shelf()) as (_, target, client):
        with pytest.raises(errors.HoldfastError, match="internal error") as caught:
            await client.call(target, routes.INFO)
        assert "secret" not in caught.value.detail


@pytest.mark.parametrize("range_", [None, (0, 10), (5, 999), (1000, 3_000_000), (4_000_000, None), (0, len(BLOB))])
async def test_blobs_and_ranges_come_exactly(range_: tuple[int, int | None] | None) -> None:
    async with served(Shelf()) as (_, target, client):
        data = await client.read_blob(target, DIGEST, range_, size_max=len(BLOB))
        start, stop = range_ or (0, None)
        assert data == BLOB[start:stop]


async def test_a_missing_blob_and_a_range_outside_are_told() -> None:
    async with served(Shelf()) as (_, target, client):
        with pytest.raises(errors.NotFound):
            await client.read_blob(target, Digest.of(b"x"), None, size_max=10)
        with pytest.raises(errors.RangeInvalid):
            await client.read_blob(target, DIGEST, (len(BLOB), None), size_max=10)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_bodies_of_any_size_arrive(size: int) -> None:
    shelf = Shelf()
    async with served(shelf) as (_, target, client):
        data = BLOB[:size]
        assert await client.put_blob(target, Digest.of(data), size, data) == b"receipt"
        assert shelf.kept == data

        async def source() -> AsyncIterator[Buffer]:
            yield data[: size // 2]
            yield data[size // 2 :]

        assert await client.put_blob(target, Digest.of(data), size, source) == b"receipt"
        assert shelf.kept == data


async def test_a_refusal_comes_before_the_body_is_sent() -> None:
    shelf = Shelf()
    shelf.fail = errors.NoSpace("full")
    sent = 0

    async def source() -> AsyncIterator[Buffer]:
        nonlocal sent
        for _ in range(64):
            sent += 1 << 20
            yield bytes(1 << 20)

    async with served(shelf) as (_, target, client):
        with pytest.raises(errors.NoSpace):
            await client.put_blob(target, DIGEST, 64 << 20, source)
        assert sent == 0


async def test_a_put_under_another_name_is_refused() -> None:
    """The signed Content-Digest must be the name in the path."""
    shelf = Shelf()
    async with served(shelf) as (_, target, client):
        with pytest.raises(errors.BadRequest, match="name"):
            await client.call(
                target,
                routes.Route("PUT", "/v1/blobs/{digest}", m.HasRequest, m.Empty),
                m.HasRequest(digests=[DIGEST]),
                path={"digest": str(DIGEST)},
            )
        assert not shelf.calls


async def _raw(target: Target, request: bytes) -> bytes:
    host, _, port = target.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(65536), 5)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"PATCH /v1/health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /v1/health?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /v1/health HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST /v1/blobs/has HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 401),
        (b"POST /v1/blobs/has HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"PUT /v1/blobs/zz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 401),
        (b"GET /v1/blobs/../info HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHoldfast-Grant: aaaa\r\nHoldfast-Grant: bbbb\r\n\r\n", 400),
        (b"GET /v1/health HTTP/1.1\r\nHost: a\r\nHoldfast-Grant: ===\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /v1/health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
    ],
)
async def test_malformed_requests_get_their_status(request_bytes: bytes, status: int) -> None:
    async with served(Shelf()) as (_, target, client):
        answer = await _raw(target, request_bytes)
        assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), answer[:200]
        assert (await client.health(target.url)).status == "ok"


async def test_an_oversized_message_is_refused_before_it_is_read() -> None:
    async with served(Shelf(), json_bytes_max=100) as (_, target, client):
        with pytest.raises(errors.TooLarge, match="at most 100 bytes"):
            await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST] * 100))
        with pytest.raises(errors.TooLarge):
            await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST] * 20_000))


async def test_a_server_that_is_not_holdfast_gives_no_answer() -> None:
    """A captive portal's 200 to everything counts for nothing."""

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    client = HttpClient(identity=CLIENT, network=TcpNetwork(), clock=SystemClock())
    target = Target(NODE.id, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        with pytest.raises(errors.Unavailable, match="not signed"):
            await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]))
    finally:
        await client.close()
        server.close()


@asynccontextmanager
async def answering(answer: Callable[[dict[str, str]], bytes]) -> AsyncIterator[tuple[Target, HttpClient]]:
    """A client, and in the node's place a server that says what ``answer`` makes of a request's headers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        writer.write(answer({name.lower(): value.strip() for name, _, value in pairs}))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = HttpClient(identity=CLIENT, network=TcpNetwork(), clock=SystemClock())
    try:
        yield Target(NODE.id, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), client
    finally:
        await client.close()
        server.close()


async def test_an_answer_whose_body_was_changed_is_none() -> None:
    """The signature covers a digest; the digest must be the body's."""
    right, changed = (m.encode(m.HasAnswer(bitmap=bitmap)) for bitmap in (b"\x00", b"\x80"))

    def answer(headers: dict[str, str]) -> bytes:
        fields = {"content-length": str(len(right)), "content-digest": signing.body_digest(right)}
        fields |= signing.sign_answer(NODE, 200, fields, headers["signature"], SystemClock().now())
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n".encode() + sent

    async with answering(answer) as (target, client):
        sent = right
        await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]))
        sent = changed
        with pytest.raises(errors.Unavailable, match="digest is not its body's"):
            await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]))


async def test_another_range_than_was_asked_for_is_no_answer() -> None:
    def answer(headers: dict[str, str]) -> bytes:
        return b"HTTP/1.1 206 OK\r\nContent-Length: 5\r\nContent-Range: bytes %s\r\n\r\n01234" % given

    async with answering(answer) as (target, client):
        given = b"0-4/10"
        assert await client.read_blob(target, DIGEST, (0, 5), size_max=10) == b"01234"
        for other in (b"5-9/10", b"0-5/10", b"0-4/10", b"1-5/10"):
            given = other
            with pytest.raises(errors.Unavailable, match="another range"):
                await client.read_blob(target, DIGEST, (0, 6), size_max=10)


async def test_a_redirect_is_not_followed() -> None:
    asked = 0

    def elsewhere(headers: dict[str, str]) -> bytes:
        nonlocal asked
        asked += 1
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    async with answering(elsewhere) as (inner, _):

        def answer(headers: dict[str, str]) -> bytes:
            return f"HTTP/1.1 307 Elsewhere\r\nLocation: {inner.url}/\r\nContent-Length: 0\r\n\r\n".encode()

        async with answering(answer) as (target, client):
            with pytest.raises(errors.Unavailable):
                await client.call(target, routes.HAS, m.HasRequest(digests=[DIGEST]))
            with pytest.raises(errors.Unavailable):
                await client.read_blob(target, DIGEST, None, size_max=10)
            with pytest.raises(errors.HoldfastError):
                await client.health(target.url)
    assert asked == 0


async def test_a_body_that_was_not_signed_is_refused() -> None:
    """The right signature over the digest of one body, and another body of the same length."""
    shelf = Shelf()
    right = m.encode(m.HasRequest(digests=[DIGEST]))
    other = m.encode(m.HasRequest(digests=[Digest.of(b"")]))
    assert len(right) == len(other)
    async with served(shelf) as (_, target, client):
        for body, status in ((right, 200), (other, 401)):
            headers = {
                "host": target.url.removeprefix("http://"), "holdfast-to": str(NODE.id),
                "content-length": str(len(right)), "content-digest": signing.body_digest(right),
            }  # fmt: skip
            where = routes.HAS.path
            headers |= signing.sign_request(CLIENT, "POST", target.url + where, headers, client.time())
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            answer = await _raw(target, f"POST {where} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + body)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert len(shelf.calls) == 1


async def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = HttpClient(identity=CLIENT, network=TcpNetwork(), clock=SystemClock())
    try:
        with pytest.raises(errors.Unavailable):
            await client.call(Target(NODE.id, f"http://127.0.0.1:{port}"), routes.HAS, m.HasRequest(digests=[DIGEST]))
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://Host:7430/", "http://host:7430"),
        ("https://a.example", "https://a.example"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_urls_have_one_form(text: str, url: str) -> None:
    assert checked_url(text) == url


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "http://u:p@h:1", "http://h:99999", "http://h/x", "h:1"])
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(errors.BadConfig):
        checked_url(text)


@pytest.mark.parametrize(
    ("text", "total", "expected"),
    [
        (None, 10, None),
        ("bytes=0-", 10, (0, 10)),
        ("bytes=2-4", 10, (2, 5)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=8-99", 10, (8, 10)),
    ],
)
def test_ranges_are_read(text: str | None, total: int, expected: tuple[int, int] | None) -> None:
    assert parse_range(text, total) == expected


@pytest.mark.parametrize(
    "text", ["bytes=", "bytes=-", "bytes=5-4", "bytes=10-", "bytes=0-1,3-4", "items=0-1", "-0", "bytes=-0"]
)
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(errors.RangeInvalid):
        parse_range(text, 10)


async def test_an_upload_limit_holds_for_all_bodies_together() -> None:
    """Virtual seconds: 4 MiB at 1 MiB/s take three after the bucket's first."""

    class StandingClock(SystemClock):
        def __init__(self) -> None:
            self.slept = 0.0

        def monotonic(self) -> float:
            return self.slept

        async def sleep(self, seconds: float) -> None:
            self.slept += seconds
            await asyncio.sleep(0)

    clock = StandingClock()
    shelf = Shelf()
    async with served(shelf) as (_, target, _client):
        client = HttpClient(identity=CLIENT, network=TcpNetwork(), clock=SystemClock(), upload=Throttle(clock, 1 << 20))
        data = BLOB[: 4 << 20]
        assert await client.put_blob(target, Digest.of(data), len(data), data) == b"receipt"
        assert shelf.kept == data
        assert 3 <= clock.slept <= 4.1
        await client.close()


@pytest.mark.parametrize("sent", [100_000, 1 << 20])
async def test_a_body_whose_sender_went_before_it_was_read_is_no_bug_of_ours(sent: int) -> None:
    """A node may check a grant first; by then the connection may be gone."""
    entered, ended = asyncio.Event(), list[BaseException]()

    class Slow(Shelf):
        async def put(self, call: Call, _: None) -> Reply:
            entered.set()
            while not call._connection.closing:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
            try:
                async for _piece in call.body():
                    pass
            except BaseException as error:
                ended.append(error)
                raise
            raise AssertionError("there is no body")

    async with served(Slow()) as (_, target, client):
        waiting = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            await waiting.wait()
            yield b""

        going = asyncio.create_task(client.put_blob(target, DIGEST, sent, body))
        await entered.wait()
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        async with asyncio.timeout(10):
            while not ended:  # noqa: ASYNC110 - the server's task is nobody's to wait for
                await asyncio.sleep(0.01)
    assert isinstance(ended[0], errors.BadRequest)


async def test_a_small_put_that_had_to_begin_anew_is_ended_like_any_other() -> None:
    """On a kept connection that the server was closing, then on a new one, and then nobody wants it any more."""
    health = m.encode(m.Health(status="ok", role="node", id=NODE.id, name="x", time=0.0, version="0"))
    opened: list[asyncio.StreamWriter] = []
    anew = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if len(opened) > 1:
            anew.set()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(health) + health)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = HttpClient(identity=CLIENT, network=TcpNetwork(), clock=SystemClock())
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert (await client.health(url)).status == "ok"
    heard: list[object] = []
    end = client.put_small(Target(NODE.id, url), Digest.of(b"data"), b"data", heard.append).end
    await anew.wait()
    end()
    await client.close()
    await asyncio.sleep(0)
    assert heard == []
    for writer in opened:
        writer.close()
    server.close()
