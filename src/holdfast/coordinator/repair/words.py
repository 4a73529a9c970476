"""What repair tells people: figures, and the same in words."""

from __future__ import annotations

import math
from collections.abc import Callable

from holdfast.coordinator.loss.reflog import Reflog
from holdfast.coordinator.repair.dispatch import Dispatch
from holdfast.coordinator.repair.loop import Repair
from holdfast.coordinator.state import State
from holdfast.wire import messages as m


class RepairWords:
    """Computed when asked. ``surplus``: how many packs have a copy too many."""

    def __init__(
        self, state: State, dispatch: Dispatch, repair: Repair, reflog: Reflog, surplus: Callable[[], int]
    ) -> None:
        self._state = state
        self._dispatch = dispatch
        self._repair = repair
        self._reflog = reflog
        self._surplus = surplus

    def tasks(self) -> m.TaskCounts:
        pending, running, failed = self._dispatch.counts(self._state.clock.monotonic())
        return m.TaskCounts(pending=pending, running=running, failed=failed)

    def state(self) -> m.RepairState:
        debt, repair = self._repair.debt, self._repair
        now = self._state.clock.monotonic()
        rate = self._dispatch.rate(now)
        copying, _ = self._dispatch.copying()
        due = debt.due_packs
        eta = debt.due_bytes / rate if rate and debt.due_bytes else None
        since = 0.0 if repair.looked is None else now - repair.looked
        next_in = None if math.isinf(debt.next_in) else max(debt.next_in - since, 0.0)
        word: m.RepairWord = "idle"
        if self._state.repair_paused:
            word = "paused"
        elif copying or (due and repair.breaker.state != "open"):
            word = "running"
        elif repair.breaker.state == "open":
            word = "held"
        elif debt.waiting_packs:
            word = "waiting"
        return m.RepairState(
            word=word,
            due_packs=due,
            due_bytes=debt.due_bytes,
            waiting_packs=debt.waiting_packs,
            waiting_bytes=debt.waiting_bytes,
            surplus_packs=self._surplus(),
            eta=eta,
            next=next_in,
            limited=repair.breaker.state == "limited",
            alarms=list(self.alarms().values()),
            summary=_sentence(word, due, debt.waiting_packs, eta, next_in),
        )

    def alarms(self) -> dict[str, str]:
        """What a person should look at: kind -> sentence."""
        found: dict[str, str] = {}
        breaker, debt = self._repair.breaker, self._repair.debt
        if breaker.state == "open":
            found["breaker"] = (
                f"{len(breaker.gone)} nodes vanished at once: only packs in danger are repaired until they are back, "
                "or until: holdfast repair --now"
            )
        if debt.lost:
            found["lost"] = f"{_packs(debt.lost)} cannot be read: no node that holds a copy answers"
        if debt.endangered:
            found["floor"] = f"{_packs(debt.endangered)} down to the last copies"
        silent = [node.name for node in self._state.registry.all() if node.read_only]
        if silent:
            found["poisoned"] = f"{', '.join(silent)}: read-only, look at the disk"
        lag = self._reflog.lag()
        if lag >= self._state.settings.reflog_late and not self._state.position.stale:
            disks = self._state.policy.survive + 1
            found["reflog"] = (
                f"what was named in the last {_span(lag)} only this coordinator knows: {disks} disks that take it are "
                "needed, so that its database can be made again"
            )
        if self._state.position.stale:
            found["old"] = "this coordinator runs on an old copy of its database: holdfast coordinator recover"
        return found


def _packs(count: int) -> str:
    return "1 pack" if count == 1 else f"{count:,} packs"


def _sentence(word: m.RepairWord, due: int, waiting: int, eta: float | None, next_in: float | None) -> str:
    if word == "paused":
        return f"repair is paused; copies are missing of {_packs(due + waiting)}"
    if word == "held":
        return "repair is held: too many nodes vanished at once"
    parts = []
    if due:
        until = f", done in about {_span(eta)}" if eta is not None else ""
        parts.append(f"{_packs(due)} {'are' if due != 1 else 'is'} being repaired{until}")
    if waiting:
        until = f" for another {_span(next_in)}" if next_in is not None else ""
        parts.append(f"{_packs(waiting)} {'wait' if waiting != 1 else 'waits'} for silent nodes{until}")
    return "; ".join(parts)


def _span(seconds: float) -> str:
    """A duration in one unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"
