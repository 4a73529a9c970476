"""One connection of an HTTP server: HTTP/1.1 (RFC 9112), one request at a time, answers in the order of the requests.

A client that sends its header byte by byte, or nothing at all, holds a connection for at most ``HEADER_S``
(docs/interfaces.md, Limits). What comes behind a request waits, within bounds, until that is answered. A handler whose
client goes is not cancelled: it hears of it when it reads or answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import BinaryIO, Protocol

from holdfast import errors, logs
from holdfast.blob import PIECE_BYTES_MAX, Buffer
from holdfast.wire import messages as m
from holdfast.wire.channel import BODY_BYTES_PER_S_MIN, SCRATCH_BYTES, Channel, Gone
from holdfast.wire.heads import HEAD_BYTES_MAX, BadHead, encode_lines
from holdfast.wire.request_head import RequestHead, is_hopeless, parse_request
from holdfast.wire.send_file import send_file

HEADER_S = 10.0
IDLE_S = 75.0
LINGER_S = 2.0
"""For a client that still sends what nobody wants, so that it hears the answer and no reset."""
LEFT_BYTES_MAX = 64 << 10
"""Of a body that no handler wanted, read so that the connection may go on."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FIRST_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}
_log = logs.get_logger(__name__)


class Owner(Protocol):
    """What a connection asks of its server."""

    scratch: memoryview
    closing: bool

    def admit(self, connection: Connection) -> bool: ...

    def leave(self, connection: Connection) -> None: ...

    @property
    def answer(self) -> Callable[[Connection, RequestHead], Awaitable[None]]:
        """Sends exactly one answer; Gone."""
        ...


