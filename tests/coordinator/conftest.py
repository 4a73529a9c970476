"""A network for each test, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.coordinator.hall import Hall


@pytest.fixture
async def bare_hall(tmp_path: Path, database_url: str) -> AsyncIterator[Hall]:
    """Nothing in it yet: ``make`` it."""
    hall = Hall(tmp_path / "coordinator", database_url=database_url)
    yield hall
    await hall.close()


@pytest.fixture
async def hall(bare_hall: Hall) -> Hall:
    """Six nodes that are up, survive 4, one operator with a vault."""
    await bare_hall.make()
    return bare_hall
