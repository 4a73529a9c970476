"""Real processes, real kills: what was acknowledged is there afterwards.

Each round sets the policy to survive 1 to 4 by turns, writes from several tasks at once, kills that many of six nodes
with SIGKILL in the middle, reads every acknowledged file from the survivors, and starts the dead again. The suite runs
five rounds; HOLDFAST_KILL_ROUNDS asks for more, HOLDFAST_KILL_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast import assemble, errors
from holdfast.cli.local_network import LocalNetwork
from holdfast.sdk import Vault

ROUNDS = int(os.environ.get("HOLDFAST_KILL_ROUNDS", "5"))
SEED = int(os.environ.get("HOLDFAST_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
NODES = 6
WRITERS = 6
ACKNOWLEDGED_MIN = 50
FIRST_KILL_AT = 20  # acknowledgements; with survive 4 of 6 nodes, writes stop at the second death


@dataclass
class Round:
    """What one round wrote and was promised."""

    number: int
    chance: random.Random
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def content(self) -> bytes:
        size = self.chance.choice((1, 100, 4096, 4096, 70_000, 300_000, 5_000_000))
        return self.chance.randbytes(size)


async def _write(vault: Vault, round_: Round, writer: int) -> None:
    count = 0
    while not round_.over:
        name, data = f"round-{round_.number}/{writer}/{count}", round_.content()
        count += 1
        try:
            await vault.put(data, name, offline=False)
        except (errors.Unavailable, errors.PacksGone):
            await asyncio.sleep(0.05)  # the network is short of nodes; hammering it shows nothing more
        else:
            round_.acknowledged[name] = data
            round_.changed.set()


async def _until(round_: Round, count: int) -> None:
    async with asyncio.timeout(90):
        while len(round_.acknowledged) < count:
            round_.changed.clear()
            await round_.changed.wait()


@pytest.mark.timeout(60 + 90 * ROUNDS)
async def test_acknowledged_files_outlive_killed_nodes(tmp_path: Path) -> None:
    print(f"HOLDFAST_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    async with LocalNetwork(tmp_path / "net", nodes=NODES) as network:
        for number in range(ROUNDS):
            survive = number % 4 + 1
            await _set_survive(network, survive)
            round_ = Round(number, random.Random(chance.random()))
            victims = chance.sample(network.nodes, survive)
            async with await Vault.open(network.home) as vault:
                writers = [asyncio.create_task(_write(vault, round_, writer)) for writer in range(WRITERS)]
                try:
                    await _until(round_, FIRST_KILL_AT)
                    await network.kill(victims[0])
                    await _until(round_, ACKNOWLEDGED_MIN)
                    for victim in victims[1:]:
                        await network.kill(victim)
                        await asyncio.sleep(chance.random() / 10)  # writes are under way between two deaths
                finally:
                    round_.over = True
                    await asyncio.gather(*writers)
            assert len(round_.acknowledged) >= ACKNOWLEDGED_MIN
            async with await Vault.open(network.home) as reader:
                for name, data in round_.acknowledged.items():
                    assert await reader.read(name) == data, f"seed {SEED}, round {number}: {name}"
            for victim in victims:
                await network.restart(victim)
            await _until_up(network)


async def _set_survive(network: LocalNetwork, survive: int) -> None:
    async with await assemble.open_network(network.home) as members:
        await members.set_policy(survive)


async def _until_up(network: LocalNetwork) -> None:
    async with await assemble.open_network(network.home) as members, asyncio.timeout(30):
        while sum(node.state == "up" for node in await members.nodes()) < NODES:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def test_a_killed_coordinator_comes_back_with_everything(tmp_path: Path) -> None:
    async with (
        LocalNetwork(tmp_path / "net", nodes=3, survive=1) as network,
        await Vault.open(network.home) as vault,
    ):
        await vault.put(b"before", "before")
        await network.kill(network.coordinator)
        with pytest.raises(errors.Unavailable):
            await vault.put(b"while it is away", "away", offline=False)
        assert await vault.read("before") == b"before", "known names stay readable"
        await network.restart(network.coordinator)
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(errors.Unavailable):
                    await vault.put(b"after", "after", offline=False)
                    break
                await asyncio.sleep(0.1)
        assert await vault.read("before") == b"before"
        assert await vault.read("after") == b"after"
