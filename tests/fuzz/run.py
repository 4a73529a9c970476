"""``make fuzz``: every parser of bytes from outside, as often as is said.

    python -m tests.fuzz.run [NAME...] [--runs 1000000] [--seed 1] [--list] [--keep]

Each target runs in a process of its own, under a limit of memory. Inputs are made from seeds by ``mutate``; one in a
hundred runs is traced, and an input that reaches a line that none reached before becomes a seed, so that changes
build on one another. What breaks a property is printed and, with ``--keep``, becomes a file in ``corpus/``, which
the default suite reads for ever. Exit code 1 if anything broke.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.mutate import mutated
from tests.fuzz.target import Broken, Target, check
from tests.fuzz.targets_auth import TARGETS as AUTH
from tests.fuzz.targets_codec import TARGETS as CODEC
from tests.fuzz.targets_outbox import TARGETS as OUTBOX
from tests.fuzz.targets_wire import TARGETS as WIRE

TARGETS: dict[str, Target] = {target.name: target for target in (*CODEC, *AUTH, *OUTBOX, *WIRE)}
CORPUS = Path(__file__).parent / "corpus"
TRACED_ONE_IN = 100
MEASURED_ONE_IN = 5000
SEEDS_MAX = 400
MEMORY_BYTES_MAX = 1 << 30
"""Of a whole process that fuzzes."""
INPUT_MEMORY_BYTES_MAX = 32 << 20
"""Of Python's own objects for one input; the largest input has 16 KiB."""


class Coverage:
    """Lines of holdfast that were reached, by the interpreter's trace: slow, so only a sample of inputs is traced."""

    def __init__(self) -> None:
        self.lines: set[tuple[int, int]] = set()
        self._fresh = False

    def adds(self, target: Target, data: bytes) -> bool:
        self._fresh = False
        sys.settrace(self._enter)
        try:
            check(target, data)
        finally:
            sys.settrace(None)
        return self._fresh

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if "holdfast" in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        place = (id(frame.f_code), frame.f_lineno)
        if place not in self.lines:
            self.lines.add(place)
            self._fresh = True
        return self._line


def fuzz(target: Target, runs: int, seed: int) -> tuple[list[Broken], int, int]:
    """(what broke, inputs that were taken, seeds in the end). Each kind of break is listed once."""
    random = Random(f"{target.name} {seed}")
    seeds = list(target.seeds)
    coverage = Coverage()
    broken: dict[str, Broken] = {}
    taken = 0
    for number in range(runs):
        data = (
            target.seeds[number]
            if number < len(target.seeds)
            else mutated(random, seeds, target.words, target.bytes_max)
        )
        try:
            if number % TRACED_ONE_IN == 0 or number < len(target.seeds):
                if coverage.adds(target, data) and number >= len(target.seeds) and len(seeds) < SEEDS_MAX:
                    seeds.append(data)
            elif number % MEASURED_ONE_IN == 1:
                measure(target, data)
            else:
                began = time.process_time()
                taken += check(target, data)
                if time.process_time() - began > target.seconds_max:
                    slow(target, data)
        except Broken as error:
            broken.setdefault(error.why[:40], error)
    return list(broken.values()), taken, len(seeds)


def slow(target: Target, data: bytes) -> None:
    """Broken if an input takes too long again: once may have been the machine."""
    gc.collect()
    began = time.process_time()
    check(target, data)
    if time.process_time() - began > target.seconds_max:
        raise Broken(target, data, f"takes more than {target.seconds_max} s of processor time")


def measure(target: Target, data: bytes) -> None:
    """Broken if an input makes the parser hold much more memory than the input has."""
    tracemalloc.start()
    try:
        check(target, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > INPUT_MEMORY_BYTES_MAX:
        raise Broken(target, data, f"takes {peak} bytes of memory")


def kept(target: Target) -> list[Path]:
    """Inputs that once broke it."""
    return sorted(CORPUS.glob(f"{target.name}-????????.bin"))


def keep(error: Broken) -> Path:
    path = CORPUS / f"{error.target.name}-{hashlib.sha256(error.data).hexdigest()[:8]}.bin"
    path.write_bytes(error.data)
    return path


def one(name: str, runs: int, seed: int, keeping: bool) -> int:
    target = TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    began = time.process_time()
    broken, taken, seeds = fuzz(target, runs, seed)
    spent = time.process_time() - began
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{name}: {runs} inputs, {runs / spent:.0f}/s, {taken} taken, {seeds} seeds, {rss} MiB, {len(broken)} broken",
        flush=True,
    )
    for error in broken:
        print(f"BROKEN {error}" + (f"\nkept as {keep(error)}" if keeping else ""), flush=True)
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the parsers of bytes from outside.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.list:
        print("\n".join(TARGETS))
        return 0
    if given.here:
        return one(given.names[0], given.runs, given.seed, given.keep)
    failed = []
    for name in given.names or TARGETS:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.run",
            "--here",
            name,
            f"--runs={given.runs}",
            f"--seed={given.seed}",
        ]
        if subprocess.run(command + ["--keep"] * given.keep, check=False).returncode:
            failed.append(name)
    print(f"{len(given.names or TARGETS)} parsers; broken: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
