"""The network as a whole: policy and status."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.wire.messages.form import Answer, Request


class Policy(Answer, frozen=True, kw_only=True):
    survive: int
    floor: int
    version: int


class PolicyChange(Request, frozen=True, kw_only=True):
    """``version``: that of the policy which is to change (a precondition)."""

    survive: Annotated[int, Meta(ge=0, le=64)]
    version: Count


class AddressChange(Request, frozen=True, kw_only=True):
    """Addresses of the network's coordinators that come, and that go; by an operator."""

    add: Annotated[list[str], Meta(max_length=8)] = []
    remove: Annotated[list[str], Meta(max_length=8)] = []


class Addresses(Answer, frozen=True, kw_only=True):
    """Where the coordinator is reached, in the order of trying."""

    urls: list[str]


class PackCounts(Answer, frozen=True, kw_only=True):
    """healthy: live copies (on nodes up or suspect) reach the target; lost: none is left."""

    total: int = 0
    healthy: int = 0
    degraded: int = 0
    lost: int = 0
    floor: int = 0  # of the degraded: at or below the floor
    stored: int = 0  # bytes, one copy of each


class TaskCounts(Answer, frozen=True, kw_only=True):
    """``failed``: tasks that failed within the last hour and are tried again later."""

    pending: int = 0
    running: int = 0
    failed: int = 0


RepairWord: TypeAlias = Literal["idle", "waiting", "running", "paused", "held"]


class RepairState(Answer, frozen=True, kw_only=True):
    """What repair does now. ``held``: the breaker is open. Packs and bytes are copies still to be made.

    ``due``: may be made now; ``waiting``: their nodes may still come back; ``eta``: seconds until what is due is done,
    None while that is unknown; ``next``: seconds until something that waits is due; ``alarms``: sentences.
    """

    word: RepairWord = "idle"
    due_packs: int = 0
    due_bytes: int = 0
    waiting_packs: int = 0
    waiting_bytes: int = 0
    surplus_packs: int = 0
    eta: float | None = None
    next: float | None = None
    limited: bool = False
    alarms: list[str] = []
    summary: str = ""


class Scrubbed(Answer, frozen=True, kw_only=True):
    """How long ago the nodes that are up last read what they keep.

    ``oldest``: seconds, of the blob that waits longest, which is on ``node``; None while no node has said.
    ``overdue``: bytes that ``nodes`` nodes have not read within their ``scrub_period``.
    """

    oldest: int | None = None
    node: str = ""
    overdue: int = 0
    nodes: int = 0


class Status(Answer, frozen=True, kw_only=True):
    """``nodes``: how many in each state; ``machines`` and ``disks``: distinct domains and stores that are up.

    ``may_die``: how many nodes may die now, any of them, without a pack being lost; ``machines_may_die``: how many
    whole machines, with all their nodes and disks. ``urls``: the coordinator's. ``reflog_commits``: commits that
    only the coordinator knows, none older than ``reflog_lag`` seconds.
    """

    packs: PackCounts
    nodes: dict[str, int]
    tasks: TaskCounts
    repair: RepairState = RepairState()
    policy: Policy
    machines: int
    disks: int
    may_die: int | None
    machines_may_die: int | None = None
    vaults: int
    epoch: int
    commit: int
    reflog_lag: float = 0.0
    reflog_commits: int = 0
    scrub: Scrubbed = Scrubbed()
    urls: list[str] = []
