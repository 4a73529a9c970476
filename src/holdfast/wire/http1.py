"""One connection of the HTTP client: HTTP/1.1 (RFC 9112), one exchange at a time, bodies received where they shall lie.

Written for this project because a library's client cost more than all that a small request makes the two machines do
(docs/design.md, Libraries). It takes only what our servers send: answers with a Content-Length, no transfer codings.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Callable, Mapping
from typing import TypeAlias

from holdfast.blob import Buffer
from holdfast.wire.answer_head import BadAnswer, Head, body_bytes, encode_head, parse_head
from holdfast.wire.heads import HEAD_BYTES_MAX

SLICE_BYTES = 256 << 10

Body: TypeAlias = "bytes | Callable[[], AsyncIterable[Buffer]] | None"
"""What a request carries. A callable is asked for the same bytes again when they have to be sent again."""
Heard: TypeAlias = "Callable[[tuple[Head, bytes] | OSError], None]"
"""Hears a small answer, head and body, or why there is none; called by the event loop, so it must not raise."""


class Ended(ConnectionError):
    """The other side closed the connection. ``untouched``: before it said anything."""

    def __init__(self, text: str, *, untouched: bool) -> None:
        super().__init__(text)
        self.untouched = untouched


class Http1Connection(asyncio.BufferedProtocol):
    """Made by ``Connections``. One task at a time: ``exchange``, then the body, then ``finished`` says what it was.

    Every wait ends with TimeoutError after ``stall_s`` seconds in which nothing moved. One timer serves all waits: it
    looks when it fires whether anybody waits so long already, because one for each wait cost more than the wait.
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
        self._heard: Heard | None = None
        self._head: Head | None = None  # of the answer that is being heard
        self._enough = 0  # so many bytes in the sink are worth waking the reader
        self._waiter: asyncio.Future[None] | None = None
        self._stall_s = 0.0
        self._due = self._end = math.inf  # when the wait under way is over
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self._paused = False
        self._lost: BaseException | None = None
        self._clean = True
        self.left = 0
        """Bytes of the answer's body that were not read yet."""

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=1, low=0)  # not 0: over TLS an empty buffer would then be a full one
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionResetError("the connection was closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heard is not None:
            self._tell(self._end_of_it())
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
            if self._sunk < self._enough:
                self._due = self._loop.time() + self._stall_s
                return
            if self._sunk == len(self._sink):
                self._sink = None
        else:
            self._stop += nbytes
            if self._heard is not None:
                self._listen()
                return
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
        self,
        method: str,
        where: str,
        headers: Mapping[str, str],
        body: Body,
        *,
        ask_first: bool,
        stall_s: float,
        end: float = math.inf,
    ) -> Head:
        """Sends a request, returns the head of its answer. ``ask_first``: the body waits for 100 Continue; ``end``: the
        loop's second at which the head must be there.

        Ended, OSError or TimeoutError from the network, BadAnswer, and what ``body`` raises.
        """
        self._start = self._stop = 0
        self._clean = False
        self._end = end
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
        self._end = math.inf
        self._clean = whole and answer.keep
        self.left = body_bytes(method, answer)
        return answer

    def tell(self, request: bytes, heard: Heard, stall_s: float) -> None:
        """Sends a whole request, which is no HEAD; ``heard`` is called once with the answer, or after ``hush`` never.

        For small messages of which many go out side by side: nobody waits here, so no task is needed for each. What is
        heard is an error as for ``exchange``, or BadAnswer for an answer that is longer than a head may be.
        """
        self._start = self._stop = 0
        self._clean = False
        self._end = math.inf
        self._head, self._heard = None, heard
        self._stall_s = stall_s
        self._due = self._loop.time() + stall_s
        self._watch(self._due)
        self._transport.write(request)

    def hush(self) -> None:
        """Ends what ``tell`` began, with its connection."""
        self._heard = None
        self.abort()

    def _listen(self) -> None:
        try:
            while self._head is None:
                head = self._next_head()
                if head is None:
                    break
                if head.status >= 200:
                    self._head = head
                    self.left = body_bytes("", head)
        except BadAnswer as error:
            self._tell(error)
            return
        body = None if self._head is None else self.here()
        if self._head is not None and body is not None:
            self._clean = self._head.keep
            self._tell((self._head, body))
        elif self._stop == len(self._memory):
            self._tell(BadAnswer("an answer that is too long"))
        else:
            self._due = self._loop.time() + self._stall_s

    def _tell(self, answer: tuple[Head, bytes] | OSError) -> None:
        heard, self._heard = self._heard, None
        assert heard is not None
        heard(answer)

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
        while (head := self._next_head()) is None:
            if self._stop == len(self._memory):
                raise BadAnswer("a header that is too long")
            self._check()
            await self._wait(stall_s)
        return head

    def _next_head(self) -> Head | None:
        """It, if it has come already; BadAnswer."""
        end = self._bytes.find(b"\r\n\r\n", self._start, self._stop)
        if end < 0:
            return None
        head = parse_head(bytes(self._memory[self._start : end]))
        self._start = end + 4
        return head

    # the body of its answer

    def here(self) -> bytes | None:
        """All of the body, if it has come already."""
        if self._stop - self._start < self.left:
            return None
        data = bytes(self._memory[self._start : self._start + self.left])
        self._start += self.left
        self.left = 0
        return data

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
        self._enough = wanted
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
            raise self._end_of_it()

    def _end_of_it(self) -> OSError:
        """Why the connection is no more."""
        if isinstance(self._lost, OSError) and not isinstance(self._lost, ConnectionResetError | BrokenPipeError):
            return self._lost
        ended = Ended("the connection was closed", untouched=self._stop == 0 and not self.left)
        ended.__cause__ = self._lost
        return ended

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, stall_s: float) -> None:
        """Until something moves that the one who waits must see."""
        self._stall_s = stall_s
        self._due = self._loop.time() + stall_s
        self._watch(min(self._due, self._end))
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _watch(self, when: float) -> None:
        """The timer fires then or before."""
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._heard is None and (self._waiter is None or self._waiter.done()):
            return
        due = min(self._due, self._end)
        if self._loop.time() < due:
            self._watch(due)
        elif self._heard is not None:
            self._tell(TimeoutError("nothing moved"))
        elif self._waiter is not None:
            self._waiter.set_exception(TimeoutError("nothing moved"))
