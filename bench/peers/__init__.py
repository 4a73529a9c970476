"""Beside the systems people would take instead, doing the same work on the same disk in the same run.

``make peers`` brings their programs; what is not there is said and left out. Each is given what
suits it: plain sockets as its client, its own defaults beside the number of copies and, for SeaweedFS, syncing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.local import Holdfast
from bench.measure import Scale, alternate, random_file, seconds, timed
from bench.pair import Pair, same
from bench.peers.environment import program
from bench.peers.restic import Restic
from bench.peers.seaweed import Seaweed
from bench.peers.tahoe import Tahoe
from bench.report import Figure, ratio_at_least

_MB = 1e6
_MEMORY = Path("/dev/shm")
_SURVIVE = 2  # three copies, as SeaweedFS keeps them


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page for which there is somebody to compare with."""
    figures = []
    for name, work in (("tahoe", _tahoe), ("weed", _seaweed), ("restic", _restic)):
        if program(name) is None:
            print(f"peers: no {name}: left out; `make peers` brings it", file=sys.stderr)
        else:
            figures += work(scale, directory / name)
    return figures


def _tahoe(scale: Scale, directory: Path) -> list[Figure]:
    put = Pair("put, one large file, full copies", "MB/s", ratio_at_least(5), "Tahoe-LAFS")
    get = Pair("get, one large file to a file, full copies", "MB/s", ratio_at_least(7), "Tahoe-LAFS")
    size = scale.size / _MB
    directory.mkdir()
    sources = [random_file(directory / f"source-{number}", scale.size) for number in range(scale.repeat)]
    target = directory / "got"
    with (
        Tahoe(directory / "tahoe", nodes=scale.nodes, copies=scale.copies) as tahoe,
        Holdfast(directory / "holdfast", nodes=scale.nodes, survive=scale.copies - 1) as ours,
    ):

        def with_tahoe(number: int) -> None:
            took, capability = timed(lambda: tahoe.put(sources[number]))
            put.theirs.add(size / took)
            get.theirs.add(size / seconds(lambda: tahoe.get(capability, target)))
            same(sources[number], target)

        alternate(scale.repeat, with_tahoe, lambda number: _large(ours, sources[number], target, size, put, get))
    shutil.rmtree(directory)
    return [put.figure(), get.figure()]


def _seaweed(scale: Scale, directory: Path) -> list[Figure]:
    name = "SeaweedFS"
    put = Pair("put, one large file, 3 copies", "MB/s", ratio_at_least(1.5), name)
    get = Pair("get, one large file to a file, 3 copies", "MB/s", ratio_at_least(1.1), name)
    single_put = Pair("put, small ones one after another, 3 copies", "files/s", ratio_at_least(0.5), name)
    single_get = Pair("get, small ones one after another, 3 copies", "files/s", ratio_at_least(0.8), name)
    put_at_once = Pair(f"put, small ones, {scale.at_once} at once, 3 copies", "files/s", ratio_at_least(1.5), name)
    get_at_once = Pair(f"get, small ones, {scale.at_once} at once, 3 copies", "files/s", None, name)
    size = scale.size / _MB
    directory.mkdir()
    sources = [random_file(directory / f"source-{number}", scale.size) for number in range(scale.repeat)]
    target = directory / "got"
    with (
        Seaweed(directory / "seaweed", nodes=scale.nodes) as weed,
        Holdfast(directory / "holdfast", nodes=scale.nodes, survive=_SURVIVE) as ours,
    ):

        def with_weed(number: int) -> None:
            put.theirs.add(size / seconds(lambda: weed.put(sources[number], f"large-{number}")))
            get.theirs.add(size / seconds(lambda: weed.get(f"large-{number}", target)))
            same(sources[number], target)
            for at_once, puts, gets in ((1, single_put, single_get), (scale.at_once, put_at_once, get_at_once)):
                bodies = _bodies(scale, f"{at_once}-{number}")
                puts.theirs.add(scale.singles / seconds(partial(weed.put_singles, bodies, at_once)))
                gets.theirs.add(scale.singles / seconds(partial(weed.get_singles, list(bodies), at_once)))

        def with_ours(number: int) -> None:
            _large(ours, sources[number], target, size, put, get)
            for at_once, puts, gets in ((1, single_put, single_get), (scale.at_once, put_at_once, get_at_once)):
                bodies = _bodies(scale, f"{at_once}-{number}")
                puts.ours.add(scale.singles / seconds(partial(ours.put_singles, bodies, at_once)))
                took, found = timed(partial(ours.read_singles, list(bodies), at_once))
                gets.ours.add(scale.singles / took)
                if found != list(bodies.values()):
                    raise ValueError("small files came back as other bytes")

        alternate(scale.repeat, with_weed, with_ours)
    shutil.rmtree(directory)
    return [pair.figure() for pair in (put, get, single_put, single_get, put_at_once, get_at_once)]


def _restic(scale: Scale, _: Path) -> list[Figure]:
    """In memory, because restic does not sync as often as we do: so neither waits for a disk."""
    if not _MEMORY.is_dir():
        print(f"peers: no {_MEMORY}: restic is left out", file=sys.stderr)
        return []
    put = Pair("put, one large file, 1 copy, in memory", "MB/s", ratio_at_least(1.5), "restic")
    get = Pair("get, one large file to a file, 1 copy, in memory", "MB/s", None, "restic")
    size = scale.size / _MB
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=_MEMORY) as path:
        directory = Path(path)
        restic = Restic(directory / "restic")
        source, target = directory / "source", directory / "got"
        with Holdfast(directory / "holdfast", nodes=1, survive=0) as ours:

            def with_ours() -> None:
                _large(ours, source, target, size, put, get)

            def with_restic() -> None:
                put.theirs.add(size / seconds(lambda: restic.put(source)))
                restored = directory / "restored"
                took, found = timed(lambda: restic.get(source, restored))
                get.theirs.add(size / took)
                same(source, found)

            for number in range(scale.repeat):
                random_file(source, scale.size)
                first, second = (with_restic, with_ours) if number % 2 == 0 else (with_ours, with_restic)
                first()
                second()
    return [put.figure(), get.figure()]


def _large(ours: Holdfast, source: Path, target: Path, size: float, put: Pair, get: Pair) -> None:
    put.ours.add(size / seconds(lambda: ours.do(ours.vault.put(source, source.name))))
    get.ours.add(size / seconds(lambda: ours.do(ours.vault.get(source.name, target))))
    same(source, target)


def _bodies(scale: Scale, prefix: str) -> dict[str, bytes]:
    return {f"{prefix}-{number}": os.urandom(scale.small_bytes) for number in range(scale.singles)}
