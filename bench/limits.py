"""What this machine can do at most: sealing, hashing, loopback, synced writes, and the raw pipeline by itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blake3 import blake3

from bench.measure import MIB, Rounds, Scale, random_file, seconds, small_files, targets_for, timed
from bench.raw_pipeline import RawNetwork, get_large, get_many, get_singles, put_large, put_many, put_singles, stream
from bench.raw_seal import CHUNK_BYTES, OVERHEAD_BYTES, seal
from bench.report import Figure
from bench.threads import side_by_side

_MB = 1e6
_MANY = 16  # threads that sync at once


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All limits; ``directory`` lies on the disk to measure."""
    return [*_processor(scale), *_loopback(scale, directory), *_synced(scale, directory), *_pipeline(scale, directory)]


def _processor(scale: Scale) -> list[Figure]:
    data = memoryview(os.urandom(CHUNK_BYTES))
    calls = max(1, scale.size // CHUNK_BYTES)

    def sealing(_: int) -> None:
        sealed = memoryview(bytearray(CHUNK_BYTES + OVERHEAD_BYTES))
        for _ in range(calls):
            seal(data, sealed)

    def sha256(_: int) -> None:
        for _ in range(calls):
            hashlib.sha256(data).digest()

    def tree(_: int) -> None:
        for _ in range(calls):
            blake3(data).digest()

    figures = []
    works: dict[str, Callable[[int], None]] = {"seal 4 MiB": sealing, "SHA-256": sha256, "BLAKE3": tree}
    for name, work in works.items():
        for threads in (1, 2):
            amount = threads * calls * CHUNK_BYTES / _MB
            rates = [amount / seconds(partial(side_by_side, threads, work)) for _ in range(scale.repeat)]
            figures.append(_figure(f"{name}, {_threads(threads)}", "MB/s", Rounds(rates)))
    return figures


def _loopback(scale: Scale, directory: Path) -> list[Figure]:
    with RawNetwork(directory / "loopback", nodes=1, copies=1) as network:
        rates = [scale.size / _MB / seconds(partial(stream, network, scale.size)) for _ in range(scale.repeat)]
    return [_figure("loopback, 1 connection", "MB/s", Rounds(rates))]


def _synced(scale: Scale, directory: Path) -> list[Figure]:
    figures = []
    for size, count, name, unit in (
        (4096, scale.singles, "4 KiB", "files/s"),
        (16 * MIB, max(1, scale.size // (16 * MIB)), "16 MiB", "MB/s"),
    ):
        for threads in (1, _MANY):
            each = max(1, count // threads)
            amount = each * threads * (1 if unit == "files/s" else size / _MB)
            rounds = Rounds()
            for number in range(scale.repeat):
                target = directory / f"synced-{size}-{threads}-{number}"
                target.mkdir()
                rounds.add(amount / seconds(partial(_write_all, target, os.urandom(size), each, threads)))
                for path in target.iterdir():
                    path.unlink()
            figures.append(_figure(f"synced writes of {name}, {_threads(threads)}", unit, rounds))
    return figures


def _write_all(directory: Path, body: bytes, each: int, threads: int) -> None:
    """Each thread keeps ``each`` files as a store does: write, fdatasync, link, fsync of the directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def work(thread: int) -> None:
        for number in range(each):
            temporary = f"incoming-{thread}"
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=descriptor)
            try:
                written = 0
                while written < len(body):
                    written += os.write(file, memoryview(body)[written:])
                os.fdatasync(file)
            finally:
                os.close(file)
            os.link(temporary, f"{thread}-{number}", src_dir_fd=descriptor, dst_dir_fd=descriptor)
            os.unlink(temporary, dir_fd=descriptor)
            os.fsync(descriptor)

    try:
        side_by_side(threads, work)
    finally:
        os.close(descriptor)


def _pipeline(scale: Scale, directory: Path) -> list[Figure]:
    source = random_file(directory / "source", scale.size)
    small = directory / "small"
    sources = small_files(small, scale.files, scale.small_bytes)
    bytes_names = ("put", "get", "get to a file")
    files_names = ("single put", "single get", "small files put", "small files get")
    found = {name: Rounds() for name in (*bytes_names, *files_names)}

    def one_round(number: int) -> None:
        size = scale.size / _MB
        took, packs = timed(lambda: put_large(network, source))
        found["put"].add(size / took)
        found["get"].add(size / seconds(lambda: get_large(network, packs)))
        found["get to a file"].add(size / seconds(lambda: get_large(network, packs, directory / f"got-{number}")))
        bodies = [os.urandom(scale.small_bytes) for _ in range(scale.singles)]
        took, placed = timed(lambda: put_singles(network, bodies))
        found["single put"].add(scale.singles / took)
        found["single get"].add(scale.singles / seconds(lambda: get_singles(network, placed)))
        targets = targets_for(directory / f"small-got-{number}", sources, small)
        took, many = timed(lambda: put_many(network, sources))
        found["small files put"].add(scale.files / took)
        found["small files get"].add(scale.files / seconds(lambda: get_many(network, many, targets)))
        network.forget()

    with RawNetwork(directory / "raw", nodes=scale.nodes, copies=scale.copies) as network:
        for number in range(scale.repeat):
            one_round(number)
    units = {**dict.fromkeys(bytes_names, "MB/s"), **dict.fromkeys(files_names, "files/s")}
    return [_figure(f"raw pipeline, {name}", units[name], rounds) for name, rounds in found.items()]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _figure(name: str, unit: str, rounds: Rounds) -> Figure:
    return Figure(name, rounds.median, unit, rounds=tuple(rounds.values))
