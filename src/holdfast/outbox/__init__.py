"""A durable queue of writes: never lost, never overwriting what changed meanwhile, in order (docs/outbox.md)."""

from __future__ import annotations

from holdfast.outbox import http
from holdfast.outbox.delivery import Deliver, Done, Summary
from holdfast.outbox.entry import CLASSES, DeliveryClass, Entry, NewEntry, State, Theirs
from holdfast.outbox.outbox import Keep, Outbox
from holdfast.outbox.settings import OutboxSettings

__all__ = [
    "CLASSES", "Deliver", "DeliveryClass", "Done", "Entry", "Keep", "NewEntry", "Outbox", "OutboxSettings", "State",
    "Summary", "Theirs", "http",
]  # fmt: skip
