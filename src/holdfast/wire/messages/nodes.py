"""Nodes and coordinator: heartbeats, and nodes as they are told of."""

from __future__ import annotations

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.wire.messages.form import Answer, NodeState, Request
from holdfast.wire.messages.joining import Settings


class Heartbeat(Request, frozen=True, kw_only=True):
    """At most 256 bytes while nothing new is said: see docs/design.md, Heartbeat. ``root``: 16 bytes; ``load``:
    requests under way; ``url``: left out while the coordinator's last answer named the same.

    ``epoch`` and ``commit`` are the highest this node has heard of; ``position``, the coordinator's signed word for
    them, is shown only to one that has answered with less. ``unread``: seconds since the blob that waits
    longest was last read from the disk; ``overdue``: bytes not read for longer than the node's ``scrub_period``.
    """

    store: bytes
    sequence: Count
    count: Count
    root: bytes
    free: Count
    load: Count = 0
    epoch: Count = 0
    commit: Count = 0
    position: bytes = b""
    revocations: Count = 0
    leaving: bool = False
    read_only: bool = False
    unread: Count | None = None
    overdue: Count = 0
    url: str = ""


class HeartbeatAnswer(Answer, frozen=True, kw_only=True):
    """``revoked`` (serials) is there when the node's revocation serial was lower. ``reason``: why not ``up``.

    ``position``: ``epoch`` and ``commit``, signed, for the node to keep. ``url``: the address that the coordinator
    knows of the node. ``urls``: the coordinator's own; none: as before.
    """

    state: NodeState
    reason: str = ""
    time: float
    settings: Settings
    epoch: int
    commit: int
    position: bytes = b""
    revocations: int = 0
    revoked: list[int] | None = None
    url: str = ""
    urls: list[str] = []


class NodeInfo(Answer, frozen=True, kw_only=True):
    id: Id
    name: str
    url: str
    store: bytes
    domain: str
    state: NodeState
    reason: str = ""
    always_on: bool = False
    capacity: int
    free: int
    packs: int = 0
    stored: int = 0  # bytes
    last_seen: float | None = None  # seconds ago, on the coordinator's running time
    unread: int | None = None  # seconds since the blob that waits longest was last read again
    overdue: int = 0  # bytes not read again in time


class NodeList(Answer, frozen=True, kw_only=True):
    nodes: list[NodeInfo]


class NodeAddress(Answer, frozen=True, kw_only=True):
    """Where to reach a node, in plans and places. ``up``: worth asking first."""

    id: Id
    name: str
    url: str
    up: bool = True
