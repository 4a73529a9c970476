"""A process to be killed: ``enqueue DIRECTORY URL FIRST`` says each sequence it was told; ``deliver DIRECTORY [SEED]``.

With SEED (hex) it delivers to holdfast nodes as that identity. It says ``ready`` once it delivers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast import logs
from holdfast.auth.identity import Identity
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.files import OsFiles
from holdfast.outbox import Outbox, http
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.pool import ThreadPool
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient
from holdfast.wire.network import TcpNetwork

KEYS = 5
LARGE_BYTES = 20_000
PAUSE_S = 0.02


def body(number: int) -> bytes:
    """Every third one lies in a file of its own."""
    return f"{number}:".encode() + b"x" * (LARGE_BYTES if number % 3 == 0 else 10)


@asynccontextmanager
async def opened(directory: Path, seed: bytes | None) -> AsyncIterator[Outbox]:
    """An outbox; with ``seed`` that of somebody who speaks to holdfast nodes."""
    if seed is None:
        async with await Outbox.open(directory) as outbox:
            yield outbox
        return
    clock, pool = SystemClock(), ThreadPool(2)
    client = HttpClient(identity=Identity(seed), network=TcpNetwork(), clock=clock)
    delivery = http.HttpDelivery(
        ForeignHttp(network=TcpNetwork()), clock=clock, randomness=SystemRandomness(), files=OsFiles(), pool=pool,
        nodes=NodeDelivery(client, clock),
    )  # fmt: skip
    try:
        async with await Outbox.open(directory, seed=seed, http=delivery) as outbox:
            yield outbox
    finally:
        await client.close()
        pool.close()


async def enqueue(directory: str, url: str, first: int) -> None:
    async with await Outbox.open(directory) as outbox:

        async def one(key: int) -> None:
            number = first + key
            while True:
                await outbox.enqueue(http.put(f"{url}/{key}", if_absent=True), body(number))
                sys.stdout.write(f"{key} {number}\n")
                sys.stdout.flush()
                number += KEYS
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(one(key) for key in range(KEYS)))


async def deliver(directory: str, seed: str = "") -> None:
    async with opened(Path(directory), bytes.fromhex(seed) if seed else None) as outbox:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await outbox.watch()


if __name__ == "__main__":
    logs.configure(verbosity=-1)
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(deliver(*sys.argv[2:]))
