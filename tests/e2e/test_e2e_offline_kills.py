"""Real processes, real kills: a device is killed with -9 while it queues and while it delivers.

Every write that was accepted has its effect once and in its order. HOLDFAST_OFFLINE_ROUNDS asks for more than the
suite's two rounds, HOLDFAST_OFFLINE_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

from holdfast.cli.local_network import LocalNetwork
from holdfast.outbox import State
from holdfast.sdk import Vault

ROUNDS = int(os.environ.get("HOLDFAST_OFFLINE_ROUNDS", "2"))
SEED = int(os.environ.get("HOLDFAST_OFFLINE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ACCEPTED_MIN = 8
DELIVERIES_MAX = 200


async def child(network: LocalNetwork, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.offline_child", str(network.home), *words,
        env={**os.environ, **network.variables}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def put_and_kill(network: LocalNetwork, prefix: str, chance: random.Random) -> list[tuple[str, str]]:
    """What the killed process had been told is queued."""
    process = await child(network, "put", prefix)
    assert process.stdout is not None
    accepted: list[tuple[str, str]] = []
    stop = ACCEPTED_MIN + chance.randrange(20)
    async with asyncio.timeout(60):
        while len(accepted) < stop:
            name, content = (await process.stdout.readline()).decode().split()
            accepted.append((name, content))
        await asyncio.sleep(chance.random() / 50)
    process.kill()
    rest = await process.stdout.read()
    await process.wait()
    whole = rest.decode().split("\n")[:-1]  # a line cut short was never said
    return accepted + [(line.split()[0], line.split()[1]) for line in whole]


@pytest.mark.timeout(60 + 60 * ROUNDS)
async def test_a_killed_device_loses_and_doubles_nothing(tmp_path: Path) -> None:
    print(f"HOLDFAST_OFFLINE_SEED={SEED}")
    chance = random.Random(SEED)
    accepted: list[tuple[str, str]] = []
    async with LocalNetwork(tmp_path / "net", nodes=3, survive=1) as network:
        for number in range(ROUNDS):
            accepted += await put_and_kill(network, f"r{number}", chance)
            process = await child(network, "flush")
            try:
                async with asyncio.timeout(0.5 + chance.random() * 1.5):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        async with await Vault.open(network.home) as vault:
            for _ in range(DELIVERIES_MAX):
                summary = await vault.flush()
                if not summary.waiting:
                    break
                await asyncio.sleep(0.1)
            outbox = await vault.outbox()
            assert outbox is not None
            left = [entry.reason async for entry in outbox.entries(states=list(State))]
            assert not left, left
            for name in {name for name, _ in accepted}:
                versions = [version.version for version in await vault.log(name)]
                found = [(await vault.read(name, version=version)).split()[0].decode() for version in sorted(versions)]
                assert len(set(found)) == len(found), f"{name}: an effect is there twice"
                mine = [content for other, content in accepted if other == name]
                assert [content for content in found if content in mine] == mine, f"{name}: lost or reordered"
