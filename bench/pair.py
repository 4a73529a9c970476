"""One figure under way: the rounds of holdfast and, beside them, of what it is compared with."""

from __future__ import annotations

import filecmp
from pathlib import Path

from bench.measure import Rounds
from bench.report import Figure, Goal

RAW = "raw pipeline"


class Pair:
    """``ours`` and ``theirs`` get a value each round; ``limit`` names the other side."""

    def __init__(self, name: str, unit: str, goal: Goal | None, limit: str = RAW) -> None:
        self.name, self.unit, self.goal, self.limit = name, unit, goal, limit
        self.ours, self.theirs = Rounds(), Rounds()

    def forget(self) -> None:
        """What was measured so far was only to warm up."""
        self.ours, self.theirs = Rounds(), Rounds()

    def figure(self) -> Figure:
        limit = self.theirs.median if self.theirs.values else None
        return Figure(
            self.name, self.ours.median, self.unit, limit, self.limit if limit else "", self.goal,
            tuple(self.ours.values), tuple(self.theirs.values),
        )  # fmt: skip


def same(source: Path, target: Path) -> None:
    """A figure of wrong bytes would be worth nothing. Removes ``target``."""
    if not filecmp.cmp(source, target, shallow=False):
        raise ValueError("a file came back as other bytes")
    target.unlink()
