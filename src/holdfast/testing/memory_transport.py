"""TCP as an asyncio transport sees it, in memory: order, windows, back-pressure, half-close, resets, retransmission.

A connection is two transports and two pipes. A pipe takes what its source wrote, in segments cut at seeded sizes, over
a link to its target. At most a window of bytes is under way or unread; the rest waits in the source's write buffer,
and what waits there is what pauses the writing protocol.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
from asyncio import constants
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from holdfast.blob import Buffer
from holdfast.testing.loop import RESOLUTION_S, VirtualLoop
from holdfast.testing.memory_link import Host, Link

WINDOW_BYTES = 256 * 1024
SEGMENT_BYTES_MAX = 64 * 1024
ODD_SEGMENT_OF = 8  # one in so many segments is cut at any length
RETRANSMISSION_S_MAX = 900.0  # Linux gives up a connection after about 15 minutes (tcp_retries2)

Kind = Literal["open", "data", "end", "reset"]


class _Segment(NamedTuple):
    at: float
    kind: Kind
    data: bytes


def reset_by_peer() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class Pipe:
    """One direction of a connection. ``back`` is the link that brings the acknowledgements."""

    def __init__(
        self, loop: VirtualLoop, name: str, link: Link, back: Link, source: MemoryTransport, target: MemoryTransport
    ) -> None:
        self._loop = loop
        self._name = name
        self._link = link
        self._back = back
        self._source = source
        self._target = target
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self._window_used = 0  # under way, unread, or read but not yet acknowledged
        self._unacknowledged = 0  # read, while the acknowledgement could not come through
        self._flight: deque[_Segment] = deque()
        self._end_wanted = False
        self._arrival: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        link.pipes[self] = None
        back.pipes[self] = None

    def write(self, data: bytes) -> None:
        self._unsent.append(memoryview(data))
        self.unsent_bytes += len(data)
        self.pump()

    def open(self) -> None:
        """The first thing that arrives: the server's side comes into being."""
        self._send("open")

    def end(self) -> None:
        """No more bytes after those that were written."""
        self._end_wanted = True
        self.pump()

    def reset(self) -> None:
        """What is not under way yet is dropped; what is under way arrives, and then the reset."""
        self.drop_unsent()
        self._end_wanted = False
        self._send("reset")

    def drop_unsent(self) -> None:
        self._unsent.clear()
        self.unsent_bytes = 0

    def vanish(self) -> None:
        """Nothing of what was written arrives."""
        self.drop_unsent()
        self._end_wanted = False
        self._flight.clear()

    def pump(self) -> None:
        """Sends as much as the window takes, unless the source is paused."""
        if self._source.host.gate.closed:
            return
        while self.unsent_bytes and self._window_used < WINDOW_BYTES:
            size = min(SEGMENT_BYTES_MAX, WINDOW_BYTES - self._window_used)
            if not self._link.randomness.below(ODD_SEGMENT_OF):
                size = 1 + self._link.randomness.below(size)
            segment = self._take(size)
            self._window_used += len(segment)
            self._send("data", segment)
        if self._end_wanted and not self.unsent_bytes:
            self._end_wanted = False
            self._send("end")
        self._watch()

    def acknowledge(self, size: int) -> None:
        """The target's protocol has read ``size`` bytes."""
        self._unacknowledged += size
        self._collect_acknowledged()

    def retime(self, *, hasten: bool) -> None:
        """The link has changed: what is under way comes earlier where it may, or now that a cut is healed."""
        now = self._loop.time()
        if self._flight and not self._link.blocked:
            late = self._link.retry_delay()
            moved: deque[_Segment] = deque()
            last = now
            for segment in self._flight:
                if hasten:
                    at = min(segment.at, self._link.departure(len(segment.data)))
                else:
                    at = segment.at if segment.at > now else now + late
                last = max(last, at)
                moved.append(segment._replace(at=last))
            self._flight = moved
            self._await_arrival(again=True)
        self._collect_acknowledged()
        self._watch()

    def forget(self) -> None:
        """The connection is over at both ends."""
        for timer in (self._arrival, self._patience):
            if timer is not None:
                timer.cancel()
        self._arrival = self._patience = None
        self._unacknowledged = 0
        self.vanish()
        self._link.pipes.pop(self, None)
        self._back.pipes.pop(self, None)

    def _take(self, size: int) -> bytes:
        """Up to ``size`` bytes from the front of what is not sent."""
        parts: list[memoryview] = []
        wanted = min(size, self.unsent_bytes)
        self.unsent_bytes -= wanted
        while wanted:
            head = self._unsent.popleft()
            if len(head) > wanted:
                self._unsent.appendleft(head[wanted:])
                head = head[:wanted]
            parts.append(head)
            wanted -= len(head)
        return b"".join(parts)

    def _send(self, kind: Kind, data: bytes = b"") -> None:
        at = self._link.departure(len(data))
        if self._flight:
            at = max(at, self._flight[-1].at)
        self._flight.append(_Segment(at, kind, data))
        self._await_arrival()

    def _await_arrival(self, *, again: bool = False) -> None:
        if again and self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None
        if self._arrival is None and self._flight:
            self._arrival = self._loop.call_at(self._flight[0].at, self._arrive, context=self._target.context)

    def _arrive(self) -> None:
        self._arrival = None
        if self._link.blocked:
            self._watch()
            return
        latest = self._loop.time() + RESOLUTION_S
        while self._flight and self._flight[0].at <= latest:
            segment = self._flight.popleft()
            self._loop.trace.record(segment.kind, self._name, len(segment.data))
            self._target.receive(segment.kind, segment.data)
        self._await_arrival()
        self._watch()

    def _collect_acknowledged(self) -> None:
        if self._unacknowledged and not self._back.blocked:
            self._window_used -= self._unacknowledged
            self._unacknowledged = 0
            self._source.sent_more_soon()
        self._watch()

    def _watch(self) -> None:
        """Gives the connection up when nothing has come through for long although something should have."""
        stalled = (self._link.blocked and (self._flight or self.unsent_bytes)) or (
            self._back.blocked and self._unacknowledged
        )
        if not stalled:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._patience is None:
            self._patience = self._loop.call_later(RETRANSMISSION_S_MAX, self._give_up, context=self._source.context)

    def _give_up(self) -> None:
        self._loop.trace.record("gave-up", self._name)
        self._patience = None
        self.vanish()
        self._source.break_off(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))


