"""Ten of twenty nodes vanish at once and are back ten minutes later: a switch was started again, no disk was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.heal.test_heal_grid import MINUTE, check, coordinator, copied, copies, fill, in_trash, story

from holdfast.testing.grid import Grid
from holdfast.testing.simulation.faults import Disks


async def alarms(grid: Grid) -> list[str]:
    async with await grid.view() as view:
        return list((await view.status()).repair.alarms)


@pytest.mark.timeout(300)
def test_ten_of_twenty_vanish_for_ten_minutes(tmp_path: Path) -> None:
    """Only what lies at the floor is copied, by one copy, and nothing is deleted; the alarm comes and goes."""

    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=6)
        gone, disks = grid.nodes[::2], Disks(grid)
        left = [sum(node not in gone for node in disks.copies(pack.digest)) for pack in disks.kept()]
        to_leave_the_floor = sum(3 - live for live in left if 0 < live < 3)
        for node in gone:
            await grid.kill(node, silent=True)
        await asyncio.sleep(3 * MINUTE)
        assert any("vanished at once" in alarm for alarm in await alarms(grid))
        await asyncio.sleep(7 * MINUTE)
        assert copied(grid) == to_leave_the_floor
        for node in gone:
            await grid.start(node)
        await asyncio.sleep(5 * MINUTE)
        assert coordinator(grid).repair.breaker.state == "closed"
        assert not await alarms(grid)
        assert min(await copies(grid)) >= 5
        assert (copied(grid), in_trash(grid)) == (to_leave_the_floor, 0)
        disks.check()
        await check(grid, contents)

    story(tmp_path, tell, nodes=20, survive=4, settings={"out_after": 240 * MINUTE})  # the default
