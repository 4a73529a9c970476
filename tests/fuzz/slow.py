"""``make fuzz``: a thousand slow connections of each kind against real servers, and how healthy requests fare.

    python -m tests.fuzz.slow [KIND...] [--connections 1000] [--requests 300]

``header``: a byte now and then; ``body``: a message that never ends; ``read``: large answers that nobody reads. Half of
them come from the address of the healthy client, half from others. Printed: the median and the 95th percentile of
healthy requests before and during, and their ratio. Exit code 1 if one of them fails, or something is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.hostile import plain, signed
from tests.fuzz.servers import KINDS, Server, serving

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.cli.serving import allow_descriptors
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.exchange_messages import ManifestQuery
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork

WAYS = ("header", "body", "read")
DROP_S = 2.0
STRANGER = Identity.generate(SeededRandomness(98))
BLOB = bytes(32 << 20)
DESCRIPTORS_GROWTH_MAX = 8


@dataclass(slots=True)
class Report:
    """Seconds of healthy requests before and during, ascending. ``open``: slow connections at the end of them."""

    kind: str
    way: str
    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)
    open: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return self.during[len(self.during) // 2] / self.before[len(self.before) // 2]

    def text(self) -> str:
        def shown(times: list[float]) -> str:
            return f"{times[len(times) // 2] * 1e3:.2f} ({times[len(times) * 95 // 100] * 1e3:.2f}) ms"

        return (
            f"{self.kind}, {self.way}: {shown(self.before)} before, {shown(self.during)} during, "
            f"{self.ratio:.2f} times; {self.open} slow ones open at the end; wrong: {len(self.wrong)}"
        )


async def harass(server: Server, way: str, connections: int, requests: int) -> Report:
    """Healthy requests, then as many beside ``connections`` slow ones."""
    report = Report(server.kind, way)
    client = HttpClient(identity=server.identity, network=TcpNetwork(), clock=SystemClock())
    try:
        if way == "read" and server.kind == "gateway":
            await _put(server)
        await _ask(server, client, 30)
        descriptors = server.descriptors()
        report.before = await _ask(server, client, requests)
        async with _slow(server, way, connections) as still:
            report.during = await _ask(server, client, requests)
            report.open = still()
        await asyncio.sleep(1)
        await _ask(server, client, 10)
    except Exception as error:
        report.wrong.append(f"{type(error).__name__}: {error}")
        return report
    finally:
        await client.close()
    for _ in range(20):
        if server.descriptors() <= descriptors + DESCRIPTORS_GROWTH_MAX:
            break
        await asyncio.sleep(0.5)
    else:
        report.wrong.append(f"descriptors grew from {descriptors} to {server.descriptors()}")
    report.wrong += server.complaints()[:3]
    return report


async def _ask(server: Server, client: HttpClient, count: int) -> list[float]:
    target, times = Target(server.id, server.url), []
    for _ in range(count):
        began = time.monotonic()
        async with asyncio.timeout(10):
            if server.kind == "coordinator":
                await client.call(target, routes.POLICY)
            else:
                await client.call(target, routes.MANIFESTS, ManifestQuery())
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.005)
    return sorted(times)


async def _put(server: Server) -> None:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(plain(server, "PUT", f"/cas/{Digest.of(BLOB)}", {"content-length": str(len(BLOB))}, BLOB))
    assert (await reader.readline()).split()[1] == b"201"
    writer.close()


def _begin(server: Server, way: str) -> bytes:
    if way == "header":
        return b"GET /v1/health HTTP/1.1\r\nHost: a\r\nX: "
    if way == "read":
        if server.kind == "gateway":
            return plain(server, "GET", f"/cas/{Digest.of(BLOB)}", {})
        return plain(server, "GET", "/v1/health", {}) * 40
    if server.kind == "gateway":
        return plain(server, "PUT", "/cas/" + "ab" * 32, {"content-length": "1000000"})
    message = m.encode(m.HasRequest(digests=[Digest.of(b"%d" % number) for number in range(4096)]))
    where = "/v1/commit" if server.kind == "coordinator" else "/v1/blobs/has"
    stranger = Server(server.kind, server.process, STRANGER, server.host, server.port, server.data, server.log)
    whole = signed(stranger, "POST", where, {}, message, time.time())
    return whole.replace(str(STRANGER.id).encode(), str(server.id).encode(), 1)[: -len(message) + 5]


@contextlib.asynccontextmanager
async def _slow(server: Server, way: str, count: int) -> AsyncIterator[Callable[[], int]]:
    writers: list[asyncio.StreamWriter] = []
    ended: set[int] = set()
    begin = _begin(server, way)

    async def one(number: int) -> None:
        source = "127.0.0.1" if number % 2 else f"127.0.1.{number % 200 + 1}"
        reader, writer = await asyncio.open_connection(server.host, server.port, local_addr=(source, 0), limit=1024)
        writers.append(writer)
        with contextlib.suppress(OSError):
            writer.write(begin)
            while not reader.at_eof() and not writer.transport.is_closing():
                await asyncio.sleep(DROP_S)
                if way != "read":
                    writer.write(b"x")
        ended.add(number)

    tasks: list[asyncio.Task[None]] = []
    try:
        for first in range(0, count, 50):
            tasks += [asyncio.create_task(one(number)) for number in range(first, min(first + 50, count))]
            await asyncio.sleep(0.05)
        yield lambda: count - len(ended)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()


def main() -> int:
    parser = argparse.ArgumentParser(description="Slow connections against real servers.")
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    allow_descriptors()
    wrong = 0
    with tempfile.TemporaryDirectory() as path, serving(Path(path), given.kinds or KINDS) as servers:
        for server in servers:
            for way in WAYS:
                report = asyncio.run(harass(server, way, given.connections, given.requests))
                print(report.text() if report.during else f"{server.kind}, {way}: failed", flush=True)
                for line in report.wrong:
                    print(f"  WRONG {line}", flush=True)
                wrong += len(report.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
