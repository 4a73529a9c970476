"""The conformance suite for pytest: a new store joins by a subclass of ``StoreSuite`` with one method.

    class TestMyStore(StoreSuite):
        @asynccontextmanager
        async def opened(self, tmp_path):
            store = MyStore(tmp_path)
            yield Harness(store, SeededRandomness(1), peek=...)
            await store.close()

Needs pytest and pytest-asyncio; nothing else in holdfast imports this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast.stores.contract import CHECKS, Harness


class StoreSuite:
    """Runs every check of ``holdfast.stores.contract`` on a fresh store."""

    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[Harness]:
        """A harness over an empty store, closed at the end; ``tmp_path`` is an empty directory."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        async with self.opened(tmp_path) as harness:
            yield harness

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", CHECKS)
    async def test_contract(self, name: str, harness: Harness) -> None:
        await CHECKS[name](harness)

    @pytest.mark.asyncio
    async def test_closing_twice_is_fine(self, harness: Harness) -> None:
        await harness.store.close()
        await harness.store.close()
