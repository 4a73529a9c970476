"""What nodes hold and what is on record come together again, whatever happened to either."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.heal.test_heal_grid import MINUTE, app_of, check, coordinator, copies, fill, holders, in_trash, story, whole

from holdfast.blob import Digest, pieces
from holdfast.codec.pack_layout import encode_header
from holdfast.testing.grid import Grid, Process


def blobs(process: Process) -> list[Path]:
    """The files of packs; the coordinator's reflog is left out."""
    found = sorted(path for path in (process.data / "objects").rglob("*") if path.is_file() and len(path.name) == 64)
    return [path for path in found if path.read_bytes()[:6] == b"HFPACK"]


def test_a_lost_ledger_loses_only_what_the_disk_lost(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        contents = await fill(grid)
        victim = (await holders(grid))[0]
        await grid.kill(victim)
        for path in victim.data.glob("ledger.db*"):
            path.unlink()
        lost = blobs(victim)[0]
        lost.unlink()
        await grid.start(victim)
        await asyncio.sleep(3 * MINUTE)
        await whole(grid, 5, 3 * MINUTE)
        assert sum(app_of(one).tasks.copied for one in grid.nodes) == 1, "one copy was lost, one was made"
        assert in_trash(grid) == 0
        await check(grid, contents)

    story(tmp_path, tell)


def test_an_old_copy_of_a_disk_is_compared(tmp_path: Path) -> None:
    """The sequence goes back: everything is compared, and what is missing is made anew."""

    async def tell(grid: Grid) -> None:
        before = {one.name: {p.relative_to(one.data): p.read_bytes() for p in _files(one)} for one in grid.nodes}
        contents = await fill(grid, files=2)
        victim = (await holders(grid))[0]
        await grid.kill(victim)
        for path in _files(victim):
            path.unlink()
        for relative, data in before[victim.name].items():
            (victim.data / relative).parent.mkdir(parents=True, exist_ok=True)
            (victim.data / relative).write_bytes(data)
        await grid.start(victim)
        await asyncio.sleep(3 * MINUTE)
        await whole(grid, 5, 5 * MINUTE)
        await check(grid, contents)

    story(tmp_path, tell)


def _files(process: Process) -> list[Path]:
    return [path for path in process.data.rglob("*") if path.is_file()]


def test_a_pack_that_nobody_commits_is_adopted_then_let_go(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"something", "a name")
        packs = len(await copies(grid))
        [row] = coordinator(grid).state.access.all_vaults()
        data = encode_header(1, row.id) + b"an upload that was given up" * 100
        digest = Digest.of(data)
        await app_of(grid.nodes[0]).keeper.put(digest, len(data), row.id, pieces(data))
        await asyncio.sleep(3 * MINUTE)
        assert len(await copies(grid)) == packs, "its upload may still be under way"
        await asyncio.sleep(8 * MINUTE)
        assert len(await copies(grid)) == packs + 1
        assert set(await copies(grid)) == {3}, "until somebody has looked, it is kept like any other"
        await asyncio.sleep(12 * MINUTE)
        assert len(await copies(grid)) == packs
        assert in_trash(grid) == 3

    settings = {"adopt_after": 5 * MINUTE, "adopt_lease": 10 * MINUTE}
    story(tmp_path, tell, nodes=4, survive=2, settings=settings)
