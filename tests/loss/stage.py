"""A network on virtual time whose coordinator can be robbed of its database: what these stories have in common."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from tests.heal.test_heal_grid import app_of, coordinator
from tests.metadata.postgres_server import Below, forget_all, put_all_back, set_aside

from holdfast import assemble
from holdfast.assemble import OpenVault
from holdfast.config import Config
from holdfast.coordinator.loss.recovery import Recovered
from holdfast.coordinator.loss.reflog import Reflog
from holdfast.testing.grid import NODE_PORT, Grid
from holdfast.testing.loop import VirtualLoop, run

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def story(
    tmp_path: Path,
    tell: Callable[[Grid], Coroutine[Any, Any, None]],
    *,
    nodes: int = 7,
    survive: int = 4,
    limit_s: float = 40 * DAY,
    settings: Mapping[str, Any] | None = None,
) -> None:
    chosen = {"peer_check": HOUR, **(settings or {})}

    async def main(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=nodes, survive=survive, settings=chosen, database=Below.fresh()) as grid:
            await tell(grid)

    run(main, seed=1, limit_s=limit_s)


async def on_disks(grid: Grid) -> dict[str, int]:
    """Node -> blobs in its store."""
    return {one.name: app_of(one).ledger.roots.count for one in grid.nodes if one.alive}


def lose_database(grid: Grid) -> None:
    if grid.database:
        forget_all(grid.database)
    for path in grid.coordinator.data.glob("coordinator.db*"):
        path.unlink()


def copy_database(grid: Grid, to: Path) -> None:
    if grid.database:
        set_aside(grid.database)
    else:
        to.mkdir()
        for path in grid.coordinator.data.glob("coordinator.db*"):
            shutil.copy(path, to / path.name)


def put_back(grid: Grid, source: Path) -> None:
    if grid.database:
        put_all_back(grid.database)
    else:
        lose_database(grid)
        for path in source.iterdir():
            shutil.copy(path, grid.coordinator.data / path.name)


def config(grid: Grid) -> Config:
    below = {"database": grid.database} if grid.database else {}
    return Config.load(grid.coordinator.data, flags={**grid._settings, **below}, environment={})


async def rebuild(grid: Grid, *nodes: str, **options: Any) -> assemble.CoordinatorRebuilt:
    urls = [f"http://{name}:{NODE_PORT}" for name in nodes or ("node-1", "node-2")]
    machine = grid.machine("coordinator")
    return await assemble.rebuild_coordinator(
        grid.coordinator.data, config(grid), nodes=urls, machine=machine, **options
    )


async def recover(grid: Grid, **options: Any) -> Recovered:
    machine = grid.machine("coordinator")
    return await assemble.recover_coordinator(grid.coordinator.data, config(grid), machine=machine, **options)


async def all_on_nodes(grid: Grid) -> None:
    """Returns when the nodes' reflog tells everything."""
    reflog: Reflog = coordinator(grid).reflog
    async with asyncio.timeout(10 * MINUTE):
        behind = True
        while behind:
            await asyncio.sleep(5)
            behind = reflog.written is None or reflog.last < coordinator(grid).state.position.commit or reflog.lag() > 0


async def listed(vault: OpenVault) -> dict[str, tuple[str, int, int, str | None]]:
    """name -> (kind, size, version, target)."""
    return {e.name: (e.kind, e.size, e.version, e.target) async for e in vault.list(recursive=True)}


async def versions(vault: OpenVault, name: str) -> list[tuple[int, str | None]]:
    return [(one.version, one.kind) for one in await vault.log(name)]


def plant(directory: Path, files: int) -> None:
    """Directories, links, empty and small files."""
    for number in range(files):
        path = directory / f"d{number % 10}" / f"e{number % 7}" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d " % number * (number % 40))
    (directory / "d0" / "link").symlink_to("e0/file-0")
    (directory / "empty").mkdir()


async def check_tree(vault: OpenVault, tree: Path, to: Path) -> None:
    await vault.get("tree", to)
    assert sorted(p.relative_to(tree) for p in tree.rglob("*")) == sorted(p.relative_to(to) for p in to.rglob("*"))
    for path in tree.rglob("*"):
        other = to / path.relative_to(tree)
        if path.is_symlink():
            assert path.readlink() == other.readlink()
        elif path.is_file():
            assert path.read_bytes() == other.read_bytes()
