"""A million waiting entries: opened at once, shown in pages, and delivered although one of them never is.

``HOLDFAST_MANY`` says how many (a million by default).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from bench.outbox_many import BODY, SEED, Looked, fill

from holdfast.outbox import Entry, Outbox, State
from holdfast.outbox.outcomes import Deferred, Delivered, Outcome

COUNT = int(os.environ.get("HOLDFAST_MANY", "1000000"))
ROOT = Path(__file__).parents[2]
MEMORY_BYTES_MAX = 150 << 20
START_S_MAX = 2.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_million_entries_start_at_once_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    await fill(tmp_path / "outbox", "http://target.example", COUNT)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.outbox_many", str(tmp_path / "outbox"), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    out, _ = await child.communicate()
    looked = Looked(**json.loads(out))
    assert looked.entries == COUNT
    assert looked.start_s <= START_S_MAX
    assert looked.memory_bytes <= MEMORY_BYTES_MAX

    poisoned = f"http://target.example/{COUNT // 2}"
    delivered = bytearray(COUNT)

    async def deliver(entry: Entry) -> Outcome:
        if entry.keys == (poisoned,):
            return Deferred("it answered 500, as always", target=True)
        assert entry.open is not None
        assert b"".join([bytes(piece) async for piece in entry.open()]) == BODY
        delivered[int(entry.keys[0].rpartition("/")[2])] += 1
        return Delivered()

    async with await Outbox.open(tmp_path / "outbox", seed=SEED, deliver={"http": deliver}) as outbox:
        async with asyncio.timeout(3000):
            while (await outbox.flush()).waiting > 1:
                pass
        (left,) = [entry async for entry in outbox.entries()]
        assert (left.keys, left.state) == ((poisoned,), State.DEFERRED)
    delivered[COUNT // 2] += 1
    assert delivered == b"\x01" * COUNT, "each of the others once"
