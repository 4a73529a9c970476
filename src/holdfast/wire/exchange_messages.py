"""What is said about cluster exchange: manifests, peers, pulls, figures. ``messages`` has the conventions."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.wire.messages import HAS_DIGESTS_MAX, PAGE_MAX, Answer, Request

MANIFEST_BYTES_MAX = 32 << 20
PULL_WAIT_S_MAX = 30.0


class ManifestEntry(Answer, frozen=True, kw_only=True):
    """One file of a manifest."""

    digest: Digest
    size: int
    mode: int = 0o644


class ManifestDocument(Answer, frozen=True, kw_only=True):
    """A manifest as it is stored (docs/formats.md, Manifest); it travels as exactly those bytes."""

    version: int
    name: str
    objects: dict[str, ManifestEntry]


class ManifestQuery(Request, frozen=True, kw_only=True):
    """``cluster``: also those of all healthy peers. ``after``: a name. ``name``: only the one of this name."""

    cluster: bool = False
    after: str = ""
    name: str = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class Holder(Answer, frozen=True, kw_only=True):
    """A node that keeps a manifest."""

    id: Id
    name: str


class ManifestInfo(Answer, frozen=True, kw_only=True):
    """One manifest, by name and etag. ``entries``: paths; ``blobs`` and ``stored``: distinct blobs and their bytes.

    ``modified``: seconds since 1970; ``holders``: with ``cluster``, the nodes that keep exactly this one; ``followed``:
    the node took it from another by following, no client put it there.
    """

    name: str
    etag: Digest
    entries: int
    blobs: int
    stored: int
    modified: float
    holders: list[Holder] = field(default_factory=list)
    followed: bool = False


class Hint(Request, frozen=True, kw_only=True):
    """A manifest has changed at the sender: ``etag`` is what it has now, None for nothing. Only a reason to look."""

    etag: Digest | None = None


class ManifestList(Answer, frozen=True, kw_only=True):
    """By name. ``after`` is the name to go on from, None at the end; ``silent``: peers that did not answer."""

    manifests: list[ManifestInfo]
    after: str | None = None
    silent: list[Holder] = field(default_factory=list)


class ManifestFrom(Request, frozen=True, kw_only=True):
    """``node``: a peer to read it from; without it, this node's own."""

    node: Id | None = None


class ManifestSaved(Answer, frozen=True, kw_only=True):
    """``new``: there was none of this name."""

    etag: Digest
    new: bool


class PullRequest(Request, frozen=True, kw_only=True):
    """Bring these here. ``hold``: for a manifest that is to be saved, so past the cache's limit.

    Answered when all are here, or after ``wait`` seconds; asking again goes on.
    """

    digests: Annotated[list[Digest], Meta(min_length=1, max_length=HAS_DIGESTS_MAX)]
    hold: bool = False
    wait: Annotated[float, Meta(ge=0, le=PULL_WAIT_S_MAX)] = 5.0


class PullAnswer(Answer, frozen=True, kw_only=True):
    """``bitmap``: which are here now; ``nobody``: those that nobody has; ``reason``: why others could not be had."""

    bitmap: bytes
    nobody: list[Digest] = field(default_factory=list)
    reason: str = ""


class BlobPlaces(Answer, frozen=True, kw_only=True):
    """Where a blob is: on this node, at which healthy peers, and at the origin (None: not asked, or no answer)."""

    local: bool
    peers: list[Holder]
    origin: bool | None = None


class PeerInfo(Answer, frozen=True, kw_only=True):
    """One peer. ``since``: when it became as ``healthy`` says; ``latency``: its usual time to answer, seconds."""

    id: Id
    name: str
    address: str
    found: list[Literal["list", "registry", "mdns"]]
    healthy: bool
    since: float
    reason: str = ""
    latency: float | None = None
    hit_rate: float = 0.0
    asked: int = 0
    hits: int = 0
    served: int = 0  # bytes
    lies: int = 0


class PeerList(Answer, frozen=True, kw_only=True):
    """``unknown``: addresses where nobody has answered yet."""

    peers: list[PeerInfo]
    unknown: list[str] = field(default_factory=list)


class Tally(Answer, frozen=True, kw_only=True):
    """``nodes``: with this one; ``manifests``: copies, over all that answer."""

    total: int
    healthy: int = 0
    unique: int = 0


class Hits(Answer, frozen=True, kw_only=True):
    """Blobs that clients asked for, by where they came from, since the node started."""

    local: int = 0
    peer: int = 0
    origin: int = 0
    nobody: int = 0
    failed: int = 0


class ExchangeStats(Answer, frozen=True, kw_only=True):
    """``blobs`` and ``stored`` (bytes): what this node keeps that no vault owns; ``cached``: the part that may go.

    ``saved``: bytes given to clients that did not come from the origin; ``since``: when the node started.
    ``follows``: names that it follows; ``followed``: versions taken; ``follow_conflicts``: names that a person must
    decide on.
    """

    nodes: Tally
    manifests: Tally
    blobs: Count
    stored: Count
    cached: Count
    cache_limit: Count
    hits: Hits
    saved: Count
    from_peers: Count
    from_origin: Count
    origin: str = ""
    origin_reason: str = ""
    pulling: Count = 0
    since: float
    follows: Count = 0
    followed: Count = 0
    follow_conflicts: list[str] = field(default_factory=list)
