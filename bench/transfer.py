"""Put and get through the SDK beside the raw pipeline: the same bytes, copies and disk, turn and turn about."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

from bench.local import Holdfast
from bench.measure import Rounds, Scale, alternate, random_file, seconds, small_files, targets_for, timed
from bench.raw_pipeline import (
    Placed,
    RawNetwork,
    get_large,
    get_many,
    get_singles,
    put_large,
    put_many,
    put_singles,
)
from bench.report import Figure, Goal, at_least, ratio_at_least

_MB = 1e6
_RAW = "raw pipeline"


class Pair:
    """One figure under way: the rounds of holdfast and of the raw pipeline."""

    def __init__(self, name: str, unit: str, goal: Goal) -> None:
        self.name, self.unit, self.goal = name, unit, goal
        self.ours, self.raw = Rounds(), Rounds()

    def forget(self) -> None:
        """What was measured so far was only to warm up."""
        self.ours, self.raw = Rounds(), Rounds()

    def figure(self) -> Figure:
        limit = self.raw.median if self.raw.values else None
        return Figure(
            self.name, self.ours.median, self.unit, limit, _RAW if limit else "", self.goal,
            tuple(self.ours.values), tuple(self.raw.values),
        )  # fmt: skip


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
    put = Pair("put, one large file", "MB/s", ratio_at_least(0.5))
    stream = Pair("get, one large file as a stream", "MB/s", ratio_at_least(0.4))
    get = Pair("get, one large file to a file", "MB/s", ratio_at_least(0.4))
    size = scale.size / _MB
    sources = [random_file(directory / f"source-{number}", scale.size) for number in range(scale.repeat + 1)]

    def with_raw(number: int) -> None:
        took, packs = timed(lambda: put_large(raw, sources[number]))
        put.raw.add(size / took)
        stream.raw.add(size / seconds(lambda: get_large(raw, packs)))
        target = directory / "raw-got"
        get.raw.add(size / seconds(lambda: get_large(raw, packs, target)))
        _same(sources[number], target)
        raw.forget()

    def with_ours(number: int) -> None:
        name = f"large-{number}"
        put.ours.add(size / seconds(lambda: ours.do(ours.vault.put(sources[number], name))))
        stream.ours.add(size / seconds(lambda: ours.do(ours.drain(name))))
        target = directory / "got"
        get.ours.add(size / seconds(lambda: ours.do(ours.vault.get(name, target))))
        _same(sources[number], target)

    # The first writes to a disk and the first run of any code are slower than all that follow.
    with_raw(scale.repeat)
    with_ours(scale.repeat)
    for pair in (put, stream, get):
        pair.forget()
    alternate(scale.repeat, with_raw, with_ours)
    shutil.rmtree(directory)
    return [put.figure(), stream.figure(), get.figure()]


def _directory(scale: Scale, directory: Path, raw: RawNetwork, ours: Holdfast) -> list[Figure]:
    put = Pair("put, a directory of small files", "files/s", at_least(1000))
    again = Pair("put, the same directory unchanged", "files/s", at_least(20_000))
    get = Pair("get, a directory of small files", "files/s", at_least(2000))
    trees = [directory / f"tree-{number}" for number in range(scale.repeat)]
    sources = [small_files(tree, scale.files, scale.small_bytes) for tree in trees]

    def with_raw(number: int) -> None:
        targets = targets_for(directory / f"raw-got-{number}", sources[number], trees[number])
        took, packs = timed(lambda: put_many(raw, sources[number]))
        put.raw.add(scale.files / took)
        get.raw.add(scale.files / seconds(lambda: get_many(raw, packs, targets)))
        raw.forget()

    def with_ours(number: int) -> None:
        name = f"tree-{number}"
        put.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.put_tree([trees[number]], name))))
        again.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.put_tree([trees[number]], name))))
        target = directory / f"got-{number}"
        get.ours.add(scale.files / seconds(lambda: ours.do(ours.vault.get(name, target))))
        for source in sources[number]:
            _same(source, target / source.relative_to(trees[number]))

    alternate(scale.repeat, with_raw, with_ours)
    shutil.rmtree(directory)
    return [put.figure(), again.figure(), get.figure()]


def _singles(scale: Scale, raw: RawNetwork, ours: Holdfast) -> list[Figure]:
    put = Pair("put, small ones one after another", "files/s", at_least(100))
    get = Pair("get, small ones one after another", "files/s", at_least(500))

    def with_raw(number: int) -> None:
        bodies = _bodies(scale)
        placed: list[Placed]
        took, placed = timed(lambda: put_singles(raw, bodies))
        put.raw.add(scale.singles / took)
        get.raw.add(scale.singles / seconds(lambda: get_singles(raw, placed)))
        raw.forget()

    def with_ours(number: int) -> None:
        bodies = {f"single-{number}-{index}": body for index, body in enumerate(_bodies(scale))}
        put.ours.add(scale.singles / seconds(lambda: ours.do(ours.put_one_by_one(bodies))))
        took, found = timed(lambda: ours.do(ours.read_one_by_one(list(bodies))))
        get.ours.add(scale.singles / took)
        if found != list(bodies.values()):
            raise ValueError("small files came back as other bytes")

    alternate(scale.repeat, with_raw, with_ours)
    return [put.figure(), get.figure()]


def _bodies(scale: Scale) -> list[bytes]:
    return [os.urandom(scale.small_bytes) for _ in range(scale.singles)]


def _same(source: Path, target: Path) -> None:
    """A figure of wrong bytes would be worth nothing. Removes ``target``."""
    if not filecmp.cmp(source, target, shallow=False):
        raise ValueError("a file came back as other bytes")
    target.unlink()
