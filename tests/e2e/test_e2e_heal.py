"""Real processes: three of nine nodes are killed at once, the others make all whole; then a fourth, and again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from holdfast import assemble
from holdfast.cli.demo_files import packs_on
from holdfast.cli.local_network import LocalNetwork, Member
from holdfast.sdk import Vault
from holdfast.stores.disk.layout import Layout

SEED = int(os.environ.get("HOLDFAST_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
NODES = 9
SURVIVE = 4
COPIES = SURVIVE + 1
WHOLE_S_MAX = 90.0
SHORT = {"heartbeat_interval": "1s", "out_after": "6s", "repair_interval": "500ms"}


@pytest.mark.timeout(60 + 2 * WHOLE_S_MAX)
async def test_a_network_of_processes_makes_itself_whole_twice(tmp_path: Path) -> None:
    print(f"HOLDFAST_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    contents = {f"file-{number}": chance.randbytes(chance.choice((1, 4096, 300_000))) for number in range(20)}
    contents["large"] = chance.randbytes(40 << 20)
    async with LocalNetwork(tmp_path / "net", nodes=NODES, survive=SURVIVE, settings=SHORT) as network:
        async with await Vault.open(network.home) as vault:
            for name, data in contents.items():
                await vault.put(data, name)
        before = packs_on(network.nodes)
        assert before
        assert all(len(holders) == COPIES for holders in before.values())
        for count in (3, 1):
            victims = chance.sample([node for node in network.nodes if node.running], count)
            await asyncio.gather(*(network.kill(victim) for victim in victims))
            living = [node for node in network.nodes if node.running]
            dead = NODES - len(living)
            await _until_whole(network, living, before.keys(), dead)
            assert not [entry for node in living for entry in Layout(node.data).trash.iterdir()], f"seed {SEED}"
            await _check_account(network, living[0])
            async with await Vault.open(network.home) as reader:
                for name, data in contents.items():
                    assert await reader.read(name) == data, f"seed {SEED}, {dead} dead: {name}"


async def _check_account(network: LocalNetwork, node: Member) -> None:
    """``nodes show`` accounts for every byte in the node's store."""
    shown = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast", "--json", "nodes", "show", node.name),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "HOLDFAST_HOME": str(network.home)},
    )
    space = json.loads((await shown.communicate())[0])["space"]
    files = [path for path in Layout(node.data).objects.rglob("*") if path.is_file()]
    assert space["used"] == space["stored"] == sum(path.stat().st_size for path in files)


async def _until_whole(network: LocalNetwork, living: Sequence[Member], packs: Collection[str], dead: int) -> None:
    """Every pack lies five times on the disks of those that live, and the coordinator says so in its status."""
    async with await assemble.open_network(network.home) as view, asyncio.timeout(WHOLE_S_MAX):
        while True:
            status, found = await view.status(), await asyncio.to_thread(packs_on, living)
            gone = status.nodes.get("down", 0) + status.nodes.get("out", 0)
            healthy = status.packs.healthy == status.packs.total
            if gone >= dead and healthy and all(len(found.get(pack, ())) >= COPIES for pack in packs):
                assert status.may_die == SURVIVE
                return
            await asyncio.sleep(0.2)
