"""Each alarm begins when there is a reason for it and is over when there is none; metrics show the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.heal.test_heal_grid import MINUTE, app_of, check, coordinator, copies, fill, holders, story, whole

from holdfast.auth.documents import sign
from holdfast.auth.positions import Position
from holdfast.cli.status import scrub_words
from holdfast.testing.grid import Grid


def told(grid: Grid) -> set[str]:
    return set(coordinator(grid).alarms.told)


def metrics(grid: Grid) -> dict[str, float]:
    """Name with labels -> value, as the coordinator shows them."""
    lines = coordinator(grid).service.metrics.text().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_healthy_network_raises_no_alarm(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        await asyncio.sleep(10 * MINUTE)
        assert told(grid) == set()
        shown = metrics(grid)
        assert shown['holdfast_nodes{state="up"}'] == 7
        assert shown['holdfast_packs{health="healthy"}'] == len(await copies(grid))
        assert shown["holdfast_repair_breaker_open"] == 0

    story(tmp_path, tell)


def test_the_floor(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        await grid.kill((await holders(grid))[0])
        await asyncio.sleep(5 * MINUTE)
        assert told(grid) == {"floor"}, "two copies of three are left, and there is nowhere to make another"
        assert metrics(grid)['holdfast_repair_packs{live="2"}'] == len(await copies(grid))
        assert metrics(grid)['holdfast_repair_bytes{when="due"}'] > 0
        await grid.add_node()
        await whole(grid, 3, 10 * MINUTE)
        await asyncio.sleep(4 * MINUTE)
        assert told(grid) == set()
        assert metrics(grid)['holdfast_repair_bytes{when="due"}'] == 0
        await check(grid, contents)

    story(tmp_path, tell, nodes=3, survive=2)


def test_lost_packs(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        victims = (await holders(grid))[:2]
        for victim in victims:
            await grid.kill(victim)
        await asyncio.sleep(5 * MINUTE)
        assert "lost" in told(grid)
        async with await grid.view() as view:
            assert (await view.status()).packs.lost
        assert metrics(grid)['holdfast_packs{health="lost"}'] > 0
        for victim in victims:
            await grid.start(victim)
        await whole(grid, 2, 10 * MINUTE)
        await asyncio.sleep(4 * MINUTE)
        assert told(grid) == set()
        await check(grid, contents)

    story(tmp_path, tell, nodes=2, survive=1)


def test_the_breaker(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        gone = grid.nodes[::2]
        for node in gone:
            await grid.kill(node, silent=True)
        await asyncio.sleep(5 * MINUTE)
        assert "breaker" in told(grid)
        assert metrics(grid)["holdfast_repair_breaker_open"] == 1
        for node in gone:
            await grid.start(node)
        await asyncio.sleep(8 * MINUTE)
        assert told(grid) == set()
        assert metrics(grid)["holdfast_repair_breaker_open"] == 0

    story(tmp_path, tell, nodes=8, survive=2)


def test_a_store_that_only_reads(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        sick = (await holders(grid))[0]
        app_of(sick).ledger._file.broken = "the disk of the ledger went away"
        await asyncio.sleep(5 * MINUTE)
        assert told(grid) == {"poisoned"}
        assert sick.name in coordinator(grid).alarms.told["poisoned"]
        assert "holdfast_node_read_only 1.0" in app_of(sick).service.metrics.text().decode()
        await grid.kill(sick)
        await grid.start(sick)
        await asyncio.sleep(5 * MINUTE)
        assert told(grid) == set()
        await check(grid, contents)

    story(tmp_path, tell, nodes=4, survive=2)


def test_an_old_coordinator_says_so(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        state = coordinator(grid).state
        epoch = state.position.epoch + 1
        word = sign(Position(epoch=epoch, commit=1), state.identity)
        app_of(grid.nodes[0]).membership.hear(epoch, 1, word)
        await asyncio.sleep(4 * MINUTE)
        assert told(grid) == {"old"}

    story(tmp_path, tell, nodes=2, survive=1)


def test_a_node_shows_how_old_its_last_look_at_everything_is(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        node = (await holders(grid))[0]
        text = app_of(node).service.metrics.text().decode()
        assert f'holdfast_node_bytes{{account="used"}} {float(app_of(node).store.space().used)}' in text
        await asyncio.sleep(150 * MINUTE)
        age = app_of(node).scrub.age()
        assert age is not None
        text = app_of(node).service.metrics.text().decode()
        assert f"holdfast_scrub_age_seconds {age}" in text
        assert f"holdfast_scrub_blobs_total {float(app_of(node).scrub.checked)}" in text
        async with await grid.view() as view:
            status = await view.status()
            assert (status.scrub.overdue, status.scrub.nodes) == (0, 0)
            assert 0 < (status.scrub.oldest or 0) <= 60 * MINUTE
            assert scrub_words(status).startswith("everything was read again within the last ")
            await app_of(node)._scrub_worker.stop()  # a disk so slow, or a node so busy, that it falls behind
            await asyncio.sleep(100 * MINUTE)
            status = await view.status()
            assert (status.scrub.node, status.scrub.nodes) == (node.name, 1)
            assert 0 < status.scrub.overdue <= app_of(node).store.space().used
            assert 100 * MINUTE <= (status.scrub.oldest or 0) <= 160 * MINUTE
            assert "on 1 node not read again in time, the oldest for " in scrub_words(status)
            assert scrub_words(status).endswith(f" on {node.name}")
            overdue = {found.name: found.overdue for found in await view.nodes()}
        assert [name for name, size in overdue.items() if size] == [node.name]
        text = app_of(node).service.metrics.text().decode()
        assert f"holdfast_scrub_overdue_bytes {float(status.scrub.overdue)}" in text

    story(tmp_path, tell, nodes=2, survive=1, settings={"scrub_period": 60.0 * MINUTE})
