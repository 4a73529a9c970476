"""``make fuzz``: hostile requests on raw sockets against real servers; afterwards these must be as they were.

    python -m tests.fuzz.sockets [KIND...] [--requests 100000] [--seed 1]

No answer may be a 500, no process may end, no line of a log may speak of a bug, memory and descriptors stay flat,
and a healthy request is answered. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import errno
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.hostile import Hostile, requests_of
from tests.fuzz.servers import KINDS, Server, serving

from holdfast.auth.identity import Identity
from holdfast.clock import SystemClock
from holdfast.wire import routes
from holdfast.wire.exchange_messages import ManifestQuery
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork

AT_ONCE = 24
WAIT_S = 0.05
ANSWER_BYTES_MAX = 4 << 20
WARM_ONE_IN = 5
"""A part of all requests comes before memory is measured: buffers and caches fill once."""
MEMORY_GROWTH_BYTES_MAX = 24 << 20
DESCRIPTORS_GROWTH_MAX = 8
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


@dataclass(slots=True)
class Report:
    """What one server did. ``wrong``: what must not be."""

    kind: str
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    silent: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)
    seconds: float = 0.0

    def text(self) -> str:
        counted = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
        memory = " -> ".join(f"{size / (1 << 20):.1f}" for size in self.memory)
        descriptors = " -> ".join(map(str, self.descriptors))
        return (
            f"{self.kind}: {self.seconds:.0f} s, answers {counted}, {self.silent} without one; "
            f"{memory} MiB, {descriptors} descriptors; wrong: {len(self.wrong)}"
        )


async def attack(server: Server, count: int, seed: int) -> Report:
    """Sends ``count`` requests, some at once, and looks at the server then."""
    report, began = Report(server.kind), time.monotonic()
    random = Random(seed)
    warm = count // WARM_ONE_IN
    await _send_all(server, random, warm, report)
    await healthy(server)
    await asyncio.sleep(0.5)
    memory, descriptors = server.memory_bytes(), server.descriptors()
    await _send_all(server, random, count - warm, report)
    await healthy(server)
    await _settled(server, descriptors)
    report.memory, report.descriptors = (memory, server.memory_bytes()), (descriptors, server.descriptors())
    report.seconds = time.monotonic() - began
    if report.memory[1] - memory > MEMORY_GROWTH_BYTES_MAX:
        report.wrong.append(f"memory grew from {memory} to {report.memory[1]} bytes")
    if report.descriptors[1] - descriptors > DESCRIPTORS_GROWTH_MAX:
        report.wrong.append(f"descriptors grew from {descriptors} to {report.descriptors[1]}")
    report.wrong += [f"log: {line}" for line in server.complaints()[:20]]
    return report


async def healthy(server: Server) -> None:
    """A signed request is answered within seconds, whatever went before."""
    client = HttpClient(identity=Identity(server.identity.seed()), network=TcpNetwork(), clock=SystemClock())
    try:
        async with asyncio.timeout(10):
            if server.kind == "coordinator":
                await client.call(Target(server.id, server.url), routes.STATUS)
            else:
                await client.call(Target(server.id, server.url), routes.MANIFESTS, ManifestQuery())
    finally:
        await client.close()


async def _settled(server: Server, descriptors: int) -> None:
    """Until what we left behind is closed; what takes longer than a header's deadline is a leak."""
    for _ in range(30):
        if server.descriptors() <= descriptors + 2:
            return
        await asyncio.sleep(0.5)


async def _send_all(server: Server, random: Random, count: int, report: Report) -> None:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            hostile = requests_of(server, random, time.time())
            try:
                answer = await _exchange(server, hostile)
            except OSError as error:
                if server.process.poll() is not None:
                    report.wrong.append(f"the process ended with {server.process.returncode}")
                    return
                if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                    report.wrong.append(f"{type(error).__name__}: {error} after {hostile.pieces!r}"[:600])
                answer = b""
            _judge(hostile, answer, report)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def _exchange(server: Server, hostile: Hostile) -> bytes:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    answer = bytearray()
    try:
        for piece in hostile.pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if hostile.end == "close":
            return b""
        if hostile.end == "half" and writer.can_write_eof():
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while len(answer) < ANSWER_BYTES_MAX and (piece := await reader.read(1 << 16)):
                    answer += piece
                    if _whole(answer):
                        break
    finally:
        writer.transport.abort()
    return bytes(answer)


def _whole(answer: bytes | bytearray) -> bool:
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
    return bool(end) and (length is None or len(body) >= int(length[1]))


def _judge(hostile: Hostile, answer: bytes, report: Report) -> None:
    if not answer:
        report.silent += 1
        return
    found = _STATUS.match(answer)
    if found is None:
        report.wrong.append(f"no answer of HTTP: {answer[:200]!r} to {hostile.pieces!r}"[:600])
        return
    status = int(found[1])
    report.statuses[status] += 1
    head, _, body = answer.partition(b"\r\n\r\n")
    if status == 500 or b"Traceback" in answer:
        report.wrong.append(f"{answer[:400]!r} to {hostile.pieces!r}"[:2000])
    if status >= 200 and b"nosniff" not in head:
        report.wrong.append(f"an answer that may be sniffed: {head!r}"[:600])
    if status >= 400 and b"application/problem+json" not in head:
        report.wrong.append(f"no problem document: {answer[:300]!r}"[:600])
    elif status >= 400 and body and _whole(answer) and not answer.startswith(b"HTTP/1.1 100"):
        length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        if length is not None and int(length[1]):
            assert json.loads(body[: int(length[1])])["status"] == status


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile requests on raw sockets against real servers.")
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as path, serving(Path(path), given.kinds or KINDS) as servers:
        for server in servers:
            report = asyncio.run(attack(server, given.requests, given.seed))
            print(report.text(), flush=True)
            for line in report.wrong[:20]:
                print(f"  WRONG {line}", flush=True)
            wrong += len(report.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
