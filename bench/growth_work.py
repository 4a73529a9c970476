"""What a piece of work took at each size, and how that grows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from bench.report import Figure, Goal

GROWTH = 10
INDEPENDENT = 3.0
"""Times as much as at the smallest size, at a hundred times as many: caches get colder, trees get deeper."""
STEPS = 100
"""Below so many steps of SQLite's virtual machine no difference is told."""


@dataclass
class Taken:
    """What one piece of work took. ``longest``: steps of the longest transaction, for which all others wait."""

    seconds: float = 0.0
    steps: int = 0
    longest: int = 0
    statements: int = 0

    def over(self, times: int) -> Taken:
        """Of each, when it was done so many times."""
        return Taken(self.seconds / times, self.steps // times, self.longest, self.statements // times)


@dataclass
class Work:
    """One piece of work at each size. ``grows``: it touches everything and says so."""

    name: str
    grows: bool = False
    taken: list[Taken] = field(default_factory=list)

    def slope(self, of: Callable[[Taken], float]) -> float:
        """0: independent of how much there is; 1: as much more as there is more."""
        first, last = max(of(self.taken[0]), 1e-9), max(of(self.taken[-1]), 1e-9)
        return math.log(last / first) / math.log(GROWTH ** (len(self.taken) - 1))


class Works(dict[str, Work]):
    """By name, in the order in which they were first done."""

    def named(self, name: str, *, grows: bool = False) -> Work:
        return self.setdefault(name, Work(name, grows))


class Statements:
    """Counts what SQLite does for apsw in files of one name, in whatever thread, from the next connection on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._now = Taken()
        apsw.connection_hooks.append(self._connected)

    def close(self) -> None:
        apsw.connection_hooks.remove(self._connected)

    def _connected(self, connection: apsw.Connection) -> None:
        if Path(connection.filename).name == self._name:
            connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._ended)

    def _ended(self, event: dict[str, Any]) -> None:
        self._now.statements += 1
        self._now.steps += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    @contextmanager
    def measure(self, work: Work, times: int = 1) -> Iterator[None]:
        """What is done inside, which is the same thing ``times`` times."""
        self._now = Taken()
        began = time.process_time()
        yield
        self._now.seconds = time.process_time() - began
        work.taken.append(self._now.over(times))


def table(works: Sequence[Work], sizes: Sequence[int]) -> str:
    """Milliseconds, steps and statements at each size, and the slopes of the first two."""
    lines = [
        "| work | ms at " + " / ".join(f"{size:,}" for size in sizes) + " | slope | SQLite steps | slope | "
        "longest transaction | statements |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in works:
        times = " / ".join(f"{1000 * taken.seconds:,.1f}" for taken in work.taken)
        steps = " / ".join(f"{taken.steps:,}" for taken in work.taken)
        longest = " / ".join(f"{taken.longest:,}" for taken in work.taken)
        counts = " / ".join(str(taken.statements) for taken in work.taken)
        lines.append(
            f"| {work.name} | {times} | {work.slope(lambda it: it.seconds):.2f} | {steps} | "
            f"{work.slope(lambda it: it.steps + STEPS):.2f} | {longest} | {counts} |"
        )
    return "\n".join(lines)


def figures(work: Work, sizes: Sequence[int]) -> list[Figure]:
    """Time and, where SQLite was asked, steps beside those at the smallest size."""
    first, last = work.taken[0], work.taken[-1]
    small = f"at {sizes[0]:,}"
    found = [Figure(f"{work.name}, {sizes[-1]:,}", 1000 * last.seconds, "ms", 1000 * first.seconds, small)]
    bound = Goal("ratio", "at most", INDEPENDENT)
    if first.statements and not work.grows:
        found.append(Figure(f"{work.name}, steps", last.steps + STEPS, "", first.steps + STEPS, small, bound))
    elif first.longest:
        found.append(
            Figure(f"{work.name}, longest transaction", last.longest, "steps", first.longest + STEPS, small, bound)
        )
    return found
