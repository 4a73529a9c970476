"""Backups: taken while the coordinator runs, whole, private, and put back."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from tests.heal.test_heal_grid import coordinator
from tests.loss.stage import MINUTE, listed, recover, story

from holdfast import assemble
from holdfast.errors import BadConfig, Exists, NotFound
from holdfast.testing.grid import Grid


@pytest.fixture
def below() -> None:
    """SQLite alone: a PostgreSQL has its own pg_dump."""


def test_a_backup_of_a_running_coordinator_is_put_back(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"before", "before")
        target = tmp_path / "coordinator.backup"
        made = await assemble.backup_coordinator(grid.coordinator.data, target, machine=grid.machine("coordinator"))
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert made.coordinator == coordinator(grid).id
        assert (made.epoch, made.commit) == coordinator(grid).state.position.current
        assert not list(tmp_path.glob(".*.part"))
        await vault.put(b"after", "after")
        names = await listed(vault)
        await asyncio.sleep(MINUTE)
        await grid.kill(grid.coordinator)
        for path in list(grid.coordinator.data.iterdir()):
            path.unlink()
        put_back = await assemble.restore_coordinator(
            target, grid.coordinator.data, machine=grid.machine("coordinator")
        )
        assert put_back.coordinator == made.coordinator
        for name in ("identity.key", "coordinator.db"):
            assert stat.S_IMODE((grid.coordinator.data / name).stat().st_mode) == 0o600
        assert (await recover(grid)).changed
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        fresh = await grid.vault("another")
        assert await listed(fresh) == names
        assert await fresh.read("after") == b"after"

    story(tmp_path / "net", tell)


def test_nothing_is_overwritten_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        data, machine = grid.coordinator.data, grid.machine("coordinator")
        target = tmp_path / "file"
        await assemble.backup_coordinator(data, target, machine=machine)
        with pytest.raises(Exists, match="not replaced"):
            await assemble.backup_coordinator(data, target, machine=machine)
        with pytest.raises(BadConfig, match="holdfast coordinator init"):
            await assemble.backup_coordinator(tmp_path / "nowhere", tmp_path / "other", machine=machine)
        with pytest.raises(BadConfig, match="move it away"):
            await assemble.restore_coordinator(target, data, machine=machine)
        with pytest.raises(NotFound):
            await assemble.restore_coordinator(tmp_path / "none", tmp_path / "new", machine=machine)
        (tmp_path / "text").write_bytes(b"no database at all" * 100)
        with pytest.raises(BadConfig, match="no backup of a coordinator"):
            await assemble.restore_coordinator(tmp_path / "text", tmp_path / "new", machine=machine)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "identity.key").write_text("ab" * 32)
        with pytest.raises(BadConfig, match="another coordinator"):
            await assemble.restore_coordinator(target, tmp_path / "other", machine=machine)
        await assemble.restore_coordinator(target, tmp_path / "new", machine=machine)
        assert (tmp_path / "new" / "identity.key").read_bytes() == (data / "identity.key").read_bytes()

    story(tmp_path / "net", tell, nodes=1, survive=0)
