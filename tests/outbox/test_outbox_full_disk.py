"""A disk that is really full: what was acknowledged stays, what cannot be kept is refused, and it goes on with room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.outbox.rigs import QueueRig, body_of, claim_all, entry

from holdfast.errors import NoSpace
from holdfast.outbox.next_step import Change, Settled
from holdfast.outbox.outcomes import Delivered

DISK_BYTES = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "holdfast-test", str(path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.rig
@pytest.mark.parametrize("body_bytes", [100, 60_000])
async def test_a_full_disk_refuses_and_keeps(disk: Path, body_bytes: int) -> None:
    rig = QueueRig(disk / "outbox")
    try:
        queue = await rig.open()
        kept = {await queue.add(entry("first"), b"first"): b"first"}
        ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(bytes(free - 700_000))

        async def fill() -> None:
            for number in range(100_000):
                body = f"{number}:".encode().ljust(body_bytes, b"x")
                kept[await queue.add(entry(f"k{number}"), body)] = body

        with pytest.raises(NoSpace):
            await fill()
        assert len(kept) > 3
        for _ in range(3):
            with pytest.raises(NoSpace):
                await queue.add(entry("more"), b"x" * (body_bytes + 20_000))
        assert {found.sequence: await body_of(found) for found in await queue.page(0, len(kept) + 1)} == kept
        ballast.unlink()
        again = await queue.add(entry("again"), b"again")
        assert again > max(kept)
        await rig.close()
        other = await rig.open()
        assert [found.sequence for found in await other.page(0, len(kept) + 2)] == [*kept, again]
        for lane, claimed in await claim_all(other, len(kept) + 1):
            assert await other.tries.settle(claimed, lane, Settled(Change.REMOVE, True), Delivered())
        assert await other.page() == []
        assert not list((disk / "outbox" / "bodies").iterdir())
    finally:
        await rig.close()
