"""What a coordinator's owner may set (docs/interfaces.md, Settings). Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """The policy itself (``survive``) is not here: it is kept in the database and changed by ``holdfast policy``."""

    database: str = field(default="", repr=False)  # a PostgreSQL's URL; without it, SQLite in its directory
    heartbeat_interval: float = 30.0
    offline_after: int = 3  # missed heartbeats until a node is down
    out_after: float = 4 * 3600.0
    out_after_always_on: float = 600.0
    lease: float = DAY_S
    history: float = 7 * DAY_S
    tombstones: float = 90 * DAY_S  # after this time a deleted name is only a version
    floor: int = 2
    candidates_more: int = 2  # nodes that a plan names beyond the copies needed
    plan_life: float = 600.0
    grant_life: float = 3600.0
    dial_timeout: float = 3.0
    save_interval: float = 60.0  # slow clock and last-seen are written this often
    sweep_interval: float = 60.0
    breaker_hold: float = DAY_S
    repair_interval: float = 5.0  # repair looks around this often, and whenever something changes
    surplus_after: float = DAY_S  # a copy too many is trimmed after this time
    adopt_after: float = 3600.0  # a pack that nobody commits is adopted after this time
    adopt_lease: float = 7 * DAY_S  # and kept for its vault's devices to look at
    reflog_interval: float = 60.0  # what is new is written to nodes this often
    reflog_late: float = 600.0  # names that nodes do not know after this time are an alarm
    reflog_chain: float = 7 * DAY_S  # all is written anew after this time
    alarm_interval: float = 20.0
    on_alarm: str = ""  # a command, or an http(s) address, that is told of alarms


def floor_of(copies: int, floor: int) -> int:
    """Copies at which a pack that should have ``copies`` is in danger: ``floor``, but below the target."""
    return min(floor, copies - 1)


def enough_when_degraded(copies: int, floor: int) -> int:
    """Copies that ``--allow-degraded`` asks for, and that must answer before a known pack is built upon."""
    return max(1, floor_of(copies, floor))