class Connection(Channel):
    """Made by a ``Server``. While a request is under way its task reads the body, then answers, once."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.scratch)
        self._owner = owner
        self._due: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._heading = True  # a header is awaited, and since when is not to be forgotten
        self._left = 0  # bytes of the body that nobody has read yet
        self._asks = False  # whether the client waits until it may send the body
        self._last = False
        self.address = ""
        self.task: asyncio.Task[None] | None = None
        """What answers the request under way."""
        self.answered = False
        """Has an answer to it begun?"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if self._owner.admit(self):
            self._within(HEADER_S)
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._due is not None:
            self._due.cancel()
        self._owner.leave(self)

    # from request to request

    def received(self) -> None:
        if self.task is None:
            head = self._next()
            if head is not None:
                self.task = self._loop.create_task(self._work(head))

    def _next(self) -> RequestHead | None:
        """The next header; None while it is not whole, and after the refusal of what is none."""
        if not self._held or self._discards or self.closing:
            return None
        end = self._held.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        try:
            if end >= 0:
                self._heading = False
                return parse_request(self._take(end + 4)[:-4])
            if len(self._held) >= HEAD_BYTES_MAX or is_hopeless(self._held):
                raise BadHead("a header that is too long, or none")
        except BadHead as error:
            self._refuse(str(error))
            return None
        if not self._heading:
            self._heading = True
            self._within(HEADER_S)
        return None

    async def _work(self, head: RequestHead) -> None:
        """Answers one request, and those that are there already when it is done."""
        following: RequestHead | None = head
        try:
            while following is not None:
                self._left, self._asks = following.size or 0, following.asks
                self._last, self.answered = following.coded or not following.keep, False
                await self._owner.answer(self, following)
                if self._last:
                    self._end(following.coded or self._left > len(self._held))
                    return
                if self._left and not await self._read_over():
                    self.close()
                    return
                if self._full:
                    await self._flushed()
                following = self._next()
        except Gone:
            self.abort()
        except Exception as error:
            _log.error("connection_failed", exc_info=error)
            self.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            self.task = None
        if not (self._heading or self._discards or self.closing):
            self._within(IDLE_S)

    async def _read_over(self) -> bool:
        """Reads what the handler left of the body; whether another request may follow."""
        try:
            async with asyncio.timeout(LINGER_S):
                async for _ in self.body():
                    pass
        except (errors.HoldfastError, TimeoutError):
            return False
        return True

    def _end(self, sends: bool) -> None:
        """After the last answer. A client that still ``sends`` hears it before the connection goes."""
        if not sends or self.closing:
            self.close()
            return
        self._discard()
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # it has been reset already, as the system says here first
                self._transport.write_eof()
        if self._due is not None:
            self._due.cancel()
        self._due = self._loop.call_later(LINGER_S, self.abort)

    def _refuse(self, why: str) -> None:
        """The answer to what is no HTTP. It repeats nothing of what came, and nothing is logged."""
        title = errors.BadRequest.__name__
        problem = m.Problem(type="bad-request", title=title, status=400, detail=f"this is no HTTP/1.1 request: {why}")
        body = m.encode(problem)
        fields = {
            "server": "holdfast",
            "content-type": "application/problem+json",
            "x-content-type-options": "nosniff",
            "content-length": str(len(body)),
            "connection": "close",
        }
        self._transport.write(encode_lines(_FIRST_LINES[400], fields) + body)
        self._end(True)

    def _within(self, seconds: float) -> None:
        """Unless a request comes within this time the connection ends. One timer serves many requests."""
        self._due_at = self._loop.time() + seconds
        if self._due is not None and self._due.when() > self._due_at:
            self._due.cancel()
            self._due = None
        if self._due is None:
            self._due = self._loop.call_at(self._due_at, self._late, self._due_at)

    def _late(self, at: float) -> None:
        self._due = None
        if self.task is not None:
            return
        if self._due_at > at:
            self._due = self._loop.call_at(self._due_at, self._late, self._due_at)
        else:
            self.close()

    # the body of the request

    async def body(self, bytes_per_s_min: float = BODY_BYTES_PER_S_MIN) -> AsyncIterator[Buffer]:
        """What is left of the body, else BadRequest; asks for it if the client waits to be asked.

        Buffers of at most 1 MiB, each of which is only valid until the next. A body slower than ``bytes_per_s_min``
        after its first 10 seconds, or silent for 30, is TimedOut.
        """
        if self._asks:
            self._asks = False
            if self._left and not self._held and not self.closing:
                self._transport.write(_CONTINUE)
        began, seen, memory = self._loop.time(), 0, memoryview(b"")
        while self._left:
            if self._held:
                piece: Buffer = self._take(self._left)
                self._left -= len(piece)
            else:
                # no more memory than twice what has come: many may announce a body and send none
                size = min(self._left, max(SCRATCH_BYTES, seen), PIECE_BYTES_MAX)
                if size > len(memory):
                    memory = memoryview(bytearray(size))
                piece = memory[:size]
                try:
                    await self._receive(piece, seen, began, bytes_per_s_min)
                finally:
                    self._left -= self._sunk
            seen += len(piece)
            yield piece

    # the answer

    async def send(self, status: int, fields: Mapping[str, str], body: Buffer = b"") -> None:
        """A whole answer, at once. ``fields``: lower-case, with a Content-Length unless none is due; Gone."""
        head = self._head(status, fields)
        self._write(b"".join((head, body)) if body else head)

    async def send_pieces(self, status: int, fields: Mapping[str, str], pieces: AsyncIterator[Buffer]) -> None:
        """An answer whose body comes in pieces; Gone, what ``pieces`` raise, Corrupt for more or less than said."""
        left = int(fields["content-length"])
        self._write(self._head(status, fields))
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            self._write(piece)
            await self._flushed()
        if left:
            raise errors.Corrupt("the body has not the length that was announced")

    async def send_file(self, status: int, fields: Mapping[str, str], file: BinaryIO, start: int, stop: int) -> None:
        """An answer whose body is a part of ``file``, without copying it; Gone, also if the file is too short."""
        self._write(self._head(status, fields))
        await self._flushed()
        try:
            await send_file(self._transport, file, start, stop)
        except ConnectionError as error:
            raise Gone("the client went away, or reads too slowly") from error
        if self._transport.get_write_buffer_size():
            self.pause_writing()  # over TLS asyncio sends for us, and told itself and not us that its buffer is full

    def _head(self, status: int, fields: Mapping[str, str]) -> bytes:
        self.answered = True
        unwanted = self._left > (0 if self._asks else LEFT_BYTES_MAX)
        if self._last or self._owner.closing or unwanted:
            self._last = True
            fields = {**fields, "connection": "close"}
        return encode_lines(_FIRST_LINES[status], fields)
