"""A NATS bucket with three copies on three real servers: what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.stores.nats_servers import NatsServer, needs_nats, running, three_servers
from tests.stores.test_store_nats import ANYBODY, looker, nats_store

from holdfast.blob import Digest, collect
from holdfast.clock import SeededRandomness, SystemClock, SystemRandomness
from holdfast.errors import BadConfig
from holdfast.stores import url
from holdfast.stores.contract import Harness
from holdfast.stores.nats import bucket as nats_bucket
from holdfast.stores.nats.bucket import BucketState
from holdfast.stores.nats.layout import Bucket
from holdfast.stores.nats.store import NatsStore
from holdfast.stores.protocol import get_bytes, put_bytes
from holdfast.testing.store_suite import StoreSuite

pytestmark = [needs_nats, pytest.mark.rig]
RANDOM = SeededRandomness(13)
_numbers = count()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[NatsServer]]:
    with running(three_servers(tmp_path_factory.mktemp("trio"))) as servers:
        asyncio.run(all_ready(servers))
        yield servers


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[Sequence[NatsServer]]:
    """A cluster of the test's own, to kill."""
    with running(three_servers(tmp_path)) as servers:
        await all_ready(servers)
        yield servers


async def all_ready(servers: Sequence[NatsServer]) -> None:
    await asyncio.gather(*(server.wait_ready() for server in servers))


def everywhere(servers: Sequence[NatsServer], bucket: str) -> str:
    return f"nats://{','.join(server.address for server in servers)}/{bucket}?replicas=3"


async def leader(store: NatsStore, servers: Sequence[NatsServer]) -> NatsServer:
    state = await nats_bucket.look(store._link, store._bucket)
    assert state is not None
    (name,) = [peer.name for peer in state.peers if peer.leads]
    return next(server for server in servers if server.name == name)


class TestNatsStoreOfThreeCopies(StoreSuite):
    @pytest.fixture(autouse=True)
    def _servers(self, trio: Sequence[NatsServer]) -> None:
        self.servers = trio

    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        bucket = f"suite{next(_numbers)}"
        async with nats_store(everywhere(self.servers, bucket)) as store:
            yield Harness(store, RANDOM, peek=looker(self.servers[1].address, bucket))


@pytest.mark.parametrize("which", ["leader", pytest.param("follower", marks=pytest.mark.slow)])
async def test_puts_and_gets_go_on_while_a_server_is_killed(mortal: Sequence[NatsServer], which: str) -> None:
    blobs = [RANDOM.bytes(size) for size in [100, 3_000_000, 700_000, 2_000_000] * 6]
    async with nats_store(everywhere(mortal, "killed")) as store:
        large = RANDOM.bytes(24 << 20)
        await put_bytes(store, large)
        leads = await leader(store, mortal)
        victim = leads if which == "leader" else next(server for server in mortal if server is not leads)
        numbers = iter(range(len(blobs)))
        halfway = asyncio.Event()

        async def writer() -> None:
            for number in numbers:
                if number == len(blobs) // 3:
                    halfway.set()
                assert (await put_bytes(store, blobs[number])).new

        async def reader() -> bytes:
            async with store.get(Digest.of(large)) as body:
                assert body.size == len(large)
                return await collect(body, len(large))

        async def killer() -> None:
            await halfway.wait()
            victim.kill()

        *_, read = await asyncio.gather(writer(), writer(), writer(), killer(), reader())
        assert read == large
        for data in (*blobs, large):
            assert await get_bytes(store, Digest.of(data)) == data
    victim.start()
    await victim.wait_ready()
    async with nats_store(everywhere(mortal, "killed"), fresh=False) as store:
        await _complete(store, 3)
        assert await store.sweep(0) == 0, "a put that went through trouble left chunks behind"
    look = looker(victim.address, "killed")
    for data in (*blobs[-4:], large):
        assert await look(Digest.of(data)) == data, "other clients see other bytes"


