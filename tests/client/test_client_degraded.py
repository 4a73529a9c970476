"""Writes for which fewer copies will do: they have all that the network can give, and no more is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.errors import Unavailable
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.simulation.faults import Disks

SEED = 20


def story(
    path: Path, tell: Callable[[VirtualLoop, Grid], Awaitable[None]], *, nodes: int = 6, survive: int = 4
) -> None:
    """``tell`` on a grid in which repair is paused: what lies on the disks, the writer has sent."""

    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, path, nodes=nodes, survive=survive) as grid:
            async with await grid.view() as view:
                await view.order_repair("pause")
            await tell(loop, grid)

    run(scenario, seed=SEED, limit_s=3600)


def copies(grid: Grid) -> list[int]:
    """Of each pack that something keeps, how many copies lie on disks."""
    disks = Disks(grid)
    return [len(disks.copies(pack.digest)) for pack in disks.kept()]


def test_on_a_healthy_network_every_pack_has_all_its_copies_at_once(tmp_path: Path) -> None:
    async def tell(loop: VirtualLoop, grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"1" * 5000, "whole")
        await vault.put(b"2" * 5000, "degraded", allow_degraded=True)
        await vault.delete("whole")
        assert copies(grid) == [5, 5, 5]
        async with await grid.view() as view:
            status = await view.status()
        assert (status.packs.healthy, status.packs.degraded) == (3, 0)
        assert not status.repair.alarms

    story(tmp_path, tell)


def test_with_too_few_nodes_it_settles_for_those_there_are(tmp_path: Path) -> None:
    """Three of five that answer take a copy each; one alone is below the floor."""

    async def tell(loop: VirtualLoop, grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"1" * 5000, "name")
        for node in grid.nodes[:2]:
            await grid.kill(node)
        began = loop.time()
        await vault.delete("name")
        assert sorted(copies(grid)) == [3, 5]
        assert loop.time() - began < 5
        assert [entry async for entry in vault.list()] == []
        for node in grid.nodes[2:4]:
            await grid.kill(node)
        with pytest.raises(Unavailable, match="1 of 2 copies"):
            await vault.put(b"2" * 5000, "other", allow_degraded=True)

    story(tmp_path, tell, nodes=5)


def test_nodes_that_fall_silent_hold_nobody_up(tmp_path: Path) -> None:
    """Two of five have stopped in the middle of a sentence, and nobody knows it yet: seconds, then the rest will do."""

    async def tell(loop: VirtualLoop, grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"1" * 5000, "name")
        for node in grid.nodes[:2]:
            grid.network.pause(node.name)
        began = loop.time()
        await vault.put(b"2" * 5000, "other", allow_degraded=True)
        took = loop.time() - began
        for node in grid.nodes[:2]:
            grid.network.resume(node.name)
        assert took < 5
        assert sorted(copies(grid)) == [3, 5]

    story(tmp_path, tell, nodes=5)


def test_a_node_that_just_failed_is_not_tried_again_for_each_pack(tmp_path: Path) -> None:
    async def tell(loop: VirtualLoop, grid: Grid) -> None:
        vault = await grid.vault()
        await grid.kill(grid.nodes[0], silent=True)
        await vault.put(b"1" * 5000, "first", allow_degraded=True)
        began = loop.time()
        for number in range(5):
            await vault.put(b"%d" % number * 5000, f"name {number}", allow_degraded=True)
        assert loop.time() - began < 1
        assert set(copies(grid)) == {2}

    story(tmp_path, tell, nodes=3, survive=2)


def test_spare_nodes_take_the_place_of_those_that_fail(tmp_path: Path) -> None:
    """Two of six are dead and nobody knows it: there are others, so nothing less than all copies is settled for."""

    async def tell(loop: VirtualLoop, grid: Grid) -> None:
        vault = await grid.vault()
        for node in grid.nodes[:2]:
            await grid.kill(node)
        for number in range(6):
            await vault.put(b"%d" % number * 5000, f"name {number}", allow_degraded=True)
        assert set(copies(grid)) == {3}

    story(tmp_path, tell, nodes=6, survive=2)
