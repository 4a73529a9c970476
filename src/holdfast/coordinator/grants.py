"""Put grants: a device may send so many bytes to one node. Signed once and handed out again while they last."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.auth.documents import sign
from holdfast.auth.grants import GRANT_LIFE_S_MAX, Grant
from holdfast.auth.identity import Id, Identity
from holdfast.coordinator.registry import Node

BUDGET_BYTES_MIN = 1 << 30
"""A grant is worth at least this much: signing one for each small plan would cost more than the plan."""

CACHED_GRANTS_MAX = 10_000


@dataclass(slots=True)
class _Issued:
    envelope: bytes
    left: int
    expires: int
    epoch: int


class PutGrants:
    """Used in the event loop."""

    def __init__(self, identity: Identity, life_s: float) -> None:
        self._identity = identity
        self._life_s = min(int(life_s), GRANT_LIFE_S_MAX)
        self._count = 0
        self._issued: dict[tuple[Id, Id, Id], _Issued] = {}

    def grant(
        self, node: Node, vault: Id, device: Id, size: int, now: float, until: int, position: tuple[int, int]
    ) -> bytes:
        """A grant for ``size`` more bytes on ``node``, valid at least ``until`` (seconds since 1970)."""
        key = (node.id, vault, device)
        expires = int(now) + self._life_s
        issued = self._issued.get(key)
        # one that ends later than it could if made now is of a time before our clock went back: nodes refuse it
        usable = issued is not None and issued.left >= size and until <= issued.expires <= expires
        if issued is None or not usable or issued.epoch != position[0]:
            self._count += 1
            # a few bytes more each time: two grants of one second are two budgets only if their bytes differ
            budget = max(size, BUDGET_BYTES_MIN) + self._count
            document = Grant(
                kind="put", node=node.id, store=node.store, vault=vault, subject=device, budget=budget,
                epoch=position[0], commit=position[1], expires=expires,
            )  # fmt: skip
            if len(self._issued) >= CACHED_GRANTS_MAX:
                self._issued.clear()
            issued = self._issued[key] = _Issued(sign(document, self._identity), budget, expires, position[0])
        issued.left -= size
        return issued.envelope
