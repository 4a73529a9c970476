"""The bodies of blobs on their way: what is sent in slices, and what is read of an answer."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TypeAlias

from holdfast.blob import Buffer
from holdfast.errors import Unavailable, from_problem
from holdfast.wire import messages as m
from holdfast.wire.connections import Answer
from holdfast.wire.http1 import Body
from holdfast.wire.throttle import Throttle
from holdfast.wire.trouble import raise_ours

ANSWER_BYTES_MAX = 32 << 20
STALL_S = 10.0
PIECE_BYTES = 256 << 10
WHOLE_BODY_BYTES_MAX = 64 << 10

Source: TypeAlias = "Buffer | Callable[[], AsyncIterable[Buffer]]"
Span: TypeAlias = tuple[int, int | None]
"""(start, stop) of a range; stop None means to the end. ``stores.protocol.Range`` is one."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class RemoteBody:
    """A blob's bytes from a node, not hashed. ``size``: bytes of this body; ``total``: bytes of the blob.

    Either iterate, or ``read_into`` once. Unavailable or TimedOut when it breaks off.
    """

    __slots__ = ("_answer", "size", "total")

    def __init__(self, answer: Answer, total: int) -> None:
        self.size = answer.size
        self.total = total
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        left = self.size
        while left:
            piece = memoryview(bytearray(min(left, PIECE_BYTES)))
            try:
                taken = await self._answer.read(piece, STALL_S)
            except OSError as error:
                raise_ours("reading a blob", error)
            left -= taken
            yield piece[:taken]

    async def read_into(self, memory: memoryview) -> None:
        """All ``size`` bytes, straight into ``memory``, which is as long."""
        try:
            await self._answer.read_exactly(memory, STALL_S)
        except OSError as error:
            raise_ours("reading a blob", error)


def remote_body(answer: Answer, range_: Span | None) -> RemoteBody:
    """The body of a 200 or 206 to a read of ``range_``; Unavailable if it is another part than was asked for."""
    size = answer.size
    if answer.status == 200:
        if range_ is not None and range_ != (0, None) and range_ != (0, size):
            raise Unavailable("a range was asked for and a whole blob came")
        return RemoteBody(answer, size)
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    if found is None or range_ is None:
        raise Unavailable("a part of a blob came that was not asked for")
    first, last, total = int(found[1]), int(found[2]), int(found[3])
    start, stop = range_
    if first != start or last + 1 != (total if stop is None else min(stop, total)) or size != last + 1 - first:
        raise Unavailable("another range came than was asked for")
    return RemoteBody(answer, total)


async def small_body(answer: Answer) -> bytes:
    """All of an answer's body; Unavailable if it is too long, OSError or TimeoutError from the network."""
    body = answer.here()
    if body is not None:
        return body
    if answer.size > ANSWER_BYTES_MAX:
        raise Unavailable(f"an answer of {answer.size} bytes is more than this client takes")
    async with asyncio.timeout(STALL_S):  # for all of it, or a byte now and then would hold us for ever
        return await answer.whole(STALL_S)


def good_body(status: int, body: bytes) -> bytes:
    """The body of a 2xx; of all else the error that it says."""
    if 200 <= status < 300:
        return body
    problem = m.decode(body, m.Problem)
    raise from_problem(status, problem.type, problem.detail, problem.extra)


def sent_body(source: Source, size: int, upload: Throttle | None) -> Body:
    """What a request carries: small bytes as they are, all else in slices, no faster than ``upload`` lets pass."""
    if upload is not None:
        return functools.partial(_throttled, source, upload)
    if size <= WHOLE_BODY_BYTES_MAX and not callable(source):
        return bytes(source)
    return functools.partial(_sliced, source)


async def _throttled(source: Source, upload: Throttle) -> AsyncIterator[Buffer]:
    async for piece in _sliced(source, upload.slice_bytes):
        await upload.take(len(piece))
        yield piece


async def _sliced(source: Source, slice_bytes: int = PIECE_BYTES) -> AsyncIterator[Buffer]:
    if callable(source):
        async for piece in source():
            yield piece
        return
    view = memoryview(source)
    for start in range(0, len(view), slice_bytes):
        yield view[start : start + slice_bytes]
