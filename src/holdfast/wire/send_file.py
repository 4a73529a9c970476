"""Parts of files on their way to a socket: by the system's sendfile, without a copy; over TLS in asyncio's way."""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO

SLICE_BYTES = 1 << 20
SLICE_S_MAX = 30.0 + SLICE_BYTES / (16 << 10)
"""For one slice, after which a reader is cut off."""


async def send_file(transport: asyncio.WriteTransport, file: BinaryIO, start: int, stop: int) -> None:
    """Sends bytes ``start`` to ``stop`` of ``file``; ConnectionError, also if the file ends before.

    The system must have taken all that was written before, and nobody else may write meanwhile.
    """
    socket = transport.get_extra_info("socket")
    native = socket is not None and transport.get_extra_info("sslcontext") is None
    descriptor = os.dup(socket.fileno()) if native else -1  # what a transport has, asyncio lets nobody else wait for
    try:
        for at in range(start, stop, SLICE_BYTES):
            if transport.is_closing():
                raise ConnectionResetError("the client went away")
            until = min(at + SLICE_BYTES, stop)
            try:
                async with asyncio.timeout(SLICE_S_MAX):
                    if native:
                        await _by_system(descriptor, file.fileno(), at, until)
                    elif await asyncio.get_running_loop().sendfile(transport, file, at, until - at) < until - at:
                        raise _short()
            except TimeoutError as error:
                raise ConnectionResetError("the client reads too slowly") from error
    finally:
        if native:
            os.close(descriptor)


async def _by_system(socket: int, file: int, at: int, stop: int) -> None:
    """As much at a time as the socket takes."""
    while at < stop:
        try:
            sent = os.sendfile(socket, file, at, stop - at)
        except BlockingIOError:
            await _room(socket)
            continue
        if not sent:
            raise _short()
        at += sent
        if at < stop:
            await _room(socket)


async def _room(socket: int) -> None:
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()
    loop.add_writer(socket, _settle, there)
    try:
        await there
    finally:
        loop.remove_writer(socket)


def _settle(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)


def _short() -> ConnectionError:
    return ConnectionAbortedError("the file is shorter than it was")
