"""The coordinator is killed between any two steps of what commits take: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.heal.test_heal_grid import coordinator, copies
from tests.loss.stage import story

from holdfast.assemble import OpenVault
from holdfast.errors import HoldfastError, NotFound
from holdfast.testing.grid import Grid

STEPS_MAX = 60


class Killer:
    """Kills the coordinator before or after its ``at``-th transaction; what waits for that one waits for ever."""

    def __init__(self, grid: Grid, at: int) -> None:
        self.grid = grid
        self.at = at
        self.steps = 0
        self.due = asyncio.Event()
        self.over = asyncio.get_running_loop().create_task(self._kill())
        database = coordinator(grid).state.database
        self._run: Callable[..., Any] = database.run
        database.run = self.run  # type: ignore[method-assign]

    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        await self._step()
        found = await self._run(function, *args, **kwargs)
        await self._step()  # it is durable, and nobody has heard of it
        return found

    async def _step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.due.set()
        if self.due.is_set():
            await asyncio.get_running_loop().create_future()

    async def _kill(self) -> None:
        await self.due.wait()
        await self.grid.kill(self.grid.coordinator)


async def write(vault: OpenVault, done: dict[str, bytes | None], maybe: dict[str, bytes | None]) -> None:
    """Puts, replaces and deletes; what was acknowledged goes to ``done``, what was begun to ``maybe``."""
    plan = [("a", b"1" * 9000), ("b", b"2" * 300), ("a", b"3" * 9000), ("d/e/f", b"4"), ("b", None), ("c", b"1" * 9000)]
    for name, data in plan:
        maybe[name] = data
        await (vault.delete(name) if data is None else vault.put(data, name))
        done[name] = data
        del maybe[name]


def tell_kill(tmp_path: Path, at: int) -> int:
    """The number of steps there were; 0 is never killed."""
    steps = 0

    async def tell(grid: Grid) -> None:
        nonlocal steps
        vault = await grid.vault()
        done: dict[str, bytes | None] = {}
        maybe: dict[str, bytes | None] = {}
        killer = Killer(grid, at)
        try:
            await write(vault, done, maybe)
        except HoldfastError:
            assert killer.due.is_set(), "only a dead coordinator is a reason to fail"
        steps = killer.steps
        if not killer.due.is_set():
            killer.at = 0  # it came too late
            killer.over.cancel()
            return
        await killer.over
        await grid.start(grid.coordinator)
        await grid.until_up(6)
        fresh = await grid.vault("another")
        for name in {**done, **maybe}:
            try:
                found: bytes | None = await fresh.read(name)
            except NotFound:
                found = None
            assert found in ([done.get(name), maybe[name]] if name in maybe else [done[name]]), (at, name)
        async with asyncio.timeout(600):
            while min(await copies(grid), default=5) < 5:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(5)
        again: dict[str, bytes | None] = {}
        await write(fresh, again, {})
        assert [await fresh.read(name) for name in ("a", "c")] == [b"3" * 9000, b"1" * 9000]

    story(tmp_path, tell, nodes=6)
    return steps


@pytest.mark.parametrize("at", [1, 4, 7, 8, 12, 15])
def test_a_kill_at_some_step(tmp_path: Path, at: int) -> None:
    tell_kill(tmp_path, at)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_every_step(tmp_path: Path) -> None:
    steps = tell_kill(tmp_path / "0", 0)
    assert 10 < steps < STEPS_MAX
    for at in range(1, steps + 1):
        tell_kill(tmp_path / f"{at}", at)
