"""The bytes of one connection of a server, both ways: received where they shall lie, sent no faster than they are read.

Written for this project because a library's server took more of a small request than all that is done for it
(docs/design.md, Libraries). Whoever reads an answer more slowly than ``WRITE_BYTES_PER_S_MIN`` is cut off.
"""

from __future__ import annotations

import asyncio

from holdfast import errors
from holdfast.blob import Buffer

SCRATCH_BYTES = 64 << 10
HELD_BYTES_MAX = 64 << 10
"""Received before anybody asked: of a body, or of later requests. Then the client has to wait."""
BODY_FREE_S = 10.0
BODY_BYTES_PER_S_MIN = 16 << 10
BODY_STALL_S = 30.0
BODY_LOOK_S = 1.0
"""How often a body that does not come is looked at."""
WRITE_CHECK_S = 30.0
WRITE_BYTES_PER_S_MIN = 16 << 10


class Gone(ConnectionResetError):
    """The client went away, or was cut off. Whoever was answering it ends."""


class Channel(asyncio.BufferedProtocol):
    """One task at a time uses it. ``scratch``: memory that all channels of a loop receive into, used up at once."""

    def __init__(self, scratch: memoryview) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._scratch = scratch
        self._held = bytearray()  # received, and nobody has said yet where to
        self._sink: memoryview | None = None
        self._sunk = 0
        self._discards = False
        self._paused = False  # reading
        self._full = False  # what was written is not all with the system yet
        self._unread = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Ends it; what was written is still sent. May be called twice."""
        if not self._transport.is_closing():  # a second close over TLS breaks ``abort`` in Python 3.11.2
            self._transport.close()

    def abort(self) -> None:
        """Ends it at once."""
        self._transport.abort()

    def received(self) -> None:
        """Something came that nobody waits for."""

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # not 0: over TLS an empty buffer would then be a full one

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()

    def eof_received(self) -> None:
        """Whoever has closed its side is taken to be gone: asyncio closes the connection."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch if self._sink is None else self._sink[self._sunk :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._sink is not None:
            self._sunk += nbytes
            if self._sunk == len(self._sink):
                self._sink = None
                self._wake()
        elif not self._discards:
            self._held += self._scratch[:nbytes]
            self.received()
            if len(self._held) >= HELD_BYTES_MAX and not self._paused:
                self._paused = True
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._full = True
        self._unread = self._transport.get_write_buffer_size()
        self._write_timer = self._loop.call_later(WRITE_CHECK_S, self._read_late)

    def resume_writing(self) -> None:
        self._full = False
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._wake()

    def _read_late(self) -> None:
        if self._unread - self._transport.get_write_buffer_size() < WRITE_CHECK_S * WRITE_BYTES_PER_S_MIN:
            self._transport.abort()
        else:
            self.pause_writing()

    # what is received

    def _take(self, most: int) -> bytes:
        """What came before anybody asked, up to ``most`` bytes."""
        taken = bytes(memoryview(self._held)[:most])
        del self._held[: len(taken)]
        self._read_on()
        return taken

    async def _receive(self, memory: memoryview, seen: int, began: float, bytes_per_s_min: float) -> None:
        """Fills ``memory``, or TimedOut or BadRequest; how much came stands in ``_sunk`` then.

        ``seen`` bytes came since ``began``, and so many must have come in each second since.
        """
        self._sink, self._sunk = memory, 0
        self._read_on()
        silent_s = 0.0
        try:
            while self._sunk < len(memory):
                if self.closing:
                    raise errors.BadRequest("the body ended before its length")
                before = self._sunk
                await self._wait(BODY_LOOK_S)
                silent_s = 0.0 if self._sunk > before else silent_s + BODY_LOOK_S
                if silent_s >= BODY_STALL_S:
                    raise errors.TimedOut("the body stalled")
                spent = self._loop.time() - began - BODY_FREE_S
                if spent > 0 and seen + self._sunk < spent * bytes_per_s_min:
                    raise errors.TimedOut("the body came too slowly")
        finally:
            self._sink = None  # the memory is somebody else's from now on

    def _discard(self) -> None:
        """Whatever comes from now on is for nobody."""
        self._discards = True
        self._held.clear()
        self._read_on()

    def _read_on(self) -> None:
        if self._paused and len(self._held) < HELD_BYTES_MAX:
            self._paused = False
            self._transport.resume_reading()

    # what is sent

    def _write(self, data: Buffer) -> None:
        if self.closing:
            raise Gone("the client went away")
        self._transport.write(data)

    async def _flushed(self) -> None:
        """Until the system has taken all that was written; Gone."""
        while self._full:
            await self._wait()
        if self.closing:
            raise Gone("the client went away")

    async def _wait(self, seconds: float | None = None) -> None:
        """Until something happens, or for ``seconds``."""
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
