"""The whole network heals, on virtual time: real coordinator and nodes, real files, whole packs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.metadata.postgres_server import Below

from holdfast import assemble
from holdfast.blob import Digest
from holdfast.coordinator.app import Coordinator
from holdfast.coordinator.registry import Node
from holdfast.errors import Conflict, HoldfastError
from holdfast.metadata import queries_status
from holdfast.node.app import Node as NodeApp
from holdfast.stores.disk.store import DiskStore
from holdfast.testing.grid import Grid, Process
from holdfast.testing.loop import VirtualLoop, run
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import Target

MINUTE = 60.0
HOUR = 60 * MINUTE
QUICK: dict[str, Any] = {
    "heartbeat_interval": 30.0, "out_after": 10 * MINUTE, "surplus_after": 15 * MINUTE, "breaker_hold": 30 * MINUTE,
    "sweep_interval": 60.0, "repair_interval": 15.0, "peer_check": HOUR,
}  # fmt: skip


def coordinator(grid: Grid) -> Coordinator:
    assert grid.coordinator.running is not None
    app = grid.coordinator.running.app
    assert isinstance(app, Coordinator)
    return app


def app_of(process: Process) -> NodeApp:
    assert process.running is not None
    assert isinstance(process.running.app, NodeApp)
    return process.running.app


def node_of(grid: Grid, process: Process) -> Node:
    return next(node for node in coordinator(grid).state.registry.all() if node.name == process.name)


async def copies(grid: Grid) -> list[int]:
    """Live copies of each pack, ascending."""
    state = coordinator(grid).state
    rows = await state.database.run(queries_status.packs_by_copies, sorted(state.registry.absent()))
    return sorted(row.live for row in rows for _ in range(row.packs))


async def holders(grid: Grid) -> list[Process]:
    """Nodes that hold packs, most first."""
    placed = await coordinator(grid).state.database.run(queries_status.packs_by_node)
    held = {
        node.name: placed[node.number][0] for node in coordinator(grid).state.registry.all() if node.number in placed
    }
    return sorted((one for one in grid.nodes if one.name in held), key=lambda one: (-held[one.name], one.name))


def copied(grid: Grid) -> int:
    """Copies that repair has made so far."""
    return sum(app_of(one).tasks.copied for one in grid.nodes if one.alive)


def in_trash(grid: Grid) -> int:
    stores = [app_of(one).store for one in grid.nodes if one.alive]
    return sum(len(store.trash()) for store in stores if isinstance(store, DiskStore))


async def whole(grid: Grid, want: int, limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while set(await copies(grid)) != {want}:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(10)


def story(
    tmp_path: Path,
    tell: Callable[[Grid], Coroutine[Any, Any, None]],
    *,
    seed: int = 1,
    nodes: int = 7,
    survive: int = 4,
    settings: Mapping[str, Any] | None = None,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        chosen = {**QUICK, **(settings or {})}
        async with Grid(loop, tmp_path, nodes=nodes, survive=survive, settings=chosen, database=Below.fresh()) as grid:
            await tell(grid)

    run(main, seed=seed, limit_s=20 * 86400.0)


async def fill(grid: Grid, files: int = 3) -> dict[str, bytes]:
    chance = grid.loop.randomness("contents")
    contents = {f"file-{number}": chance.bytes(20_000 + number) for number in range(files)}
    vault = await grid.vault()
    for name, data in contents.items():
        await vault.put(data, name)
    return contents


async def check(grid: Grid, contents: Mapping[str, bytes]) -> None:
    vault = await grid.vault("another")
    for name, data in contents.items():
        assert await vault.read(name) == data


def test_a_node_dies_and_its_packs_are_copied_after_out_after(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        assert set(await copies(grid)) == {5}
        await grid.kill((await holders(grid))[0])
        await asyncio.sleep(9 * MINUTE)
        assert min(await copies(grid)) == 4, "a silent node is waited for"
        assert coordinator(grid).repair.debt.waiting_packs
        await asyncio.sleep(4 * MINUTE)
        assert set(await copies(grid)) == {5}
        await check(grid, contents)

    story(tmp_path, tell)


def test_status_says_at_once_what_was_repaired(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        await grid.kill((await holders(grid))[0])
        await asyncio.sleep(5 * MINUTE)
        async with await grid.view() as view:
            assert (await view.status()).packs.degraded
            await whole(grid, 5, 10 * MINUTE)
            packs = (await view.status()).packs
        assert (packs.healthy, packs.degraded) == (packs.total, 0)

    story(tmp_path, tell, settings={"sweep_interval": 86400.0})


def test_at_the_floor_nobody_is_waited_for(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        for victim in (await holders(grid))[:3]:
            await grid.kill(victim)
        await asyncio.sleep(3 * MINUTE)
        assert min(await copies(grid)) >= 3
        for _ in range(5):
            await grid.add_node()
        await whole(grid, 5, 30 * MINUTE)
        await check(grid, contents)

    story(tmp_path, tell, nodes=8)


def test_a_node_that_returns_in_time_costs_nothing(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        victim = (await holders(grid))[0]
        await grid.kill(victim)
        await asyncio.sleep(6 * MINUTE)
        await grid.start(victim)
        await whole(grid, 5, 2 * MINUTE)
        await asyncio.sleep(20 * MINUTE)
        assert (copied(grid), in_trash(grid)) == (0, 0)
        assert set(await copies(grid)) == {5}

    story(tmp_path, tell)


def test_a_node_that_returns_late_is_counted_and_the_surplus_goes_a_day_later(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        victim = (await holders(grid))[0]
        await grid.kill(victim)
        await asyncio.sleep(12 * MINUTE)
        await whole(grid, 5, 10 * MINUTE)
        await grid.start(victim)
        await asyncio.sleep(5 * MINUTE)
        assert max(await copies(grid)) == 6, "a returning node is counted again"
        await asyncio.sleep(8 * MINUTE)
        assert in_trash(grid) == 0
        await asyncio.sleep(25 * MINUTE)
        assert set(await copies(grid)) == {5}
        assert in_trash(grid) > 0
        await check(grid, contents)

    story(tmp_path, tell)


def test_half_of_the_nodes_vanish_and_return(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        gone = grid.nodes[::2]
        for node in gone:
            await grid.kill(node, silent=True)
        await asyncio.sleep(3 * MINUTE)
        assert coordinator(grid).repair.breaker.state == "open"
        async with await grid.view() as view:
            status = await view.status()
        assert any("vanished at once" in alarm for alarm in status.repair.alarms)
        before = copied(grid)
        await asyncio.sleep(7 * MINUTE)
        assert copied(grid) == before
        assert in_trash(grid) == 0
        for node in gone:
            await grid.start(node)
        await asyncio.sleep(5 * MINUTE)
        assert coordinator(grid).repair.breaker.state == "closed"
        assert min(await copies(grid)) >= 4
        async with await grid.view() as view:
            assert not (await view.status()).repair.alarms
        await check(grid, contents)

    story(tmp_path, tell, nodes=12, survive=3)


def test_half_of_the_nodes_are_gone_for_good(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        for node in grid.nodes[::2]:
            await grid.kill(node)
        await asyncio.sleep(20 * MINUTE)
        assert min(await copies(grid)) >= 1
        assert coordinator(grid).repair.breaker.state == "open"
        assert min(await copies(grid)) < 4, "above the floor nothing is copied while the breaker is open"
        await asyncio.sleep(15 * MINUTE)
        await whole(grid, 4, 60 * MINUTE)
        await check(grid, contents)

    story(tmp_path, tell, nodes=12, survive=3, seed=2)


def test_an_operator_closes_the_breaker(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        for node in grid.nodes[::2]:
            await grid.kill(node)
        await asyncio.sleep(5 * MINUTE)
        assert coordinator(grid).repair.breaker.state == "open"
        async with await grid.view() as view:
            await view.order_repair("now")
        await whole(grid, 4, 10 * MINUTE)

    story(tmp_path, tell, nodes=12, survive=3)


def test_a_paused_repair_copies_nothing_also_after_a_restart(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        async with await grid.view() as view:
            await view.order_repair("pause")
        await grid.kill((await holders(grid))[0])
        await grid.kill(grid.coordinator)
        await grid.start(grid.coordinator)
        await asyncio.sleep(20 * MINUTE)
        assert copied(grid) == 0
        async with await grid.view() as view:
            assert (await view.status()).repair.word == "paused"
            await view.order_repair("resume")
        await whole(grid, 5, 30 * MINUTE)

    story(tmp_path, tell)


def test_a_coordinator_that_stood_still_marks_nobody_down(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        await grid.kill(grid.coordinator)
        await asyncio.sleep(15 * MINUTE)
        await grid.start(grid.coordinator)
        await asyncio.sleep(15 * MINUTE)
        assert (copied(grid), in_trash(grid)) == (0, 0)
        assert set((await grid.states()).values()) == {"up"}

    story(tmp_path, tell)


def test_a_rotten_copy_is_quarantined_and_replaced(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        victim = (await holders(grid))[0]
        [path] = [path for path in (victim.data / "objects").rglob("*") if path.is_file() and len(path.name) == 64][:1]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        node = node_of(grid, victim)
        state = coordinator(grid).state
        found = await state.http.call(
            Target(node.id, node.url), routes.BLOB_VERIFY, path={"digest": str(Digest.parse(path.name))}
        )
        assert found == m.Verified(state="quarantined")
        await asyncio.sleep(30)
        await whole(grid, 5, 5 * MINUTE)
        assert app_of(victim).store.space().quarantine
        await check(grid, contents)

    story(tmp_path, tell)


def test_a_bad_source_is_reported_and_the_next_one_asked(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        dead, *others = await holders(grid)
        for rotten in others[:2]:  # of four sources two are wrong, and nobody knows
            for path in (rotten.data / "objects").rglob("*"):
                if path.is_file() and len(path.name) == 64:
                    data = bytearray(path.read_bytes())
                    data[-1] ^= 1
                    path.write_bytes(bytes(data))
        await grid.kill(dead)
        await asyncio.sleep(12 * MINUTE)
        await whole(grid, 5, 60 * MINUTE)
        await check(grid, contents)

    story(tmp_path, tell, nodes=9, settings={"scrub_period": 86400.0 * 30})


def test_a_drained_node_is_empty_and_can_be_removed(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        victim = (await holders(grid))[0]
        async with await grid.view() as view:
            with pytest.raises(Exception, match="too few copies"):
                await view.remove_node(node_of(grid, victim).id)
            await view.drain_node(node_of(grid, victim).id)
            async with asyncio.timeout(60 * MINUTE):
                while (await coordinator(grid).state.database.run(queries_status.packs_by_node)).get(
                    node_of(grid, victim).number
                ):
                    assert min(await copies(grid)) >= 5
                    await asyncio.sleep(10)
            assert set(await copies(grid)) == {5}
            await view.remove_node(node_of(grid, victim).id)
            assert victim.name not in await grid.states()
        await check(grid, contents)

    story(tmp_path, tell)


def test_a_node_leaves_from_its_own_machine_once_others_have_what_it_kept(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        victim = (await holders(grid))[0]
        heard: list[int | None] = []
        machine = grid.machine(victim.name)
        first = asyncio.create_task(assemble.leave(victim.data, told=heard.append, machine=machine))
        while not heard:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        first.cancel()  # stopped in the middle: it goes on being emptied
        await asyncio.gather(first, return_exceptions=True)
        assert (await grid.states())[victim.name] == "draining"
        heard.clear()
        again = asyncio.create_task(assemble.leave(victim.data, told=heard.append, machine=machine))
        while not heard:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        await grid.kill(grid.coordinator)
        await asyncio.sleep(30)
        await grid.start(grid.coordinator)
        async with asyncio.timeout(60 * MINUTE):
            assert await again == victim.name
        assert heard[0]
        assert None in heard
        assert victim.name not in await grid.states()
        assert min(await copies(grid)) >= 5
        await grid.kill(victim)
        await check(grid, contents)
        with pytest.raises(HoldfastError):
            await assemble.leave(victim.data, machine=machine)

    story(tmp_path, tell)


def test_a_node_may_leave_at_once_unless_something_would_be_lost(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid, files=1)
        leaver, *others = grid.nodes
        machine = grid.machine(leaver.name)
        for node in others:
            await grid.kill(node)
        await asyncio.sleep(3 * MINUTE)
        with pytest.raises(Conflict, match="no live copy but that of"):
            await assemble.leave(leaver.data, now=True, machine=machine)
        for node in others:
            await grid.start(node)
        await grid.until_up(len(grid.nodes))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5 * MINUTE):
                await assemble.leave(leaver.data, machine=machine)  # there is no sixth node to take the copies
        assert await assemble.stay(leaver.data, machine=machine) == leaver.name
        assert (await grid.states())[leaver.name] == "up"
        await assemble.leave(leaver.data, now=True, machine=machine)
        assert leaver.name not in await grid.states()
        await grid.kill(leaver)
        await check(grid, contents)

    story(tmp_path, tell, nodes=5)


def test_maintenance_is_waited_for(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid)
        victim = (await holders(grid))[0]
        async with await grid.view() as view:
            await view.maintain_node(node_of(grid, victim).id, 25 * MINUTE)
        await grid.kill(victim)
        await asyncio.sleep(20 * MINUTE)
        assert copied(grid) == 0
        await asyncio.sleep(7 * MINUTE)
        await whole(grid, 5, 10 * MINUTE)

    story(tmp_path, tell)


def test_what_nothing_holds_goes_to_trash_and_then_for_good(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        await fill(grid, files=1)
        vault = await grid.vault("another")
        await vault.delete("file-0")
        await asyncio.sleep(8 * MINUTE)
        assert in_trash(grid) == 0, "history keeps it"
        await asyncio.sleep(10 * MINUTE)
        assert in_trash(grid) == 2
        await asyncio.sleep(45 * MINUTE)
        assert in_trash(grid) == 0

    short = {"history": 10 * MINUTE, "lease": 10 * MINUTE, "trash": 30 * MINUTE}
    story(tmp_path, tell, nodes=3, survive=1, settings=short)
