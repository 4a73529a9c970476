"""The chunks of one blob, read in order with bounded read-ahead.

Chunks come by direct batch get: any server that has them answers, without a consumer that the cluster must agree on.
A batch that stops coming, or has a gap because a connection broke, is asked for again from the next chunk; what the
server that answers does not have yet, the leader is asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

from nats.aio.msg import Msg

from holdfast.blob import PIECE_BYTES_MAX, Buffer
from holdfast.clock import Clock
from holdfast.errors import Corrupt, NotFound, Unavailable
from holdfast.stores.nats.layout import Bucket, Meta, chunk_index
from holdfast.stores.nats.link import PATIENCE_S, NatsLink, StoredMessage

BATCH_BYTES = 8 << 20
"""Asked for at once; the next batch is asked for when half of it is read, so up to 1.5 times this waits in memory."""
BATCH_MESSAGES = 64
STALL_S = 2.0
"""Without a message for so long, the batch is asked for again."""


class ChunkReader:
    """The messages of one subject, as far as one server has them."""

    def __init__(self, link: NatsLink, bucket: Bucket, subject: str, sequence: int, wanted: int) -> None:
        """From ``sequence`` on; about ``wanted`` of them will be read, so that no more are asked for."""
        self._link = link
        self._bucket = bucket
        self._subject = subject
        self._next = sequence
        self._last = 0  # sequence of the last message taken
        self._wanted = wanted
        self._ready: deque[StoredMessage] = deque()
        self._ready_bytes = 0
        self._arrived = asyncio.Event()
        self._asking = False  # a batch is under way
        self._broken = False  # it has a gap
        self._ended = False  # that server has no more

    async def messages(self, clock: Clock) -> AsyncGenerator[StoredMessage, None]:
        """In order. Unavailable when nothing comes for ``PATIENCE_S``. Close it when leaving early."""
        quiet_since = clock.monotonic()
        while not self._ended or self._ready:
            self._asking = self._broken = False  # a new inbox: the old batch's rest must not mix with the new one
            async with self._link.answers(self._take) as inbox:
                while not self._broken:
                    await self._ask_ahead(inbox)
                    if self._ready:
                        message = self._ready.popleft()
                        self._ready_bytes -= len(message.data)
                        yield message
                        quiet_since = clock.monotonic()
                    elif self._ended:
                        return
                    elif not await self._something_arrives():
                        if clock.monotonic() - quiet_since > PATIENCE_S:
                            raise Unavailable("the bucket stopped sending a blob that is being read")
                        break

    async def _something_arrives(self) -> bool:
        self._arrived.clear()
        try:
            await asyncio.wait_for(self._arrived.wait(), STALL_S)
        except TimeoutError:
            return False
        return True

    async def _ask_ahead(self, inbox: str) -> None:
        if self._asking or self._ended or self._ready_bytes > BATCH_BYTES // 2 or (self._ready and self._wanted < 1):
            return
        self._asking = True
        selection = {
            "seq": self._next,
            "next_by_subj": self._subject,
            "batch": min(BATCH_MESSAGES, max(self._wanted, 1)),
            "max_bytes": BATCH_BYTES,
        }
        await self._link.send(f"DIRECT.GET.{self._bucket.stream}", selection, inbox)

    async def _take(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            before = int(headers.get("Nats-Last-Sequence", 0))
            if self._broken or before not in (0, self._last):
                self._broken = True
            else:
                self._last = int(headers["Nats-Sequence"])
                self._next = self._last + 1
                self._wanted -= 1
                self._ready.append(StoredMessage(self._last, headers, message.data))
                self._ready_bytes += len(message.data)
                if (
                    "Nats-Num-Pending" not in headers
                ):  # a server before 2.11 in a mixed cluster: one message for each request
                    self._asking = False
        else:  # 204: the end of a batch; 404, 503 and others: this way gives no more
            self._asking = False
            self._ended = status != "204" or headers.get("Nats-Num-Pending") == "0"
        self._arrived.set()


class _Piece(NamedTuple):
    number: int | None  # its index among the chunks, if it says so
    data: bytes


class NatsBody:
    """The bytes ``start`` to ``stop`` of a blob."""

    def __init__(
        self,
        link: NatsLink,
        bucket: Bucket,
        meta: Meta,
        start: int,
        stop: int,
        *,
        clock: Clock,
        still_there: Callable[[], Awaitable[bool]],
    ) -> None:
        """``still_there`` is asked when chunks are missing: was the blob deleted meanwhile?"""
        self.size = stop - start
        self.total = meta.size
        self._link = link
        self._bucket = bucket
        self._meta = meta
        self._start = start
        self._stop = stop
        self._clock = clock
        self._still_there = still_there

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        if not self.size:
            return
        position, sequence = self._meta.start_at(self._start)
        index = position // self._meta.chunk_bytes if position else 0
        hinted = sequence > 1  # and not confirmed by a chunk that lies there
        while True:
            problem = f"chunk {index} of {self._meta.chunks} is missing"
            async with aclosing(self._pieces(position, sequence)) as pieces:
                async for piece in pieces:
                    if piece.number is not None and piece.number != index:
                        problem = f"chunk {piece.number} lies where chunk {index} of {self._meta.chunks} belongs"
                        break
                    hinted = False
                    view = memoryview(piece.data)
                    low, high = max(self._start - position, 0), min(self._stop - position, len(view))
                    for offset in range(low, high, PIECE_BYTES_MAX):
                        yield view[offset : min(offset + PIECE_BYTES_MAX, high)]
                    position += len(view)
                    index += 1
                    problem = f"chunk {index} of {self._meta.chunks} is missing"
                    if position >= self._stop:
                        return
            if not hinted:
                await self._missing(problem)
            position, sequence, index, hinted = 0, 1, 0, False  # the remembered sequence was wrong: from the start

    async def _pieces(self, position: int, sequence: int) -> AsyncGenerator[_Piece, None]:
        """Chunks from ``sequence`` on, wherever they are to be had."""
        nuid, subject = self._meta.nuid, self._bucket.chunks(self._meta.nuid)
        while True:
            wanted = -(-(self._stop - position) // self._meta.chunk_bytes) if self._meta.chunk_bytes else BATCH_MESSAGES
            reader = ChunkReader(self._link, self._bucket, subject, sequence, wanted)
            async with aclosing(reader.messages(self._clock)) as messages:
                async for message in messages:
                    sequence = message.sequence + 1
                    position += len(message.data)
                    yield _Piece(chunk_index(nuid, message.headers), message.data)
            found = await self._link.stored(self._bucket.stream, {"seq": sequence, "next_by_subj": subject})
            if found is None:
                return
            sequence = found.sequence + 1
            position += len(found.data)
            yield _Piece(chunk_index(nuid, found.headers), found.data)

    async def _missing(self, what: str) -> None:
        if not await self._still_there():
            raise NotFound(f"{self._meta.digest} was deleted while it was read")
        raise Corrupt(f"{self._meta.digest} is damaged in its bucket: {what}")
