"""A limit on what a device sends is shared by all copies of all packs under way; nobody takes it for a sick sender."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import BadConfig
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

RATE = 100_000
SIZE = 1_500_000
COPIES = 5


def test_a_small_limit_makes_a_put_slow_and_nothing_else(tmp_path: Path) -> None:
    settings = {"bwlimit": RATE, "pack_size": 512 << 10, "chunk_size": 256 << 10}

    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=COPIES, survive=COPIES - 1, settings=settings) as grid:
            vault = await grid.vault()
            data = loop.randomness("data").bytes(SIZE)
            began = loop.time()
            await vault.put(data, "name", no_clobber=True)
            took = loop.time() - began
            assert SIZE * COPIES / RATE - 2 < took < SIZE * COPIES / RATE * 1.2, "as fast as it may, nothing sent twice"
            assert await vault.read("name") == data

    run(scenario, seed=5, limit_s=3600)


def test_a_limit_below_what_nodes_wait_for_is_refused(tmp_path: Path) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=1, survive=0, settings={"bwlimit": 20_000}) as grid:
            with pytest.raises(BadConfig, match="32 KiB"):
                await grid.vault()

    run(scenario, seed=5, limit_s=3600)
