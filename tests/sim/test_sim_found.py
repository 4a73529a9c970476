"""What simulated seeds have found, told once more as short stories."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.errors import NotFound, Unavailable
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

HOURS = 3600.0


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_coordinator_whose_clock_jumps_is_understood_at_once(hours: int, tmp_path: Path) -> None:
    """Its refusal is signed and says what time it is: the call is signed anew. Nodes that are asked by somebody who
    knows it already ask, too, before they refuse anything."""

    async def tell(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1) as grid:
            vault = await grid.vault()
            await vault.put(b"before", "name")
            assert grid.coordinator.clock is not None
            grid.coordinator.clock.step(hours * HOURS)
            stepped = loop.time()
            assert (await vault.stat("name", fresh=True)).size == 6
            assert await vault.read("name", fresh=True) == b"before"
            await vault.put(b"after", "name")
            assert await vault.read("name", fresh=True) == b"after"
            assert loop.time() - stepped < 1

    run(tell, seed=1, limit_s=7200)


def test_a_name_that_was_only_listed_is_read_while_the_coordinator_is_down(tmp_path: Path) -> None:
    async def tell(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1) as grid:
            vault = await grid.vault()
            await vault.put(b"something", "directory/name")
            other = await grid.vault("desk", await grid.add_device("desk"))
            assert [entry.name async for entry in other.list("directory")] == ["directory/name"]
            await grid.kill(grid.coordinator)
            assert await other.read("directory/name") == b"something"

    run(tell, seed=1, limit_s=7200)


def test_a_node_with_a_full_disk_stops_when_it_is_told_to(tmp_path: Path) -> None:
    async def tell(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1) as grid:
            node = grid.nodes[0]
            node.disk.full = True
            await grid.stop(node)
            node.disk.full = False
            await grid.start(node)
            await grid.until_up(3)

    run(tell, seed=1, limit_s=7200)


def test_a_put_that_failed_is_not_done_later_by_a_coordinator_that_was_restarted(tmp_path: Path) -> None:
    """What a node holds that was empty when it joined was put in this network: no device must bring its names back."""

    async def tell(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1) as grid:
            await grid.kill(grid.coordinator)
            await grid.start(grid.coordinator)
            await grid.until_up(3)
            vault = await grid.vault()
            for node in grid.nodes[1:]:
                grid.network.partition("laptop", node.name)
            with pytest.raises(Unavailable, match="only 1 of 2 copies"):
                await vault.put(b"never acknowledged", "name")
            with pytest.raises(NotFound):
                await vault.delete("name")
            await asyncio.sleep(600)
            with pytest.raises(NotFound):
                await vault.read("name", fresh=True)

    run(tell, seed=1, limit_s=7200)
