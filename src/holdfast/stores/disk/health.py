"""What an operating system's refusal means for a disk store, and the rule that a failed sync ends its writing.

After a failed fsync the kernel may call the lost pages clean, so that a second fsync "succeeds" with nothing written
(PostgreSQL's fsyncgate, 2018; Rebello et al., USENIX ATC 2020). So nothing is ever synced twice after a failure: the
store becomes read-only until its operator has looked at the disk and started it again.
"""

from __future__ import annotations

import errno
from collections.abc import Set
from contextlib import AbstractContextManager

from holdfast import logs
from holdfast.errors import HoldfastError, NoSpace, StorePoisoned, Unavailable

_log = logs.get_logger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EUCLEAN})


class DiskHealth:
    """Whether one store may still write; safe to use from all its threads."""

    def __init__(self, name: str) -> None:
        self.poisoned: str | None = None
        """Why the store is read-only, None while it is not; never cleared in one process."""
        self._name = name
        self._watches: dict[tuple[str, bool, bool], _Watch] = {}  # they remember nothing, so one of a kind will do

    def check(self) -> None:
        """StorePoisoned once anything that matters has failed."""
        if self.poisoned is not None:
            raise StorePoisoned(self._sentence())

    def poison(self, reason: str) -> None:
        """From now on the store is read-only. The first reason stays."""
        if self.poisoned is None:
            self.poisoned = reason
            _log.error("store_poisoned", store=self._name, reason=reason)

    def changing(self, what: str) -> AbstractContextManager[None]:
        """Around a write, link, rename or unlink: a full disk is NoSpace, a broken one poisons."""
        return self._watch(what, True, BROKEN)

    def syncing(self, what: str, *, disposable: bool = False) -> AbstractContextManager[None]:
        """Around a sync: every failure poisons.

        The one exception is a full disk while a ``disposable`` file is synced, one that nobody was promised and that
        is thrown away now: file systems that allocate late, or over a network, report it only here.
        """
        return self._watch(what, disposable, None)

    def _watch(self, what: str, full_is_fine: bool, poisoning: Set[int] | None) -> AbstractContextManager[None]:
        kind = (what, full_is_fine, poisoning is None)
        watch = self._watches.get(kind)
        if watch is None:
            watch = self._watches[kind] = _Watch(self, what, full_is_fine=full_is_fine, poisoning=poisoning)
        return watch

    def translated(self, error: OSError, what: str, *, full_is_fine: bool, poisoning: Set[int] | None) -> HoldfastError:
        """What ``error`` is to our caller; ``poisoning`` None: every number poisons."""
        if full_is_fine and error.errno in FULL:
            return NoSpace(f"the disk of {self._name} is full")
        reason = f"{what} failed: {error.strerror or error}"
        if poisoning is not None and error.errno not in poisoning:
            return Unavailable(f"{reason} (in {self._name})")
        self.poison(reason)
        return StorePoisoned(self._sentence())

    def _sentence(self) -> str:
        return f"the store in {self._name} is read-only since {self.poisoned}; look at the disk, then restart"


class _Watch:
    """Translates what leaves a ``with`` block; a class, because generators cost more and puts are many."""

    __slots__ = ("_full_is_fine", "_health", "_poisoning", "_what")

    def __init__(self, health: DiskHealth, what: str, *, full_is_fine: bool, poisoning: Set[int] | None) -> None:
        self._health = health
        self._what = what
        self._full_is_fine = full_is_fine
        self._poisoning = poisoning

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, HoldfastError):  # some of ours are OSErrors too
            raise self._health.translated(
                error, self._what, full_is_fine=self._full_is_fine, poisoning=self._poisoning
            ) from error
