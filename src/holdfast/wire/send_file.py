"""Parts of files on their way to a socket: by the system's sendfile, without a copy; over TLS in asyncio's way."""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO

SLICE_BYTES = 1 << 20
SLICE_S_MAX = 30.0 + SLICE_BYTES / (16 << 10)
"""For so much of a file; a reader that takes longer is cut off."""
CALL_BYTES_MAX = 4 << 20
"""What one call of the system may send: as much as a socket holds, so that each goes as far as it can."""


async def send_file(transport: asyncio.WriteTransport, file: BinaryIO, start: int, stop: int) -> None:
    """Sends bytes ``start`` to ``stop`` of ``file``; ConnectionError, also if the file ends before.

    The system must have taken all that was written before, and nobody else may write meanwhile.
    """
    socket = transport.get_extra_info("socket")
    if socket is None or transport.get_extra_info("sslcontext") is not None:
        await _by_asyncio(transport, file, start, stop)
        return
    descriptor = os.dup(socket.fileno())  # what a transport has, asyncio lets nobody else wait for
    try:
        await _by_system(transport, descriptor, file.fileno(), start, stop)
    finally:
        os.close(descriptor)


async def _by_asyncio(transport: asyncio.WriteTransport, file: BinaryIO, start: int, stop: int) -> None:
    loop = asyncio.get_running_loop()
    for at in range(start, stop, SLICE_BYTES):
        count = min(SLICE_BYTES, stop - at)
        if transport.is_closing():
            raise ConnectionResetError("the client went away")
        try:
            async with asyncio.timeout(SLICE_S_MAX):
                if await loop.sendfile(transport, file, at, count) < count:
                    raise _short()
        except TimeoutError as error:
            raise ConnectionResetError("the client reads too slowly") from error


async def _by_system(transport: asyncio.WriteTransport, socket: int, file: int, at: int, stop: int) -> None:
    """As much at a time as the socket takes."""
    loop = asyncio.get_running_loop()
    mark, due = at, loop.time() + SLICE_S_MAX
    while at < stop:
        if transport.is_closing():
            raise ConnectionResetError("the client went away")
        try:
            sent = os.sendfile(socket, file, at, min(stop - at, CALL_BYTES_MAX))
        except BlockingIOError:
            pass
        else:
            if not sent:
                raise _short()
            at += sent
        if at - mark >= SLICE_BYTES:
            mark, due = at, loop.time() + SLICE_S_MAX
        if at < stop:
            await _room(loop, socket, due)


async def _room(loop: asyncio.AbstractEventLoop, socket: int, due: float) -> None:
    """Until the socket takes more, at the latest until ``due``; ConnectionResetError then."""
    there: asyncio.Future[bool] = loop.create_future()
    loop.add_writer(socket, _settle, there, True)
    timer = loop.call_at(due, _settle, there, False)
    try:
        if not await there:
            raise ConnectionResetError("the client reads too slowly")
    finally:
        timer.cancel()
        loop.remove_writer(socket)


def _settle(there: asyncio.Future[bool], answer: bool) -> None:
    if not there.done():
        there.set_result(answer)


def _short() -> ConnectionError:
    return ConnectionAbortedError("the file is shorter than it was")
