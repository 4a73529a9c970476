"""What is said over HTTP, typed. Requests refuse unknown fields, answers ignore them (docs/interfaces.md).

Digests and ids are text in JSON (hex, base32); other bytes are base64. Times are seconds since 1970, durations seconds,
sizes bytes. Signed documents travel as their envelopes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.auth.invites import Role
from holdfast.blob import Digest
from holdfast.errors import BadRequest

JSON_BYTES_MAX = 1 << 20
PAGE_MAX = 1000
PLAN_ITEMS_MAX = 256
INVENTORY_PREFIXES_MAX = 512
COMMIT_REFS_MAX = 1000
HAS_DIGESTS_MAX = 4096

NodeState: TypeAlias = Literal["up", "suspect", "down", "out", "draining", "maintenance", "read-only", "unreachable"]
_SEEN = r"^[^\x00-\x1f\x7f-\x9f]+(?![\s\S])"  # no control character; Python's $ would let a line break pass
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128, pattern=_SEEN)]
Url: TypeAlias = Annotated[str, Meta(min_length=8, max_length=512, pattern=_SEEN)]
Copies: TypeAlias = Annotated[int, Meta(ge=1, le=256)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something asked; a field we do not know may mean something, so it is refused."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something answered; fields of a newer version are ignored."""


class Empty(Answer, frozen=True):
    """Nothing to say."""


def _encode(value: Any) -> Any:
    if isinstance(value, Digest | Id):
        return str(value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def _decode(kind: type[Any], value: Any) -> Any:
    if kind in (Digest, Id) and isinstance(value, str):
        try:
            return kind.parse(value)
        except BadRequest as error:
            raise ValueError(error.detail) from error
    raise TypeError(f"expected {kind.__name__}")


T = TypeVar("T")

_encoder = msgspec.json.Encoder(enc_hook=_encode)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: Any) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """``data`` as ``kind``; BadRequest names the field that is wrong."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_decode)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"malformed {kind.__name__}: {error}") from error


def convert(fields: dict[str, str], kind: type[T]) -> T:
    """Query or path fields, all text, as ``kind``; BadRequest names the field that is wrong."""
    try:
        return msgspec.convert(fields, kind, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise BadRequest(f"{error}") from error


# --- everywhere -------------------------------------------------------------------------------------------------------


class Health(Answer, frozen=True, kw_only=True):
    """``status`` is ``ok`` or, in words, what is wrong."""

    status: str
    role: str
    id: Id
    name: str
    time: float
    version: str


class Problem(Answer, frozen=True, kw_only=True):
    """RFC 9457; ``extra`` holds the members of the type in question."""

    type: str
    title: str
    status: int
    detail: str
    extra: dict[str, Any] = {}


# --- joining ----------------------------------------------------------------------------------------------------------


class NodeFacts(Request, frozen=True, kw_only=True):
    """What a node says of itself. ``store``: 16 bytes; ``url``: where others reach it, empty until it first runs."""

    name: Name
    store: bytes
    url: str = ""
    domain: Name
    capacity: Count
    always_on: bool = False


class Join(Request, frozen=True, kw_only=True):
    """A newcomer, who signs the request with its own key, and its proof that it holds the invite."""

    invite: bytes
    role: Role
    proof: bytes
    node: NodeFacts | None = None
    certificate: bytes | None = None


class Settings(Answer, frozen=True, kw_only=True):
    """What the network's members adopt."""

    heartbeat_interval: float
    offline_after: int
    survive: int
    floor: int


class Joined(Answer, frozen=True, kw_only=True):
    """``proof``: the coordinator's HMAC; ``certificate``: a device's certificate, countersigned."""

    proof: bytes
    name: str
    urls: list[str]
    settings: Settings
    epoch: int
    commit: int
    certificate: bytes | None = None


class InviteRequest(Request, frozen=True, kw_only=True):
    """``sealing_key``: a one-time X25519 key; ``expires``: seconds from now; ``quota``: of a user, None no limit."""

    role: Role
    uses: Annotated[int, Meta(ge=1, le=10_000)]
    expires: Annotated[int, Meta(ge=1, le=366 * 86400)]
    quota: Count | None = None
    sealing_key: bytes


class InviteAnswer(Answer, frozen=True, kw_only=True):
    """All of an invite but its secret, which is sealed to the asker's key."""

    id: bytes
    urls: list[str]
    sealed_secret: bytes
    expires: int


