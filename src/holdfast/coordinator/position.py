"""Where this coordinator stands: its epoch and commit number, and whether it has heard of a later one.

A node's word that it has heard of more is believed for good: nodes learn it from signed answers, and a coordinator that
came back from an old copy of its database must not write. A device's word refuses that device's request only, so that
no user can stop the network.
"""

from __future__ import annotations

from holdfast.errors import StaleEpoch


class Position:
    """``current`` is what has been committed durably. One per coordinator, used in the event loop."""

    def __init__(self, epoch: int, commit: int, heard: tuple[int, int] = (0, 0)) -> None:
        self.epoch = epoch
        self.commit = commit
        self.heard = heard

    @property
    def current(self) -> tuple[int, int]:
        return self.epoch, self.commit

    @property
    def stale(self) -> bool:
        return self.heard > self.current

    def hear(self, epoch: int, commit: int) -> bool:
        """A node has heard of (epoch, commit); True if that is news which must be kept."""
        if (epoch, commit) <= max(self.current, self.heard):
            return False
        self.heard = (epoch, commit)
        return True

    def check(self, epoch: int = 0, commit: int = 0) -> None:
        """StaleEpoch if this coordinator is old, or if who asks has heard of a later position."""
        if self.stale or (epoch, commit) > self.current:
            found = max(self.heard, (epoch, commit))
            raise StaleEpoch(
                f"this coordinator is at {self.epoch}.{self.commit}, but the network has seen {found[0]}.{found[1]}: "
                "it may run on an old copy of its database; its operator must run: holdfast coordinator recover"
            )
