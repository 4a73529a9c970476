"""Plans, registrations and commits."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.wire.messages.form import COMMIT_REFS_MAX, HAS_DIGESTS_MAX, PLAN_ITEMS_MAX, Answer, Copies, Request


class PlanItem(Request, frozen=True, kw_only=True):
    """One pack to place; without a digest the place is taken ahead."""

    size: Annotated[int, Meta(ge=1, le=1 << 30)]
    digest: Digest | None = None


class PlanRequest(Request, frozen=True, kw_only=True):
    """Places for packs. ``copies`` None: as the network's policy says. ``avoid``: nodes that just failed."""

    vault: Id
    items: Annotated[list[PlanItem], Meta(min_length=1, max_length=PLAN_ITEMS_MAX)]
    copies: Copies | None = None
    allow_degraded: bool = False
    avoid: list[Id] = []
    epoch: Count = 0
    commit: Count = 0


class PlanSlot(Answer, frozen=True, kw_only=True):
    """``candidates`` are numbers of ``Plan.nodes``, best first. ``have``: leased or live already, send nothing."""

    have: bool = False
    candidates: list[int] = []


class PlanNode(Answer, frozen=True, kw_only=True):
    """A candidate and the put grant for it."""

    id: Id
    name: str
    url: str
    grant: bytes


class Plan(Answer, frozen=True, kw_only=True):
    """``wanted``: receipts that a pack shall have; ``least``: those that will do when no more can be had, fewer than
    ``wanted`` only where that was asked; ``expires``: when plan and grants end; ``urls``: the coordinator's.

    ``unread``, here and in other answers: the vault has adopted packs that none of its devices has read.
    """

    items: list[PlanSlot]
    nodes: list[PlanNode]
    wanted: int
    least: int
    expires: int
    epoch: int
    commit: int
    urls: list[str] = []
    unread: bool = False


class PackReceipts(Request, frozen=True, kw_only=True):
    """A new pack and the receipts of the nodes that hold it."""

    digest: Digest
    size: Annotated[int, Meta(ge=1, le=1 << 30)]
    receipts: Annotated[list[bytes], Meta(min_length=1, max_length=256)]


class RegisterRequest(Request, frozen=True, kw_only=True):
    vault: Id
    packs: Annotated[list[PackReceipts], Meta(max_length=PLAN_ITEMS_MAX)]
    copies: Copies | None = None
    allow_degraded: bool = False


class Registered(Answer, frozen=True, kw_only=True):
    lease_until: float


class RefChange(Request, frozen=True, kw_only=True):
    """A ref record (docs/formats.md, Ref): its version and previous etag are its precondition.

    ``ancestor``: a missing directory made on the way; that a directory is there already is success.
    """

    record: bytes
    ancestor: bool = False


class CommitRequest(Request, frozen=True, kw_only=True):
    """One transaction: packs that are new (with receipts), packs that are known, and groups of refs.

    A group stands or falls together. ``keeps`` are the keep lists that the records name by digest; lists that the
    coordinator knows may be left out. ``signature``: the device's Ed25519 signature over SHA-256 of the records' etags
    in order, so that the reflog shows who wrote. ``again``: the refs were found in adopted packs, whoever wrote them;
    each is taken as the present one if its version is the highest, else into the history.
    """

    vault: Id
    packs: Annotated[list[PackReceipts], Meta(max_length=PLAN_ITEMS_MAX)] = []
    known: Annotated[list[Digest], Meta(max_length=HAS_DIGESTS_MAX)] = []
    keeps: Annotated[list[bytes], Meta(max_length=COMMIT_REFS_MAX)] = []
    groups: Annotated[list[list[RefChange]], Meta(max_length=COMMIT_REFS_MAX)] = []
    allow_degraded: bool = False
    signature: bytes
    again: bool = False
    epoch: Count = 0
    commit: Count = 0


class RefResult(Answer, frozen=True, kw_only=True):
    """``conflict`` brings the present record (None: there is none); ``packs-gone`` the packs to send again.

    ``version`` and ``etag`` without a record: the name was deleted long ago and only these are left of it.
    """

    state: Literal["committed", "conflict", "packs-gone", "not-done"]
    record: bytes | None = None
    version: int = 0
    etag: Digest | None = None
    packs: list[Digest] = []


class Committed(Answer, frozen=True, kw_only=True):
    """Results in the order asked."""

    groups: list[list[RefResult]]
    epoch: int
    commit: int
