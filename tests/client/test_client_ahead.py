"""A small file is read while the coordinator is asked about its name; what it answers decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.client.fleet import Fleet
from tests.client.test_client_rebuild import second_device

from holdfast.client.vault import Vault
from holdfast.errors import NotFound
from holdfast.wire import routes


async def whole(vault: Vault, name: str) -> bytes:
    return b"".join([bytes(piece) async for piece in vault.stream(name)])


async def test_what_another_device_wrote_since_is_read(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    other = await second_device(small_fleet, vault)
    await vault.put(b"old", "name")
    await other.put(b"new and longer", "name")
    assert await vault.read("name") == b"new and longer"
    await other.put(b"newer", "name")
    assert await whole(vault, "name") == b"newer"
    assert await vault.read("name", 1, 3) == b"ew"
    await other.delete("name")
    with pytest.raises(NotFound):
        await vault.read("name")


async def test_the_node_is_asked_before_the_coordinator_has_answered(small_fleet: Fleet) -> None:
    """Both wait for each other: one after another they would wait for ever."""
    vault = await small_fleet.vault()
    await vault.put(b"small", "name")
    asked = asyncio.Event()

    async def note(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        asked.set()
        return await handler(call, message)

    for number in range(len(small_fleet.nodes)):
        small_fleet.wrap(number, routes.BLOB_GET, note)
    service: Any = small_fleet.coordinator.app.service  # type: ignore[union-attr]
    answer = service._table.find("GET", routes.REF.path.format(vault="0", tag="0"))[0].handler

    async def wait(call: Any, message: Any) -> Any:
        await asked.wait()
        return await answer(call, message)

    service.add(routes.REF, wait)
    async with asyncio.timeout(30):
        assert await vault.read("name") == b"small"
