"""What a store owes: five verbs over blobs, and its traits.

A store keeps blobs by digest. Implementers write this protocol; conveniences are functions over it. All methods may be
called at once from one event loop. Errors are those of ``holdfast.errors``: NotFound for a blob that is not there,
Unavailable (or a subclass) for a store that cannot answer now, never a library's own exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from holdfast.blob import Buffer, Digest, collect, pieces
from holdfast.errors import BadRequest, RangeInvalid

LIST_LIMIT_MAX = 1000


class Range(NamedTuple):
    """Bytes ``start`` up to, not including, ``stop``; ``stop`` None means to the end."""

    start: int
    stop: int | None

    def within(self, size: int) -> tuple[int, int]:
        """(start, stop) in a blob of ``size`` bytes, cut at its end; RangeInvalid if nothing is left."""
        stop = size if self.stop is None else min(self.stop, size)
        if not 0 <= self.start < stop:
            raise RangeInvalid(f"bytes {self.start} to {self.stop} of a blob of {size} bytes")
        return self.start, stop


class Info(NamedTuple):
    """One blob that a store holds; ``size`` in bytes."""

    digest: Digest
    size: int


class Stored(NamedTuple):
    """The answer of a put: the bytes are kept as the store's traits say. ``new`` is False if they were there."""

    digest: Digest
    size: int
    new: bool


@dataclass(frozen=True)
class Traits:
    """What callers may rely on."""

    durable: bool  # an acknowledged put survives a power cut
    blob_bytes_max: int | None  # None: no limit of its own
    checked: bool  # whole reads were compared with their digest before their last piece


def check_limit(limit: int) -> None:
    """BadRequest unless ``limit`` may be asked of ``list``."""
    if not 1 <= limit <= LIST_LIMIT_MAX:
        raise BadRequest(f"a page has 1 to {LIST_LIMIT_MAX} entries, not {limit}")


class Body(Protocol):
    """Bytes on their way. ``size``: how many this body yields; ``total``: how many the blob has."""

    size: int
    total: int

    def __aiter__(self) -> AsyncIterator[Buffer]:
        """Buffers of 1 byte to 1 MiB, in order, ``size`` bytes in all. A buffer is only valid until the next."""
        ...


class Store(Protocol):
    """Blobs by digest."""

    @property
    def traits(self) -> Traits: ...

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        """Keeps the bytes of ``source``; returns when they are kept as ``traits`` say.

        Atomic: no reader ever sees a part. Idempotent: bytes already there are not written again (``new`` False), nor
        need ``source`` then be read. Wrong length or digest: DigestMismatch and nothing is kept. NoSpace when full.
        """
        ...

    def get(self, digest: Digest, range_: Range | None = None) -> AbstractAsyncContextManager[Body]:
        """The blob or a range of it; NotFound on entering. A failure in the middle raises, it never ends early."""
        ...

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        """In the order asked, one for each, duplicates too."""
        ...

    async def delete(self, digests: Sequence[Digest]) -> None:
        """Afterwards they are not there; missing ones are fine. Readers that have begun may end or fail."""
        ...

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        """Up to ``limit`` (1 to 1000) blobs with a digest above ``after``, ascending; fewer only at the end."""
        ...

    async def close(self) -> None:
        """Ends what is under way. May be called twice."""
        ...


class OpenFile(NamedTuple):
    """A blob as a file, for sendfile; whoever asked closes ``file``."""

    file: BinaryIO
    size: int


@runtime_checkable
class FileSource(Protocol):
    """A store whose blobs are files: the second, optional protocol."""

    async def open_file(self, digest: Digest) -> OpenFile:
        """NotFound if it is not there."""
        ...


async def put_bytes(store: Store, data: Buffer) -> Stored:
    """Stores ``data`` under its digest."""
    return await store.put(Digest.of(data), len(data), pieces(data))


async def get_bytes(store: Store, digest: Digest, range_: Range | None = None, *, size_max: int = 64 << 20) -> bytes:
    """A blob or range as one bytes object of at most ``size_max`` bytes."""
    async with store.get(digest, range_) as body:
        return await collect(body, size_max)
