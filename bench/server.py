"""What the HTTP server alone costs: processor time a request of a service whose handlers do nothing.

    python -m bench.server [--requests 2000]

The least of several rounds counts: another program on the same cores only ever adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
from multiprocessing.connection import Connection as Channel
from pathlib import Path
from typing import Any

from bench.exchange_load import Connection, request
from bench.measure import MIB
from holdfast.auth.identity import Identity
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.wire import messages as m
from holdfast.wire.network import TcpNetwork
from holdfast.wire.routes import HEALTH, Route
from holdfast.wire.serve import BytesReply, Call, FileReply, Reply, Service

PUT: Route[None, m.Empty] = Route("PUT", "/blobs/{name}", None, m.Empty, signed=False, blob="foreign")
GET: Route[None, m.Empty] = Route("GET", "/blobs/{name}", None, m.Empty, signed=False, blob="down")
FILE: Route[None, m.Empty] = Route("GET", "/files/{name}", None, m.Empty, signed=False, blob="down")
SMALL = bytes(4096)
LARGE_BYTES = 64 * MIB
ROUNDS = 5


def _serve(channel: Channel, path: Path) -> None:
    async def put(call: Call, _: None) -> Reply:
        async for _piece in call.body():
            pass
        return Reply(status=201)

    async def get(call: Call, _: None) -> BytesReply:
        return BytesReply(SMALL, len(SMALL))

    async def file(call: Call, _: None) -> FileReply:
        return FileReply(path.open("rb"), LARGE_BYTES)

    async def main() -> None:
        identity = Identity.generate(SystemRandomness())
        service = Service(identity=identity, role="node", name="n1", clock=SystemClock(), network=TcpNetwork())
        handlers: tuple[tuple[Route[None, m.Empty], Any], ...] = ((PUT, put), (GET, get), (FILE, file))
        for route, handler in handlers:
            service.add(route, handler)
        channel.send((await service.start("127.0.0.1", 0)).port)
        await asyncio.Event().wait()

    asyncio.run(main())


def _processor_s(process: int | None) -> float:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of the HTTP server.")
    parser.add_argument("--requests", type=int, default=2000)
    small = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        path.write_bytes(SystemRandomness().bytes(MIB) * (LARGE_BYTES // MIB))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, path), daemon=True)
        process.start()
        port = ours.recv()
        connection = Connection(port)

        def put(size: int) -> bytes:
            return request(port, "/blobs/a", {"Content-Length": str(size)}, "PUT") + bytes(size)

        for name, count, data in (
            ("health", small, request(port, HEALTH.path)),
            ("4 KiB read", small, request(port, "/blobs/a")),
            ("5 KB put", small, put(5000)),
            ("64 MiB put", 10, put(LARGE_BYTES)),
            ("64 MiB read from a file", 10, request(port, "/files/a")),
        ):
            rounds = []
            for _ in range(ROUNDS):
                before = _processor_s(process.pid)
                for _ in range(count):
                    connection.send(data)
                    connection.receive()
                rounds.append((_processor_s(process.pid) - before) / count)
            print(f"{name:24} {min(rounds) * 1e6:9.1f} µs", flush=True)
        connection.close()
        process.kill()


if __name__ == "__main__":
    main()
