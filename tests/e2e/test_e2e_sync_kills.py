"""A node that is killed with SIGKILL while it syncs: it finishes or goes on, and never says what it does not have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest
from tests.e2e.alone import START_S, Node, check

from holdfast import assemble
from holdfast.errors import HoldfastError

BLOBS = 80
BLOB_BYTES_MAX = 400_000


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
async def test_a_sync_that_is_killed_goes_on(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    ports = await assemble.free_ports(2)
    for name in ("source", "target"):
        await assemble.init_node(tmp_path / name, join=None, name=name)
    source = Node(tmp_path / "source", ports[0])
    target = Node(tmp_path / "target", ports[1], "--peer", f"http://127.0.0.1:{ports[0]}")
    saved = resumed = 0
    try:
        await source.start()
        await target.start()
        for number in range(rounds):
            name, tree = f"round-{number}", tmp_path / f"tree-{number}"
            tree.mkdir()
            for file in range(BLOBS):
                (tree / f"{file}").write_bytes(os.urandom(chance.randint(0, BLOB_BYTES_MAX)))
            async with source.client() as client:
                await client.pusher.push(tree, name)

            async def sync(name: str = name) -> int:
                async with target.client() as client:
                    return (await client.work.sync(name)).brought

            syncing = asyncio.ensure_future(sync())
            await asyncio.sleep(chance.uniform(0.05, 0.5))
            await target.kill()
            with contextlib.suppress(HoldfastError):
                await syncing
            await target.start()
            saved += await check(target, name)
            async with asyncio.timeout(START_S):
                while True:  # it has just started and may not have met its peer yet
                    with contextlib.suppress(HoldfastError):
                        resumed += 0 < await sync() < BLOBS
                        break
                    await asyncio.sleep(0.1)
            assert await check(target, name)
            async with target.client() as client:
                out = tmp_path / f"out-{number}"
                await client.work.sync(name, directory=out)
            assert {file.name: file.read_bytes() for file in out.iterdir()} == {
                file.name: file.read_bytes() for file in tree.iterdir()
            }
    finally:
        await source.kill()
        await target.kill()
    print(f"{rounds} rounds: {saved} were saved before the kill, {resumed} went on with what had come")
