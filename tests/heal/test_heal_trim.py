"""Nothing goes without fresh receipts."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.heal.test_heal_grid import (
    MINUTE,
    app_of,
    check,
    coordinator,
    copies,
    fill,
    holders,
    in_trash,
    node_of,
    story,
    whole,
)
from tests.heal.test_heal_inventory import blobs

from holdfast.metadata import queries_status
from holdfast.testing.grid import Grid


def test_nothing_leaves_an_emptied_node_while_there_is_nowhere_to_go(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        async with await grid.view() as view:
            await view.drain_node(node_of(grid, grid.nodes[0]).id)
        await asyncio.sleep(15 * MINUTE)
        assert in_trash(grid) == 0
        assert set(await copies(grid)) == {5}
        await grid.add_node()
        number = node_of(grid, grid.nodes[0]).number
        async with asyncio.timeout(60 * MINUTE):
            while (await coordinator(grid).state.database.run(queries_status.packs_by_node)).get(number):  # noqa: ASYNC110
                await asyncio.sleep(10)
        assert set(await copies(grid)) == {5}
        await check(grid, contents)

    story(tmp_path, tell, nodes=5)


def test_a_surplus_is_not_trimmed_when_another_copy_is_rotten(tmp_path: Path) -> None:
    """The returned copy is the one that is needed: that shows only when the others are read before it goes."""

    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        victim, rotten, *_ = await holders(grid)
        await grid.kill(victim)
        await asyncio.sleep(12 * MINUTE)
        await whole(grid, 5, 10 * MINUTE)
        await grid.start(victim)
        await asyncio.sleep(5 * MINUTE)
        assert set(await copies(grid)) == {6}
        for path in blobs(rotten):
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        await asyncio.sleep(30 * MINUTE)
        assert app_of(rotten).store.space().quarantine
        assert in_trash(grid) == 0
        assert set(await copies(grid)) == {5}
        await check(grid, contents)

    story(tmp_path, tell)
