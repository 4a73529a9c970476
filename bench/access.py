"""A large file that is there already: put again with all of it read, and pieces of it read at random places."""

from __future__ import annotations

import os
import random
import statistics
import time
from pathlib import Path

from blake3 import blake3

from bench.local import Holdfast
from bench.measure import Rounds, Scale, alternate, random_file, seconds
from bench.pair import Pair
from bench.raw_pipeline import Placed, RawNetwork, get_at, put_large
from bench.raw_seal import CHUNK_BYTES
from bench.report import Figure, at_most, ratio_at_least

_MB = 1e6
_PIECE_BYTES = 64 << 10
_ID_KEY = bytes(32)
_SEED = 20261121


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page; starts and ends its own processes below ``directory``."""
    source = random_file(directory / "source", scale.size)
    with (
        RawNetwork(directory / "raw", nodes=scale.nodes, copies=scale.copies) as raw,
        Holdfast(directory / "holdfast", nodes=scale.nodes, survive=scale.copies - 1) as ours,
    ):
        ours.do(ours.vault.put(source, "large"))
        return [_again(scale, source, ours), *_pieces(scale, source, put_large(raw, source), raw, ours)]


def _again(scale: Scale, source: Path, ours: Holdfast) -> Figure:
    """The limit reads and hashes in one thread, which is all that must be done to know that nothing changed."""
    again = Pair(
        "put, one large file unchanged, read again", "MB/s", ratio_at_least(0.6), "reading and keyed BLAKE3"
    )  # fmt: skip
    size = scale.size / _MB

    def bare(_: int) -> None:
        again.theirs.add(size / seconds(lambda: _hashed(source)))

    def with_ours(_: int) -> None:
        again.ours.add(size / seconds(lambda: ours.do(ours.vault.put(source, "large", reread=True))))

    bare(0)
    with_ours(0)
    again.forget()
    alternate(scale.repeat, bare, with_ours)
    return again.figure()


def _hashed(source: Path) -> None:
    chunk = memoryview(bytearray(CHUNK_BYTES))
    with source.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            blake3(chunk[:count], key=_ID_KEY).digest()


def _pieces(
    scale: Scale, source: Path, packs: list[Placed], raw: RawNetwork, ours: Holdfast
) -> list[Figure]:  # fmt: skip
    """Each piece by itself, the next one asked when it is here. The first ones are to warm up: recipe, connections."""
    dice = random.Random(_SEED)
    last = scale.size - _PIECE_BYTES
    places = [dice.randrange(last + 1) for _ in range(scale.singles)]
    vault, name = ours.vault, "large"
    for place in places[:10]:
        ours.do(vault.read(name, place, place + _PIECE_BYTES))
    p99, bare, moved = Rounds(), Rounds(), []
    with source.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        for _ in range(scale.repeat):
            took, raw_took = [], []
            for place in places:
                before = _read_by_nodes(ours)
                began = time.perf_counter()
                found = ours.do(vault.read(name, place, place + _PIECE_BYTES))
                took.append(time.perf_counter() - began)
                moved.append(_read_by_nodes(ours) - before)
                began = time.perf_counter()
                same = get_at(raw, packs, place, _PIECE_BYTES)
                raw_took.append(time.perf_counter() - began)
                if not os.pread(descriptor, _PIECE_BYTES, place) == found == same:
                    raise ValueError("a piece came back as other bytes")
            p99.add(1000 * _p99(took))
            bare.add(1000 * _p99(raw_took))
    return [
        Figure("64 KiB at a random place of a large file, p99", p99.median, "ms", bare.median, "raw pipeline",
               at_most(25), tuple(p99.values), tuple(bare.values)),
        Figure("64 KiB at a random place, moved at most (nodes' reads)", _p99(moved) / CHUNK_BYTES, "chunks",
               goal=at_most(2.1)),
    ]  # fmt: skip


def _p99(values: list[float] | list[int]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]


def _read_by_nodes(ours: Holdfast) -> int:
    """Bytes that all nodes have read so far: of blobs, sent from the file or not, and a little of their ledgers."""
    total = 0
    for member in ours.network.nodes:
        for line in Path(f"/proc/{member.pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                total += int(line.split()[1])
    return total
