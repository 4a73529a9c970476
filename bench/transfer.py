"""Put and get through the SDK beside the raw pipeline: the same bytes, copies and disk, turn and turn about."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from bench.local import Holdfast
from bench.measure import Scale, alternate, random_file, seconds, small_files, targets_for, timed
from bench.pair import Pair, same
from bench.raw_pipeline import (
    RawNetwork,
    get_large,
    get_many,
    get_singles,
    put_large,
    put_many,
    put_singles,
)
from bench.report import Figure, at_least, ratio_at_least

_MB = 1e6
_RANDOM_BYTES = 64 << 10
_CHUNK_BYTES = 4 << 20


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page; starts and ends its own processes below ``directory``."""
    with (
        RawNetwork(directory / "raw", nodes=scale.nodes, copies=scale.copies) as raw,
        Holdfast(directory / "holdfast", nodes=scale.nodes, survive=scale.copies - 1) as ours,
    ):
        return [
            *_large(scale, directory / "large", raw, ours),
            *_directory(scale, directory / "small", raw, ours),
            *_singles(scale, raw, ours),
        ]


def _large(scale: Scale, directory: Path, raw: RawNetwork, ours: Holdfast) -> list[Figure]:
    directory.mkdir()
    put = Pair("put, one large file", "MB/s", ratio_at_least(0.65))
    stream = Pair("get, one large file as a stream", "MB/s", ratio_at_least(0.6))
    get = Pair("get, one large file to a file", "MB/s", ratio_at_least(0.6))
    size = scale.size / _MB
    sources = [random_file(directory / f"source-{number}", scale.size) for number in range(scale.repeat + 1)]

    def with_raw(number: int) -> None:
        took, packs = timed(lambda: put_large(raw, sources[number]))
        put.theirs.add(size / took)
        stream.theirs.add(size / seconds(lambda: get_large(raw, packs)))
        target = directory / "raw-got"
        get.theirs.add(size / seconds(lambda: get_large(raw, packs, target)))
        same(sources[number], target)
        raw.forget()

    def with_ours(number: int) -> None:
        name = f"large-{number}"
        put.ours.add(size / seconds(lambda: ours.do(ours.vault.put(sources[number], name))))
        stream.ours.add(size / seconds(lambda: ours.do(ours.drain(name))))
        target = directory / "got"
        get.ours.add(size / seconds(lambda: ours.do(ours.vault.get(name, target))))
        same(sources[number], target)

    # The first writes to a disk and the first run of any code are slower than all that follow.
    with_raw(scale.repeat)
    with_ours(scale.repeat)
    for pair in (put, stream, get):
        pair.forget()
    alternate(scale.repeat, with_raw, with_ours)
    shutil.rmtree(directory)
    return [put.figure(), stream.figure(), get.figure()]


def _directory(scale: Scale, directory: Path, raw: RawNetwork, ours: Holdfast) -> list[Figure]:
    put = Pair("put, a directory of small files", "files/s", at_least(2000))
    again = Pair("put, the same directory unchanged", "files/s", at_least(20_000))
    get = Pair("get, a directory of small files", "files/s", at_least(4000))
    trees = [directory / f"tree-{number}" for number in range(scale.repeat)]
    sources = [small_files(tree, scale.files, scale.small_bytes) for tree in trees]

    def with_raw(number: int) -> None:
        targets = targets_for(directory / f"raw-got-{number}", sources[number], trees[number])
        took, packs = timed(lambda: put_many(raw, sources[number]))
        put.theirs.add(scale.files / took)
        get.theirs.add(scale.files / seconds(lambda: get_many(raw, packs, targets)))
        raw.forget()

    def with_ours(number: int) -> None:
        name = f"tree-{number}"
        put.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.put_tree([trees[number]], name))))
        again.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.put_tree([trees[number]], name))))
        target = directory / f"got-{number}"
        get.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.get(name, target))))
        for source in sources[number]:
            same(source, target / source.relative_to(trees[number]))

    alternate(scale.repeat, with_raw, with_ours)
    shutil.rmtree(directory)
    return [put.figure(), again.figure(), get.figure()]


def _singles(scale: Scale, raw: RawNetwork, ours: Holdfast) -> list[Figure]:
    many = scale.at_once
    pairs = {
        1: (
            Pair("put, small ones one after another", "files/s", at_least(150)),
            Pair("get, small ones one after another", "files/s", at_least(800)),
        ),
        many: (
            Pair(f"put, small ones, {many} at once", "files/s", at_least(600)),
            Pair(f"get, small ones, {many} at once", "files/s", at_least(2000)),
        ),
    }

    def with_raw(number: int) -> None:
        for at_once, (put, get) in pairs.items():
            bodies = _bodies(scale)
            took, placed = timed(partial(put_singles, raw, bodies, at_once=at_once))
            put.theirs.add(scale.singles / took)
            get.theirs.add(scale.singles / seconds(partial(get_singles, raw, placed, at_once=at_once)))
            raw.forget()

    def with_ours(number: int) -> None:
        for at_once, (put, get) in pairs.items():
            bodies = {f"single-{at_once}-{number}-{index}": body for index, body in enumerate(_bodies(scale))}
            put.ours.add(scale.singles / seconds(partial(ours.put_singles, bodies, at_once)))
            took, found = timed(partial(ours.read_singles, list(bodies), at_once))
            get.ours.add(scale.singles / took)
            if found != list(bodies.values()):
                raise ValueError("small files came back as other bytes")

    alternate(scale.repeat, with_raw, with_ours)
    return [pair.figure() for both in pairs.values() for pair in both]


def _bodies(scale: Scale) -> list[bytes]:
    return [os.urandom(scale.small_bytes) for _ in range(scale.singles)]
