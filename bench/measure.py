"""How a figure is taken: work beside its limit, in alternating order, and the median of the rounds."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MIB = 1 << 20
GIB = 1 << 30
_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": MIB, "GIB": GIB}
_WORK = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Scale:
    """How much work a run does; the defaults are what the project quotes."""

    size: int = 256 * MIB  # bytes of the large file
    files: int = 10_000  # small files of one directory
    singles: int = 500  # small puts and gets, one after another
    small_bytes: int = 4096  # bytes of a small file
    at_once: int = 16  # small puts and gets under way at once, where not one after another
    lost: int = 2 * GIB  # bytes on the node whose copies repair makes again
    repeat: int = 3  # rounds; the median counts
    memory_size: int = GIB  # bytes of the file whose put and get show the peak memory
    stream_size: int = 0  # bytes of the longest stream for peak memory, beside 1 MiB and 1 GiB; 0: none
    packs: int = 100_000  # packs in the coordinator's database
    entries: int = 1_000_000  # entries that wait in an outbox
    blobs: int = 1_000_000  # blobs of a node that is started
    nodes: int = 6
    copies: int = 5


@dataclass
class Rounds:
    """What one piece of work gave, round by round, and its median."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def parse_size(text: str) -> int:
    """Bytes from ``64MiB``, ``4KiB``, ``1GiB`` or a plain number; ValueError for anything else."""
    digits = text.rstrip("BbIiKkMmGg")
    unit = text[len(digits) :].upper()
    if unit not in _UNITS or not digits.isdigit():
        raise ValueError(f"not a size like 64MiB: {text!r}")
    return int(digits) * _UNITS[unit]


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes. What earlier work left dirty in the page cache is written first, outside the time."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """As ``seconds``, with what ``work`` returned."""
    results: list[T] = []
    return seconds(lambda: results.append(work())), results[0]


def alternate(repeat: int, *works: Callable[[int], None]) -> None:
    """Calls each work once a round with the round's number, in an order that turns round every time."""
    for number in range(repeat):
        for work in works if number % 2 == 0 else works[::-1]:
            work(number)


@contextmanager
def work_directory(parent: Path | None = None) -> Iterator[Path]:
    """A directory for one run on the project's own file system: a temporary one in memory would sync for nothing."""
    (parent or _WORK).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=parent or _WORK, ignore_cleanup_errors=True) as path:
        yield Path(path)


def random_file(path: Path, size: int) -> Path:
    """A new file of random bytes, which stays in the page cache."""
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
    return path


def small_files(directory: Path, count: int, size: int) -> list[Path]:
    """``count`` new random files in subdirectories of a hundred, which stay in the page cache."""
    paths = []
    for number in range(count):
        path = directory / f"{number // 100:04}" / f"{number:06}.bin"
        if number % 100 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(size))
        paths.append(path)
    return paths


def targets_for(directory: Path, sources: Sequence[Path], top: Path) -> list[Path]:
    """Where the files below ``top`` go in the new ``directory``; their directories are made."""
    targets = [directory / path.relative_to(top) for path in sources]
    for parent in {target.parent for target in targets}:
        parent.mkdir(parents=True)
    return targets
