"""Where this coordinator stands: its epoch and commit number, and whether it has signed for a later one.

Nodes keep what it signs (``auth/positions.py``) and show it to one that is behind: a coordinator that came back from an
old copy of its database must not write, and no node can stop one that did not. A device's word needs no proof, because
it refuses that device's request only.
"""

from __future__ import annotations

from holdfast import logs
from holdfast.auth import positions
from holdfast.auth.documents import sign
from holdfast.auth.identity import Identity
from holdfast.errors import StaleEpoch

_log = logs.get_logger(__name__)


class Position:
    """``current`` is what has been committed durably. One per coordinator, used in the event loop."""

    def __init__(self, identity: Identity, epoch: int, commit: int, heard: tuple[int, int] = (0, 0)) -> None:
        self.epoch = epoch
        self.commit = commit
        self.heard = heard
        self._identity = identity
        self._signed: tuple[tuple[int, int], bytes] | None = None
        self._doubted: set[str] = set()

    @property
    def current(self) -> tuple[int, int]:
        return self.epoch, self.commit

    @property
    def stale(self) -> bool:
        return self.heard > self.current

    @property
    def signed(self) -> bytes:
        """``current`` in a document for nodes to keep."""
        if self._signed is None or self._signed[0] != self.current:
            document = positions.Position(epoch=self.epoch, commit=self.commit)
            self._signed = self.current, sign(document, self._identity)
        return self._signed[1]

    def hear(self, node: str, claimed: tuple[int, int], word: bytes) -> bool:
        """``node`` has heard of ``claimed`` and shows ``word``; True if that proves news, which must be kept."""
        known = max(self.current, self.heard)
        found = positions.proven(word, self._identity.id) if word else (0, 0)
        if found > known:
            self.heard = found
            return True
        if claimed > known and node not in self._doubted:
            self._doubted.add(node)
            _log.warning("position_not_proven", node=node, claimed=claimed, at=self.current)
        return False

    def check(self, epoch: int = 0, commit: int = 0) -> None:
        """StaleEpoch if this coordinator is old, or if who asks has heard of a later position."""
        if self.stale or (epoch, commit) > self.current:
            found = max(self.heard, (epoch, commit))
            raise StaleEpoch(
                f"this coordinator is at {self.epoch}.{self.commit}, but the network has seen {found[0]}.{found[1]}: "
                "it may run on an old copy of its database; its operator must run: holdfast coordinator recover"
            )
