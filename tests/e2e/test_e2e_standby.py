"""Two coordinators, real processes, one PostgreSQL: the second takes the first one's place when it dies or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.metadata.postgres_server import PostgresServer

from holdfast import assemble
from holdfast.cli.local_network import LocalNetwork, Member
from holdfast.sdk import Vault

pytestmark = pytest.mark.rig

NODES = 3
TAKE_OVER_S_MAX = 10.0
SLOWER = float(os.environ.get("HOLDFAST_TEST_SLOWER", "1"))  # on a machine that is busy with other things


@asynccontextmanager
async def pair(tmp_path: Path, url: str) -> AsyncIterator[tuple[LocalNetwork, Member]]:
    settings = {"database": url, "heartbeat_interval": "1s"}
    async with LocalNetwork(tmp_path / "net", nodes=NODES, survive=1, settings=settings) as network:
        [port] = await assemble.free_ports(1)
        standby = Member("coordinator", "standby", network.directory / "standby", f"http://127.0.0.1:{port}")
        urls = await assemble.init_standby(standby.data, network.coordinator.data, advertise=standby.url, database=url)
        assert urls == [network.coordinator.url, standby.url]
        await network._spawn(standby)
        network.members.append(standby)
        yield network, standby


def health(member: Member) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{member.url}/v1/health", timeout=5) as answer:
            return answer.status, json.loads(answer.read())["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["status"]
    except OSError as error:
        return 0, str(error)


async def until_works(member: Member, limit_s: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while (await asyncio.to_thread(health, member))[0] != 200:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def until_nodes(network: LocalNetwork, say: Callable[[Any], bool]) -> None:
    """Until all nodes have it in their ``network.json``."""
    nodes = [member for member in network.members if member.role == "node"]
    async with asyncio.timeout(60 * SLOWER):
        while not all(say(json.loads((node.data / "network.json").read_text())) for node in nodes):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def until_nodes_follow(network: LocalNetwork, epoch: int) -> None:
    await until_nodes(network, lambda kept: kept["epoch"] >= epoch)


async def until_told(network: LocalNetwork, url: str) -> None:
    """Nodes have heard of the standby's address."""
    await until_nodes(network, lambda kept: url in kept["urls"])


async def put_many(vault: Vault, contents: dict[str, bytes], start: int, count: int) -> None:
    for number in range(start, start + count):
        name, data = f"file-{number}", b"%d" % number * 3000
        await vault.put(data, name, offline=False)
        contents[name] = data


@pytest.mark.timeout(300)
async def test_a_standby_takes_over_from_one_that_was_killed(tmp_path: Path, postgres: PostgresServer) -> None:
    async with pair(tmp_path, postgres.fresh()) as (network, standby):
        assert network.coordinator.running
        status, said = await asyncio.to_thread(health, standby)
        assert status == 503
        assert "standby" in said
        contents: dict[str, bytes] = {}
        async with await Vault.open(network.home) as vault:
            await put_many(vault, contents, 0, 3)
            await until_told(network, standby.url)
            writing = asyncio.create_task(put_many(vault, contents, 3, 30))
            while len(contents) < 8:  # noqa: ASYNC110 - what it waits for is another task's dictionary
                await asyncio.sleep(0.01)
            await network.kill(network.coordinator)
            took = await until_works(standby, 60 * SLOWER)
            await writing
            await until_nodes_follow(network, 2)
            for name, data in contents.items():
                assert await vault.read(name) == data
        print(f"took over after {took:.2f} s")
        assert took < TAKE_OVER_S_MAX * SLOWER
        await network._spawn(network.coordinator)  # it comes back as the standby
        assert (await asyncio.to_thread(health, network.coordinator))[0] == 503
        assert (await asyncio.to_thread(health, standby))[0] == 200


@pytest.mark.timeout(300)
async def test_one_that_hung_and_comes_back_changes_nothing(tmp_path: Path, postgres: PostgresServer) -> None:
    """SIGSTOP, another takes over, SIGCONT: it refuses at once whatever it is asked, and waits from then on."""
    url = postgres.fresh()
    name = url.split("/")[3].split("?")[0]
    async with pair(tmp_path, url) as (network, standby):
        first = network.coordinator
        assert first.pid is not None
        async with await Vault.open(network.home) as vault:
            contents: dict[str, bytes] = {}
            await put_many(vault, contents, 0, 3)
            await until_told(network, standby.url)
            os.kill(first.pid, signal.SIGSTOP)
            try:
                took = await until_works(standby, 90 * SLOWER)
                print(f"took over after {took:.2f} s")
                await until_nodes_follow(network, 2)
                await put_many(vault, contents, 3, 3)
                stamps = postgres.sql("SELECT stamp, epoch FROM meta", name)
            finally:
                os.kill(first.pid, signal.SIGCONT)
            assert stamps[0][1] == 2
            async with asyncio.timeout(30 * SLOWER):
                while "standby" not in (said := await asyncio.to_thread(health, first))[1]:
                    assert said[0] != 200, "it knows by its clock that it was away for too long"
                    await asyncio.sleep(0.05)
            assert (await asyncio.to_thread(health, standby))[0] == 200
            for file, data in contents.items():
                assert await vault.read(file, fresh=True) == data
        log = (network.directory / "logs" / "coordinator.log").read_text()
        assert "coordinator_overtaken" in log
