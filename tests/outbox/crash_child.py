"""A process to be killed: ``enqueue DIRECTORY URL FIRST`` says each sequence it was told; ``deliver DIRECTORY``."""

from __future__ import annotations

import asyncio
import sys

from holdfast import logs
from holdfast.outbox import Outbox, http

KEYS = 5
LARGE_BYTES = 20_000
PAUSE_S = 0.02


def body(number: int) -> bytes:
    """Every third one lies in a file of its own."""
    return f"{number}:".encode() + b"x" * (LARGE_BYTES if number % 3 == 0 else 10)


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


async def deliver(directory: str) -> None:
    async with await Outbox.open(directory) as outbox:
        await outbox.watch()


if __name__ == "__main__":
    logs.configure(verbosity=-1)
    if sys.argv[1] == "enqueue":
        asyncio.run(enqueue(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(deliver(sys.argv[2]))