class MemoryTransport(asyncio.transports._FlowControlMixin):
    """One end of a connection. ``accept`` is what makes the protocol of the server's end, None at the client's end."""

    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(
        self,
        loop: VirtualLoop,
        host: Host,
        sockname: tuple[str, int],
        peername: tuple[str, int],
        context: contextvars.Context,
        accept: Callable[[], asyncio.BaseProtocol | None] | None,
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername}, loop)
        self._virtual_loop = loop
        self._flow: Any = self  # the inherited flow control is not in the type stubs
        self.host = host
        self.context = context
        self._accept = accept
        self._protocol: asyncio.Protocol | asyncio.BufferedProtocol | None = None
        self._inbox: deque[tuple[Kind, bytes]] = deque()
        self._inbox_bytes = 0
        self._reading = True
        self._delivery: asyncio.Handle | None = None
        self._closing = False
        self._lost = False
        self._end_written = False
        self._mute = False
        self._broken: OSError | None = None
        self.out: Pipe  # set by join()
        self.peer: MemoryTransport
        self._requests: Link
        host.connections[self] = None

    # what asyncio asks of a transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self.deliver_soon()

    def get_write_buffer_size(self) -> int:
        return self.out.unsent_bytes

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._end_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        self.host.sends()
        if self._broken is not None:
            self.lose(self._broken)
        if self._closing or self._mute or not data:
            return
        copied = bytes(data)  # the caller may use its buffer again
        if self._accept is not None and self._requests.answers_to_drop and not copied.startswith(b"HTTP/1.1 100"):
            self._drop_answer()
            return
        self.out.write(copied)
        self._flow._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._end_written and not self._closing:
            self._end_written = True
            self.out.end()

    def close(self) -> None:
        """What was written is still sent."""
        if not self._closing:
            self._closing = True
            self._end_if_drained()

    def abort(self) -> None:
        self.lose(None)

    # what pipes and the network do to it

    def receive(self, kind: Kind, data: bytes) -> None:
        """A segment has arrived at this host."""
        if self._lost:
            if kind == "data":  # nobody reads here any more
                self.out.reset()
            return
        if kind == "reset":
            self._broken = reset_by_peer()
            if self.out.unsent_bytes:
                self.lose(self._broken)
                return
        self._inbox.append((kind, data))
        self._inbox_bytes += len(data)
        self._deliver()

    def deliver_soon(self) -> None:
        """Hands over what has arrived, in a later turn of this moment."""
        if self._delivery is None:
            self._delivery = self._virtual_loop.call_soon(self._deliver, context=self.context)

    def sent_more_soon(self) -> None:
        """Sends what the window has room for, in a later turn of this moment."""
        self._virtual_loop.call_soon(self._pump, context=self.context)

    def break_off(self, error: OSError) -> None:
        """Ends this side at once with ``error``; nothing is sent to the other side."""
        self._broken = error
        self.lose(error)

    def lose(self, error: OSError | None) -> None:
        """Ends this side at once; the other side gets a reset, unless it sent one or was broken off."""
        if self._lost:
            return
        if self._broken is None:
            self.out.reset()
        else:
            self.out.drop_unsent()
        self._end(error)

    def power_off(self) -> None:
        """This side is gone; the other hears nothing of it, now or later."""
        self.out.vanish()
        if not self._lost:
            self._end(None)

    def _deliver(self) -> None:
        self._delivery = None
        while self._inbox and self._reading and not self._closing and not self.host.gate.closed:
            kind, data = self._inbox.popleft()
            if kind == "data":
                taken = self._guarded(lambda protocol, data=data: _receive(protocol, data))  # type: ignore[misc]
                if self._lost:
                    return
                self._inbox_bytes -= taken
                if taken < len(data):
                    self._inbox.appendleft((kind, data[taken:]))
                self.peer.out.acknowledge(taken)
            elif kind == "end":
                if not self._guarded(lambda protocol: protocol.eof_received()):
                    self.close()
            elif kind == "reset":
                self.lose(self._broken)
            else:
                self._open()

    def _open(self) -> None:
        assert self._accept is not None
        protocol = self._accept()
        if protocol is None:
            self.lose(None)
            return
        self.set_protocol(protocol)
        self._guarded(lambda protocol: protocol.connection_made(self))

    def _guarded(self, call: Callable[[Any], Any]) -> Any:
        """Calls the protocol; an exception of it ends the connection, as in asyncio's own transports."""
        assert self._protocol is not None
        try:
            return call(self._protocol)
        except Exception as error:
            self._virtual_loop.call_exception_handler(
                {"message": "a protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            )
            self.lose(None)
            return True

    def _pump(self) -> None:
        if self._lost:
            return
        self.out.pump()
        if self._protocol is not None:
            self._flow._maybe_resume_protocol()
        if self._closing:
            self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._lost or self.out.unsent_bytes:
            return
        if self._inbox_bytes:
            self.out.reset()  # as Linux does when unread bytes are thrown away
        elif not self._end_written:
            self.out.end()
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        self._closing = self._lost = True
        self._inbox.clear()
        self.host.connections.pop(self, None)
        if self._protocol is not None:
            self._virtual_loop.call_soon(self._guarded, lambda it: it.connection_lost(error), context=self.context)
        if self.peer._lost:
            self.out.forget()
            self.peer.out.forget()

    def _drop_answer(self) -> None:
        """This answer vanishes; both ends see a reset after it."""
        self._requests.answers_to_drop -= 1
        self._virtual_loop.trace.record("answer-dropped", self._requests.name)
        self._mute = True
        self.out.reset()
        self._virtual_loop.call_later(self._requests.delay(), self.break_off, reset_by_peer(), context=self.context)


def _receive(protocol: asyncio.Protocol | asyncio.BufferedProtocol, data: bytes) -> int:
    """Hands bytes to either kind of protocol; how many it took."""
    if isinstance(protocol, asyncio.Protocol):
        protocol.data_received(data)
        return len(data)
    room = memoryview(protocol.get_buffer(len(data)))
    taken = min(len(room), len(data))
    room[:taken] = data[:taken]
    protocol.buffer_updated(taken)
    return taken


def join(name: str, client: MemoryTransport, server: MemoryTransport, there: Link, back: Link) -> None:
    """Connects the two ends; the server's comes to life when the first segment arrives."""
    loop = client._virtual_loop
    client.peer, server.peer = server, client
    client._requests = server._requests = there
    client.out = Pipe(loop, f"{name} {there.name}", there, back, client, server)
    server.out = Pipe(loop, f"{name} {back.name}", back, there, server, client)
    client.out.open()
