"""A node does what its coordinator asks of it, and says no more than it knows."""

from __future__ import annotations

import pytest
from tests.node.house import COORDINATOR, VAULT, House, pack

from holdfast.auth.documents import open_signed
from holdfast.auth.grants import Receipt
from holdfast.blob import Digest
from holdfast.errors import Unavailable
from holdfast.node.tasks_pace import CopyPace
from holdfast.wire import messages as m
from holdfast.wire import routes


async def test_there_is_no_inventory_while_store_and_ledger_are_compared(house: House) -> None:
    client = house.client(COORDINATOR)
    await house.running._reconcile_worker.stop()  # as if there were very much to compare
    house.running.keeper.reconciled = False
    with pytest.raises(Unavailable, match="still compares"):
        await client.call(house.target, routes.INVENTORY, m.InventoryQuery())
    house.running.keeper.reconciled = True
    assert (await client.call(house.target, routes.INVENTORY, m.InventoryQuery())).count == 0


async def test_a_copy_that_was_read_again_is_signed_for(house: House) -> None:
    data = pack(VAULT.id, 1000)
    receipt = await house.put(data)
    path = {"digest": str(Digest.of(data))}
    found = await house.client(COORDINATOR).call(house.target, routes.BLOB_VERIFY, path=path)
    assert found.state == "ok"
    assert found.receipt is not None
    fresh = open_signed(Receipt, found.receipt, house.running.id)
    assert (fresh.digest, fresh.size, fresh.sequence) == (receipt.digest, receipt.size, receipt.sequence)


class Steps:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


async def test_copies_keep_to_the_limit_and_step_aside() -> None:
    clock = Steps()
    pace = CopyPace(clock, lambda: 0, bytes_per_s=1000)
    for _ in range(10):
        await pace.passed(500)
    assert clock.at == pytest.approx(5.0)
    free = Steps()
    await CopyPace(free, lambda: 0).passed(1 << 20)
    assert free.at == 0
    await CopyPace(free, lambda: 1).passed(1 << 20)
    assert free.at > 0
