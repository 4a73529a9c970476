"""The receiving half of the raw pipeline: a process that checks, syncs and serves blobs with nothing around it.

``python -m bench.raw_receiver DIRECTORY`` prints its port and serves until its input ends. A request is ``REQUEST``
(and a body for put and discard); the answer to a put is the digest that the bytes had, sent once they are durable:
temporary file, SHA-256 while receiving, fdatasync, link, fsync of the directory. The answer to a get is just the bytes.
A copy names a blob and, as its first byte, the port of the receiver that has it: it is fetched from there, kept, and
answered like a put.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import sys
import threading
from pathlib import Path

REQUEST = struct.Struct(">c32sQQ")  # verb, digest (get), first byte (get), bytes that follow or are asked
PUT, GET, DISCARD, COPY = b"P", b"G", b"D", b"C"
DIGEST_BYTES = 32
_PIECE_BYTES = 1 << 20


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fills ``view``; ConnectionError when the other side ends before."""
    filled = 0
    while filled < len(view):
        count = connection.recv_into(view[filled:])
        if not count:
            raise ConnectionError("the other side of the raw pipeline ended")
        filled += count


class Receiver:
    """One directory, served by a thread for each connection."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def serve(self, connection: socket.socket) -> None:
        """Answers requests until the other side ends."""
        buffer = memoryview(bytearray(_PIECE_BYTES))
        head = memoryview(bytearray(REQUEST.size))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while True:
                try:
                    receive_into(connection, head)
                except ConnectionError:
                    return
                verb, digest, start, size = REQUEST.unpack(head)
                if verb == PUT:
                    connection.sendall(self._keep(connection, size, buffer))
                elif verb == COPY:
                    connection.sendall(self._copy(digest, start, size, buffer))
                elif verb == GET:
                    self._send(connection, digest, start, size)
                else:
                    self._discard(connection, size, buffer)
                    connection.sendall(bytes(DIGEST_BYTES))

    def _keep(self, connection: socket.socket, size: int, buffer: memoryview) -> bytes:
        temporary = f"incoming-{threading.get_ident()}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._descriptor)
        try:
            hash_ = hashlib.sha256()
            left = size
            while left:
                # A whole piece at a time: fewer, longer calls that hold no lock of the interpreter.
                piece = buffer[: min(left, len(buffer))]
                receive_into(connection, piece)
                hash_.update(piece)
                written = 0
                while written < len(piece):
                    written += os.write(file, piece[written:])
                left -= len(piece)
            os.fdatasync(file)
        finally:
            os.close(file)
        directory = self._descriptor
        with contextlib.suppress(FileExistsError):  # the same bytes were sent before
            os.link(temporary, hash_.hexdigest(), src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(temporary, dir_fd=directory)
        os.fsync(directory)
        return hash_.digest()

    def _copy(self, digest: bytes, port: int, size: int, buffer: memoryview) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as source:
            source.sendall(REQUEST.pack(GET, digest, 0, size))
            return self._keep(source, size, buffer)

    def _send(self, connection: socket.socket, digest: bytes, start: int, size: int) -> None:
        file = os.open(digest.hex(), os.O_RDONLY, dir_fd=self._descriptor)
        try:
            while size:
                count = os.sendfile(connection.fileno(), file, start, size)
                start += count
                size -= count
        finally:
            os.close(file)

    def _discard(self, connection: socket.socket, size: int, buffer: memoryview) -> None:
        while size:
            piece = buffer[: min(size, len(buffer))]
            receive_into(connection, piece)
            size -= len(piece)


def main(directory: Path) -> None:
    """Serves ``directory`` on a free port of loopback until standard input ends."""
    receiver = Receiver(directory)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=receiver.serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
