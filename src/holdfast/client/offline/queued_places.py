"""Which queued entries change something in a directory: ranges of sequences, so that a million files cost little.

A range may also hold entries that change something else, or that are gone: whoever reads them looks. Memory: some 200
bytes for each directory that something waits in or below, nothing for each file.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Sequence

NEAR = 64
"""Entries of one directory that lie so close are one range."""


class Role(enum.IntEnum):
    """What an entry changes, seen from a directory."""

    IN = 0  # a name right in it
    BELOW = 1  # a name at any depth in it
    MADE = 2  # the directory itself, made on the way to something else


class Places:
    """Fill it with ascending sequences; ``last`` is the newest that was read."""

    def __init__(self) -> None:
        self.last = 0
        self._ranges: dict[int, array[int]] = {}  # hash of role and directory -> first, last, first, last ...

    def add(self, role: Role, directory: str, sequence: int) -> None:
        """Whoever reads the same entries beside another reader may add them again."""
        where = hash((int(role), directory))
        known = self._ranges.get(where)
        if known is None:
            self._ranges[where] = array("Q", (sequence, sequence))
        elif sequence <= known[-1]:
            return
        elif sequence - known[-1] <= NEAR:
            known[-1] = sequence
        else:
            known.extend((sequence, sequence))

    def newest(self, role: Role, directory: str) -> int | None:
        """The last sequence with such a change."""
        known = self._ranges.get(hash((int(role), directory)))
        return None if known is None else known[-1]

    def ranges(self, role: Role, directory: str) -> Sequence[tuple[int, int]]:
        """Ascending, each with its ends."""
        known = self._ranges.get(hash((int(role), directory)), ())
        return list(zip(known[::2], known[1::2], strict=True))
