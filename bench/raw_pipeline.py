"""The raw pipeline: what this machine could do if only the necessary were done, by plain sockets and threads.

Six receivers are processes (``raw_receiver.py``). The sender seals packs and sends each to five of them side by side;
a pack counts when all five have said that it is durable. It hashes nothing itself: the receivers name what came, and
the five names must agree. A get takes each pack from one holder and opens it into a reused buffer. No signatures, no
index, no names, no commit: what holdfast adds to this is what the ratio shows.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.raw_receiver import COPY, DIGEST_BYTES, DISCARD, GET, PUT, REQUEST, receive_into
from bench.raw_seal import CHUNK_BYTES, OVERHEAD_BYTES, open_sealed, seal
from bench.threads import side_by_side

CHUNKS_PER_PACK = 4
PACK_BYTES = CHUNKS_PER_PACK * (CHUNK_BYTES + OVERHEAD_BYTES)
WORKERS = 3  # packs under way at once; 2 to 4 give about the same on two cores


@dataclass(frozen=True)
class Placed:
    """One pack: its digest, bytes, the receivers that hold it, and the chunks' places in it."""

    digest: bytes
    size: int
    holders: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]  # (offset, sealed bytes)
    plain_start: int  # where its plain bytes begin in the source


class RawNetwork:
    """Receiver processes with their directories below ``directory``; leave the context to end and empty them."""

    def __init__(self, directory: Path, *, nodes: int = 6, copies: int = 5) -> None:
        self._directories = [directory / f"receiver-{number}" for number in range(nodes)]
        self._copies = copies
        self._processes: list[subprocess.Popen[str]] = []
        self.ports: list[int] = []

    def __enter__(self) -> RawNetwork:
        for directory in self._directories:
            directory.mkdir(parents=True)
            command = [sys.executable, "-m", "bench.raw_receiver", str(directory)]
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
            )
        for process in self._processes:
            assert process.stdout is not None
            self.ports.append(int(process.stdout.readline()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.communicate()
        self.forget()

    def forget(self) -> None:
        """Removes what the receivers hold."""
        for directory in self._directories:
            for path in directory.iterdir():
                path.unlink()

    def holders(self, number: int) -> tuple[int, ...]:
        """Where pack ``number`` goes: the copies begin at another receiver each time."""
        return tuple((number + step) % len(self.ports) for step in range(self._copies))

    @contextlib.contextmanager
    def connections(self) -> Iterator[list[socket.socket]]:
        """One connection to each receiver."""
        with contextlib.ExitStack() as stack:
            found = []
            for port in self.ports:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                found.append(connection)
            yield found


def put_large(network: RawNetwork, source: Path, *, workers: int = WORKERS) -> list[Placed]:
    """The file as packs on five receivers each, durable when this returns."""
    size = source.stat().st_size
    plain_bytes = CHUNKS_PER_PACK * CHUNK_BYTES
    starts = list(range(0, size, plain_bytes))
    placed: dict[int, Placed] = {}
    file = os.open(source, os.O_RDONLY)

    def work(take: Callable[[], int | None]) -> None:
        plain = memoryview(bytearray(CHUNK_BYTES))
        pack = memoryview(bytearray(PACK_BYTES))
        with network.connections() as sockets, ThreadPoolExecutor(len(sockets)) as senders:
            while (number := take()) is not None:
                offset = 0
                chunks = []
                for start in range(starts[number], min(starts[number] + plain_bytes, size), CHUNK_BYTES):
                    count = os.preadv(file, [plain], start)
                    sealed = seal(plain[:count], pack[offset:])
                    chunks.append((offset, sealed))
                    offset += sealed
                holders = network.holders(number)
                answers = senders.map(lambda holder, body=pack[:offset]: _put(sockets[holder], body), holders)
                placed[number] = Placed(_agreed(answers), offset, holders, tuple(chunks), starts[number])

    try:
        _in_threads(work, len(starts), workers)
    finally:
        os.close(file)
    return [placed[number] for number in range(len(starts))]


def get_large(
    network: RawNetwork, packs: Sequence[Placed], target: Path | None = None, *, workers: int = WORKERS
) -> int:
    """Fetches, opens and checks all packs; writes the plain bytes to ``target`` if there is one. How many bytes."""
    file = None if target is None else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    opened: list[int] = []

    def work(take: Callable[[], int | None]) -> None:
        plain = memoryview(bytearray(CHUNK_BYTES))
        buffer = memoryview(bytearray(PACK_BYTES))
        with network.connections() as sockets:
            while (number := take()) is not None:
                placed = packs[number]
                _fetch(sockets[placed.holders[number % len(placed.holders)]], placed, buffer)
                position = placed.plain_start
                for offset, sealed in placed.chunks:
                    count = open_sealed(buffer[offset : offset + sealed], plain)
                    if file is not None:
                        os.pwrite(file, plain[:count], position)
                    position += count
                opened.append(position - placed.plain_start)

    try:
        _in_threads(work, len(packs), workers)
    finally:
        if file is not None:
            os.close(file)
    return sum(opened)


def put_singles(network: RawNetwork, bodies: Sequence[bytes], *, at_once: int = 1) -> list[Placed]:
    """Each body sealed and made durable on five receivers, ``at_once`` of them under way."""
    placed: dict[int, Placed] = {}

    def work(take: Callable[[], int | None]) -> None:
        buffer = memoryview(bytearray(max(map(len, bodies)) + OVERHEAD_BYTES))
        with network.connections() as sockets:
            while (number := take()) is not None:
                sealed = seal(memoryview(bodies[number]), buffer)
                holders = network.holders(number)
                request = REQUEST.pack(PUT, bytes(DIGEST_BYTES), 0, sealed) + buffer[:sealed]
                for holder in holders:
                    sockets[holder].sendall(request)
                digest = _agreed(_answer(sockets[holder]) for holder in holders)
                placed[number] = Placed(digest, sealed, holders, ((0, sealed),), 0)

    _in_threads(work, len(bodies), at_once)
    return [placed[number] for number in range(len(bodies))]


def get_singles(network: RawNetwork, placed: Sequence[Placed], *, at_once: int = 1) -> int:
    """Each body fetched from one holder, opened and checked, ``at_once`` of them under way. How many bytes."""
    opened: list[int] = []
    size_max = max(one.size for one in placed)

    def work(take: Callable[[], int | None]) -> None:
        buffer, plain = memoryview(bytearray(size_max)), memoryview(bytearray(size_max))
        with network.connections() as sockets:
            while (number := take()) is not None:
                one = placed[number]
                _fetch(sockets[one.holders[number % len(one.holders)]], one, buffer)
                opened.append(open_sealed(buffer[: one.size], plain))

    _in_threads(work, len(placed), at_once)
    return sum(opened)


def get_at(network: RawNetwork, packs: Sequence[Placed], position: int, size: int) -> bytes:
    """``size`` plain bytes from ``position`` on: the chunks that hold them, fetched from one holder, and opened."""
    found = bytearray()
    buffer, plain = memoryview(bytearray(CHUNK_BYTES + OVERHEAD_BYTES)), memoryview(bytearray(CHUNK_BYTES))
    with network.connections() as sockets:
        for chunk in range(position // CHUNK_BYTES, (position + size - 1) // CHUNK_BYTES + 1):
            placed = packs[chunk // CHUNKS_PER_PACK]
            offset, sealed = placed.chunks[chunk % CHUNKS_PER_PACK]
            connection = sockets[placed.holders[chunk % len(placed.holders)]]
            connection.sendall(REQUEST.pack(GET, placed.digest, offset, sealed))
            receive_into(connection, buffer[:sealed])
            count = open_sealed(buffer[:sealed], plain)
            start = chunk * CHUNK_BYTES
            found += plain[max(position - start, 0) : min(position + size - start, count)]
    return bytes(found)


def put_many(network: RawNetwork, sources: Sequence[Path]) -> list[Placed]:
    """Small files read, sealed one by one into packs, and the packs made durable on five receivers each."""
    placed: list[Placed] = []
    pack = memoryview(bytearray(PACK_BYTES))
    offset = 0
    chunks: list[tuple[int, int]] = []

    with network.connections() as sockets, ThreadPoolExecutor(len(sockets)) as senders:

        def send() -> None:
            holders = network.holders(len(placed))
            digest = _agreed(senders.map(lambda holder: _put(sockets[holder], pack[:offset]), holders))
            placed.append(Placed(digest, offset, holders, tuple(chunks), 0))

        for source in sources:
            body = source.read_bytes()
            if offset + len(body) + OVERHEAD_BYTES > PACK_BYTES:
                send()
                offset = 0
                chunks = []
            sealed = seal(memoryview(body), pack[offset:])
            chunks.append((offset, sealed))
            offset += sealed
        send()
    return placed


def get_many(network: RawNetwork, packs: Sequence[Placed], targets: Sequence[Path]) -> int:
    """What ``put_many`` kept, as files again; their directories exist. How many files."""
    buffer, plain = memoryview(bytearray(PACK_BYTES)), memoryview(bytearray(PACK_BYTES))
    names = iter(targets)
    count = 0
    with network.connections() as sockets:
        for number, placed in enumerate(packs):
            _fetch(sockets[placed.holders[number % len(placed.holders)]], placed, buffer)
            for offset, sealed in placed.chunks:
                size = open_sealed(buffer[offset : offset + sealed], plain)
                with open(next(names), "wb", buffering=0) as file:
                    file.write(plain[:size])
                count += 1
    return count


def fill(network: RawNetwork, count: int) -> list[Placed]:
    """``count`` packs of random bytes, each on one receiver."""
    placed = []
    with network.connections() as sockets:
        for number in range(count):
            holder = network.holders(number)[0]
            digest = _put(sockets[holder], memoryview(os.urandom(PACK_BYTES)))
            placed.append(Placed(digest, PACK_BYTES, (holder,), (), 0))
    return placed


def copy_each(network: RawNetwork, packs: Sequence[Placed], *, at_once: int = 4) -> None:
    """Each pack from its holder to the next receiver, durable there: what a repair must do at least.

    Every receiver has ``at_once`` copies under way; fewer are slower where packs lie in memory.
    """

    def work(take: Callable[[], int | None]) -> None:
        with network.connections() as sockets:
            while (number := take()) is not None:
                placed = packs[number]
                connection = sockets[(placed.holders[0] + 1) % len(sockets)]
                port = network.ports[placed.holders[0]]
                connection.sendall(REQUEST.pack(COPY, placed.digest, port, placed.size))
                if _answer(connection) != placed.digest:
                    raise ValueError("a copy is not what was copied")

    _in_threads(work, len(packs), at_once * len(network.ports))


def stream(network: RawNetwork, total: int, piece_bytes: int = PACK_BYTES) -> None:
    """``total`` bytes over one connection to a receiver that throws them away: the speed of loopback itself."""
    piece = memoryview(bytearray(piece_bytes))
    with network.connections() as sockets:
        sockets[0].sendall(REQUEST.pack(DISCARD, bytes(DIGEST_BYTES), 0, total))
        for start in range(0, total, piece_bytes):
            sockets[0].sendall(piece[: min(piece_bytes, total - start)])
        _answer(sockets[0])


def _put(connection: socket.socket, body: memoryview) -> bytes:
    connection.sendall(REQUEST.pack(PUT, bytes(DIGEST_BYTES), 0, len(body)))
    connection.sendall(body)
    return _answer(connection)


def _answer(connection: socket.socket) -> bytes:
    answer = bytearray(DIGEST_BYTES)
    receive_into(connection, memoryview(answer))
    return bytes(answer)


def _fetch(connection: socket.socket, placed: Placed, buffer: memoryview) -> None:
    connection.sendall(REQUEST.pack(GET, placed.digest, 0, placed.size))
    receive_into(connection, buffer[: placed.size])


def _agreed(answers: Iterator[bytes]) -> bytes:
    names = set(answers)
    if len(names) != 1:
        raise ValueError("the receivers of one pack disagree on its digest")
    return names.pop()


def _in_threads(work: Callable[[Callable[[], int | None]], None], count: int, workers: int) -> None:
    """Runs ``work`` in threads that take the numbers below ``count`` in turn."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        numbers.put(number)

    def take() -> int | None:
        try:
            return numbers.get_nowait()
        except queue.Empty:
            return None

    side_by_side(min(workers, count), lambda _: work(take))


def environment() -> dict[str, str]:
    """For a process that runs a module of this package, wherever the run was started."""
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
