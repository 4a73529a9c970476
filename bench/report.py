"""Figures with their limit and goal, as a table for people and as JSON for later comparison."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """What a figure promises: of its value, or of its ratio to the limit, at least or at most ``bound``."""

    of: Literal["value", "ratio"]
    kind: Literal["at least", "at most"]
    bound: float

    def __str__(self) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        return f"{sign} {self.bound:.0%} of limit" if self.of == "ratio" else f"{sign} {number(self.bound)}"


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``limit`` is what the machine gave in the same run, in the same unit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    limit_name: str = ""
    goal: Goal | None = None
    rounds: tuple[float, ...] = ()
    limit_rounds: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.limit else None

    @property
    def ok(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        measured = self.value if self.goal.of == "value" else self.ratio
        if measured is None:
            return None
        return measured >= self.goal.bound if self.goal.kind == "at least" else measured <= self.goal.bound


def at_least(bound: float) -> Goal:
    return Goal("value", "at least", bound)


def at_most(bound: float) -> Goal:
    return Goal("value", "at most", bound)


def ratio_at_least(bound: float) -> Goal:
    return Goal("ratio", "at least", bound)


def number(value: float) -> str:
    """Three or four digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(figures: Iterable[Figure]) -> str:
    """``figure | value | limit | ratio | goal | ok`` in aligned columns."""
    rows = [("figure", "value", "limit", "ratio", "goal", "ok")]
    for figure in figures:
        rows.append(
            (
                figure.name,
                f"{number(figure.value)} {figure.unit}",
                "" if figure.limit is None else f"{number(figure.limit)} ({figure.limit_name})",
                "" if figure.ratio is None else f"{figure.ratio:.0%}",
                "" if figure.goal is None else str(figure.goal),
                {None: "", True: "ok", False: "MISSED"}[figure.ok],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(lines)


def machine(directory: Path) -> dict[str, Any]:
    """Facts that explain a figure, and nothing that names the machine: no host name, user or path."""
    return {
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(directory),
        "load_1min": os.getloadavg()[0],
    }


def write(path: Path, figures: Sequence[Figure], facts: dict[str, Any], settings: dict[str, Any]) -> None:
    """One JSON document: machine, settings, figures with every round."""
    document = {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "settings": settings,
        "figures": [{**asdict(figure), "ratio": figure.ratio, "ok": figure.ok} for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type (ext4, tmpfs, ...) of the mount that holds ``directory``."""
    path = str(directory.resolve())
    best, found = "", "unknown"
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, type_, *_ = line.split()
            if len(mount) >= len(best) and (path + "/").startswith(mount.rstrip("/") + "/"):
                best, found = mount, type_
    except OSError:
        pass
    return found
