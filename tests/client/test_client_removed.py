"""A delete of a tree that is killed anywhere leaves a smaller tree, and the same command goes on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import HoldfastError, NotFound
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

NAMES = ("a", "b/c", "b/d/e", "b/d/f", "g/h")
EVERYTHING = sorted(["t", "t/b", "t/b/d", "t/g", *(f"t/{name}" for name in NAMES)])


async def names(vault: Any) -> list[str]:
    return sorted([entry.name async for entry in vault.list(recursive=True, fresh=True)])


async def there(vault: Any, name: str) -> bool:
    try:
        await vault.stat(name, fresh=True)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("answered", [False, True])
def test_a_killed_delete_goes_on_from_any_step(tmp_path: Path, answered: bool) -> None:
    """``answered`` False: the last commit before the kill was not made; True: it was made, but nobody heard of it."""

    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1) as grid:
            vault = await grid.vault()
            for steps in range(5):
                for name in NAMES:
                    await vault.put(name.encode(), f"t/{name}")
                assert await names(vault) == EVERYTHING
                await killed(grid, steps, answered)
                left = [name for name in EVERYTHING if await there(vault, name)]
                assert left == await names(vault)
                for name in left:  # never a name below a directory that is gone
                    above = name.rpartition("/")[0]
                    assert not above or above in left
                with contextlib.suppress(NotFound):
                    await vault.delete("t", recursive=True)
                assert await names(vault) == []
            assert (await vault.restore("t")).names == len(EVERYTHING)
            assert await names(vault) == EVERYTHING

    run(scenario, seed=3)


async def killed(grid: Grid, steps: int, answered: bool) -> None:
    """rm -r in a program that dies with its commit number ``steps``."""
    vault = await grid.vault("other laptop")
    ask, commits = vault.coordinators.ask, 0

    async def some(route: Any, *rest: Any, **more: Any) -> Any:
        nonlocal commits
        last = route.path == "/v1/commit" and commits == steps
        commits += route.path == "/v1/commit"
        if last and answered:
            await ask(route, *rest, **more)
        if last:
            grid.network.crash("other laptop")
            await asyncio.sleep(3600)
        return await ask(route, *rest, **more)

    vault.coordinators.ask = some  # type: ignore[method-assign]
    with contextlib.suppress(TimeoutError, HoldfastError):
        async with asyncio.timeout(60):
            await vault.delete("t", recursive=True)
