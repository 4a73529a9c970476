"""Clients that are slow, silent or many, on virtual time: what each may hold, for how long, and what others notice."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.auth.identity import Identity
from holdfast.blob import Buffer, Digest
from holdfast.clock import SeededRandomness
from holdfast.errors import TooManyRequests
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.memory_network import HostNetwork, MemoryNetwork
from holdfast.testing.memory_transport import WINDOW_BYTES
from holdfast.testing.virtual import VirtualClock
from holdfast.wire import messages as m
from holdfast.wire import routes, send_file, serve, server
from holdfast.wire.channel import WRITE_CHECK_S
from holdfast.wire.connection import HEADER_S
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.serve import BytesReply, Call, FileReply, Service, StreamReply

SIZE = 2 << 20
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: node:80\r\n\r\n"
GET = b"GET /v1/blobs/" + b"ab" * 32 + b" HTTP/1.1\r\nHost: node:80\r\n\r\n"
NODE, CLIENT = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2))


class Raw(asyncio.BufferedProtocol):
    """A client that sends what it is told and reads as it is told. ``ended``: when the connection was lost."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.ended: float | None = None
        self.seen = bytearray()
        self._buffer = bytearray(64 << 10)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.seen += self._buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.loop.time() - self.began

    @property
    def answer(self) -> tuple[int, dict[str, str], bytes]:
        head, _, body = bytes(self.seen).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


class Stage:
    """One node with blobs of 2 MiB and a client's host."""

    def __init__(self, loop: VirtualLoop, path: Path) -> None:
        self.network = MemoryNetwork(loop)
        self.node, self.laptop = self.network.host("node"), self.network.host("laptop")
        self.service = Service(
            identity=NODE, role="node", name="n1", clock=VirtualClock(loop, gate=self.node.gate), network=self.node
        )
        self.kind = "stream"
        self.size = SIZE
        self.path = path
        self.service.add(routes.BLOB_GET, self.get)
        self.service.add(routes.HAS, self.has)

    async def get(self, call: Call, _: None) -> Any:
        if self.kind == "file":
            return FileReply(self.path.open("rb"), self.size)
        return BytesReply(bytes(SIZE), SIZE) if self.kind == "bytes" else StreamReply(self.pieces(), SIZE)

    async def has(self, call: Call, request: m.HasRequest) -> m.HasAnswer:
        return m.HasAnswer(bitmap=m.bitmap([False for _ in request.digests]))

    def waiting_bytes(self) -> int:
        assert self.service._server is not None
        return sum(held._transport.get_write_buffer_size() for held in self.service._server.connections)

    async def pieces(self) -> AsyncIterator[Buffer]:
        for _ in range(SIZE >> 20):
            yield bytes(1 << 20)

    async def dial(self, host: HostNetwork | None = None) -> Raw:
        raw = Raw()
        await (host or self.laptop).connect(raw, "node", 80, tls=None)
        return raw

    async def asked(self, sent: bytes, host: HostNetwork | None = None) -> Raw:
        raw = await self.dial(host)
        raw.transport.write(sent)
        await asyncio.sleep(1)
        return raw


def scene(path: Path, play: Callable[[Stage], Awaitable[None]]) -> None:
    (path / "blob").write_bytes(bytes(SIZE))

    async def main(loop: VirtualLoop) -> None:
        stage = Stage(loop, path / "blob")
        await stage.service.start("0.0.0.0", 80)
        await play(stage)
        await stage.service.stop(1)

    run(main, seed=1)


