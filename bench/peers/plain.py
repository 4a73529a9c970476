"""What the other systems are asked by: plain HTTP over blocking sockets, so that nobody pays for a slow client."""

from __future__ import annotations

import http.client
import os
import queue
from collections.abc import Sequence
from pathlib import Path

from bench.exchange_load import Connection, request
from bench.threads import side_by_side

WAIT_S = 900.0
"""A server may be silent for so long: some take a whole file before they begin to store it."""
_PIECE_BYTES = 1 << 20


def put_file(port: int, path: str, source: Path) -> bytes:
    """Sends a file as the body of a PUT; the body of the answer."""
    with source.open("rb", buffering=0) as file:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S, blocksize=_PIECE_BYTES)
        try:
            connection.request("PUT", path, file, _body_of(source.stat().st_size))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
    if answer.status not in (200, 201):
        raise RuntimeError(f"answered {answer.status} {body[:200]!r}")
    return body


def get_file(port: int, path: str, target: Path) -> None:
    """The body of a GET, written to ``target`` and synced, as a get of ours is before its file appears."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    piece = memoryview(bytearray(_PIECE_BYTES))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"answered {answer.status} {answer.read(200)!r}")
        with target.open("wb", buffering=0) as file:
            while count := answer.readinto(piece):
                file.write(piece[:count])
            os.fsync(file.fileno())
    finally:
        connection.close()


def put_each(port: int, bodies: Sequence[tuple[str, bytes]], at_once: int) -> None:
    """Small PUTs over ``at_once`` kept connections, each with one request under way."""
    each(port, [request(port, path, _body_of(len(body)), "PUT") + body for path, body in bodies], at_once)


def get_each(port: int, paths: Sequence[str], at_once: int) -> None:
    """Small GETs in the same way; the bodies are read and dropped."""
    each(port, [request(port, path) for path in paths], at_once)


def each(port: int, requests: Sequence[bytes], at_once: int) -> None:
    """All ``requests``, from ``at_once`` threads."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for data in requests:
        waiting.put(data)

    def work(_: int) -> None:
        connection = Connection(port, WAIT_S)
        try:
            while True:
                try:
                    data = waiting.get_nowait()
                except queue.Empty:
                    return
                connection.send(data)
                connection.receive()
        finally:
            connection.close()

    side_by_side(at_once, work)


def _body_of(size: int) -> dict[str, str]:
    return {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
