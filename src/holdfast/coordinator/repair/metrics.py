"""Gauges of how whole the network is, for ``/metrics``."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from holdfast.coordinator.loss.reflog import Reflog
from holdfast.coordinator.repair.loop import Repair
from holdfast.coordinator.repair.words import RepairWords
from holdfast.coordinator.state import State
from holdfast.coordinator.status import Counts, pack_counts
from holdfast.telemetry import Metrics
from holdfast.wire import messages as m


class RepairMetrics:
    """``refresh`` sets them all; called by a worker."""

    def __init__(
        self, metrics: Metrics, state: State, repair: Repair, words: RepairWords, counts: Counts, reflog: Reflog
    ) -> None:
        self._state = state
        self._repair = repair
        self._words = words
        self._counts = counts
        self._reflog = reflog
        gauge = metrics.gauge
        self._packs = gauge("holdfast_packs", "Packs by health.", ("health",))
        self._nodes = gauge("holdfast_nodes", "Nodes by state.", ("state",))
        self._tasks = gauge("holdfast_tasks", "Tasks by state.", ("state",))
        self._debt = gauge("holdfast_repair_packs", "Packs that lack copies, by live copies left.", ("live",))
        self._bytes = gauge("holdfast_repair_bytes", "Bytes of copies still to be made.", ("when",))
        self._breaker = gauge("holdfast_repair_breaker_open", "1 while repair is held because too much vanished.")
        self._paused = gauge("holdfast_repair_paused", "1 while an operator has paused repair.")
        self._lag = gauge("holdfast_reflog_lag_seconds", "What was committed longer ago, nodes know.")
        self._behind = gauge("holdfast_reflog_lag_commits", "Commits that nodes do not know of.")

    async def refresh(self) -> None:
        """From figures that are kept, and the packs' counts."""
        packs, _ = pack_counts(await self._counts.by_copies(), self._state.settings.floor)
        for health in ("healthy", "degraded", "lost", "floor"):
            self._packs.labels(health).set(getattr(packs, health))
        states = Counter(self._state.registry.state(node)[0] for node in self._state.registry.all())
        for state in get_args(m.NodeState):
            self._nodes.labels(state).set(states[state])
        tasks = self._words.tasks()
        for state in ("pending", "running", "failed"):
            self._tasks.labels(state).set(getattr(tasks, state))
        debt = self._repair.debt
        self._debt.clear()
        for live, count in (debt.by_live or Counter()).items():
            self._debt.labels(str(live)).set(count)
        self._bytes.labels("due").set(debt.due_bytes)
        self._bytes.labels("waiting").set(debt.waiting_bytes)
        self._breaker.set(self._repair.breaker.state == "open")
        self._paused.set(self._state.repair_paused)
        self._lag.set(self._reflog.lag())
        self._behind.set(self._reflog.commits_behind())
