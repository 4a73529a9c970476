"""``python -m bench.outbox_many DIRECTORY``: opens an outbox of very many entries, looks around, says what it took.

``fill`` makes such an outbox by SQL, many entries to a transaction: nobody waits for a million syncs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.peak_memory import peak_bytes
from holdfast.blob import Digest
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.files import OsFiles
from holdfast.outbox import Outbox, OutboxSettings, State, http
from holdfast.outbox.queue.queue import Queue
from holdfast.outbox.queue.rows import Fresh
from holdfast.outbox.queue.sealing import ENTRY_ID_BYTES
from holdfast.pool import ThreadPool

SEED = bytes(range(32))
BODY = b"x" * 100
_PER_TRANSACTION = 20_000


@dataclass(frozen=True)
class Looked:
    """What a process took to open such an outbox and to show it. ``page_s``: the slowest of a few pages of 100."""

    start_s: float
    page_s: float
    memory_bytes: int
    entries: int


async def fill(directory: Path, url: str, count: int) -> None:
    """A new outbox with ``count`` entries: a PUT of ``BODY`` to ``URL/NUMBER`` each."""
    pool, thread = ThreadPool(1), ThreadPool(1)
    clock, randomness = SystemClock(), SystemRandomness()
    queue = await Queue.open(
        directory, seed=SEED, clock=clock, randomness=randomness, files=OsFiles(), pool=pool, thread=thread,
        settings=OutboxSettings(),
    )  # fmt: skip
    core, process = queue._core, randomness.bytes(8)
    id_ = randomness.bytes(ENTRY_ID_BYTES)  # one for all: an entry is opened with the id in its row
    cipher = core.seals.cipher(id_, "body")
    stored = core.bodies.inline(id_, cipher, BODY)
    assert stored.inline is not None
    digest, sealed_body, now = Digest.of(BODY), stored.inline, clock.now()

    def rows(first: int, last: int) -> None:
        fresh = []
        for number in range(first, last):
            new = http.put(f"{url}/{number}")
            sealed = core.records.sealed_record(id_, new, delivery_class=0, size=len(BODY), created=now, digest=digest)
            keys = tuple(core.seals.tag("key", key) for key in new.keys)
            target = core.seals.tag("target", new.target)
            fresh.append(
                Fresh(
                    id_, new.delivery_class(), new.kind, len(BODY), len(sealed_body), False, target, keys, (), sealed,
                    sealed_body,
                )
            )  # fmt: skip
        with core.file.change(durable=False):
            core.file.entries.add(fresh, process)

    for first in range(0, count, _PER_TRANSACTION):
        await core.ask(lambda first=first: rows(first, min(first + _PER_TRANSACTION, count)))  # type: ignore[misc]
    await queue.close()
    pool.close()
    thread.close()


async def look(directory: Path) -> Looked:
    """Opens it and lists pages at its begin, middle and end, of all and of some states."""
    started = time.perf_counter()
    async with await Outbox.open(directory, seed=SEED) as outbox:
        waiting = await outbox.waiting()
        oldest = await outbox.oldest()
        start = time.perf_counter() - started
        assert oldest is not None
        pages = []
        for after in (0, waiting // 2, waiting - 100):
            for states in (None, [State.WAITING, State.DEFERRED], [State.CONFLICT]):
                began = time.perf_counter()
                await outbox.queue.page(after, 100, states)
                pages.append(time.perf_counter() - began)
        return Looked(start, max(pages), peak_bytes(), waiting)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(asyncio.run(look(Path(sys.argv[1]))))))
