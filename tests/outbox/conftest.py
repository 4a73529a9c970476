"""An outbox on a real disk, with real threads; time and faults as a test wishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.outbox.rigs import QueueRig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[QueueRig]:
    made = QueueRig(tmp_path / "outbox")
    yield made
    await made.close()


Opener = Callable[[], Awaitable[object]]
