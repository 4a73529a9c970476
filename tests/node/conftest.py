"""A house with a node in it, for each test its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.node.house import Coordinator, House

from holdfast.pool import ThreadPool
from holdfast.wire.network import TcpNetwork


@pytest.fixture
async def unmade_house(tmp_path: Path) -> AsyncIterator[House]:
    network = TcpNetwork()
    coordinator = Coordinator(network)
    await coordinator.start()
    house = House(tmp_path / "node", coordinator, network, ThreadPool(2))
    yield house
    await house.close()


@pytest.fixture
async def house(unmade_house: House) -> House:
    """A node that runs."""
    await unmade_house.make()
    await unmade_house.start()
    return unmade_house
