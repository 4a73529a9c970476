"""What a node asks of the store that it serves, beyond the five verbs: who it is, its space, and a second look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from holdfast.blob import Buffer, Digest
from holdfast.stores.disk.space import StoreSpace
from holdfast.stores.disk.store import Verdict
from holdfast.stores.protocol import OpenFile, Store, Stored


class NodeStore(Store, Protocol):
    """A store under a node: ``stores.disk.DiskStore``, or a bucket (``node.bucket``)."""

    @property
    def alone(self) -> bool:
        """Whether nobody but this node puts and deletes there."""
        ...

    @property
    def id(self) -> str:
        """32 hex digits that lie in the store itself."""
        ...

    @property
    def poisoned(self) -> str | None:
        """Why it only reads, None while it also writes."""
        ...

    def space(self) -> StoreSpace: ...

    async def discard(self, digests: Sequence[Digest]) -> None:
        """As ``delete``, but for good: for what can be had again."""
        ...

    async def verify(self, digest: Digest) -> Verdict:
        """Re-reads and hashes; what is wrong is quarantined. NotFound if it is not there."""
        ...


@runtime_checkable
class NodeFiles(Protocol):
    """A store whose blobs are files here, which a server sends without reading them."""

    async def open_file(self, digest: Digest, size: int | None = None) -> OpenFile:
        """NotFound if it is not there; with ``size``, Corrupt if the file has another one."""
        ...


@runtime_checkable
class SmallReads(Protocol):
    """A store that reads a few bytes in one visit to a thread."""

    async def read_part(self, digest: Digest, start: int, stop: int, *, whole: bool = False) -> bytes:
        """NotFound; Corrupt if it ends before ``stop``, or if with ``whole`` they do not have its digest."""
        ...


@runtime_checkable
class SmallPuts(Protocol):
    """A store that keeps a small blob in one visit to a thread, in which its caller may do something, too."""

    def fits(self, size: int) -> bool:
        """Whether there is room for ``size`` bytes, as last seen. Never blocks."""
        ...

    async def put_small(self, digest: Digest, data: Buffer, then: Callable[[], None]) -> Stored:
        """As ``put``, of a body that has come whole; ``then`` is called there once the blob is durable."""
        ...