class DeviceRequest(Request, frozen=True, kw_only=True):
    """Another device of the caller's vault."""

    certificate: bytes


class DeviceAnswer(Answer, frozen=True, kw_only=True):
    certificate: bytes
    serial: int


class RevocationRequest(Request, frozen=True, kw_only=True):
    """A device of the caller's vault (or, by an operator, any device or node invite) that is no longer trusted."""

    device: Id | None = None
    invite: bytes | None = None


# --- nodes and coordinator --------------------------------------------------------------------------------------------


class Heartbeat(Request, frozen=True, kw_only=True):
    """At most 256 bytes while nothing new is said: see docs/design.md, Heartbeat. ``root``: 16 bytes; ``load``:
    requests under way; ``url``: left out while the coordinator's last answer named the same.

    ``epoch`` and ``commit`` are the highest this node has heard of. ``unread``: seconds since the blob that waits
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
    revocations: Count = 0
    leaving: bool = False
    read_only: bool = False
    unread: Count | None = None
    overdue: Count = 0
    url: str = ""


class HeartbeatAnswer(Answer, frozen=True, kw_only=True):
    """``revoked`` (serials) is there when the node's revocation serial was lower. ``reason``: why not ``up``.

    ``url``: the address that the coordinator knows of the node. ``urls``: the coordinator's own; none: as before.
    """

    state: NodeState
    reason: str = ""
    time: float
    settings: Settings
    epoch: int
    commit: int
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


# --- packs ------------------------------------------------------------------------------------------------------------


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


# --- refs -------------------------------------------------------------------------------------------------------------


class PackPlaces(Answer, frozen=True, kw_only=True):
    """Who holds a pack: numbers of the ``nodes`` beside it, likeliest first."""

    digest: Digest
    size: int
    nodes: list[int]


class RefQuery(Request, frozen=True, kw_only=True):
    """``parent``: all entries of a directory by its tag; without it, all of the vault. ``after``: a name tag.

    ``trash``: deleted names of which a version is kept, instead of those that are there.
    """

    trash: bool = False
    parent: str | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class RefVersion(Answer, frozen=True, kw_only=True):
    """One version in a name's history; ``until``: seconds left before it goes, None for the present one."""

    record: bytes
    committed: float
    until: float | None = None


class RefPage(Answer, frozen=True, kw_only=True):
    """Records ascending by name tag, tombstones left out; places of the packs that hold their recipes.

    Of the trash: tombstones, and for each in ``kept`` the newest version of the name that is kept, with its end;
    ``committed`` there is when the name was deleted. ``after`` is the name tag (hex) to go on from, None at the end.
    """

    records: list[bytes]
    kept: list[RefVersion] = []
    packs: list[PackPlaces] = []
    nodes: list[NodeAddress] = []
    after: str | None = None
    unread: bool = False


class RefAnswer(Answer, frozen=True, kw_only=True):
    """One record (also a tombstone), its keep list and the places of all packs in it.

    An empty record: the name was deleted so long ago that only ``version`` and ``etag`` of its tombstone are left.
    """

    version: int = 0
    etag: Digest | None = None
    record: bytes
    keep: bytes
    packs: list[PackPlaces] = []
    nodes: list[NodeAddress] = []
    unread: bool = False


class RefHistory(Answer, frozen=True, kw_only=True):
    versions: list[RefVersion]


class VaultPacksQuery(Request, frozen=True, kw_only=True):
    """``unread``: only those that were adopted and that no device has read."""

    after: str | None = None
    unread: bool = False
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class VaultPacks(Answer, frozen=True, kw_only=True):
    """The vault's packs ascending by digest, with places: for rebuilding a chunk index."""

    packs: list[PackPlaces]
    nodes: list[NodeAddress]
    after: str | None = None


class PacksRead(Request, frozen=True, kw_only=True):
    """Adopted packs that a device has read; what refs it found in them is committed."""

    digests: Annotated[list[Digest], Meta(min_length=1, max_length=HAS_DIGESTS_MAX)]


# --- the network ------------------------------------------------------------------------------------------------------


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


# --- healing ----------------------------------------------------------------------------------------------------------

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


# --- blobs ------------------------------------------------------------------------------------------------------------


