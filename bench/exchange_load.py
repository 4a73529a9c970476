"""A client that costs little beside what it measures: plain blocking sockets, requests made ready beforehand."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BUFFER_BYTES = 1 << 20


def request(port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """One kept-alive connection to a server on loopback."""

    def __init__(self, port: int, timeout_s: float = 60) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(BUFFER_BYTES)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, take: Callable[[memoryview], object] | None = None) -> tuple[int, float]:
        """Reads one answer of status 200 or 201; (bytes of its body, when the first of them was here)."""
        buffer = self._buffer
        view = memoryview(buffer)
        got = 0
        while (end := buffer.find(b"\r\n\r\n", 0, got)) < 0:
            count = self.socket.recv_into(view[got:])
            if not count:
                raise RuntimeError("the connection was closed")
            got += count
        head = bytes(view[:end]).lower()
        if not head.startswith((b"http/1.1 200 ", b"http/1.1 201 ")):
            raise RuntimeError(f"answered {head[:200]!r}")
        at = head.index(b"content-length:")
        size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        left = size - (got - end - 4)
        if take is not None and got > end + 4:
            take(view[end + 4 : got])
        first = time.perf_counter() if got > end + 4 or not size else 0.0
        while left:
            count = self.socket.recv_into(view[: min(left, len(view))])
            if not count:
                raise RuntimeError(f"the body ended {left} bytes early")
            first = first or time.perf_counter()
            if take is not None:
                take(view[:count])
            left -= count
        return size, first


def rate(port: int, requests: Sequence[bytes], connections: int) -> float:
    """Answers a second over ``connections`` that always have a request under way."""
    opened = [Connection(port) for _ in range(connections)]
    began = time.perf_counter()
    try:
        for connection, data in zip(opened, requests, strict=False):
            connection.send(data)
        for number in range(len(requests)):
            connection = opened[number % connections]
            connection.receive()
            if number + connections < len(requests):
                connection.send(requests[number + connections])
    finally:
        for connection in opened:
            connection.close()
    return len(requests) / (time.perf_counter() - began)


def read(port: int, path: str) -> tuple[float, float, int]:
    """Reads and forgets; (seconds to the first byte of the body, to the last, bytes)."""
    connection = Connection(port)
    try:
        began = time.perf_counter()
        connection.send(request(port, path))
        size, first = connection.receive()
        return first - began, time.perf_counter() - began, size
    finally:
        connection.close()


def copy(port: int, path: str, digest: str, target: Path) -> float:
    """Copies to a file and checks it, as whoever wants a blob does; seconds."""
    connection = Connection(port)
    began = time.perf_counter()
    try:
        state = hashlib.sha256()
        with target.open("wb", buffering=0) as file:

            def take(piece: memoryview) -> None:
                state.update(piece)
                file.write(piece)

            connection.send(request(port, path))
            connection.receive(take)
    finally:
        connection.close()
    if state.hexdigest() != digest:
        raise ValueError("another blob came")
    return time.perf_counter() - began
