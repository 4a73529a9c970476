"""``make sim``: seeds, one after another, in a few processes; a failing one is printed and kept.

    python -m tests.sim.run [--seeds 500] [--first 1] [--jobs 2] [--seconds S] [--keep] [--postgresql] [SEED...]

Each job is a process with ``PYTHONHASHSEED=0``, so that a seed is the same run wherever it is run again. Exit code 1
if a promise was broken. ``--keep`` adds failing seeds to ``tests/sim/seeds.txt``, which the suite runs again for ever.
``--postgresql``: the coordinator's database is a real PostgreSQL, started for it, a new database for each seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "seeds.txt"
LINES_SHOWN = 40
OPERATIONS = 200
RAM = Path("/dev/shm")


def kept() -> list[int]:
    """Seeds that have failed once."""
    return [int(line.split()[0]) for line in KEPT.read_text().splitlines() if line.strip() and line[0] != "#"]


def keep(seed: int, why: str) -> None:
    """Adds a seed with the reason for which it failed."""
    if seed not in kept():
        with KEPT.open("a") as file:
            file.write(f"{seed}  {why}\n")


def run_one(seed: int, operations: int, database: str = "") -> dict[str, Any]:
    """The seed's outcome, as a JSON value; its files lie in memory where there is a place for that."""
    from holdfast.testing.simulation.run import simulate

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-sim-", dir=RAM if RAM.is_dir() else None) as directory:
        found = simulate(seed, Path(directory), operations=operations, database=database)
    outcome = {one.name: getattr(found, one.name) for one in fields(found)}  # asdict() cannot copy a Counter
    outcome["lines"] = found.lines[-LINES_SHOWN:]
    return {**outcome, "real_s": time.monotonic() - began}


def work(operations: int, postgresql: bool) -> None:
    """A job: seeds on stdin, outcomes on stdout."""
    from tests.metadata.postgres_server import running

    answers, sys.stdout = sys.stdout, sys.stderr
    with running("-c autovacuum=off") if postgresql else contextlib.nullcontext() as server:  # plans do not change
        for line in sys.stdin:
            database = server.fresh() if server is not None else ""
            print(json.dumps(run_one(int(line), operations, database)), file=answers, flush=True)


def run_all(
    seeds: Sequence[int],
    *,
    jobs: int,
    seconds: float | None = None,
    operations: int = OPERATIONS,
    postgresql: bool = False,
) -> Iterator[dict[str, Any]]:
    """Outcomes as they come. After ``seconds`` no more seeds are begun. A job that dies is a broken seed."""
    waiting, found = list(reversed(seeds)), list[dict[str, Any]]()
    changed, ends = threading.Condition(), None if seconds is None else time.monotonic() + seconds
    left = jobs
    below = ["--postgresql"] if postgresql else []

    def feed() -> None:
        nonlocal left
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        job = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.run", "--work", f"--operations={operations}", *below],
            cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert job.stdin is not None
        assert job.stdout is not None
        try:
            while True:
                with changed:
                    if not waiting or (ends is not None and time.monotonic() > ends):
                        break
                    seed = waiting.pop()
                print(seed, file=job.stdin, flush=True)
                line = job.stdout.readline()
                died = {"seed": seed, "broken": f"its process ended with {job.poll()}", "lines": [], "real_s": 0.0}
                with changed:
                    found.append(json.loads(line) if line else died)
                    changed.notify()
                if not line:
                    break
        finally:
            with contextlib.suppress(OSError):
                job.stdin.close()
            job.wait()
            with changed:
                left -= 1
                changed.notify()

    for _ in range(jobs):
        threading.Thread(target=feed, daemon=True).start()
    while True:
        with changed:
            while left and not found:
                changed.wait()
            if not found:
                return
            outcome = found.pop(0)
        yield outcome


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__.splitlines()[0])
    parser.add_argument("seed", nargs="*", type=int, help="these and no others; everything about them is printed")
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--seconds", type=float, help="begin no more after this time")
    parser.add_argument("--keep", action="store_true", help="remember failing seeds in tests/sim/seeds.txt")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="of each seed")
    parser.add_argument("--postgresql", action="store_true", help="below the coordinator, instead of SQLite")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.operations, asked.postgresql)
        return 0
    seeds = asked.seed or list(range(asked.first, asked.first + asked.seeds))
    began, failing, said = time.monotonic(), list[int](), Counter[str]()
    outcomes = run_all(
        seeds,
        jobs=min(asked.jobs, len(seeds)),
        seconds=asked.seconds,
        operations=asked.operations,
        postgresql=asked.postgresql,
    )
    for done, outcome in enumerate(outcomes, 1):
        said.update(outcome.get("said", {}))
        rate = done / (time.monotonic() - began) * 60
        if outcome["broken"]:
            failing.append(outcome["seed"])
            print(f"\nseed {outcome['seed']} BROKEN after {outcome['real_s']:.1f} s")
            print("\n".join(outcome["lines"]))
            print(outcome["broken"])
            if asked.keep:
                keep(outcome["seed"], last_line(outcome["broken"]))
        elif asked.seed:
            print(json.dumps({key: value for key, value in outcome.items() if key != "lines"}))
        if outcome["broken"] or done % 10 == 0 or done == len(seeds):
            print(f"{done} of {len(seeds)} seeds, {len(failing)} broken, {rate:.1f} a minute", flush=True)
    print("operations:", " · ".join(f"{kind} {count}" for kind, count in sorted(said.items())))
    if failing:
        print("failing seeds:", *failing, "(again: make sim ARGS='SEED')")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
