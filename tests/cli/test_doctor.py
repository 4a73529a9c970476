"""``doctor`` times a sync where a node keeps its data, and says when a disk cannot mean it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from holdfast import assemble
from holdfast.cli.doctor import SYNC_FAST_S, SYNC_SLOW_S, _judged, sync_finding

MEMORY = Path("/dev/shm")


def test_a_sync_is_too_fast_fine_or_slow() -> None:
    fast, fine, slow = (_judged(seconds, "sync") for seconds in (SYNC_FAST_S / 2, SYNC_FAST_S * 2, SYNC_SLOW_S * 2))
    assert (fast.state, fine.state, slow.state) == ("warn", "ok", "warn")
    assert "after a power cut acknowledged data may be gone" in fast.advice


@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="no file system in memory at /dev/shm")
def test_memory_is_no_disk() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        seconds = min(assemble.time_syncs(Path(path), 5) for _ in range(20))  # others use this machine, too
        assert _judged(seconds, "sync").state == "warn"
        assert sync_finding(Path(path), " in memory").check == "sync in memory"


async def test_the_disk_of_a_store_elsewhere_is_looked_at_too(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    await assemble.init_node(here, join=None)
    assert assemble.node_disks(here) == [here]
    apart = tmp_path / "apart"
    await assemble.init_node(apart, join=None, store=f"file://{there}")
    assert assemble.node_disks(apart) == [apart, there]
