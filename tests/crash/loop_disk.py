"""A small disk of the test's own, whose power can be cut: a file system in an image, mounted through a loop device.

The cut is the shutdown ioctl of ext4 and XFS with "write nothing more": what the journal has not on the disk by then is
gone, what the page cache holds is gone when it is unmounted, and mounting again replays the journal as after a cut.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Literal

import pytest

FileSystem = Literal["ext4", "xfs"]
MIB = 1 << 20
SMALLEST: dict[FileSystem, int] = {"ext4": 16 * MIB, "xfs": 320 * MIB}
_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
_NOTHING_MORE = 2  # neither data nor journal
_PATIENCE_S = 20.0


class LoopDisk:
    """One image of ``size`` bytes below ``directory``. Mounted at ``path`` between ``mount`` and ``unmount``."""

    def __init__(self, directory: Path, kind: FileSystem = "ext4", size: int = 0) -> None:
        self.kind = kind
        self.path = directory / "disk"
        self._image = directory / "disk.img"
        self._size = size or max(SMALLEST[kind], 128 * MIB)

    def make(self) -> None:
        """An empty file system, unmounted."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._image.unlink(missing_ok=True)
        with self._image.open("wb") as image:
            image.truncate(self._size)
        plenty = ["-m", "0"] if self.kind == "ext4" else []
        _run(f"mkfs.{self.kind}", "-q", *plenty, str(self._image))

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def settle(self) -> None:
        """What was written until now is no part of the experiment: it gets to the disk."""
        _run("sync", "-f", str(self.path))

    def cut(self) -> None:
        """The power goes: from now on every change fails and nothing reaches the image."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NOTHING_MORE))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Waits for the last file to be closed; fine if it is not mounted."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._mounted():
            try:
                _run("umount", str(self.path))
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _mounted(self) -> bool:
        """A dead file system does not even say whether it is one."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1] == str(self.path) for line in mounts)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


@functools.cache
def _why_not(kind: FileSystem, directory: Path) -> str | None:
    if os.geteuid() != 0:
        return "mounting a loop device needs root"
    missing = [tool for tool in (f"mkfs.{kind}", "mount", "umount") if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    disk = LoopDisk(directory, kind)
    try:
        disk.make()
        disk.mount()
        try:
            disk.cut()
        finally:
            disk.unmount()
    except (AssertionError, OSError) as error:
        return f"no loop device with {kind} can be had here: {error}"
    finally:
        disk._image.unlink(missing_ok=True)
    return None


def need(kind: FileSystem, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips, with the reason, where no such disk can be had."""
    why = _why_not(kind, tmp_path_factory.getbasetemp() / f"try-{kind}")
    if why is not None:
        pytest.skip(why)
