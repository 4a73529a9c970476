"""Blobs and their digests: the SHA-256 of exactly these bytes (docs/formats.md, Digest)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeAlias

from holdfast.errors import BadRequest, DigestMismatch

Buffer: TypeAlias = bytes | bytearray | memoryview

DIGEST_BYTES = 32
PIECE_BYTES_MAX = 1 << 20
"""The largest buffer that streams hand on: bounded memory, and large enough to be worth a thread."""

_TEXT = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Digest(bytes):
    """32 bytes; ``str()`` gives the 64 lower-case hex digits."""

    __slots__ = ()

    def __new__(cls, value: bytes | memoryview) -> Digest:
        if len(value) != DIGEST_BYTES:
            raise BadRequest(f"a digest has {DIGEST_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """From exactly 64 lower-case hex digits; everything else is a BadRequest."""
        if not isinstance(text, str) or _TEXT.fullmatch(text) is None:
            raise BadRequest(f"not a digest (64 lower-case hex digits): {text[:80]!r}")
        return cls(bytes.fromhex(text))

    @classmethod
    def of(cls, data: Buffer) -> Digest:
        """The digest of ``data``; blocks about 0.5 ms per MiB, so use a pool for more."""
        return cls(hashlib.sha256(data).digest())

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.hex()[:12]}…)"


class Checker:
    """Hashes what passes and compares length and digest at the end; feed it from one thread at a time."""

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self.seen = 0
        self._hash = hashlib.sha256()

    def update(self, piece: Buffer) -> None:
        """Raises DigestMismatch as soon as there are more bytes than ``size``."""
        self.seen += len(piece)
        if self.seen > self.size:
            raise DigestMismatch(f"{self.digest}: more than the {self.size} bytes announced")
        self._hash.update(piece)

    def finish(self) -> None:
        """Raises DigestMismatch unless exactly the right bytes have passed."""
        if self.seen != self.size:
            raise DigestMismatch(f"{self.digest}: {self.seen} bytes came, {self.size} were announced")
        found = Digest(self._hash.digest())
        if found != self.digest:
            raise DigestMismatch(f"the body of {self.digest} is {found}")


async def pieces(data: Buffer) -> AsyncIterator[Buffer]:
    """``data`` as a source of buffers of at most 1 MiB, without copying."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES_MAX):
        yield view[start : start + PIECE_BYTES_MAX]


async def bounded(source: AsyncIterable[Buffer]) -> AsyncIterator[Buffer]:
    """The same bytes in buffers of at most 1 MiB, as stores take them."""
    async for piece in source:
        if len(piece) <= PIECE_BYTES_MAX:
            yield piece
            continue
        async for part in pieces(piece):
            yield part


async def collect(source: AsyncIterable[Buffer], size_max: int) -> bytes:
    """All of a source that must not exceed ``size_max`` bytes (DigestMismatch if it does)."""
    parts = bytearray()
    async for piece in source:
        if len(parts) + len(piece) > size_max:
            raise DigestMismatch(f"more than {size_max} bytes")
        parts += piece
    return bytes(parts)
