"""What an operating system's refusal means for a disk store, and the rule that a failed sync ends its writing.

After a failed fsync the kernel may call the lost pages clean, so that a second fsync "succeeds" with nothing written
(PostgreSQL's fsyncgate, 2018; Rebello et al., USENIX ATC 2020). So nothing is ever synced twice after a failure: the
store becomes read-only until its operator has looked at the disk and started it again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from holdfast.errors import HoldfastError, NoSpace, StorePoisoned, Unavailable

_log = structlog.get_logger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN})


class DiskHealth:
    """Whether one store may still write; safe to use from all its threads."""

    def __init__(self, name: str) -> None:
        self.poisoned: str | None = None
        """Why the store is read-only, None while it is not; never cleared in one process."""
        self._name = name

    def check(self) -> None:
        """StorePoisoned once anything that matters has failed."""
        if self.poisoned is not None:
            raise StorePoisoned(
                f"the store in {self._name} is read-only since {self.poisoned}; look at the disk, then restart"
            )

    def poison(self, reason: str) -> None:
        """From now on the store is read-only. The first reason stays."""
        if self.poisoned is None:
            self.poisoned = reason
            _log.error("store_poisoned", store=self._name, reason=reason)

    @contextmanager
    def changing(self, what: str) -> Iterator[None]:
        """Around a write, link, rename or unlink: a full disk is NoSpace, a broken one poisons."""
        try:
            yield
        except HoldfastError:  # some of ours are OSErrors too
            raise
        except OSError as error:
            if error.errno in FULL:
                raise NoSpace(f"the disk of {self._name} is full") from error
            if error.errno in BROKEN:
                self.poison(f"{what} failed: {error.strerror}")
                self._raise(error)
            raise Unavailable(f"{what} failed in {self._name}: {error.strerror or error}") from error

    @contextmanager
    def syncing(self, what: str, *, disposable: bool = False) -> Iterator[None]:
        """Around a sync: every failure poisons.

        The one exception is a full disk while a ``disposable`` file is synced, one that nobody was promised and that
        is thrown away now: file systems that allocate late, or over a network, report it only here.
        """
        try:
            yield
        except HoldfastError:
            raise
        except OSError as error:
            if disposable and error.errno in FULL:
                raise NoSpace(f"the disk of {self._name} is full") from error
            self.poison(f"{what} failed: {error.strerror or error}")
            self._raise(error)

    def _raise(self, cause: OSError) -> None:
        try:
            self.check()
        except StorePoisoned as poisoned:
            raise poisoned from cause