class BlobStored(Answer, frozen=True, kw_only=True):
    """The receipt's envelope."""

    receipt: bytes


class HasRequest(Request, frozen=True, kw_only=True):
    """``cluster``: here or at a healthy peer; else here only."""

    cluster: bool = False
    digests: Annotated[list[Digest], Meta(min_length=1, max_length=HAS_DIGESTS_MAX)]


class HasAnswer(Answer, frozen=True, kw_only=True):
    """One bit for each digest, most significant bit first."""

    bitmap: bytes


class Verified(Answer, frozen=True, kw_only=True):
    """``receipt``: with ``ok``, the envelope of a fresh receipt for the copy that was just hashed."""

    state: Literal["ok", "quarantined", "missing"]
    receipt: bytes | None = None


class InventoryQuery(Request, frozen=True, kw_only=True):
    """Rows with a write sequence above ``after``; or what is here under prefixes; or the inner roots of prefixes.

    ``prefix``: ascending prefixes of one or two bytes in hex, a dot between them, none inside another; ``past``: only
    digests above this one. ``inner``: prefixes of one byte, as above. ``reflog``: only the coordinator's reflog blobs.
    """

    after: Count = 0
    reflog: bool = False
    prefix: Annotated[str, Meta(pattern="^[0-9a-f]{2}([0-9a-f]{2})?([.][0-9a-f]{2}([0-9a-f]{2})?){0,511}$")] | None = (
        None
    )
    past: Digest | None = None
    inner: Annotated[str, Meta(pattern="^[0-9a-f]{2}([.][0-9a-f]{2}){0,255}$")] | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class InventoryEntry(Answer, frozen=True, kw_only=True, array_like=True):
    sequence: int
    digest: Digest
    size: int
    vault: Id | None
    here: bool


class InventoryPage(Answer, frozen=True, kw_only=True):
    """Ascending by sequence, under prefixes by digest. ``sequence``, ``count`` and ``root`` are of all that is here.

    ``prefixes``: the 256 prefix roots (``inventory.Roots``), with the first page of all (``after`` 0, no prefix).
    ``inner``: the 256 inner roots of each prefix that was asked for, one after the other.
    """

    entries: list[InventoryEntry]
    sequence: int
    count: int
    root: bytes
    prefixes: bytes = b""
    inner: bytes = b""


class NodeSpace(Answer, frozen=True, kw_only=True):
    """Where a node's bytes are: ``used``, ``cached``, ``trash`` and ``reclaimable`` together are what its store holds.

    ``used``: kept for vaults and manifests; ``cached``: goes when room is needed; ``trash``: can be restored for a
    while; ``reclaimable``: damaged copies set aside, which nobody needs. ``incoming``: held for puts under way;
    ``reserve``: of the disk, left to others; ``free``: how large a put may be now.
    """

    used: int
    cached: int
    trash: int
    reclaimable: int
    incoming: int
    reserve: int
    free: int

    @property
    def stored(self) -> int:
        """Bytes of all files in the store."""
        return self.used + self.cached + self.trash + self.reclaimable


class NodeOverview(Answer, frozen=True, kw_only=True):
    """``GET /v1/info``: no paths. ``capacity``: what the store may hold, or could if nobody else wrote to its disk.

    ``revoked`` (serials) only for the coordinator, who may have to learn it again.
    """

    id: Id
    name: str
    version: str
    store: bytes
    state: str
    capacity: int
    space: NodeSpace
    blobs: int
    sequence: int
    epoch: int
    commit: int
    outbox_waiting: int = 0
    outbox_conflicts: int = 0
    domain: str = ""
    always_on: bool = False
    revocations: int = 0
    revoked: list[int] = []


def bitmap(bits: list[bool]) -> bytes:
    """Most significant bit first, the last byte filled with zeros."""
    out = bytearray((len(bits) + 7) // 8)
    for index, bit in enumerate(bits):
        if bit:
            out[index >> 3] |= 0x80 >> (index & 7)
    return bytes(out)


def bits_of(data: bytes, count: int) -> list[bool]:
    """The first ``count`` bits; BadRequest if the length does not fit."""
    if len(data) != (count + 7) // 8:
        raise BadRequest("bitmap: wrong length")
    return [bool(data[index >> 3] & (0x80 >> (index & 7))) for index in range(count)]
