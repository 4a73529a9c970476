"""One network for the tests of a module, and another for tests that break it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.client.fleet import Fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Six nodes, survive 4; shared by a module, so nothing in it is broken for good."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        await made.make()
        yield made
    finally:
        await made.close()


@pytest.fixture
async def small_fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Four nodes, survive 1, for one test alone."""
    made = Fleet(tmp_path / "fleet")
    try:
        await made.make(nodes=4, survive=1)
        yield made
    finally:
        await made.close()
