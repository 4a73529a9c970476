"""The HTTP server: what a request is, several on one connection, bodies that nobody reads, answers that go wrong."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from holdfast import errors
from holdfast.auth.identity import Identity
from holdfast.blob import Buffer
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.memory_network import MemoryNetwork
from holdfast.testing.virtual import VirtualClock
from holdfast.wire import channel, connection, send_file
from holdfast.wire import messages as m
from holdfast.wire.heads import FIELDS_MAX, BadHead
from holdfast.wire.network import TcpNetwork
from holdfast.wire.request_head import is_hopeless, parse_request
from holdfast.wire.routes import Route
from holdfast.wire.serve import BytesReply, Call, FileReply, Reply, Service, StreamReply

NODE = Identity.generate(SeededRandomness(1))
TAKE: Route[None, m.Empty] = Route("PUT", "/take/{key}", None, m.Empty, signed=False, blob="foreign")
LEAVE: Route[None, m.Empty] = Route("PUT", "/leave/{key}", None, m.Empty, signed=False, blob="foreign")
GIVE: Route[None, m.Empty] = Route("GET", "/give/{size}", None, m.Empty, signed=False, blob="down")
BREAK: Route[None, m.Empty] = Route("GET", "/break/{size}", None, m.Empty, signed=False, blob="down")

GIVE_5 = b"GET /give/5 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: 1",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tfolded",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : 1",
        b"GET / HTTP/1.1\r\nHost: a\r\n: 1",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\nContent-Length: 5",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rContent-Length: 5",
        b"GET / HTTP/1.1\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length:",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 19,
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\nHoldfast-To: b\r\nHoldfast-To: b",
        b"GET / HTTP/1.1\r\nHost: a b",
        b"GET / HTTP/1.1\r\nHost: a/b",
        b"GET / HTTP/1.1\r\nHost: a@b",
        b"GET http://a/ HTTP/1.1\r\nHost: a",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a",
        b"OPTIONS * HTTP/1.1\r\nHost: *",
        b"GET /a#b HTTP/1.1\r\nHost: a",
        b"GET /a b HTTP/1.1\r\nHost: a",
        b"GET  / HTTP/1.1\r\nHost: a",
        b"GET\t/ HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1 \r\nHost: a",
        b" GET / HTTP/1.1\r\nHost: a",
        b"\r\nGET / HTTP/1.1\r\nHost: a",
        b"G@T / HTTP/1.1\r\nHost: a",
        b"G" * 33 + b" / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.2\r\nHost: a",
        b"GET / HTTP/2\r\nHost: a",
        b"GET / http/1.1\r\nHost: a",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: 1" * FIELDS_MAX,
    ],
)
def test_what_two_readers_could_understand_in_two_ways_is_no_request(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_request(head)


def test_a_request_says_what_it_is() -> None:
    head = parse_request(
        b"PUT /a/%2e?b=/c? HTTP/1.1\r\nHOST: [::1]:80\r\nX-A:\r\nx-a: \t two words \t\r\nContent-Length: 007\r\n"
        b"Expect: 100-Continue"
    )
    assert head[:4] == ("PUT", "/a/%2e?b=/c?", "/a/%2e", "b=/c?")
    assert head.headers["x-a"] == ", two words"
    assert head[5:] == (True, 7, False, True)
    old = parse_request(b"GET / HTTP/1.0\r\nExpect: 100-continue")
    assert (old.keep, old.size, old.asks) == (False, None, False)
    assert not parse_request(b"GET / HTTP/1.1\r\nHost:\r\nConnection: x, Close").keep
    assert parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked").coded


@given(
    st.binary(max_size=60) | st.builds(lambda rest: b"GET /x HTTP/1.1\r\nHost: a\r\n" + rest, st.binary(max_size=60))
)
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        head = parse_request(data)
    except BadHead:
        return
    assert not is_hopeless(data)
    assert head.path[:1] == "/"
    assert all(name == name.lower() and "\n" not in name + value for name, value in head.headers.items())


class Stage:
    """A service, and what its handlers saw."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.network = MemoryNetwork(loop)
        self.node, self.laptop = self.network.host("node"), self.network.host("laptop")
        clock = VirtualClock(loop, gate=self.node.gate)
        self.service = Service(identity=NODE, role="node", name="n1", clock=clock, network=self.node)
        self.bodies: list[bytes] = []
        self.failed: list[BaseException] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        for route, handler in ((TAKE, self.take), (LEAVE, self.leave), (GIVE, self.give), (BREAK, self.break_off)):
            self.service.add(route, handler)

    async def take(self, call: Call, _: None) -> Reply:
        await self.go_on.wait()
        try:
            body = b"".join([bytes(piece) async for piece in call.body()])
        except errors.HoldfastError as error:
            self.failed.append(error)
            raise
        self.bodies.append(body)
        return Reply(headers={"x-key": call.path["key"]})

    async def leave(self, call: Call, _: None) -> Reply:
        await self.go_on.wait()
        return Reply(headers={"x-key": call.path["key"]})

    async def give(self, call: Call, _: None) -> BytesReply:
        size = int(call.path["size"])
        return BytesReply(bytes(size), size)

    async def break_off(self, call: Call, _: None) -> StreamReply:
        async def pieces() -> AsyncIterator[Buffer]:
            yield bytes(int(call.path["size"]))

        return StreamReply(pieces(), 1000)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.WriteTransport]:
        reader = asyncio.StreamReader(limit=1 << 25)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await self.laptop._dial("node", 80)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return reader, transport

    def held_bytes(self) -> int:
        assert self.service._server is not None
        return sum(len(one._held) for one in self.service._server.connections)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), fields, await reader.readexactly(int(fields.get("content-length", 0)))


