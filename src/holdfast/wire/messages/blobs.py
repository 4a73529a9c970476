"""Blobs on a node, its inventory, and what it says of itself."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.errors import BadRequest
from holdfast.wire.messages.form import HAS_DIGESTS_MAX, PAGE_MAX, Answer, Request


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
    sequence: Count
    digest: Digest
    size: Count
    vault: Id | None
    here: bool


class InventoryPage(Answer, frozen=True, kw_only=True):
    """Ascending by sequence, under prefixes by digest. ``sequence``, ``count`` and ``root`` are of all that is here.

    ``prefixes``: the 256 prefix roots (``inventory.Roots``), with the first page of all (``after`` 0, no prefix).
    ``inner``: the 256 inner roots of each prefix that was asked for, one after the other.
    """

    entries: list[InventoryEntry]
    sequence: Count
    count: Count
    root: bytes
    prefixes: bytes = b""
    inner: bytes = b""


class NodeSpace(Answer, frozen=True, kw_only=True):
    """Where a node's bytes are: ``used``, ``cached``, ``trash`` and ``reclaimable`` together are what its store holds.

    ``used``: kept for vaults and manifests; ``cached``: goes when room is needed; ``trash``: can be restored for a
    while; ``reclaimable``: damaged copies set aside, which nobody needs. ``incoming``: held for puts under way;
    ``reserve``: of the disk, left to others; ``free``: how large a put may be now.
    """

    used: Count
    cached: Count
    trash: Count
    reclaimable: Count
    incoming: Count
    reserve: Count
    free: Count

    @property
    def stored(self) -> int:
        """Bytes of all files in the store."""
        return self.used + self.cached + self.trash + self.reclaimable


class NodeOverview(Answer, frozen=True, kw_only=True):
    """``GET /v1/info``: no paths. ``capacity``: what the store may hold, or could if nobody else wrote to its disk.

    ``revoked`` (serials) and ``position`` (its signed word for ``epoch`` and ``commit``) only for the coordinator, who
    may have to learn them again.
    """

    id: Id
    name: str
    version: str
    store: bytes
    state: str
    capacity: Count
    space: NodeSpace
    blobs: Count
    sequence: Count
    epoch: Count
    commit: Count
    position: bytes = b""
    outbox_waiting: int = 0
    outbox_conflicts: int = 0
    domain: str = ""
    always_on: bool = False
    revocations: Count = 0
    revoked: list[Count] = []


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
