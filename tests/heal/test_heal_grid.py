"""The whole network heals, on virtual time: real coordinator and nodes, real files, whole packs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from holdfast.coordinator.app import Coordinator
from holdfast.metadata import queries_status
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

HOUR = 3600.0


def coordinator(grid: Grid) -> Coordinator:
    assert grid.coordinator.running is not None
    app = grid.coordinator.running.app
    assert isinstance(app, Coordinator)
    return app


async def copies(grid: Grid) -> list[int]:
    """Live copies of each pack, ascending."""
    state = coordinator(grid).state
    rows = await state.database.run(queries_status.packs_by_copies, sorted(state.registry.absent()))
    return sorted(row.live for row in rows for _ in range(row.packs))


async def until(check: Callable[[], Coroutine[Any, Any, bool]], limit_s: float, step_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await check():
            await asyncio.sleep(step_s)


def story(
    tmp_path: Path, tell: Callable[[Grid], Coroutine[Any, Any, None]], *, seed: int = 1, nodes: int = 7, **options: Any
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=nodes, **options) as grid:
            await tell(grid)

    run(main, seed=seed, limit_s=60 * HOUR)


async def fill(grid: Grid, files: int = 4) -> dict[str, bytes]:
    chance = grid.loop.randomness("contents")
    contents = {f"file-{number}": chance.bytes(20_000 + number) for number in range(files)}
    vault = await grid.vault()
    for name, data in contents.items():
        await vault.put(data, name)
    return contents


def test_a_node_dies_and_its_packs_are_copied_after_out_after(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        assert set(await copies(grid)) == {5}
        state = coordinator(grid).state
        placed = await state.database.run(queries_status.packs_by_node)
        victim = max(grid.nodes, key=lambda node: placed.get(_number(grid, node.name), (0, 0))[0])
        await grid.kill(victim)
        await asyncio.sleep(3 * HOUR)
        assert min(await copies(grid)) == 4, "a silent node is waited for"
        await asyncio.sleep(1.2 * HOUR)
        assert set(await copies(grid)) == {5}
        vault = await grid.vault("another")
        for name, data in contents.items():
            assert await vault.read(name) == data

    story(tmp_path, tell)


def _number(grid: Grid, name: str) -> int:
    return next(node.number for node in coordinator(grid).state.registry.all() if node.name == name)