def put(path: str, body: bytes, *more: str, size: int | None = None) -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: node:80", f"Content-Length: {len(body) if size is None else size}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


def scene(play: Callable[[Stage], Awaitable[Any]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        stage = Stage(loop)
        await stage.service.start("0.0.0.0", 80)
        await play(stage)
        await stage.service.stop(1)
        assert not loop.unhandled

    run(main, seed=1)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_file_goes_out_whole(tmp_path: Path, encrypted: bool) -> None:
    """Over the operating system's sockets, more than they hold at once, to a reader who is slow at first."""
    data = SeededRandomness(3).bytes(7_000_001)
    (tmp_path / "file").write_bytes(data)

    async def give(call: Call, _: None) -> FileReply:
        return FileReply((tmp_path / "file").open("rb"), len(data), (1, len(data) - 1))

    server_tls, client_tls = _tls(tmp_path) if encrypted else (None, None)
    service = Service(identity=NODE, role="node", name="n1", clock=SystemClock(), network=TcpNetwork())
    service.add(GIVE, give)
    listener = await service.start("127.0.0.1", 0, tls=server_tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client_tls)
    try:
        for _ in range(2):
            writer.write(GIVE_5)
            await asyncio.sleep(0.1)
            status, _, body = await answer(reader)
            assert (status, body) == (206, data[1:-1])
    finally:
        writer.close()
        await service.stop(1)


async def test_whoever_does_not_read_a_file_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the operating system's sockets; in memory it is asyncio that sends."""
    monkeypatch.setattr(send_file, "SLICE_S_MAX", 0.1)
    size, asked = 64 << 20, asyncio.Event()
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)

    async def give(call: Call, _: None) -> FileReply:
        asked.set()
        return FileReply((tmp_path / "file").open("rb"), size)

    service = Service(identity=NODE, role="node", name="n1", clock=SystemClock(), network=TcpNetwork())
    service.add(GIVE, give)
    listener = await service.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        transport = cast(asyncio.Transport, writer.transport)
        transport.pause_reading()
        writer.write(GIVE_5)
        await asked.wait()
        async with asyncio.timeout(10):
            while service.in_flight:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        transport.resume_reading()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await answer(reader)
    finally:
        writer.close()
        await service.stop(1)


def _tls(path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server and for a client that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (path / "key").write_bytes(key.private_bytes(*plain))
    (path / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path / "certificate", path / "key")
    return server, ssl.create_default_context(cafile=str(path / "certificate"))


def test_requests_sent_at_once_are_answered_in_order() -> None:
    hidden = put("/take/hidden", b"never")

    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        bodies = put("/take/1", hidden) + put("/leave/2", hidden) + put("/take/3", b"")
        transport.write(bodies + GIVE_5[:-2])
        assert [(await answer(reader))[1]["x-key"] for _ in range(3)] == ["1", "2", "3"]
        transport.write(GIVE_5[-2:])
        assert (await answer(reader))[2] == bytes(5)
        assert stage.bodies == [hidden, b""]

    scene(play)


@pytest.mark.parametrize("size", [1, channel.HELD_BYTES_MAX + 1, 1 << 20, (3 << 20) + 5])
def test_a_body_of_any_size_leaves_its_connection_as_it_was(size: int) -> None:
    body = SeededRandomness(2).bytes(size)

    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        stage.go_on.clear()
        for number in range(3):
            transport.write(put(f"/take/{number}", body))
            await asyncio.sleep(1)
            stage.go_on.set()  # the second one is received as it is read
            assert (await answer(reader))[1]["x-key"] == str(number)
        assert stage.bodies == [body] * 3

    scene(play)


def test_what_nobody_asked_for_waits_with_its_sender() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        stage.go_on.clear()
        transport.write(put("/leave/0", b"") + put("/take/1", bytes(4 << 20)) + put("/take/2", b"x"))
        await asyncio.sleep(10)
        assert 0 < stage.held_bytes() < channel.HELD_BYTES_MAX + channel.SCRATCH_BYTES
        stage.go_on.set()
        assert [(await answer(reader))[1]["x-key"] for _ in range(3)] == ["0", "1", "2"]
        assert [len(body) for body in stage.bodies] == [4 << 20, 1]

    scene(play)


def test_a_small_body_that_nobody_reads_is_passed_over_and_a_large_one_ends_the_connection() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        transport.write(put("/leave/1", bytes(connection.LEFT_BYTES_MAX)))
        _, fields, _ = await answer(reader)
        assert "connection" not in fields
        transport.write(put("/leave/2", bytes(8 << 20)))
        _, fields, _ = await answer(reader)
        assert (fields["x-key"], fields["connection"]) == ("2", "close")
        await asyncio.sleep(connection.LINGER_S + 1)
        assert transport.is_closing()

    scene(play)


def test_a_body_that_was_promised_and_does_not_come_ends_the_connection_in_time() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        transport.write(put("/leave/1", b"x", size=100))
        assert (await answer(reader))[0] == 200
        began = asyncio.get_running_loop().time()
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began < connection.LINGER_S + 1

    scene(play)


def test_a_client_that_waits_is_asked_when_the_body_is_wanted_and_only_then() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        stage.go_on.clear()
        transport.write(put("/take/1", b"", "Expect: 100-continue", size=5))
        await asyncio.sleep(5)
        assert not reader._buffer  # type: ignore[attr-defined]
        stage.go_on.set()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        transport.write(b"whole")
        assert (await answer(reader))[0] == 200
        transport.write(put("/leave/2", b"", "Expect: 100-continue", size=5))
        status, fields, _ = await answer(reader)
        assert (status, fields["connection"]) == (200, "close"), "whether its body follows nobody knows"
        assert await reader.read() == b""

    scene(play)


@pytest.mark.parametrize(
    "request_", [b"GET /give/3 HTTP/1.0\r\n\r\n", b"GET /give/3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
)
def test_a_connection_ends_when_its_client_says_so(request_: bytes) -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        transport.write(request_ * 2)
        _, fields, body = await answer(reader)
        assert (fields["connection"], body) == ("close", bytes(3))
        assert await reader.read() == b"", "nothing behind it is answered"

    scene(play)


def test_a_coded_body_is_refused_and_nothing_behind_it_is_a_request() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        chunk = put("/take/hidden", b"")
        coded = b"PUT /take/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        transport.write(coded + b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk) + chunk)
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["type"]) == (411, "length-required")
        assert await reader.read() == b""
        assert stage.bodies == []

    scene(play)


@pytest.mark.parametrize("size", [999, 1001])
def test_an_answer_has_the_length_it_announced_or_breaks_off(size: int) -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        transport.write(
            f"GET /break/{size} HTTP/1.1\r\nHost: a\r\n\r\nGET /give/5 HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await answer(reader)
        assert transport.is_closing()

    scene(play)


@pytest.mark.parametrize(("first", "pause_s", "says"), [(600_000, 40, "stalled"), (100, 5, "too slowly")])
def test_a_body_that_crawls_is_given_up(first: int, pause_s: float, says: str) -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        transport.write(put("/take/1", bytes(first), size=1 << 20))
        answered = asyncio.create_task(answer(reader))
        while not answered.done():
            await asyncio.wait([answered], timeout=pause_s)
            transport.write(bytes(100))
        assert answered.result()[0] == 504
        assert says in str(stage.failed[0])

    scene(play)


def test_a_body_that_breaks_off_is_none() -> None:
    async def play(stage: Stage) -> None:
        _, transport = await stage.dial()
        transport.write(put("/take/1", bytes(100_000), size=1 << 20))
        await asyncio.sleep(1)
        transport.abort()
        await asyncio.sleep(1)
        assert isinstance(stage.failed[0], errors.BadRequest)
        assert stage.service.in_flight == 0

    scene(play)


def test_what_is_under_way_is_finished_before_a_service_stops() -> None:
    async def play(stage: Stage) -> None:
        reader, transport = await stage.dial()
        idle, _ = await stage.dial()
        stage.go_on.clear()
        transport.write(put("/take/1", b"whole") + put("/take/2", b"late"))
        await asyncio.sleep(1)
        stopping = asyncio.create_task(stage.service.stop(30))
        assert await idle.read() == b""
        stage.go_on.set()
        _, fields, _ = await answer(reader)
        assert (fields["x-key"], fields["connection"]) == ("1", "close")
        assert await reader.read() == b""
        await stopping
        assert stage.bodies == [b"whole"]

    scene(play)
