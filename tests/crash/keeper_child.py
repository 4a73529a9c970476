"""A process to be killed or failed at one system call: ``keeper_child DIRECTORY`` puts, deletes, purges in one thread.

It says what was acknowledged (``put 1``), what failed (``error put 1``), and how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest, pieces
from holdfast.clock import SystemClock
from holdfast.codec.pack_layout import encode_header
from holdfast.errors import HoldfastError, StorePoisoned
from holdfast.files import OsFiles
from holdfast.node.keeper import Keeper
from holdfast.node.ledger.ledger import Ledger
from holdfast.pool import InlinePool
from holdfast.stores.disk.store import DiskStore

VAULT = Id(bytes(range(32)))
LIFE = (("put", 0), ("put", 1), ("delete", 0), ("purge", 0), ("put", 2), ("delete", 1))
WELL = [*(f"{word} {number}" for word, number in LIFE), "end well"]
SIZES = (700, 3 << 20, 5000)


def blob(number: int) -> bytes:
    return (encode_header(1, VAULT) + bytes([number]) * SIZES[number])[: SIZES[number]]


async def opened(root: Path) -> Keeper:
    pool = InlinePool()
    store = await DiskStore.open(root, files=OsFiles(), pool=pool, clock=SystemClock(), trash_clock=lambda: 100.0)
    ledger = await Ledger.open(root, files=OsFiles(), writer=pool, reader=pool)
    return Keeper(store=store, ledger=ledger, slow_time=lambda: 100.0, lost=lambda: None)


async def live(root: Path) -> None:
    try:
        keeper = await opened(root)
    except HoldfastError:
        say("refused")  # to start on such a disk
        return

    async def tried(word: str, number: int) -> None:
        data = blob(number)
        digest = Digest.of(data)
        try:
            if word == "put":
                await keeper.put(digest, len(data), VAULT, pieces(data))
            elif word == "delete":
                await keeper.delete(digest, VAULT, 1 << 62, lambda size: None)
            else:
                await keeper.store.purge_trash(float("inf"))  # type: ignore[attr-defined]
        except StorePoisoned:
            say(f"poisoned {word} {number}")
        except HoldfastError:
            say(f"error {word} {number}")
        else:
            say(f"{word} {number}")

    for word, number in LIFE:
        await tried(word, number)
    say(f"end {'poisoned' if keeper.store.poisoned or keeper.ledger.broken else 'well'}")


def say(line: str) -> None:
    for _ in range(2):  # the call that fails may be this one
        with contextlib.suppress(OSError):
            os.write(1, (line + "\n").encode())
            return


if __name__ == "__main__":
    logs.configure(verbosity=-1)
    asyncio.run(live(Path(sys.argv[1])))
