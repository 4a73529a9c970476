"""Nodes among themselves: who may read and push, what is pulled and kept, what goes when room is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.node.house import VAULT, pack
from tests.node.street import NOBODY, READER, WRITER, Home, Street, street

from holdfast.blob import Digest, pieces
from holdfast.errors import Denied, HoldfastError, NotFound
from holdfast.node.settings import NodeSettings
from holdfast.peers.settings import PeersSettings
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire import routes


@pytest.fixture
async def row(tmp_path: Path) -> AsyncIterator[Street]:
    async with street(tmp_path) as made:
        yield made


def blob(size: int, seed: int = 0) -> bytes:
    return ((seed + 1).to_bytes(4, "little") * (size // 4 + 1))[:size]


SIZES = [0, 1, 5000, 70_000, 3_000_001]


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_of_a_neighbour_is_pulled_and_kept(row: Street, size: int) -> None:
    here, there = await row.build(2)
    await row.acquaint()
    data = blob(size, 7)
    digest = await row.put(there, data)
    assert await row.get(here, digest) == data
    await settled(here)
    entry = await here.running.ledger.find(digest)
    assert entry is not None
    assert (entry.here, entry.kept, entry.vault) == (True, "cache", None)
    assert await row.get(here, digest) == data
    stats = await row.client().call(here.target, routes.STATS)
    assert (stats.hits.peer, stats.hits.local, stats.saved) == (1, 1, 2 * size)
    assert stats.nodes == x.Tally(total=2, healthy=2)


async def settled(home: Home) -> None:
    while home.running.exchange.exchange.puller.under_way:  # noqa: ASYNC110 - a real network
        await asyncio.sleep(0.01)


async def test_a_range_of_a_blob_that_is_pulled(row: Street) -> None:
    here, there = await row.build(2)
    await row.acquaint()
    data = bytes(range(256)) * 8192
    digest = await row.put(there, data)
    assert await row.get(here, digest, range_=(1_500_000, 1_600_000)) == data[1_500_000:1_600_000]


async def test_fifty_readers_are_one_origin_fetch(row: Street) -> None:
    (here,) = await row.build(1)
    here.with_origin = True
    await here.start()
    data = blob(2_000_000, 3)
    digest = Digest.of(data)
    row.cdn.blobs[digest] = data
    assert set(await asyncio.gather(*(row.get(here, digest) for _ in range(50)))) == {data}
    assert row.cdn.requests == [f"/{digest}"]


async def test_wrong_bytes_never_arrive_and_are_never_kept(row: Street) -> None:
    (here,) = await row.build(1)
    here.with_origin = True
    await here.start()
    for size in SIZES[1:]:
        right, wrong = blob(size, 1), blob(size, 2)
        digest = Digest.of(right)
        row.cdn.blobs[digest] = wrong
        got: list[bytes] = []
        with pytest.raises(HoldfastError):
            await read_into(row, here, digest, got)
        assert sum(map(len, got)) < size
        await settled(here)
        assert (await here.running.store.stat([digest]))[0] is None
        assert await here.running.ledger.find(digest) is None


async def read_into(row: Street, home: Home, digest: Digest, got: list[bytes]) -> None:
    async with row.client().get_blob(home.target, digest) as body:
        async for piece in body:
            got.append(bytes(piece))


async def test_only_those_with_a_right_may_read_push_or_pull(row: Street) -> None:
    here, there = await row.build(2)
    await row.acquaint()
    data = blob(5000, 9)
    with pytest.raises(Denied):
        await row.put(here, data, NOBODY)
    with pytest.raises(Denied):
        await row.put(here, data, READER)
    digest = await row.put(there, data)
    with pytest.raises(Denied):
        await row.get(here, digest, NOBODY)
    assert await row.get(there, digest, READER) == data
    # a peer is answered from the local store only
    with pytest.raises(NotFound):
        await row.get(here, digest, there.directory.identity, headers={"cache-control": "only-if-cached"})
    with pytest.raises(NotFound):
        await row.get(here, digest, there.directory.identity)
    assert await row.get(there, digest, here.directory.identity) == data


async def test_open_read_never_gives_what_a_vault_owns(row: Street) -> None:
    (here,) = await row.build(1)
    here.settings = NodeSettings(open_read=True)
    await here.start()
    plain, owned = blob(5000, 4), pack(VAULT.id, 5000)
    digest = await row.put(here, plain)
    await here.running.keeper.put(Digest.of(owned), len(owned), VAULT.id, pieces(owned))
    url = here.running.url
    async with aiohttp.ClientSession() as session:
        for path, status in (
            (f"/v1/blobs/{digest}", 200),
            (f"/v1/blobs/{Digest.of(owned)}", 404),
            ("/v1/manifests", 200),
            ("/v1/peers", 401),
            ("/v1/stats", 401),
            ("/v1/inventory", 401),
        ):
            async with session.get(url + path) as answer:
                assert answer.status == status, path
                if path.endswith(str(digest)):
                    assert await answer.read() == plain
        async with session.head(url + f"/v1/blobs/{digest}") as answer:
            assert (answer.status, answer.headers["content-length"]) == (200, "5000")
        async with session.put(url + f"/v1/blobs/{digest}", data=plain) as answer:
            assert answer.status == 401
    assert here.running.ledger.roots.count == 1, "what no vault owns is no matter of the coordinator"
    # also when a manifest's owner pushes the very same bytes
    await row.put(here, owned)
    with pytest.raises(NotFound):
        await row.get(here, Digest.of(owned), READER)


async def test_without_open_read_nothing_is_given_unsigned(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    digest = await row.put(here, blob(100))
    async with aiohttp.ClientSession() as session, session.get(f"{here.running.url}/v1/blobs/{digest}") as answer:
        assert answer.status == 401


async def test_the_cache_yields_the_least_recently_used_and_spares_vaults_and_manifests(row: Street) -> None:
    (here,) = await row.build(1)
    here.with_origin = True
    here.peers = PeersSettings(cache_bytes=50_000)
    await here.start()
    node = here.running
    owned, pushed = pack(VAULT.id, 9000), blob(9000, 1)
    await node.keeper.put(Digest.of(owned), len(owned), VAULT.id, pieces(owned))
    await row.put(here, pushed)
    digests = []
    for number in range(20):
        data = blob(10_000, 100 + number)
        digests.append(Digest.of(data))
        row.cdn.blobs[digests[-1]] = data
        await row.get(here, digests[-1])
        await settled(here)
        await row.get(here, digests[0])  # always in use
        assert node.ledger.shared["cache"][1] <= 50_000
    held = {info.digest for info in await node.store.list(None, 1000)}
    assert held == {Digest.of(owned), Digest.of(pushed), digests[0], *digests[-4:]}
    assert node.store.space().trash == 0, "what was evicted is gone for good"
    large = blob(60_000, 1000)
    row.cdn.blobs[Digest.of(large)] = large
    assert await row.get(here, Digest.of(large)) == large
    await settled(here)
    assert (await node.store.stat([Digest.of(large)]))[0] is None
    assert node.exchange.exchange.puller.counts.unkept == 1


async def test_the_cache_makes_way_for_what_matters_more(row: Street) -> None:
    (here,) = await row.build(1)
    here.with_origin = True
    here.capacity = 100_000
    here.peers = PeersSettings(cache_bytes=90_000)
    await here.start()
    for number in range(8):
        data = blob(10_000, 100 + number)
        row.cdn.blobs[Digest.of(data)] = data
        await row.get(here, Digest.of(data))
        await settled(here)
    await row.put(here, blob(60_000, 5))
    assert here.running.ledger.shared["cache"][1] <= 40_000


async def test_rows_of_cache_and_manifests_survive_a_restart(row: Street) -> None:
    (here,) = await row.build(1)
    here.with_origin = True
    await here.start()
    data = blob(10_000, 1)
    row.cdn.blobs[Digest.of(data)] = data
    await row.get(here, Digest.of(data))
    await settled(here)
    before = dict(here.running.ledger.shared)
    await here.stop()
    await here.start()
    assert here.running.ledger.shared == before == {"cache": (1, 10_000)}
    assert await row.get(here, Digest.of(data)) == data
    assert len(row.cdn.requests) == 1


async def test_where_a_blob_is(row: Street) -> None:
    here, there, third = await row.build(3)
    here.with_origin = True
    await row.acquaint()
    data = blob(3000, 2)
    digest = await row.put(there, data)
    found = await row.client().call(here.target, routes.WHERE, path={"digest": str(digest)})
    assert (found.local, [peer.name for peer in found.peers], found.origin) == (False, [there.name], False)
    row.cdn.blobs[digest] = data
    await row.put(here, data)
    found = await row.client().call(here.target, routes.WHERE, path={"digest": str(digest)})
    assert (found.local, [peer.name for peer in found.peers], found.origin) == (True, [there.name], True)
    peers = (await row.client().call(here.target, routes.PEERS)).peers
    assert [(peer.name, peer.healthy) for peer in peers] == [(there.name, True), (third.name, True)]
    assert all(peer.latency is not None and peer.address for peer in peers)


async def test_blobs_are_brought_here_on_request(row: Street) -> None:
    here, there = await row.build(2)
    here.peers = PeersSettings(cache_bytes=15_000)
    await row.acquaint()
    digests = [await row.put(there, blob(10_000, number)) for number in range(5)]
    nowhere = Digest.of(b"nowhere")
    client = row.client(WRITER)
    answer = await client.call(here.target, routes.PULL, x.PullRequest(digests=[*digests, nowhere], hold=True))
    assert m.bits_of(answer.bitmap, 6) == [True] * 5 + [False]
    assert answer.nobody == [nowhere]
    assert here.running.ledger.shared["manifest"] == (5, 50_000), "held for a manifest, past the cache's limit"
    with pytest.raises(Denied):
        await row.client(READER).call(here.target, routes.PULL, x.PullRequest(digests=digests, hold=True))
    # a sync that was given up: after a restart these are only cache
    await here.stop()
    await here.start()
    while "manifest" in here.running.ledger.shared and here.running.ledger.shared["manifest"][0]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert here.running.ledger.shared["cache"] == (5, 50_000)
