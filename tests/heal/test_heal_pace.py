"""Repair keeps to its limit in both directions, and reads of people do not wait for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.heal.test_heal_grid import MINUTE, check, holders, story, whole

from holdfast.testing.grid import Grid

LIMIT = 200_000
SIZE = 8_000_000


def test_a_source_gives_repair_no_more_than_the_limit_and_people_all_they_ask(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        contents = {"large": grid.loop.randomness("contents").bytes(SIZE)}
        await vault.put(contents["large"], "large")
        for victim in (await holders(grid))[:2]:
            await grid.kill(victim)
        await asyncio.sleep(5 * MINUTE)
        began = grid.loop.time()
        for _ in range(2):  # one source is left for two new copies
            await grid.add_node()
        reading = grid.loop.time()
        await check(grid, contents)
        assert grid.loop.time() - reading < SIZE / LIMIT / 4, "a read goes first, and no limit holds for it"
        await whole(grid, 3, 30 * MINUTE)
        assert grid.loop.time() - began >= 2 * SIZE / LIMIT, "both copies came from one node"

    story(tmp_path, tell, nodes=3, survive=2, settings={"bwlimit": LIMIT})


def test_a_target_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        names = {f"file-{number}": grid.loop.randomness(str(number)).bytes(SIZE // 4) for number in range(4)}
        for name, data in names.items():
            await vault.put(data, name)
        await grid.kill((await holders(grid))[0])
        await asyncio.sleep(12 * MINUTE)
        began = grid.loop.time()
        await grid.add_node()
        async with await grid.view() as view, asyncio.timeout(5 * MINUTE):
            while (repair := (await view.status()).repair).eta is None:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1)
        assert repair.eta < 2 * SIZE / LIMIT
        assert "done in about" in repair.summary
        await whole(grid, 4, 30 * MINUTE)
        assert grid.loop.time() - began >= SIZE / LIMIT, "all copies went to one node"
        await check(grid, names)

    story(tmp_path, tell, nodes=4, survive=3, settings={"bwlimit": LIMIT})
