"""Bodies of entries: sealed in frames while they stream, small ones within the row, others in files.

A body, in a file as in a row: ``header (24 bytes): magic "hfbody", version, 0, entry id 16`` and frames of 1 MiB of
plaintext, each with its tag of 16 bytes, the last one shorter or empty (STREAM, Hoang et al., CRYPTO 2015): nonce =
frame number (11 bytes, big-endian) and 1 for the last frame, 0 for others; the header is the AAD. So no frame can be
left out, moved or cut off unseen. Packs are sealed already and stored as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Checker, Digest, pieces
from holdfast.errors import Corrupt, TooLarge, Unavailable
from holdfast.files import Files
from holdfast.outbox.queue.space import Space
from holdfast.pool import Pool
from holdfast.stores.disk.health import DiskHealth

MAGIC = b"hfbody"
VERSION = 1
HEADER_BYTES = 24
FRAME_BYTES = 1 << 20
FRAME_TAG_BYTES = 16
INLINE_BYTES_MAX = 16 << 10
"""Bodies of up to so many bytes are in the row: one sync instead of three."""

assert PIECE_BYTES_MAX == FRAME_BYTES, "a frame is handed on as one piece"


def stored_size(size: int) -> int:
    """Bytes on disk of a body of ``size`` bytes."""
    frames = max(1, -(-size // FRAME_BYTES))
    return HEADER_BYTES + size + frames * FRAME_TAG_BYTES


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A durable body that no row names yet. ``inline`` is None when it is in a file."""

    size: int
    digest: Digest
    inline: bytes | None


def _header(entry: bytes) -> bytes:
    return MAGIC + bytes((VERSION, 0)) + entry


def _sealed(cipher: AESGCM, header: bytes, number: int, last: bool, frame: Buffer) -> bytes:
    return cipher.encrypt(number.to_bytes(11) + bytes((last,)), frame, header)


def _opened(cipher: AESGCM, header: bytes, number: int, last: bool, sealed: Buffer) -> bytes:
    try:
        return cipher.decrypt(number.to_bytes(11) + bytes((last,)), sealed, header)
    except (InvalidTag, ValueError) as error:
        raise Corrupt("a body in the outbox fails its check: the disk changed it") from error


