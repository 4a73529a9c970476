"""What a node shows under ``/metrics`` of itself; read when somebody looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from holdfast.node.scrub import Scrub
from holdfast.node.tasks import TaskRunner
from holdfast.telemetry import Metrics
from holdfast.wire import messages as m

ACCOUNTS = ("used", "cached", "trash", "reclaimable", "incoming", "reserve", "free")


class Shown(Protocol):
    """A node, as far as it is shown."""

    scrub: Scrub
    tasks: TaskRunner

    def overview(self) -> m.NodeOverview: ...

    def health(self) -> str: ...


def show(metrics: Metrics, node: Shown) -> None:
    """Once for each node. Ages are NaN while there is none."""
    account = metrics.gauge("holdfast_node_bytes", "Bytes on the node's account (docs/interfaces.md).", ("account",))

    def on(name: str) -> Callable[[], float]:
        return lambda: float(getattr(node.overview().space, name))

    for name in ACCOUNTS:
        account.labels(name).set_function(on(name))
    gauge = metrics.gauge
    gauge("holdfast_node_blobs", "Blobs here, caches left out.").set_function(lambda: node.overview().blobs)
    gauge("holdfast_node_read_only", "1 while the node takes no blobs: look at its disk.").set_function(
        lambda: float(node.health() != "ok")
    )
    gauge("holdfast_scrub_age_seconds", "Since everything here was last read again.").set_function(
        lambda: math.nan if (age := node.scrub.age()) is None else age
    )
    gauge("holdfast_scrub_oldest_seconds", "Since the blob that waits longest was last read.").set_function(
        lambda: math.nan if (debt := node.scrub.debt()) is None else debt.oldest_s
    )
    gauge("holdfast_scrub_overdue_bytes", "Bytes not read again within scrub_period.").set_function(
        lambda: 0.0 if (debt := node.scrub.debt()) is None else float(debt.overdue)
    )
    total = metrics.total
    total("holdfast_scrub_blobs_total", "Blobs read again since the start.", lambda: node.scrub.checked)
    total("holdfast_scrub_damaged_total", "Blobs found damaged since the start.", lambda: node.scrub.bad)
    total("holdfast_repair_copies_total", "Copies made here for repair since the start.", lambda: node.tasks.copied)
    total("holdfast_repair_failures_total", "Tasks that failed here since the start.", lambda: node.tasks.failed)
