"""A NATS bucket as a store, on one real server: the conformance suite, the layout, credentials, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import nats
import pytest
from tests.stores.nats_servers import NatsServer, needs_nats, one_server, running

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock, SystemRandomness
from holdfast.pool import ThreadPool
from holdfast.stores import url
from holdfast.stores.contract import Harness, Peek
from holdfast.stores.nats import NatsStore
from holdfast.stores.nats_access import NatsAccess
from holdfast.testing.store_suite import StoreSuite
from holdfast.wire.network import TcpNetwork

pytestmark = [needs_nats, pytest.mark.xdist_group("nats")]
RANDOM = SeededRandomness(11)
ANYBODY = NatsAccess()
_numbers = count()


@asynccontextmanager
async def nats_store(address: str, *, access: NatsAccess = ANYBODY, fresh: bool = True) -> AsyncIterator[NatsStore]:
    pool, named = ThreadPool(2), url.parse(address)
    if fresh:
        await NatsStore.init(named, access=access, clock=SystemClock(), randomness=SystemRandomness())
    store = await NatsStore.open(
        named, access=access, pool=pool, clock=SystemClock(), randomness=SystemRandomness(), network=TcpNetwork()
    )
    try:
        yield store
    finally:
        await store.close()
        pool.close()


def looker(address: str, bucket: str) -> Peek:
    """Through the library's own object store."""

    async def peek(digest: Digest) -> bytes | None:
        client = await nats.connect(f"nats://{address}")
        try:
            objects = await client.jetstream().object_store(bucket)
            found = await objects.get(str(digest))
            return found.data or b""
        except nats.js.errors.NotFoundError:
            return None
        finally:
            await client.close()

    return peek


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    one = one_server(tmp_path_factory.mktemp("nats"))
    with running([one]):
        asyncio.run(one.wait_ready())
        yield one


class TestNatsStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _server(self, server: NatsServer) -> None:
        self.server = server

    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        bucket = f"suite{next(_numbers)}"
        async with nats_store(f"nats://{self.server.address}/{bucket}") as store:
            yield Harness(store, RANDOM, peek=looker(self.server.address, bucket))
