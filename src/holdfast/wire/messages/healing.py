"""Tasks of repair, alarms, and an operator's orders."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.wire.messages.form import Answer, Request
from holdfast.wire.messages.nodes import NodeAddress

TASKS_MAX = 16
TASK_WAIT_S_MAX = 60.0


class TaskQuery(Request, frozen=True, kw_only=True):
    """``wait``: seconds to wait for the first task."""

    wait: Annotated[float, Meta(ge=0, le=TASK_WAIT_S_MAX)] = 0.0
    limit: Annotated[int, Meta(ge=1, le=TASKS_MAX)] = TASKS_MAX


class TaskSource(Answer, frozen=True, kw_only=True):
    """A node that holds the pack, and the get grant for reading it there."""

    node: Id
    grant: bytes


class Task(Answer, frozen=True, kw_only=True):
    """One thing for the node that asked. ``token``: to be said with every word about it; ``lease``: seconds.

    ``copy``: fetch the pack from one of ``sources`` (best first) and keep it. ``trim`` and ``delete``: move it to trash
    by ``grant``.
    """

    id: str
    token: int
    kind: Literal["copy", "trim", "delete"]
    digest: Digest
    size: int
    vault: Id
    lease: float
    sources: list[TaskSource] = []
    grant: bytes | None = None


class TaskPage(Answer, frozen=True, kw_only=True):
    """``nodes``: where the sources are reached now."""

    tasks: list[Task]
    nodes: list[NodeAddress] = []


class TaskDone(Request, frozen=True, kw_only=True):
    """``receipt``: of a copy; ``bad``: sources that did not have the right bytes."""

    token: Count
    receipt: bytes | None = None
    bad: Annotated[list[Id], Meta(max_length=256)] = []


class TaskRenewal(Request, frozen=True, kw_only=True):
    token: Count


class TaskFailure(Request, frozen=True, kw_only=True):
    """``retry_after``: seconds in which this node need not be asked for the like again."""

    token: Count
    reason: Annotated[str, Meta(max_length=512)]
    bad: Annotated[list[Id], Meta(max_length=256)] = []
    retry_after: Annotated[float, Meta(ge=0, le=86400)] = 0.0


class RepairOrder(Request, frozen=True, kw_only=True):
    """By an operator. ``now``: nothing waits any more, and the breaker closes; ``pause`` ends with ``resume``."""

    order: Literal["now", "pause", "resume"]


class Alarm(Answer, frozen=True, kw_only=True):
    """What ``on_alarm`` is told.

    ``kind``: breaker, floor, lost, poisoned, reflog or old; ``name``: the coordinator's.
    """

    kind: str
    state: Literal["begins", "over"]
    text: str
    name: str


class MaintenanceOrder(Request, frozen=True, kw_only=True):
    """``seconds`` 0 ends it."""

    seconds: Annotated[float, Meta(ge=0, le=90 * 86400)]


class DrainOrder(Request, frozen=True, kw_only=True):
    """``drain`` False takes the word back."""

    drain: bool = True


class RemoveOrder(Request, frozen=True, kw_only=True):
    """``force``: also while it holds copies that have not been made elsewhere; ``now``: if each pack has another."""

    force: bool = False
    now: bool = False
