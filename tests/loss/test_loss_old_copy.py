"""A coordinator that runs on an old copy of its database deletes nothing and loses nothing. On virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.heal.test_heal_grid import app_of, coordinator, copies, holders, in_trash, whole
from tests.loss.stage import HOUR, MINUTE, copy_database, listed, on_disks, put_back, recover, story, versions

from holdfast.assemble import OpenVault
from holdfast.auth.documents import sign
from holdfast.auth.positions import Position
from holdfast.errors import Corrupt, StaleEpoch
from holdfast.testing.grid import Grid

WHILE_AWAY: dict[str, Any] = {
    "history": 5 * MINUTE, "sweep_interval": MINUTE, "heartbeat_interval": 30.0, "out_after": 5 * MINUTE,
    "surplus_after": 5 * MINUTE, "repair_interval": 15.0,
}  # fmt: skip


async def an_hour_of_life(grid: Grid, vault: OpenVault) -> None:
    """Writes, deletes and restores, a node that is replaced by repair and comes back, copies too many that are trimmed,
    packs that are collected."""
    began = grid.loop.time()
    await vault.put(b"edition 2", "often")
    await vault.put(b"new", "new")
    await vault.put(b"again" * 900, "brought back")
    await vault.delete("brought back")
    away = (await holders(grid))[0]
    await grid.kill(away)
    await asyncio.sleep(2 * MINUTE)
    await vault.restore("brought back")
    await whole(grid, 5, 15 * MINUTE)
    await grid.start(away)
    await vault.delete("fleeting")
    trash = in_trash(grid)
    async with asyncio.timeout(30 * MINUTE):
        while max(await copies(grid)) < 6:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(5)
    await whole(grid, 5, 30 * MINUTE)
    assert in_trash(grid) > trash
    await asyncio.sleep(HOUR - (grid.loop.time() - began))
    await vault.put(b"edition 3", "often")
    await vault.put(b"newest", "newest")
    await vault.delete("stays")


def test_an_old_copy_deletes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """It is an hour old. What was released when it was made, and is needed again since, it would delete."""

    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        content = grid.loop.randomness("content").bytes(50_000)
        await vault.put(content, "first")
        await vault.put(b"stays", "stays")
        await vault.put(b"as it was", "untouched")
        await vault.put(b"fleeting" * 900, "fleeting")
        await vault.put(b"edition 1", "often")
        await vault.delete("first")
        async with await grid.view() as view:
            await view.order_repair("pause")
            await asyncio.sleep(10 * MINUTE)  # the deleted name's history ends, its pack is released
            copy_database(grid, tmp_path / "copy")
            await vault.put(content, "second")  # nothing is sent: the same pack is live again
            await view.order_repair("resume")
        await an_hour_of_life(grid, vault)
        names, kept = await listed(vault), await versions(vault, "often")
        await grid.kill(grid.coordinator)
        put_back(grid, tmp_path / "copy")
        held, trashed = await on_disks(grid), in_trash(grid)

        await grid.start(grid.coordinator)
        with pytest.raises(StaleEpoch, match="holdfast coordinator recover"):
            await (await grid.vault("fresh")).put(b"no", "no")
        assert coordinator(grid).state.position.stale, "the nodes said so before anything was committed"
        assert "recover" in coordinator(grid).health()
        async with await grid.view() as view:
            await view.order_repair("resume")
        fresh = await grid.vault("fresh")
        assert await fresh.read("untouched") == b"as it was", "it goes on answering what it knows"
        with pytest.raises(Corrupt, match="an old state is being served"):
            await fresh.read("often")
        await asyncio.sleep(20 * MINUTE)
        assert (await on_disks(grid), in_trash(grid)) == (held, trashed)

        await grid.kill(grid.coordinator)
        done = await recover(grid)
        assert done.changed
        assert done.epoch == 2
        again = await recover(grid)
        assert not again.changed, "done once, there is nothing more to recover"
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        fresh = await grid.vault("another")
        assert await fresh.read("second") == content
        assert await fresh.read("brought back") == b"again" * 900
        assert await listed(fresh) == names
        assert await versions(fresh, "often") == kept, "what history had let go of stays so"
        await fresh.put(b"edition 4", "often")
        await asyncio.sleep(20 * MINUTE)
        assert set(await copies(grid)) == {5}
        assert in_trash(grid) == trashed, "for a week nothing is let go of"
        assert await fresh.read("second") == content

    story(tmp_path / "net", tell, settings=WHILE_AWAY)


def test_a_node_that_lies_about_the_position_stops_nobody_and_is_not_recovered_to(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        def lie() -> None:
            app, claim = app_of(grid.nodes[2]), {"epoch": 1 << 40, "commit": 1}
            word = sign(Position(**claim), app.identity)
            beat, overview = app.heartbeat, app.overview
            app.heart._facts = lambda: msgspec.structs.replace(beat(), **claim, position=word)
            app.overview = lambda: msgspec.structs.replace(overview(), **claim)  # type: ignore[method-assign]
            app.membership.position = word
            app.membership.revoked, app.membership.revocations = frozenset([(1 << 63) - 1]), (1 << 63) - 1

        vault = await grid.vault()
        await vault.put(b"one", "name")
        copy_database(grid, tmp_path / "copy")
        lie()
        await asyncio.sleep(2 * MINUTE)
        await vault.put(b"two", "name")
        await grid.kill(grid.coordinator)
        assert not (await recover(grid)).changed, "nobody has proof of more"
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        await vault.put(b"three", "name")
        await asyncio.sleep(2 * MINUTE)
        assert not coordinator(grid).state.position.stale
        await grid.kill(grid.coordinator)
        put_back(grid, tmp_path / "copy")
        assert (await recover(grid)).epoch == 2

    story(tmp_path / "net", tell)


def test_of_two_coordinators_only_the_newer_one_acts(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"one", "name")
        copy_database(grid, tmp_path / "copy")
        await asyncio.sleep(MINUTE)
        await vault.put(b"two", "name")
        await asyncio.sleep(MINUTE)  # nodes hear of it
        await grid.kill(grid.coordinator)
        put_back(grid, tmp_path / "copy")
        await recover(grid)
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        await (await grid.vault("fresh")).put(b"three", "name")
        await asyncio.sleep(MINUTE)
        await grid.kill(grid.coordinator)
        put_back(grid, tmp_path / "copy")  # the old one, of epoch 1, once more
        await grid.start(grid.coordinator)
        await asyncio.sleep(5 * MINUTE)
        assert coordinator(grid).state.position.stale
        with pytest.raises(StaleEpoch):
            await (await grid.vault("other")).put(b"four", "name")
        await grid.kill(grid.coordinator)
        assert (await recover(grid)).epoch == 3
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        assert await (await grid.vault("last")).read("name") == b"three"

    story(tmp_path / "net", tell)


def test_a_coordinator_that_was_stopped_for_ten_minutes_marks_nobody_down(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await (await grid.vault()).put(b"here", "file")
        await grid.kill(grid.coordinator)
        await asyncio.sleep(10 * MINUTE)
        await grid.start(grid.coordinator)
        for _ in range(30):
            assert not {"down", "out"} & set((await grid.states()).values())
            await asyncio.sleep(10)
        assert set((await grid.states()).values()) == {"up"}
        assert not coordinator(grid).repair.debt.due_packs

    story(tmp_path, tell)
