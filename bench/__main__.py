"""``python -m bench``: takes the figures, prints them beside limits and goals, and keeps them as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.measure import GIB, MIB, Scale, parse_size, work_directory
from bench.picture import drawn, latest
from bench.report import Figure, machine, table, write

_PARTS = {
    "limits": "what the machine can do: seal, hash, loopback, synced writes, the raw pipeline",
    "disk": "durable puts beside the file system doing the same calls, and one long stream",
    "transfer": "put and get through the SDK beside the raw pipeline",
    "access": "a large file put again with all of it read, and pieces of it at random places",
    "repair": "the copies of a lost node made again, beside the bare copying",
    "peers": "beside Tahoe-LAFS, SeaweedFS and restic: `make peers` brings them",
    "buckets": "NATS buckets of one and three copies beside the bare calls",
    "outbox": "durable entries beside synced commits, delivery of small writes, one large body",
    "start": "a node of a million blobs after a clean stop and after SIGKILL",
    "commits": "commits of small puts on SQLite and PostgreSQL, one client and eight",
    "plans": "what repair takes from the question who lacks copies to the ordered list",
    "scale": "a thousand nodes and a million packs: what repair decides, when all is whole, nines of each policy",
    "exchange": "plain blobs between nodes beside nginx, a direct copy and the origin alone",
    "growth": "the same work at ten and a hundred times as many packs",
    "memory": "peak memory by process for streams of 1 MiB, 1 GiB and, with --full, 20 GiB",
    "costs": "memory, bytes per pack in the coordinator's database, start-up",
}
_RESULTS = Path(__file__).parent / "results"
_QUICK = Scale(
    size=16 * MIB,
    files=200,
    singles=50,
    lost=64 * MIB,
    repeat=1,
    memory_size=64 * MIB,
    packs=10_000,
    entries=20_000,
    blobs=10_000,
)


def main(arguments: list[str] | None = None) -> int:
    """0 when every goal was met, 1 when one was missed."""
    options = _parser().parse_args(arguments)
    scale = _scale(options)
    started = time.time()
    figures: list[Figure] = []
    with work_directory(options.data) as directory:
        facts = machine(directory)
        for part in options.only or _PARTS:
            print(f"{part}: {_PARTS[part]} ...", file=sys.stderr, flush=True)
            below = directory / part
            below.mkdir()
            figures += importlib.import_module(f"bench.{part}").run(scale, below)
    results = options.json or _RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}.json"
    write(results, figures, facts, asdict(scale))
    print(table(figures))
    if options.picture is not None and not options.quick:
        _draw(options.picture, results)
    print(f"{time.time() - started:.0f} s; details in {results}", file=sys.stderr)
    return 1 if any(figure.ok is False for figure in figures) else 0


def _draw(picture: Path, results: Path) -> None:
    """What this run left out comes from earlier ones."""
    before = [json.loads(path.read_text()) for path in _RESULTS.glob("*.json")]
    try:
        picture.write_text(drawn(latest([*before, json.loads(results.read_text())])))
    except ValueError as error:
        print(f"no picture: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(_PARTS), help="these parts, not all")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: does it run at all")
    parser.add_argument(
        "--full", action="store_true", help="peak memory with 4 GiB instead of 1 GiB, and a stream of 20 GiB"
    )
    parser.add_argument("--size", type=parse_size, help="bytes of the large file [256MiB]")
    parser.add_argument("--files", type=int, help="small files of the directory [10000]")
    parser.add_argument("--singles", type=int, help="small puts and gets one after another [500]")
    parser.add_argument("--at-once", type=int, help="small puts and gets at once, where not one after another [16]")
    parser.add_argument("--lost", type=parse_size, help="bytes on the node that repair replaces [2GiB]")
    parser.add_argument("--memory-size", type=parse_size, help="bytes of the file for peak memory [1GiB]")
    parser.add_argument("--stream-size", type=parse_size, help="bytes of the longest stream for peak memory [none]")
    parser.add_argument("--packs", type=int, help="packs in the coordinator's database [100000]")
    parser.add_argument("--blobs", type=int, help="blobs of a node that is started [1000000]")
    parser.add_argument("--entries", type=int, help="entries that wait in an outbox [1000000]")
    parser.add_argument("--repeat", type=int, help="rounds, of which the median counts [3]")
    parser.add_argument("--data", type=Path, help="where to write, on the disk to measure [below bench/results]")
    parser.add_argument("--picture", type=Path, help="the figures as an SVG; what this run leaves out, of earlier ones")
    parser.add_argument("--json", type=Path, help="where the details go [bench/results/TIME.json]")
    return parser


def _scale(options: argparse.Namespace) -> Scale:
    scale = _QUICK if options.quick else Scale()
    if options.full:
        scale = replace(scale, memory_size=4 * GIB, stream_size=20 * GIB)
    names = (
        "size",
        "files",
        "singles",
        "memory_size",
        "packs",
        "entries",
        "blobs",
        "repeat",
        "at_once",
        "lost",
        "stream_size",
    )
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if any(value < 1 for value in given.values()):
        raise SystemExit("sizes and counts are at least 1")
    return replace(scale, **given)


if __name__ == "__main__":
    sys.exit(main())
