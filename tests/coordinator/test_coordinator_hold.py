"""A coordinator whose place another may take answers only while it is sure of it."""

from __future__ import annotations

from typing import Any, cast

from tests.coordinator.hall import SkippingClock

from holdfast.coordinator.hold import SURE_S, Hold
from holdfast.errors import Standby, Unavailable
from holdfast.metadata.database import Database


class Below:
    """A shared database that can be away."""

    shared = True
    overtaken = False
    away = False

    async def run(self, function: Any) -> None:
        if self.away:
            raise Unavailable("away")


async def test_one_that_was_stopped_or_cut_off_for_a_while_refuses_all_until_it_is_sure_again() -> None:
    below, clock = Below(), SkippingClock()
    hold = Hold(cast(Database, below), clock)
    assert hold.refusal() is None
    clock.skip(SURE_S + 1)
    assert isinstance(hold.refusal(), Standby)
    await hold.unit()
    assert hold.refusal() is None
    below.away = True
    clock.skip(SURE_S + 1)
    await hold.unit()
    assert isinstance(hold.refusal(), Standby)
    below.overtaken = True
    await hold.unit()
    assert hold.lost.is_set()
