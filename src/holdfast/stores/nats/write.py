"""The chunks of one put: a bounded window of publishes that wait for their acknowledgement.

Chunks must lie in the stream in their order, each once. That holds when every acknowledged sequence is above the one
before. When it may not (a refusal, a lost answer, a new leader), the window is rewound: what lies behind the last good
chunk is looked at, kept as far as it is in order, deleted from there on, and the rest is sent again. A message that
arrives late after all carries the id of the one sent again, and the server drops the second of the two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from nats import errors as nats_errors

from holdfast.clock import Clock
from holdfast.errors import Unavailable
from holdfast.stores.nats.layout import Bucket, chunk_index, message_id
from holdfast.stores.nats.link import NO_MESSAGE, PATIENCE_S, NatsLink, Refused, translated

WINDOW_CHUNKS = 16
"""Of one put; as many are kept in memory."""
ACK_S = 5.0
PAUSE_S_MAX = 1.0


class _Trouble(Exception):
    """The window has to be rewound; the cause says why."""


@dataclass(slots=True)
class _Chunk:
    index: int
    data: bytes
    generation: int = 0
    ack: asyncio.Future[int] | None = None


class ChunkWriter:
    """Give it chunks in order with ``add``, then ``finish``; or ``abandon`` what was sent."""

    def __init__(self, link: NatsLink, bucket: Bucket, nuid: str, clock: Clock) -> None:
        self._link = link
        self._bucket = bucket
        self._nuid = nuid
        self._clock = clock
        self._subject = bucket.chunks(nuid)
        self._window: deque[_Chunk] = deque()
        self._rewound = False
        self.sequences: list[int] = []
        """Of the chunks that are known to lie in the stream, ascending."""

    async def add(self, data: bytes) -> None:
        """Sends one chunk; ``data`` must not change afterwards. NoSpace, Denied, Unavailable."""
        chunk = _Chunk(len(self.sequences) + len(self._window), data)
        while len(self._window) >= WINDOW_CHUNKS:
            await self._accept_or_rewind()
        self._window.append(chunk)
        try:
            await self._send(chunk)
        except _Trouble as trouble:
            await self._rewind(trouble)

    async def finish(self) -> list[int]:
        """Returns when every chunk is kept: their sequences."""
        while self._window:
            await self._accept_or_rewind()
        if self._rewound and await self._count() != len(self.sequences):
            raise Unavailable("a put was disturbed so that its chunks lie in disorder; putting again helps")
        return self.sequences

    async def abandon(self) -> None:
        """Deletes what was sent. Unavailable if the cluster does not answer: ``NatsStore.sweep`` finds it later."""
        waiting = [chunk.ack for chunk in self._window if chunk.ack is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=ACK_S)  # what is still under way would land behind the purge
        self._settle()
        if self.sequences or waiting:
            await purge(self._link, self._bucket, self._subject)

    # -- one chunk

    async def _send(self, chunk: _Chunk) -> None:
        headers = {"Nats-Msg-Id": message_id(self._nuid, chunk.index, chunk.generation)}
        try:
            chunk.ack = await self._link.publish(self._subject, chunk.data, headers)
        except (nats_errors.Error, OSError) as error:
            raise _Trouble from error

    async def _accept_first(self) -> None:
        chunk = self._window[0]
        if chunk.ack is None:
            raise _Trouble
        try:
            sequence = await asyncio.wait_for(chunk.ack, ACK_S)
        except Refused as error:
            if not error.passes:
                raise error.translated("a put") from error
            raise _Trouble from error
        except TimeoutError as error:
            self._link.check_denied("a put")
            raise _Trouble from error
        if self.sequences and sequence <= self.sequences[-1]:
            raise _Trouble
        self.sequences.append(sequence)
        self._window.popleft()

    # -- trouble

    async def _accept_or_rewind(self) -> None:
        try:
            await self._accept_first()
        except _Trouble as trouble:
            await self._rewind(trouble)

    async def _rewind(self, trouble: _Trouble) -> None:
        """Until the whole window is acknowledged in order, or ``PATIENCE_S`` have passed."""
        self._rewound = True
        deadline, pause = self._clock.monotonic() + PATIENCE_S, 0.05
        while True:
            left = len(self._window)
            await self._delete_overtaken()
            self._settle()
            await self._clock.sleep(pause)
            pause = min(2 * pause, PAUSE_S_MAX)
            try:
                await self._look_behind()
                for chunk in self._window:
                    await self._send(chunk)
                while self._window:
                    await self._accept_first()
                return
            except _Trouble as again:
                trouble = again
            if len(self._window) < left:
                deadline = self._clock.monotonic() + PATIENCE_S
            if self._clock.monotonic() > deadline:
                cause = trouble.__cause__ or TimeoutError()
                raise translated(cause, "a put") from cause

    async def _delete_overtaken(self) -> None:
        """What is known to lie before the last good chunk, although it belongs behind it."""
        for chunk in self._window:
            ack = chunk.ack
            if ack is None or not ack.done() or ack.cancelled() or ack.exception() is not None:
                continue
            if self.sequences and ack.result() <= self.sequences[-1]:
                await self._delete(ack.result())
                chunk.generation += 1  # its old id would be taken for the one that was deleted
                chunk.ack = None

    def _settle(self) -> None:
        for chunk in self._window:
            if chunk.ack is not None:
                chunk.ack.cancel()
                chunk.ack = None

    async def _look_behind(self) -> None:
        """Keeps what lies in order behind the last good chunk, and deletes from the first that does not."""
        after = self.sequences[-1] if self.sequences else 0
        in_order = True
        while True:
            selection = {"seq": after + 1, "next_by_subj": self._subject}
            message = await self._link.stored(self._bucket.stream, selection)
            if message is None:
                return
            after = message.sequence
            index = chunk_index(self._nuid, message.headers)
            in_order = in_order and bool(self._window) and index == self._window[0].index
            if in_order:
                self.sequences.append(message.sequence)
                self._window.popleft()
                continue
            await self._delete(message.sequence)
            for chunk in self._window:
                if chunk.index == index:
                    chunk.generation += 1  # as above

    async def _delete(self, sequence: int) -> None:
        try:
            await self._link.ask(f"STREAM.MSG.DELETE.{self._bucket.stream}", {"seq": sequence, "no_erase": True})
        except Refused as error:
            if error.error_code != NO_MESSAGE and error.code != 404:
                raise error.translated("a put") from error

    async def _count(self) -> int:
        found = await self._link.ask(f"STREAM.INFO.{self._bucket.stream}", {"subjects_filter": self._subject})
        return int((found["state"].get("subjects") or {}).get(self._subject, 0))


async def purge(link: NatsLink, bucket: Bucket, subject: str, *, up_to: int | None = None) -> None:
    """Deletes the messages of ``subject``, with ``up_to`` only those with this sequence or a lower one."""
    body: dict[str, object] = {"filter": subject}
    if up_to is not None:
        body["seq"] = up_to + 1
    try:
        await link.ask(f"STREAM.PURGE.{bucket.stream}", body)
    except Refused as error:
        raise error.translated("deleting from the bucket") from error