async def test_what_was_put_through_one_server_is_read_through_another_when_the_first_is_dead(
    mortal: Sequence[NatsServer],
) -> None:
    data = RANDOM.bytes(5_000_000)
    first, second, _ = mortal
    async with nats_store(f"nats://{first.address}/bucket?replicas=3") as store:
        await put_bytes(store, data)
        first.kill()
        async with nats_store(f"nats://{second.address}/bucket?replicas=3", fresh=False) as other:
            assert await get_bytes(other, Digest.of(data)) == data
        assert await get_bytes(store, Digest.of(data)) == data, "the store did not find another server by itself"


async def test_a_server_that_comes_back_empty_is_filled_again(mortal: Sequence[NatsServer]) -> None:
    blobs = [RANDOM.bytes(300_000) for _ in range(6)]
    async with nats_store(everywhere(mortal, "bucket")) as store:
        for data in blobs[:3]:
            await put_bytes(store, data)
        leads = await leader(store, mortal)
        lost = next(server for server in mortal if server is not leads)
        lost.kill()
        lost.forget()
        for data in blobs[3:]:
            await put_bytes(store, data)
        lost.start()
        await lost.wait_ready()
        await _complete(store, 3)
        leads.kill()  # two are left, one of them was empty
        for data in blobs:
            assert await get_bytes(store, Digest.of(data)) == data


async def _complete(store: NatsStore, copies: int) -> None:
    for _ in range(600):
        state = await nats_bucket.look(store._link, store._bucket)
        if state is not None and state.current == copies:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the copies never became complete: {state}")


async def test_scale_waits_until_the_copies_are_complete(trio: Sequence[NatsServer]) -> None:
    data, states = RANDOM.bytes(4_000_000), list[BucketState]()
    named = url.parse(f"nats://{trio[0].address}/grows")
    async with nats_store(str(named)) as store:
        await put_bytes(store, data)
        made = {"access": ANYBODY, "clock": SystemClock(), "randomness": SystemRandomness()}
        state = await NatsStore.scale(named, 3, **made, seen=states.append)  # type: ignore[arg-type]  # by name
        assert (state.replicas, state.current, len(state.peers)) == (3, 3, 3)
        assert states[-1] == state
        assert await get_bytes(store, Digest.of(data)) == data
        state = await NatsStore.scale(named, 1, **made)  # type: ignore[arg-type]  # by name
        assert (state.replicas, len(state.peers)) == (1, 1)
        assert await get_bytes(store, Digest.of(data)) == data
        with pytest.raises(BadConfig, match="4 copies"):
            await NatsStore.scale(named, 4, **made)  # type: ignore[arg-type]  # by name


async def test_a_url_that_says_another_number_of_copies_is_refused(trio: Sequence[NatsServer]) -> None:
    async with nats_store(f"nats://{trio[0].address}/single"):
        pass
    with pytest.raises(BadConfig, match="store scale"):
        async with nats_store(f"nats://{trio[0].address}/single?replicas=3", fresh=False):
            pass


async def test_durable_is_what_the_servers_themselves_show(trio: Sequence[NatsServer]) -> None:
    monitors = [f"127.0.0.1:{server.monitor}" for server in trio]
    base = f"nats://{trio[0].address}/safe?replicas=3"
    async with nats_store(base) as store:
        assert not store.traits.durable, "nobody said so"
        assert Bucket("safe").stream == "OBJ_safe"
    async with nats_store(f"{base}&monitor={','.join(monitors)}", fresh=False) as store:
        assert store.traits.durable
    async with nats_store(f"{base}&monitor={','.join(monitors[:2])}", fresh=False) as store:
        assert not store.traits.durable, "one server was not asked"
    async with nats_store(f"{base}&sync=always", fresh=False) as store:
        assert store.traits.durable, "the operator's word counts"
    with pytest.raises(BadConfig, match="sync=always, but"):
        async with nats_store(f"{base}&sync=always&monitor={monitors[0]}", fresh=False):
            pass
