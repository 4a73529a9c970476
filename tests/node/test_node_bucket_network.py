"""A network of processes whose nodes keep their packs in buckets: a node dies, everything is read and made whole."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from tests.stores.nats_servers import needs_nats, one_server, running
from tests.stores.s3_servers import ENVIRONMENT, moto, needs

from holdfast import assemble
from holdfast.assemble.stores import _seams
from holdfast.cli.local_network import LocalNetwork, Member
from holdfast.errors import BadConfig
from holdfast.sdk import Vault
from holdfast.stores import url as store_urls
from holdfast.stores.open_url import open_store

pytestmark = [pytest.mark.rig, pytest.mark.timeout(900)]

SURVIVE = 2
WHOLE_S_MAX = 240.0
"""More than two leases: the last question of a node that was killed may take tasks with it."""
SHORT = {"heartbeat_interval": "1s", "out_after": "6s", "repair_interval": "500ms"}


class OnBuckets(LocalNetwork):
    """Nodes whose stores are these, in their order; those beyond have a directory."""

    def __init__(self, directory: Path, stores: list[str]) -> None:
        super().__init__(directory, nodes=len(stores) + 1, survive=SURVIVE, settings=SHORT)
        self.stores = stores
        self.invite = ""

    async def _join(self, node: Member, invite: str) -> None:
        self.invite = invite
        store = dict(zip((node.name for node in self.nodes), self.stores, strict=False)).get(node.name)
        await assemble.init_node(
            node.data, join=invite, name=node.name, domain=node.name, store=store, capacity=1 << 30, again=True
        )


async def held(url: str) -> int:
    """How many blobs lie in a bucket, asked past the node."""
    async with _seams() as seams:
        store = await open_store(store_urls.parse(url), seams)
        try:
            return len(await store.list(None, 1000))
        finally:
            await store.close()


@needs_nats
@needs("moto_server", "moto[server]")
async def test_nodes_on_buckets_in_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    contents = {f"file-{number}": random.Random(number).randbytes(3000 << number) for number in range(12)}
    with running([one_server(tmp_path / "nats")]) as (nats,), moto(tmp_path) as s3:
        await nats.wait_ready()
        stores = [f"nats://{nats.address}/{name}?replicas=1&sync=always" for name in ("one", "two")]
        stores.append(s3.url("three") + "&sync=always")
        network = OnBuckets(tmp_path / "net", stores)
        async with network:
            async with await Vault.open(network.home) as vault:
                for name, data in contents.items():
                    await vault.put(data, name)
            with pytest.raises(BadConfig, match="is served by the node"):  # at init already
                await assemble.init_node(tmp_path / "other", join=network.invite, store=stores[0], capacity=1 << 30)
            await network.kill(network.nodes[0])
            await _read_all(network, contents)
            packs = await _until_whole(network, dead=1)
            for store in stores[1:]:  # three copies on the three that live
                assert await held(store) >= packs
            await network.kill(network.nodes[1])
            await _read_all(network, contents)
            await network.restart(network.nodes[0])  # on the bucket that it served before
            await _until_whole(network, dead=1)
            await network.kill(network.nodes[3])  # what is left are buckets
            await _read_all(network, contents)


async def _read_all(network: LocalNetwork, contents: dict[str, bytes]) -> None:
    async with await Vault.open(network.home) as reader:
        for name, data in contents.items():
            assert await reader.read(name) == data, name


async def _until_whole(network: LocalNetwork, *, dead: int) -> int:
    """How many packs there are, once all are healthy although nodes are gone."""
    async with await assemble.open_network(network.home) as view, asyncio.timeout(WHOLE_S_MAX):
        while True:
            status = await view.status()
            gone = status.nodes.get("down", 0) + status.nodes.get("out", 0)
            if gone == dead and status.packs.total and status.packs.healthy == status.packs.total:
                return status.packs.total
            await asyncio.sleep(0.2)
