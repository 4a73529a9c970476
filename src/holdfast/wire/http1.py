"""One connection of the HTTP client: HTTP/1.1 (RFC 9112), one exchange at a time, bodies received where they shall lie.

Written for this project because a library's client cost more than all that a small request makes the two machines do
(docs/design.md, Libraries). It takes only what our servers send: answers with a Content-Length, no transfer codings.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.blob import Buffer
from holdfast.wire.heads import HEAD_BYTES_MAX, LENGTH, BadHead, encode_lines, parse_lines

SLICE_BYTES = 256 << 10

Body: TypeAlias = "bytes | Callable[[], AsyncIterable[Buffer]] | None"
"""What a request carries. A callable is asked for the same bytes again when they have to be sent again."""

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")


class BadAnswer(ConnectionError):
    """What came is not an answer as this client takes it."""


class Ended(ConnectionError):
    """The other side closed the connection. ``untouched``: before it said anything."""

    def __init__(self, text: str, *, untouched: bool) -> None:
        super().__init__(text)
        self.untouched = untouched


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and fields of an answer. Field names are lower-case; of a repeated field the values are joined."""

    status: int
    headers: Mapping[str, str]
    keep: bool
    """Whether the connection may be used again after the body."""


def parse_head(data: bytes) -> Head:
    """The head of an answer, without the empty line that ends it; BadAnswer."""
    try:
        first, headers = parse_lines(data)
    except BadHead as error:
        raise BadAnswer(str(error)) from error
    found = _STATUS.fullmatch(first)
    if found is None:
        raise BadAnswer("no HTTP/1.1 status line")
    keep = found[1] == "1" and "close" not in headers.get("connection", "").lower()
    return Head(int(found[2]), headers, keep)


def body_bytes(method: str, head: Head) -> int:
    """How many bytes follow this head (RFC 9112, section 6.3); BadAnswer if it does not say."""
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if "transfer-encoding" in head.headers:
        raise BadAnswer("an answer in a transfer coding")
    length = head.headers.get("content-length", "")
    if LENGTH.fullmatch(length) is None:
        raise BadAnswer("an answer without its length")
    return int(length)


def encode_head(method: str, where: str, headers: Mapping[str, str]) -> bytes:
    """A request's head. ValueError for a line break or anything else than ASCII in it."""
    return encode_lines(f"{method} {where} HTTP/1.1", headers)


