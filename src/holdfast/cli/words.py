"""Sizes, times and tables as people read them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from holdfast.errors import UsageError
from holdfast.shown import visible as visible


def size_words(size: float) -> str:
    """``0 B``, ``812 B``, ``4.0 MiB``."""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if not prefix else f"{size:.1f} {prefix}B"
        size /= 1024
    return f"{size:.1f} PiB"


def span_words(seconds: float) -> str:
    """``3 s``, ``5 min``, ``2 h``, ``4 days``, ``90 days``: rounded to what matters."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def time_words(seconds: float) -> str:
    """A moment in the local time zone, to the minute."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def count_words(count: int, one: str, many: str | None = None) -> str:
    """``1 file``, ``3 files``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def mode_words(kind: str, mode: int) -> str:
    """``-rw-r--r--``, as ls shows it."""
    letter = {"directory": "d", "link": "l"}.get(kind, "-")
    bits = "".join(right if mode & (0o400 >> place) else "-" for place, right in enumerate("rwxrwxrwx"))
    return letter + bits


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns; those numbered in ``right`` to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """``K=V`` words as a mapping; UsageError for one without ``=`` or without a key."""
    found = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise UsageError(f"{flag} {item!r}: write it as KEY=VALUE.")
        found[key] = value
    return found
