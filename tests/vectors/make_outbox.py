"""Writes ``outbox-VERSION/``: a queue with one entry of each sort. Run it only to add a new version beside the old."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.outbox.rigs import QueueRig, claim_all, entry

from holdfast.blob import Buffer, Digest, pieces
from holdfast.outbox.entry import NewEntry
from holdfast.outbox.next_step import Change, Settled
from holdfast.outbox.outcomes import Conflicted, Deferred, Delivered, Outcome, Rejected

PACK = bytes(range(256))


async def theirs() -> AsyncIterator[Buffer]:
    yield b"their bytes"


async def main(directory: Path) -> None:
    rig = QueueRig(directory)
    queue = await rig.open()
    pack = Digest.of(PACK)
    await queue.add_pack(pack, len(PACK), pieces(PACK))
    await queue.add(entry("a", number=1), b"first of a")
    await queue.add(entry("a", number=2), b"second of a")
    for key in ("deferred", "conflict"):
        await queue.add(entry(key), b"mine")
    await queue.add(entry("rejected"), b"x" * 20_000)
    await queue.add(NewEntry("ref", "update", ("e", "f"), "coordinator", {}, needs=(pack,)))
    await queue.add(entry("f", target="http://two"), b"behind a group")
    await queue.add(entry("hint", purpose="hint"), b"moderate")
    await queue.add(entry("delivered", base={"etag": '"1"'}), b"the newest")
    changes: dict[int, tuple[Settled, Outcome]] = {
        3: (Settled(Change.DEFER, True, 60.0), Deferred("busy")),
        4: (Settled(Change.CONFLICT, True), Conflicted("changed", {"base": {"etag": '"2"'}}, content=theirs)),
        5: (Settled(Change.REJECT, True), Rejected("too odd")),
        9: (Settled(Change.REMOVE, True), Delivered({"etag": '"3"'})),
    }
    for lane, found in await claim_all(queue):
        if found.sequence in changes:
            await queue.tries.settle(found, lane, *changes[found.sequence])
        else:
            await queue.tries.unclaim([found.sequence])
    await rig.close()
    shutil.rmtree(directory / "alive")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