class Bodies:
    """The files of one outbox, in ``directory``. Use from one event loop."""

    def __init__(self, directory: Path, *, files: Files, pool: Pool, health: DiskHealth, space: Space) -> None:
        self.directory = directory
        self._files = files
        self._pool = pool
        self._health = health
        self._space = space

    async def store(
        self,
        name: str,
        entry: bytes,
        cipher: AESGCM,
        source: AsyncIterable[Buffer],
        *,
        size_max: int,
        critical: bool,
        inline_max: int = INLINE_BYTES_MAX,
    ) -> StoredBody:
        """Seals what ``source`` gives and returns once it is durable (what is inline is with its row); TooLarge,
        NoSpace, StorePoisoned.

        Nothing stays behind when it fails. At most two frames are in memory.
        """
        state, held, size, number = hashlib.sha256(), bytearray(), 0, 0
        header = _header(entry)
        writer: _Writer | None = None
        reserved = 0
        try:
            async for piece in source:
                view = memoryview(piece)
                size += len(view)
                if size > size_max:
                    raise TooLarge(f"a body in the outbox has at most {size_max} bytes")
                await self._space.reserve(len(view), critical=critical)
                reserved += len(view)
                for start in range(0, len(view), FRAME_BYTES):
                    held += view[start : start + FRAME_BYTES]
                    while len(held) > FRAME_BYTES:
                        if writer is None:
                            writer = _Writer(self._files, self.directory / name, self._health)
                            await self._pool.run(writer.create, header)
                        frame = held[:FRAME_BYTES]
                        await self._pool.run(writer.add, cipher, header, number, False, frame, state)
                        del held[:FRAME_BYTES]
                        number += 1
            if writer is None and size <= inline_max:
                return self.inline(entry, cipher, held)
            if writer is None:
                writer = _Writer(self._files, self.directory / name, self._health)
                await self._pool.run(writer.create, header)
            await self._pool.run(writer.add, cipher, header, number, True, held, state)
            await self._pool.run(writer.finish)
            return StoredBody(size, Digest(state.digest()), None)
        except BaseException:
            if writer is not None:
                await self._pool.run(writer.abandon)
            raise
        finally:
            self._space.release(reserved)

    def inline(self, entry: bytes, cipher: AESGCM, body: Buffer) -> StoredBody:
        """A body of at most ``INLINE_BYTES_MAX``, sealed for its row; blocks for microseconds."""
        header, data = _header(entry), bytes(body)
        digest = Digest(hashlib.sha256(data).digest())
        return StoredBody(len(data), digest, header + _sealed(cipher, header, 0, True, data))

    async def store_raw(self, name: str, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> None:
        """A pack, as it is; returns once it is durable. DigestMismatch, NoSpace, StorePoisoned."""
        checker = Checker(digest, size)
        writer = _Writer(self._files, self.directory / name, self._health)
        await self._space.reserve(size, critical=True)
        try:
            await self._pool.run(writer.create, b"")
            async for piece in source:
                await self._pool.run(writer.add_raw, piece, checker)
            await self._pool.run(checker.finish)
            await self._pool.run(writer.finish)
        except BaseException:
            await self._pool.run(writer.abandon)
            raise
        finally:
            self._space.release(size)

    async def read(
        self, name: str, entry: bytes, cipher: AESGCM, size: int, inline: bytes | None
    ) -> AsyncIterator[Buffer]:
        """The plaintext in pieces of at most 1 MiB, each checked before it is handed on; Corrupt."""
        header = _header(entry)
        frames = max(1, -(-size // FRAME_BYTES))
        if inline is not None:
            if inline[:HEADER_BYTES] != header or len(inline) != stored_size(size):
                raise Corrupt("a body in the outbox fails its check: the disk changed it")
            opened = _opened(cipher, header, 0, True, inline[HEADER_BYTES:])
            async for piece in pieces(opened):
                yield piece
            return
        for number in range(frames):
            frame = await self._pool.run(self._frame, name, header, cipher, number, frames, size)
            if frame:
                yield frame

    def _frame(self, name: str, header: bytes, cipher: AESGCM, number: int, frames: int, size: int) -> bytes:
        last = number == frames - 1
        length = size - number * FRAME_BYTES if last else FRAME_BYTES
        offset = HEADER_BYTES + number * (FRAME_BYTES + FRAME_TAG_BYTES)
        if number == 0 and self._read(name, 0, HEADER_BYTES) != header:
            raise Corrupt(f"the body {name} in the outbox fails its check: its header is another one")
        sealed = self._read(name, offset, length + FRAME_TAG_BYTES)
        if last and self._files.size(self.directory / name) != stored_size(size):
            raise Corrupt(f"the body {name} in the outbox has another length than it was written with")
        return _opened(cipher, header, number, last, sealed)

    async def read_raw(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a pack; Corrupt if it is shorter or gone."""
        data = await self._pool.run(self._read, name, start, stop - start)
        if len(data) != stop - start:
            raise Corrupt(f"the pack {name} in the outbox was cut off")
        return data

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            descriptor = self._files.open(self.directory / name)
        except FileNotFoundError as error:
            raise Corrupt(f"the body {name} in the outbox is gone") from error
        except OSError as error:
            raise Unavailable(f"the body {name} in the outbox cannot be read: {error.strerror or error}") from error
        try:
            return self._files.read(descriptor, size, offset)
        except OSError as error:
            raise Corrupt(f"the body {name} in the outbox cannot be read: {error.strerror or error}") from error
        finally:
            self._files.close(descriptor)

    async def remove(self, names: list[str]) -> None:
        """Files that no row names any more; what cannot be removed now is an orphan and goes at a later start."""

        def unlink() -> None:
            for name in names:
                with contextlib.suppress(OSError):
                    self._files.unlink(self.directory / name)

        if names:
            await self._pool.run(unlink)


class _Writer:
    """One new file; all methods block."""

    def __init__(self, files: Files, path: Path, health: DiskHealth) -> None:
        self._files = files
        self._path = path
        self._health = health
        self._descriptor: int | None = None

    def create(self, header: bytes) -> None:
        self._health.check()
        with self._health.changing("making a body"):
            self._descriptor = self._files.create(self._path)
            if header:
                self._files.write(self._descriptor, header)

    def add(self, cipher: AESGCM, header: bytes, number: int, last: bool, frame: Buffer, state: hashlib._Hash) -> None:
        assert self._descriptor is not None, "create() first"
        state.update(frame)
        with self._health.changing("writing a body"):
            self._files.write(self._descriptor, _sealed(cipher, header, number, last, frame))

    def add_raw(self, piece: Buffer, checker: Checker) -> None:
        assert self._descriptor is not None, "create() first"
        checker.update(piece)
        with self._health.changing("writing a pack"):
            self._files.write(self._descriptor, piece)

    def finish(self) -> None:
        """The bytes, and then the name, are on the disk."""
        assert self._descriptor is not None, "create() first"
        with self._health.syncing("syncing a body", disposable=True):
            self._files.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, None
        with self._health.changing("closing a body"):
            self._files.close(descriptor)
        with self._health.syncing("syncing the directory of the bodies"):
            self._files.sync_directory(self._path.parent)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                self._files.close(descriptor)
        with contextlib.suppress(OSError):
            self._files.unlink(self._path)
