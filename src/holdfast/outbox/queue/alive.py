"""Which processes that use an outbox still live: each holds a lock on a file of its own, which dies with it.

So what a killed process had claimed is free at once, also in containers, whose process numbers say nothing to others.
All of it blocks.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from holdfast.clock import Randomness
from holdfast.errors import BadConfig, Unavailable
from holdfast.files import Files, read_file

TOKEN_BYTES = 8
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TRIES = 16


def boot_id(files: Files, randomness: Randomness) -> bytes:
    """16 bytes that change with each start of the machine; monotonic clocks compare only within one."""
    try:
        text = read_file(files, _BOOT_ID, 64)
        return bytes.fromhex((text or b"").decode("ascii").strip().replace("-", "")) or randomness.bytes(16)
    except (OSError, ValueError, BadConfig):
        return randomness.bytes(16)  # unknown: then only locks tell


class Alive:
    """This process's sign of life, and the look at others'. Use from one thread at a time."""

    def __init__(self, directory: Path, files: Files, randomness: Randomness) -> None:
        self._directory = directory
        self._files = files
        self._randomness = randomness
        self._locks = contextlib.ExitStack()
        self._token: bytes | None = None

    def token(self) -> bytes:
        """8 random bytes for this process; locked from the first call on."""
        if self._token is not None:
            return self._token
        self._files.make_directory(self._directory, durable=False)
        for _ in range(_TRIES):
            token = self._randomness.bytes(TOKEN_BYTES)
            path = self._directory / token.hex()
            try:
                lock = self._files.lock(path)
                lock.__enter__()
            except BadConfig:
                continue  # somebody was just looking whether we live
            if self._files.size(path) is not None:  # else it was taken for a dead one's and removed meanwhile
                self._locks.push(lock)
                self._token = token
                return token
            lock.__exit__(None, None, None)
        raise Unavailable(f"{self._directory} cannot be locked")

    def dead(self, token: bytes) -> bool:
        """Is the process of that token gone? Its file goes, too."""
        if token == self._token:
            return False
        path = self._directory / token.hex()
        if self._files.size(path) is None:
            return True
        try:
            with self._files.lock(path):
                self._files.unlink(path)
        except BadConfig:
            return False
        return True

    def sweep(self) -> None:
        """Removes the files of the dead."""
        for name in self._files.list(self._directory):
            with contextlib.suppress(ValueError, OSError):
                self.dead(bytes.fromhex(name))

    def close(self) -> None:
        """May be called twice."""
        if self._token is not None:
            with contextlib.suppress(OSError):
                self._files.unlink(self._directory / self._token.hex())
            self._token = None
        self._locks.close()
