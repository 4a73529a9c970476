"""What can be told to an outbox (docs/interfaces.md, Settings); sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """Frozen: an outbox keeps the settings it was opened with."""

    total_bytes_max: int = 10 * GIB
    """All bodies together; a tenth of what the disk has free (with them) is a limit too, and the smaller one counts."""

    body_bytes_max: int = 256 * MIB
    """One body, or one pack."""

    parallel: int = 16
    """Entries under way to one target at a time, each of another key."""

    targets_parallel: int = 8
    """Targets that are delivered to at a time."""

    lease_s: float = 120.0
    """A claim that was not renewed for so long is void, and another process may deliver the entry."""
