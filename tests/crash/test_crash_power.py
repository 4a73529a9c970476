"""The power of a real file system is cut while clients write: what was acknowledged is there, and nothing is torn.

``HOLDFAST_CRASH_ROUNDS`` says how many cuts (25), ``HOLDFAST_CRASH_SEED`` where chance begins. The rig is tried as
well: without one of the two syncs it must find the loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crash.loop_disk import FileSystem, LoopDisk, need
from tests.crash.machine import BODY_GONE, PUT_GONE, TRASH_GONE, Found, Machine

from holdfast.files import AnyPath, Files, OsFiles

ROUNDS = int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "25"))
SEED = int(os.environ.get("HOLDFAST_CRASH_SEED", "1"))
CONTROL_ROUNDS = 6
CONTROL_ROUNDS_MAX = 100

pytestmark = [pytest.mark.rig, pytest.mark.timeout(120 + 4 * ROUNDS)]


class NoDirectorySync(OsFiles):
    def sync_directory(self, path: AnyPath) -> None:
        pass


class NoFileSync(OsFiles):
    def sync(self, descriptor: int) -> None:
        pass


async def cuts(
    disk: LoopDisk,
    rounds: int,
    files: Files | None = None,
    elsewhere: Path | None = None,
    enough: Callable[[Found], bool] = lambda _: False,
) -> Found:
    async with Machine(disk, SEED, files=files, node_elsewhere=elsewhere) as machine:
        for _ in range(rounds):
            await machine.cut()
            if enough(machine.found):
                break
        return machine.found


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_what_was_acknowledged_survives_power_cuts(
    kind: FileSystem, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need(kind, tmp_path_factory)
    found = await cuts(LoopDisk(tmp_path, kind), ROUNDS)
    print(f"{kind}: {found}")
    assert (found.lost, found.lost_queued, found.torn) == (0, 0, 0), str(found)
    assert found.acknowledged > 10 * ROUNDS, f"the rig hardly wrote anything: {found}"
    assert found.deleted > 0, str(found)
    assert found.queued > ROUNDS, str(found)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_without_the_directory_sync_some_are_lost(
    kind: FileSystem, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The ledger lies on another disk here: on the same one its own sync would bring the names along.

    The sync of a later file does so too, on XFS nearly always, so the power is cut until a name was too late for that.
    """
    need(kind, tmp_path_factory)
    disk, node = LoopDisk(tmp_path, kind), tmp_path / "node"
    found = await cuts(disk, CONTROL_ROUNDS_MAX, NoDirectorySync(), node, enough=lambda found: found.lost > 0)
    print(f"{kind}: {found}")
    assert found.lost > 0, str(found)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_without_the_file_sync_all_are_lost(
    kind: FileSystem, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every blob that was put, every one that was moved to trash, every queued body that has a file of its own.

    Their names are there, synced with their directories, but no bytes: both file systems find room for them only when
    they are written back, which begins after 30 s, and a cut comes within 5. What is queued in its row stays, because
    SQLite syncs its file past our seam.
    """
    need(kind, tmp_path_factory)
    found = await cuts(LoopDisk(tmp_path, kind), CONTROL_ROUNDS, NoFileSync(), tmp_path / "node")
    print(f"{kind}: {found}")
    lost = (found.kinds[PUT_GONE], found.kinds[TRASH_GONE], found.kinds[BODY_GONE], found.lost_queued)
    all_ = (found.acknowledged - found.deleted, found.deleted, found.queued_files, found.queued_files)
    assert lost == all_, str(found)
