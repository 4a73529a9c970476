"""``python -m bench.outbox_body REPORT DIRECTORY URL BYTES``: queues and delivers one body.

REPORT then says by how many bytes the process grew from its first small entry on.

A process of its own, so that the figure is the outbox's alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bench.measure import GIB, MIB
from bench.peak_memory import peak_bytes
from holdfast.outbox import Outbox, OutboxSettings, http


async def main(report: Path, directory: Path, url: str, size: int) -> None:
    settings = OutboxSettings(body_bytes_max=max(size, GIB), total_bytes_max=4 * max(size, GIB))
    async with await Outbox.open(directory, settings=settings) as outbox:
        await _through(outbox, f"{url}/small", 2 * MIB)
        before = peak_bytes()
        await _through(outbox, f"{url}/large", size)
        report.write_text(str(peak_bytes() - before))


async def _through(outbox: Outbox, url: str, size: int) -> None:
    await outbox.enqueue(http.put(url), _pieces(size))
    summary = await outbox.flush()
    assert summary.delivered == 1, summary


async def _pieces(size: int) -> AsyncIterator[bytes]:
    piece = os.urandom(MIB)
    for start in range(0, size, MIB):
        yield piece[: min(MIB, size - start)]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
