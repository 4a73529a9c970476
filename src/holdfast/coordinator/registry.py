"""The nodes: what they said last, and what state that puts them in.

Silence counts on the coordinator's own running time: after a start, and after a time in which the coordinator itself
stood still, every node that was not known to be silent gets a full window (docs/design.md, Time). Everything here is
in memory; ``unsaved`` gives what is to be written once a minute.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from holdfast.auth.identity import Id
from holdfast.clock import Clock
from holdfast.coordinator.placement import Site
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.metadata.tables import NEVER_READ
from holdfast.wire.messages import NodeState

PLANNED_S = 120.0
"""How long planned bytes count against a node: by then its heartbeats tell what has come."""

_SLACK = 0.5
"""Of a heartbeat interval: how late one may be before it is missed."""


@dataclass(slots=True)
class Node:
    """One registered node. ``heard``: monotonic seconds of its last heartbeat in this run."""

    number: int
    id: Id
    name: str
    store: bytes
    domain: str
    capacity: int
    always_on: bool
    url: str = ""
    reached_url: str = ""
    free: int = 0
    read_only: bool = False
    word: str = ""  # an operator's: "" | draining | maintenance | removed
    silent: str = ""  # down | out: known to be silent, until heard again
    sequence: int = 0
    blobs: int = 0
    root: bytes = bytes(16)
    load: int = 0
    unread: int | None = None  # seconds, as the node says
    overdue: int = 0
    seen: float = 0.0  # wall
    heard: float | None = None
    silent_since: float = 0.0
    why_unreachable: str = ""
    read_sequence: int = NEVER_READ  # its inventory is on record up to here
    agreed: bool = True  # what it holds is what is on record, as far as known
    doubted: float = 0.0  # monotonic: since when it is not agreed
    word_until: float = 0.0  # slow: when maintenance ends
    planned: deque[tuple[float, int]] = field(default_factory=deque)
    planned_bytes: int = 0
    dirty: bool = False


class Registry:
    """Used in the event loop. ``version`` rises whenever a state may have changed otherwise than by time."""

    def __init__(self, clock: Clock, settings: CoordinatorSettings) -> None:
        self._clock = clock
        self._settings = settings
        self._nodes: dict[Id, Node] = {}
        self._by_number: dict[int, Node] = {}
        self._looked = clock.monotonic()
        self._window_from = self._looked

    # --- who is there ---

    def add(self, node: Node) -> None:
        """A node from the table, or a new one."""
        node.silent_since = self._clock.monotonic()
        self._nodes[node.id] = node
        self._by_number[node.number] = node

    def get(self, id_: Id) -> Node | None:
        """None for a node that never joined or was removed."""
        node = self._nodes.get(id_)
        return None if node is None or node.word == "removed" else node

    def number(self, number: int) -> Node:
        return self._by_number[number]

    def all(self) -> list[Node]:
        """Those that are not removed, by name."""
        found = [node for node in self._nodes.values() if node.word != "removed"]
        return sorted(found, key=lambda node: (node.name, node.id))

    # --- what they say ---

    def hear(self, node: Node) -> None:
        """A heartbeat came. Who was away is believed again once its inventory agrees with what is on record."""
        if node.agreed and (node.sequence or node.read_sequence > 0) and self.hearing(node) in ("down", "out"):
            node.agreed, node.doubted = False, self.look()
        node.heard = self.look()
        node.seen = self._clock.now()
        node.silent = ""
        node.dirty = True

    def leave(self, node: Node) -> None:
        """It said that it is leaving: down at once."""
        node.silent = "down"
        node.silent_since = self.look()
        node.dirty = True

    # --- what that means ---

    def look(self) -> float:
        """Monotonic seconds now. If nobody looked for a whole interval, we stood still: full windows for all."""
        now = self._clock.monotonic()
        if now - self._looked > self._settings.heartbeat_interval:
            self._window_from = now
        self._looked = now
        return now

    def silence(self, node: Node) -> float:
        """Seconds without a word from ``node``, as far as we were there to listen."""
        now = self.look()
        if node.silent:
            return now - node.silent_since
        return now - max(self._window_from, node.heard if node.heard is not None else self._window_from)

    def hearing(self, node: Node) -> NodeState:
        """``up``, ``suspect``, ``down`` or ``out``, by silence alone."""
        silence = self.silence(node)
        settings = self._settings
        out_after = settings.out_after_always_on if node.always_on else settings.out_after
        missed = silence / settings.heartbeat_interval - _SLACK
        if node.silent == "out" or ((node.silent or missed > settings.offline_after) and silence > out_after):
            return "out"
        if node.silent or missed > settings.offline_after:
            return "down"
        return "suspect" if missed > 1 else "up"

    def state(self, node: Node) -> tuple[NodeState, str]:
        """(state, in words why it is not ``up``)."""
        if node.word == "maintenance":
            return "maintenance", "its operator works on it"
        hearing = self.hearing(node)
        if hearing != "up":
            if node.heard is None and not node.url:
                return hearing, "it has not run yet"
            return hearing, "" if hearing == "suspect" else "no heartbeat"
        if node.word == "draining":
            return "draining", "it is being emptied"
        if not node.reached_url or node.reached_url != node.url:
            return "unreachable", node.why_unreachable or "it has not been reached yet"
        if node.read_only:
            return "read-only", "it takes no data: look at its disk (holdfast doctor)"
        return "up", ""

    def is_live(self, node: Node) -> bool:
        """Do copies on it count as live? It is heard and has been reached, and its inventory agrees."""
        return self.answers(node) and node.agreed

    def answers(self, node: Node) -> bool:
        """Can it be asked?"""
        return node.word != "removed" and bool(node.reached_url) and self.hearing(node) in ("up", "suspect")

    def live(self) -> frozenset[int]:
        """Numbers of the nodes whose copies are live."""
        return frozenset(node.number for node in self._nodes.values() if self.is_live(node))

    def absent(self) -> frozenset[int]:
        """Numbers of the nodes, removed ones too, whose copies are not live."""
        return frozenset(self._by_number) - self.live()

    def counted(self) -> frozenset[int]:
        """Numbers of the nodes whose copies are on record: registered, and not silent for so long as to be out."""
        return frozenset(
            node.number for node in self._nodes.values() if node.word != "removed" and self.hearing(node) != "out"
        )

    def stores(self) -> dict[int, bytes]:
        """Node number -> store id, also of removed nodes."""
        return {node.number: node.store for node in self._nodes.values()}

    def registered_stores(self) -> int:
        """Distinct stores of registered nodes: what the number of copies cannot exceed."""
        return len({node.store for node in self.all()})

    # --- planning ---

    def sites(self, *, less_planned: bool = True) -> list[Site]:
        """Nodes that may take new packs, with what is free, ``less_planned`` or as they said it."""
        now = self.look()
        return [
            Site(
                node.number,
                node.store,
                node.domain,
                max(node.free - self._planned(node, now), 0) if less_planned else node.free,
            )
            for node in self._nodes.values()
            if node.word == "" and self.state(node)[0] == "up"
        ]

    def plan(self, number: int, size: int) -> None:
        """``size`` bytes may soon come to the node."""
        node = self._by_number[number]
        node.planned.append((self._looked + PLANNED_S, size))
        node.planned_bytes += size

    def _planned(self, node: Node, now: float) -> int:
        while node.planned and node.planned[0][0] <= now:
            node.planned_bytes -= node.planned.popleft()[1]
        return node.planned_bytes

    # --- keeping ---

    def unsaved(self) -> list[dict[str, Any]]:
        """Rows for ``queries_members.change_nodes`` of nodes that changed since the last call."""
        rows = []
        for node in self._nodes.values():
            silent = state if (state := self.hearing(node)) in ("down", "out") else ""
            if silent != node.silent:
                node.silent_since = self.look() - self.silence(node)
                node.silent = silent
                node.dirty = True
            if node.dirty:
                node.dirty = False
                rows.append(row_of(node))
        return rows


def row_of(node: Node) -> dict[str, Any]:
    """The columns of ``nodes`` that may change."""
    return {
        "number": node.number, "name": node.name, "url": node.url, "reached_url": node.reached_url,
        "domain": node.domain, "capacity": node.capacity, "free": node.free, "always_on": node.always_on,
        "read_only": node.read_only, "state": node.silent or "up", "word": node.word, "sequence": node.sequence,
        "blobs": node.blobs, "root": node.root, "seen": node.seen, "word_until": node.word_until,
    }  # fmt: skip


def node_of(row: Any) -> Node:
    """A node from its row."""
    return Node(
        number=row.number, id=Id(row.id), name=row.name, store=row.store, domain=row.domain, capacity=row.capacity,
        always_on=row.always_on, url=row.url, reached_url=row.reached_url, free=row.free, read_only=row.read_only,
        word=row.word, silent=row.state if row.state in ("down", "out") else "", sequence=row.sequence,
        blobs=row.blobs, root=row.root, seen=row.seen, read_sequence=row.read_sequence, word_until=row.word_until,
    )  # fmt: skip
