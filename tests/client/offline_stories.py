"""What the tests of offline writes share: networks to tell stories on, a coordinator that is away, looks inside."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from holdfast.assemble import OpenVault
from holdfast.outbox import Entry, Outbox, State
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

Story = Callable[[Grid, Path], Awaitable[None]]


def grid_story(story: Story, tmp_path: Path, *, nodes: int = 3, survive: int = 1, seed: int = 1) -> None:
    """Runs ``story`` on a network of its own, on virtual time."""

    async def main(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path / "grid", nodes=nodes, survive=survive, settings={"peer_check": 3600.0}) as grid:
            await story(grid, tmp_path)

    run(main, seed=seed, start_wall=time.time() + 1000, limit_s=7200)


async def outbox_of(vault: OpenVault) -> Outbox:
    found = await vault.outbox()
    assert found is not None
    return found


async def waiting(vault: OpenVault, *states: State) -> list[Entry]:
    return [entry async for entry in (await outbox_of(vault)).entries(states=states or None)]


async def names(vault: OpenVault, directory: str = "", **words: Any) -> dict[str, bool]:
    """Name -> is it queued?"""
    return {entry.name: entry.queued > 0 async for entry in vault.list(directory, **words)}


async def bytes_of(found: Any) -> bytes:
    return b"".join([bytes(piece) async for piece in found.open()])


class Away:
    """The coordinator is away within."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    async def __aenter__(self) -> None:
        await self._grid.kill(self._grid.coordinator)

    async def __aexit__(self, *_: object) -> None:
        await self._grid.start(self._grid.coordinator)
        await self._grid.until_up(len(self._grid.nodes))
