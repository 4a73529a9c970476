"""The reflog as nodes keep it: durable by receipts only, kept on enough disks, replaced by whole chains."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.heal.test_heal_grid import app_of, coordinator
from tests.loss.stage import MINUTE, all_on_nodes, story

from holdfast.blob import Digest
from holdfast.cli.status import _names
from holdfast.coordinator.loss.reflog import is_durable
from holdfast.node.ledger.rows import Entry
from holdfast.testing.grid import Grid


async def kept(grid: Grid) -> dict[str, set[Digest]]:
    """Node -> the reflog blobs that it keeps."""
    return {one.name: {entry.digest for entry in await held(grid, one.name)} for one in grid.nodes if one.alive}


async def held(grid: Grid, name: str) -> list[Entry]:
    process = next(one for one in grid.nodes if one.name == name)
    return await app_of(process).ledger.reflogs(0, 1000)


def holders(kept_now: dict[str, set[Digest]], digest: Digest) -> int:
    return sum(digest in digests for digests in kept_now.values())


def test_receipts_count_by_disks() -> None:
    stores = {1: b"a", 2: b"b", 3: b"b", 4: b"c"}
    assert is_durable({1: 7, 2: 7, 4: 7}, stores, 2)
    assert not is_durable({1: 7, 2: 7, 3: 7}, stores, 2), "two nodes on one disk"
    assert not is_durable({1: 7, 2: 7}, stores, 2)
    assert is_durable({1: 7}, stores, 0)
    assert not is_durable({}, stores, 0)


def test_a_blob_counts_with_enough_receipts_only(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await all_on_nodes(grid)
        reflog = coordinator(grid).reflog
        await (await grid.vault()).put(b"here", "file")
        for node in grid.nodes[:3]:
            await grid.kill(node)
        before = reflog.last
        await asyncio.sleep(5 * MINUTE)
        assert reflog.last == before < coordinator(grid).state.position.commit
        assert 5 * MINUTE <= reflog.lag() <= 7 * MINUTE
        assert "reflog" not in coordinator(grid).alarms.told
        await asyncio.sleep(8 * MINUTE)
        assert "only this coordinator knows" in coordinator(grid).alarms.told["reflog"]
        async with await grid.view() as view:
            status = await view.status()
        assert status.reflog_commits == reflog.commits_behind()
        assert "but for 1 commit of the last 13 min" in _names(status)
        shown = coordinator(grid).service.metrics.text().decode()
        assert "holdfast_reflog_lag_commits 1.0" in shown
        for node in grid.nodes[:3]:
            await grid.start(node)
        await all_on_nodes(grid)
        assert (reflog.lag(), reflog.commits_behind()) == (0, 0)
        await asyncio.sleep(3 * MINUTE)
        assert "reflog" not in coordinator(grid).alarms.told
        now = await kept(grid)
        assert reflog.written
        for one in reflog.written:
            assert holders(now, one.digest) >= 5

    story(tmp_path, tell)


def test_blobs_of_a_lost_node_are_made_again_elsewhere(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await (await grid.vault()).put(b"here", "file")
        await all_on_nodes(grid)
        reflog = coordinator(grid).reflog
        assert reflog.written
        first = reflog.written[0]
        victims = [one for one in grid.nodes if first.digest in (await kept(grid))[one.name]][:2]
        for victim in victims:
            await grid.kill(victim)
        await asyncio.sleep(30 * MINUTE)
        now = await kept(grid)
        for one in reflog.written:
            assert holders(now, one.digest) >= 5

    story(tmp_path, tell, settings={"out_after": 10 * MINUTE})


def test_a_new_chain_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"here", "file")
        await asyncio.sleep(3 * MINUTE)
        await vault.put(b"there", "file")
        await asyncio.sleep(3 * MINUTE)
        reflog = coordinator(grid).reflog
        assert reflog.written
        old = {one.digest for one in reflog.written}
        assert len(old) >= 2
        await asyncio.sleep(50 * MINUTE)
        assert reflog.written
        now = {one.digest for one in reflog.written}
        assert len(now) <= 2, "a blob or two tell everything again"
        assert not old & now
        everywhere = set().union(*(await kept(grid)).values())
        assert everywhere == now, "nodes keep no old ones"
        await grid.kill(grid.coordinator)
        await grid.start(grid.coordinator)
        await asyncio.sleep(5 * MINUTE)
        assert {one.digest for one in coordinator(grid).reflog.written or ()} == now, "a restart writes nothing"

    settings = {"reflog_chain": 40 * MINUTE, "heartbeat_interval": MINUTE}
    story(tmp_path, tell, nodes=6, survive=4, settings=settings)