class Http1Connection(asyncio.BufferedProtocol):
    """Made by ``Connections``. One task at a time: ``exchange``, then the body, then ``finished`` says what it was.

    Every wait ends with TimeoutError after ``stall_s`` seconds in which nothing moved.
    """

    def __init__(self, on_lost: Callable[[Http1Connection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._bytes = bytearray(HEAD_BYTES_MAX)  # heads, and what comes when nobody has said where to
        self._memory = memoryview(self._bytes)
        self._start = self._stop = 0
        self._sink: memoryview | None = None
        self._sunk = 0
        self._waiter: asyncio.Future[None] | None = None
        self._moved = 0.0
        self._full = False
        self._paused = False
        self._lost: BaseException | None = None
        self._clean = True
        self.left = 0
        """Bytes of the answer's body that were not read yet."""

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("the connection was closed")
        self._wake()
        self._on_lost(self)

    def eof_received(self) -> None:
        """Nobody who has ended sends an answer; asyncio closes the connection."""

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._sink is not None:
            return self._sink[self._sunk :]
        return self._memory[self._stop :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._sink is not None:
            self._sunk += nbytes
            if self._sunk == len(self._sink):
                self._sink = None
        else:
            self._stop += nbytes
            if self._stop == len(self._memory):
                self._paused = True
                self._transport.pause_reading()
        self._wake()

    # one exchange

    @property
    def closing(self) -> bool:
        return self._lost is not None or self._transport.is_closing()

    @property
    def finished(self) -> bool:
        """Whether the exchange left nothing over, so that another one may follow."""
        return self._clean and self._start == self._stop and not self.left and not self.closing

    def abort(self) -> None:
        """Ends the connection at once; nothing more is sent or read."""
        self._clean = False
        self._transport.abort()

    async def exchange(
        self, method: str, where: str, headers: Mapping[str, str], body: Body, *, ask_first: bool, stall_s: float
    ) -> Head:
        """Sends a request, returns the head of its answer. ``ask_first``: the body waits for 100 Continue.

        Ended, OSError or TimeoutError from the network, BadAnswer, and what ``body`` raises.
        """
        self._start = self._stop = 0
        self._clean = False
        if ask_first:
            headers = {**headers, "expect": "100-continue"}
        head = encode_head(method, where, headers)
        if isinstance(body, bytes) and not ask_first:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
        answer = None
        whole = True
        if ask_first:
            answer = await self._answer(stall_s)
            whole = answer.status == 100
        if whole and body is not None and (ask_first or not isinstance(body, bytes)):
            answer = None
            whole = await self._send(body, stall_s)
        while answer is None or answer.status < 200:
            answer = await self._answer(stall_s)
        self._clean = whole and answer.keep
        self.left = body_bytes(method, answer)
        return answer

    async def _send(self, body: Body, stall_s: float) -> bool:
        """Sends a body slice by slice; False if the answer came before its end."""
        if isinstance(body, bytes):
            self._transport.write(body)
            return True
        assert body is not None
        async for piece in body():
            view = memoryview(piece)
            for at in range(0, len(view), SLICE_BYTES):
                self._transport.write(view[at : at + SLICE_BYTES])
                while self._full:
                    if self._stop > self._start:
                        return False
                    self._check()
                    await self._wait(stall_s)
                if self._stop > self._start:
                    return False
                self._check()
        return True

    async def _answer(self, stall_s: float) -> Head:
        """The next head."""
        while (end := self._bytes.find(b"\r\n\r\n", self._start, self._stop)) < 0:
            if self._stop == len(self._memory):
                raise BadAnswer("a header that is too long")
            self._check()
            await self._wait(stall_s)
        head = parse_head(bytes(self._memory[self._start : end]))
        self._start = end + 4
        return head

    # the body of its answer

    async def read(self, into: memoryview, stall_s: float) -> int:
        """Some of the body, at most ``len(into)`` bytes; 0 after its end."""
        room = min(len(into), self.left)
        if not room:
            return 0
        taken = self._take(into[:room])
        if not taken:
            self._sink, self._sunk = into[:room], 0
            await self._sinking(1, stall_s)
            taken = self._sunk
            self._sink = None
        self.left -= taken
        return taken

    async def read_exactly(self, into: memoryview, stall_s: float) -> None:
        """The next ``len(into)`` bytes of the body; ValueError if there are not so many."""
        if len(into) > self.left:
            raise ValueError("more than the body holds")
        taken = self._take(into)
        if taken < len(into):
            self._sink, self._sunk = into[taken:], 0
            await self._sinking(len(into) - taken, stall_s)
            self._sink = None
        self.left -= len(into)

    def _take(self, into: memoryview) -> int:
        """What lies in our own memory."""
        taken = min(self._stop - self._start, len(into))
        if taken:
            into[:taken] = self._memory[self._start : self._start + taken]
            self._start += taken
        if self._start == self._stop:
            self._start = self._stop = 0
        return taken

    async def _sinking(self, wanted: int, stall_s: float) -> None:
        """Until at least ``wanted`` bytes came straight to where the reader wants them."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        try:
            while self._sunk < wanted:
                self._check()
                await self._wait(stall_s)
        except BaseException:
            self._sink = None  # the reader's memory is his again
            self.abort()
            raise

    # waiting

    def _check(self) -> None:
        if self._lost is not None:
            if isinstance(self._lost, OSError) and not isinstance(self._lost, ConnectionResetError | BrokenPipeError):
                raise self._lost
            raise Ended("the connection was closed", untouched=self._stop == 0 and not self.left) from self._lost

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, stall_s: float) -> None:
        """Until something moves."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(stall_s, _stalled, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _stalled(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError("nothing moved"))
