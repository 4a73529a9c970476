"""The last source of a node: a bucket, another holdfast; and who may read as a node that has just joined."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.stores import s3_servers
from tests.stores.s3_servers import S3Server, needs

from holdfast import assemble
from holdfast.blob import Digest, collect
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.config import Config
from holdfast.errors import NotFound, Unavailable
from holdfast.files import OsFiles
from holdfast.peers.origin_store import StoreOrigin
from holdfast.pool import InlinePool
from holdfast.stores import url as store_urls
from holdfast.stores.memory import MemoryStore
from holdfast.stores.open_url import Seams, init_store, open_store
from holdfast.stores.protocol import Store, put_bytes
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.network import TcpNetwork


@asynccontextmanager
async def node(path: Path, **flags: Any) -> AsyncIterator[Any]:
    await assemble.init_node(path, join=None, name=path.name)
    config = Config.load(path / "no-home", environment={}, flags={"open_read": True} | flags)
    running = await assemble.make_node(path, config, listen=("127.0.0.1", 0))
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def read(running: Any, digest: Digest) -> bytes:
    """As the node itself would ask."""
    http = HttpClient(identity=running.app.identity, network=TcpNetwork(), clock=SystemClock())
    try:
        async with http.get_blob(Target(running.id, running.url), digest) as body:
            return await collect(body, 1 << 30)
    finally:
        await http.close()


async def test_a_store_is_opened_when_it_is_first_asked_and_again_after_it_failed() -> None:
    store, opened = MemoryStore(), 0
    digest = (await put_bytes(store, b"in the bucket")).digest

    async def open_it() -> Store:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise Unavailable("the bucket is away")
        return store

    origin = StoreOrigin("s3://bucket", open_it, clock=SystemClock())
    assert opened == 0
    with pytest.raises(Unavailable, match="away"):
        async with origin.open(digest, 0):
            pass
    for start in (0, 3):
        async with origin.open(digest, start) as body:
            assert await collect(body, 100) == b"in the bucket"[start:]
            assert body.total == 13
    with pytest.raises(NotFound):
        async with origin.open(Digest.of(b"other"), 0):
            pass
    assert opened == 2
    await origin.close()
    await origin.close()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_servers.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@needs("moto_server", "'moto[server]'")
@pytest.mark.rig
async def test_a_bucket_is_an_origin(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_servers.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    url = moto.url("cdn")
    seams = Seams(OsFiles(), InlinePool(), SystemClock(), SystemRandomness(), TcpNetwork(), os.environ)
    await init_store(store_urls.parse(url), seams)
    bucket = await open_store(store_urls.parse(url), seams)
    blobs = [os.urandom(size) for size in (10, 300_000, 5_000_000)]
    for data in blobs:
        await put_bytes(bucket, data)
    await bucket.close()
    async with node(tmp_path / "node", origin=url) as running:
        for data in blobs:
            assert await read(running, Digest.of(data)) == data
        with pytest.raises(NotFound):
            await read(running, Digest.of(b"nowhere"))


async def test_another_holdfast_is_an_origin(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    async with node(tmp_path / "far") as far:
        http = HttpClient(identity=far.app.identity, network=TcpNetwork(), clock=SystemClock())
        await http.put_blob(Target(far.id, far.url), Digest.of(data), len(data), data)
        await http.close()
        async with node(tmp_path / "near", origin=f"{far.id}@{far.url}") as near:
            assert await read(near, Digest.of(data)) == data
            with pytest.raises(NotFound):
                await read(near, Digest.of(b"nowhere"))


def test_a_node_that_has_just_joined_is_served_within_seconds(tmp_path: Path) -> None:
    """Its neighbours have not looked at the registry since: they look when somebody unknown asks."""

    async def scene(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=2, survive=0) as grid:
            old: Any = grid.nodes[0].running
            digest = Digest.of(b"shared")
            await old.app.keeper.put_shared(digest, 6, _one(b"shared"), "cache")
            new: Any = (await grid.add_node()).running
            began = loop.time()
            while True:
                await asyncio.sleep(0.5)
                try:
                    async with new.app.exchange.exchange.puller.open(digest) as body:
                        assert await collect(body, 100) == b"shared"
                    break
                except (NotFound, Unavailable):
                    assert loop.time() - began < 10

    run(scene, seed=1)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