def test_whoever_says_nothing_is_sent_away(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        raw = await stage.dial()
        await asyncio.sleep(HEADER_S + 1)
        assert raw.ended == pytest.approx(HEADER_S, abs=0.5)
        after = await stage.asked(HEALTH)
        assert after.answer[0] == 200
        await asyncio.sleep(HEADER_S + 1)
        assert after.ended is None, "a connection that was used may be idle for longer"

    scene(tmp_path, play)


def test_a_header_byte_by_byte_has_ten_seconds_in_all(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        raw = await stage.dial()
        for byte in HEALTH[:-2]:
            if raw.ended is None:
                raw.transport.write(bytes([byte]))
                await asyncio.sleep(1)
        assert raw.ended == pytest.approx(HEADER_S, abs=0.5)
        second = await stage.asked(HEALTH)
        for byte in HEALTH[:30]:
            second.transport.write(bytes([byte]))
            await asyncio.sleep(1)
        assert second.ended == pytest.approx(HEADER_S + 1, abs=0.5), "also the second header of a connection"

    scene(tmp_path, play)


@pytest.mark.parametrize("kind", ["stream", "bytes", "file"])
def test_whoever_does_not_read_a_large_answer_is_cut_off(tmp_path: Path, kind: str) -> None:
    async def play(stage: Stage) -> None:
        stage.kind = kind
        stage.network.link("node", "laptop").set(bandwidth=10e6, latency_s=0.01, jitter=0)
        raw = await stage.dial()
        raw.transport.write(GET)
        await asyncio.sleep(0.05)
        raw.transport.pause_reading()
        await asyncio.sleep(send_file.SLICE_S_MAX + 5)
        assert stage.service.in_flight == 0
        raw.transport.resume_reading()
        await asyncio.sleep(1)
        assert raw.ended is not None
        assert len(raw.seen) < SIZE

    scene(tmp_path, play)


def test_whoever_does_not_read_the_end_of_a_file_is_cut_off(tmp_path: Path) -> None:
    """What asyncio sends for us, as over TLS, is not all with the system when it says that it is done."""

    async def play(stage: Stage) -> None:
        stage.kind = "file"
        stage.size = WINDOW_BYTES
        raw = await stage.dial()
        raw.transport.pause_reading()
        raw.transport.write(GET)
        await asyncio.sleep(WRITE_CHECK_S + 5)
        raw.transport.resume_reading()
        await asyncio.sleep(1)
        assert raw.ended is not None
        assert len(raw.answer[2]) < stage.size

    scene(tmp_path, play)


@pytest.mark.parametrize("kind", ["stream", "bytes", "file"])
def test_whoever_goes_while_an_answer_is_sent_is_no_bug_of_ours(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def play(stage: Stage) -> None:
        stage.kind = kind
        stage.network.link("node", "laptop").set(bandwidth=1e6, latency_s=0.01, jitter=0)
        for tenths in range(1, 20, 3):
            raw = await stage.dial()
            raw.transport.write(GET)
            await asyncio.sleep(tenths / 10)
            raw.transport.abort()
        await asyncio.sleep(5)
        assert stage.service.in_flight == 0

    scene(tmp_path, play)
    assert "_failed" not in capsys.readouterr().err
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["stream", "bytes", "file"])
def test_whoever_reads_fast_enough_gets_all_of_it(tmp_path: Path, kind: str) -> None:
    async def play(stage: Stage) -> None:
        stage.kind = kind
        stage.network.link("node", "laptop").set(bandwidth=40e3, latency_s=0.05, jitter=0)
        raw = await stage.asked(GET)
        await asyncio.sleep(5)
        assert kind == "bytes" or stage.waiting_bytes() < 3 << 19, "no faster than it is read"
        await asyncio.sleep(SIZE / 40e3)
        status, _, body = raw.answer
        assert status == 200
        assert len(body) == SIZE

    scene(tmp_path, play)


def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        silent = [await stage.dial() for _ in range(server.CONNECTIONS_PER_ADDRESS)]
        healthy = await stage.asked(HEALTH)
        assert healthy.answer[0] == 200
        assert [raw.ended is not None for raw in silent].count(True) == 1
        assert silent[0].ended is not None, "the oldest one goes"

    scene(tmp_path, play)


def test_requests_under_way_make_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_ADDRESS", 3)

    async def play(stage: Stage) -> None:
        stage.network.link("node", "laptop").set(bandwidth=3e5, latency_s=0.05, jitter=0)
        busy = [await stage.asked(GET) for _ in range(3)]
        refused = await stage.asked(HEALTH)
        assert (await stage.asked(HEALTH, stage.network.host("phone"))).answer[0] == 200
        await asyncio.sleep(60)
        assert all(len(raw.answer[2]) == SIZE for raw in busy)
        assert refused.ended is not None
        assert not refused.seen
        assert (await stage.asked(HEALTH)).answer[0] == 200

    scene(tmp_path, play)


def test_all_addresses_together_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 6)

    async def play(stage: Stage) -> None:
        silent = [await stage.dial(stage.network.host(f"host{number}")) for number in range(6)]
        assert (await stage.asked(HEALTH)).answer[0] == 200
        assert [raw.ended is not None for raw in silent] == [True] + [False] * 5

    scene(tmp_path, play)


def test_messages_under_way_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MESSAGES_BYTES_MAX", 200_000)

    async def play(stage: Stage) -> None:
        message = m.HasRequest(digests=[Digest.of(b"%d" % number) for number in range(1500)])  # 100 KB
        target = Target(NODE.id, "http://node:80")
        clients = []
        for number in range(4):
            host = stage.network.host(f"host{number}")
            stage.network.link(f"host{number}", "node").set(bandwidth=1e5, latency_s=0.01, jitter=0)
            clock = VirtualClock(stage.network.loop, gate=host.gate)
            clients.append(HttpClient(identity=CLIENT, network=host, clock=clock))
        answers = await asyncio.gather(
            *(client.call(target, routes.HAS, message) for client in clients), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert 0 < len(refused) < 4
        assert all(isinstance(error, TooManyRequests) for error in refused)
        for client in clients:
            assert await client.call(target, routes.HAS, message)
            await client.close()

    scene(tmp_path, play)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /<script> HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_problem_and_no_line_in_the_log(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(stage: Stage) -> None:
        raw = await stage.asked(sent)
        status, headers, body = raw.answer
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["server"] == "holdfast"
        assert json.loads(body)["type"] == "bad-request"
        assert b"script" not in body
        assert raw.ended is not None

    with caplog.at_level(logging.INFO):
        scene(tmp_path, play)
    assert caplog.records == []


@pytest.mark.parametrize("sent", [HEALTH, GET, HEALTH.replace(b"health", b"<b>"), HEALTH.replace(b"GET", b"HEAD")])
def test_no_answer_is_ever_sniffed(tmp_path: Path, sent: bytes) -> None:
    async def play(stage: Stage) -> None:
        _, headers, _ = (await stage.asked(sent)).answer
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-type"] in (
            "application/json", "application/problem+json", "application/octet-stream",
        )  # fmt: skip

    scene(tmp_path, play)


@pytest.mark.parametrize(
    "sent",
    [
        GET.replace(b"Host", b"Signature: hf=:\xff:\r\nHost"),
        GET.replace(b"Host", b"Holdfast-Grant: \xff\r\nHost"),
        GET.replace(b"Host", b"Range: bytes=0-\xff\r\nHost"),
        GET.replace(b"HTTP/1.1", b"HTTP/0.9"),
        GET.replace(b"Host: node:80", b"Host: \xff"),
    ],
)
def test_what_is_no_text_or_another_version_is_a_bad_request(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(stage: Stage) -> None:
        raw = await stage.asked(sent)
        assert raw.seen.startswith(b"HTTP/1.1 400 ")
        assert json.loads(raw.answer[2])["type"] == "bad-request"

    with caplog.at_level(logging.INFO):
        scene(tmp_path, play)
    assert caplog.records == []
