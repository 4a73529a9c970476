"""``python -m bench.outbox_upstream``: a web server that only keeps the last body of each name, as fast as Python can.

Says its port on stdout and ends with its stdin. It knows PUT, GET, HEAD and DELETE over kept-alive connections, bodies
with a Content-Length, and an ETag for each; a body above 1 MiB is counted and not kept.
"""

from __future__ import annotations

import asyncio
import sys

_KEPT_BYTES_MAX = 1 << 20


class Upstream(asyncio.Protocol):
    """One connection; all share ``bodies``: name -> (bytes kept, length, etag)."""

    bodies: dict[bytes, tuple[bytes, int, bytes]] = {}  # noqa: RUF012 - shared on purpose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._held = bytearray()
        self._request: tuple[bytes, bytes, int] | None = None
        self._seen = 0

    def data_received(self, data: bytes) -> None:
        if self._request is not None and self._request[2] > _KEPT_BYTES_MAX:
            self._count(data)
            return
        self._held += data
        while self._step():
            pass

    def _count(self, data: bytes) -> None:
        assert self._request is not None, "asked only inside of a body"
        self._seen += len(data)
        method, path, length = self._request
        if self._seen >= length:
            self._request, self._seen = None, 0
            self._answer(method, path, b"", length)

    def _step(self) -> bool:
        if self._request is None:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self._held[:end])
            del self._held[: end + 4]
            line, *fields = head.split(b"\r\n")
            method, path, _ = line.split(b" ")
            length = next((int(field[15:]) for field in fields if field[:15].lower() == b"content-length:"), 0)
            self._request = (method, path, length)
        method, path, length = self._request
        if length > _KEPT_BYTES_MAX:
            data = bytes(self._held)
            self._held.clear()
            self._count(data)
            return False
        if len(self._held) < length:
            return False
        body = bytes(self._held[:length])
        del self._held[:length]
        self._request = None
        self._answer(method, path, body, length)
        return True

    def _answer(self, method: bytes, path: bytes, body: bytes, length: int) -> None:
        found = self.bodies.get(path)
        if method == b"PUT":
            etag = b'"%d"' % hash((body, length))
            self.bodies[path] = (body, length, etag)
            self._transport.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nETag: " + etag + b"\r\n\r\n")
        elif found is None:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif method == b"DELETE":
            del self.bodies[path]
            self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            body, length, etag = found
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: %s\r\n\r\n" % (length, etag)
            self._transport.write(head + (b"" if method == b"HEAD" else body))


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
