"""Blobs into a node and out again, and what a node says to all that is wrong with a request."""

from __future__ import annotations

from tests.node.house import VAULT, House, pack

from holdfast.blob import Digest


async def test_what_was_put_comes_back(house: House) -> None:
    for size in (64, 4096, 65536, 65537, 3 << 20):
        data = pack(VAULT.id, size, size)
        await house.put(data)
        assert await house.get(Digest.of(data)) == data
