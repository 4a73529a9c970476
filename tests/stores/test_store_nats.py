"""A NATS bucket as a store, on one real server: the conformance suite, the layout, credentials, refusals."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import nats
import nkeys  # type: ignore[import-untyped]  # ships no types
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.msg import Msg
from tests.stores.nats_servers import NatsServer, needs_nats, one_server, running

from holdfast.blob import Digest, pieces
from holdfast.clock import SeededRandomness, SystemClock, SystemRandomness
from holdfast.errors import BadConfig, Corrupt, Denied, DigestMismatch, Exists, NoSpace, Unavailable
from holdfast.pool import ThreadPool
from holdfast.stores import url
from holdfast.stores.contract import Harness, Peek, check_scale
from holdfast.stores.nats import bucket as nats_bucket
from holdfast.stores.nats import link as nats_link
from holdfast.stores.nats import read as nats_read
from holdfast.stores.nats import write as nats_write
from holdfast.stores.nats.access import NatsAccess
from holdfast.stores.nats.link import Refused
from holdfast.stores.nats.store import NatsStore
from holdfast.stores.protocol import Range, get_bytes, put_bytes
from holdfast.testing.store_suite import StoreSuite
from holdfast.wire.network import TcpNetwork

pytestmark = [needs_nats, pytest.mark.rig]
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


# -- what only NATS does


async def test_other_clients_read_what_was_put_and_the_other_way_round(server: NatsServer) -> None:
    client = await nats.connect(f"nats://{server.address}")
    try:
        objects = await client.jetstream().create_object_store("theirs")
        theirs = RANDOM.bytes(700_000)
        await objects.put(str(Digest.of(theirs)), theirs)
        await objects.put("a photo.jpg", b"no digest names this")
        await objects.put(str(Digest.of(b"a")), b"and here the name is wrong")
        async with nats_store(f"nats://{server.address}/theirs") as store:
            assert await get_bytes(store, Digest.of(theirs)) == theirs
            assert await get_bytes(store, Digest.of(theirs), Range(500_000, 500_010)) == theirs[500_000:500_010]
            assert [info.digest for info in await store.list(None, 10)] == [Digest.of(theirs)]
            assert (await put_bytes(store, b"a")).new, "an object whose bytes do not fit its name counted as the blob"
            assert await get_bytes(store, Digest.of(b"a")) == b"a"
            ours = RANDOM.bytes(1_400_000)
            await put_bytes(store, ours)
            found = await objects.get(str(Digest.of(ours)))
            assert found.data == ours
            assert (found.info.chunks, found.info.size, found.info.bucket) == (3, len(ours), "theirs")
            await objects.delete(str(Digest.of(ours)))
            assert await store.stat([Digest.of(ours)]) == [None], "what another client deleted is still shown"
            assert (await put_bytes(store, ours)).new
            await store.delete([Digest.of(ours)])
            with pytest.raises(nats.js.errors.ObjectNotFoundError):
                await objects.get(str(Digest.of(ours)))
            assert (await objects.get("a photo.jpg")).data == b"no digest names this"
    finally:
        await client.close()


async def test_nothing_makes_a_bucket_but_init(server: NatsServer) -> None:
    for address in ("nobody", "nobody?replicas=1"):
        with pytest.raises(BadConfig, match="no bucket nobody"):
            async with nats_store(f"nats://{server.address}/{address}", fresh=False):
                pass
    client = await nats.connect(f"nats://{server.address}")
    with pytest.raises(nats.js.errors.NotFoundError):
        await client.jetstream().stream_info("OBJ_nobody")
    await client.close()


async def test_a_bucket_has_one_id_for_good(server: NatsServer) -> None:
    named = url.parse(f"nats://{server.address}/named")
    made = await NatsStore.init(named, access=ANYBODY, clock=SystemClock(), randomness=SystemRandomness())
    async with nats_store(str(named), fresh=False) as store:
        assert store.id == made
    with pytest.raises(Exists, match=made):
        await NatsStore.init(named, access=ANYBODY, clock=SystemClock(), randomness=SystemRandomness())


@pytest.mark.parametrize("seed", range(6))
async def test_lost_late_and_refused_chunks_leave_a_whole_blob(
    server: NatsServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests vanish, answers vanish, the server says 429, and some messages arrive long after they were given up."""
    monkeypatch.setattr(nats_write, "ACK_S", 0.2)
    chance, late = SeededRandomness(seed), list[asyncio.Task[object]]()
    data, bucket = RANDOM.bytes(12_000_000), f"trouble{seed}"
    async with nats_store(f"nats://{server.address}/{bucket}") as store:
        send, troubles = store._link.publish, 0

        async def publish(subject: str, payload: bytes, headers: Mapping[str, str]) -> asyncio.Future[int]:
            nonlocal troubles
            roll = chance.below(9)
            if ".C." not in subject or roll > 4 or troubles >= 6:
                return await send(subject, payload, headers)
            troubles += 1
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            if roll == 1:  # arrives, but nobody hears of it
                await send(subject, payload, headers)
            elif roll == 2:
                future.set_exception(Refused(429, 10167, "too many requests"))
            elif roll == 3:  # arrives when it was sent again already

                async def later() -> None:
                    await asyncio.sleep(0.35)
                    await send(subject, payload, headers)

                late.append(asyncio.ensure_future(later()))
            elif roll == 4:  # is overtaken by those behind it, and acknowledged as if nothing were wrong

                async def overtaken() -> None:
                    await asyncio.sleep(0.1)
                    sequence = await (await send(subject, payload, headers))
                    if not future.done():
                        future.set_result(sequence)

                late.append(asyncio.ensure_future(overtaken()))
            return future

        monkeypatch.setattr(store._link, "publish", publish)
        assert (await put_bytes(store, data)).new
        assert troubles
        await asyncio.gather(*late)
        assert await get_bytes(store, Digest.of(data)) == data
        assert await get_bytes(store, Digest.of(data), Range(11_000_000, None)) == data[11_000_000:]
        assert await looker(server.address, bucket)(Digest.of(data)) == data
        assert await store.sweep(0) == 0


@pytest.mark.parametrize("lost", [{0}, {5}, {11}, {12}, {3, 4, 8, 20}])
async def test_messages_that_never_arrive_are_asked_for_again(
    server: NatsServer, lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a connection breaks in the middle of an answer and the next one brings only its end."""
    monkeypatch.setattr(nats_read, "STALL_S", 0.3)
    data, seen = RANDOM.bytes(6_000_000), count()  # twelve chunks, then the end of the batch
    async with nats_store(f"nats://{server.address}/gaps{next(_numbers)}") as store:
        await put_bytes(store, data)
        answers = store._link.answers

        def lossy(take: Callable[[Msg], Awaitable[None]]) -> AbstractAsyncContextManager[str]:
            async def sometimes(message: Msg) -> None:
                if next(seen) not in lost:
                    await take(message)

            return answers(sometimes)

        monkeypatch.setattr(store._link, "answers", lossy)
        assert await get_bytes(store, Digest.of(data)) == data


async def test_a_put_that_fails_leaves_no_chunks(server: NatsServer) -> None:
    data = RANDOM.bytes(9_000_000)

    async def broken() -> AsyncIterator[bytes]:
        yield data[:8_000_000]
        raise ConnectionResetError("the sender has gone")

    async with nats_store(f"nats://{server.address}/clean") as store:
        with pytest.raises(ConnectionResetError):
            await store.put(Digest.of(data), len(data), broken())
        with pytest.raises(DigestMismatch):
            await store.put(Digest.of(b"x"), len(data), pieces(data))
        state = await nats_bucket.look(store._link, store._bucket)
        assert state is not None
        assert state.bytes == 0


async def test_chunks_of_a_process_that_died_are_swept(server: NatsServer) -> None:
    async with nats_store(f"nats://{server.address}/swept") as store:
        kept = RANDOM.bytes(2_000_000)
        await put_bytes(store, kept)
        await store._link.publish(store._bucket.chunks("deadbeef"), b"half of something", {})
        assert await store.sweep() == 0, "chunks of a put that may still go on were taken"
        assert await store.sweep(0) == 1
        assert await store.sweep(0) == 0
        assert await get_bytes(store, Digest.of(kept)) == kept


async def test_ranges_read_no_more_than_they_need_and_survive_a_wrong_hint(server: NatsServer) -> None:
    data = RANDOM.bytes(6_000_000)
    async with nats_store(f"nats://{server.address}/hints") as store:
        await asyncio.gather(put_bytes(store, data), put_bytes(store, RANDOM.bytes(6_000_000)))
        before = store._link._client.stats["in_bytes"]
        assert await get_bytes(store, Digest.of(data), Range(5_000_000, 5_000_100)) == data[5_000_000:5_000_100]
        assert store._link._client.stats["in_bytes"] - before < 600_000, "a range brought more than its chunk"
        meta, revision = await store._meta(Digest.of(data))
        assert meta is not None
        for wrong in ([number + 1 for number in meta.sequences], list(range(1, 1 + meta.chunks)), []):
            forged = replace(meta, nuid=meta.nuid, sequences=wrong).encode(store._bucket)
            headers = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(revision)}
            revision = await (await store._link.publish(store._bucket.meta(meta.digest), forged, headers))
            for start in (0, 1, 700_000, 5_999_999):
                assert await get_bytes(store, meta.digest, Range(start, start + 50)) == data[start : start + 50]


async def test_missing_chunks_are_damage_and_not_a_short_blob(server: NatsServer) -> None:
    data = RANDOM.bytes(3_000_000)
    async with nats_store(f"nats://{server.address}/damaged") as store:
        await put_bytes(store, data)
        meta, _ = await store._meta(Digest.of(data))
        assert meta is not None
        for victim in (meta.sequences[-1], meta.sequences[2]):
            await store._link.ask(f"STREAM.MSG.DELETE.{store._bucket.stream}", {"seq": victim})
            with pytest.raises(Corrupt, match="chunk"):
                await get_bytes(store, Digest.of(data))


async def test_two_processes_that_put_one_digest_agree(server: NatsServer) -> None:
    data = RANDOM.bytes(1_500_000)
    address = f"nats://{server.address}/shared"
    async with nats_store(address) as one, nats_store(address, fresh=False) as other:
        stored = await asyncio.gather(put_bytes(one, data), put_bytes(other, data))
        assert sorted(answer.new for answer in stored) == [False, True]
        assert await one.sweep(0) == 0, "the slower of the two left its chunks behind"
        assert await get_bytes(other, Digest.of(data)) == data


async def test_a_full_bucket_is_no_space(server: NatsServer) -> None:
    async with nats_store(f"nats://{server.address}/small") as store:
        info = await store._link.ask("STREAM.INFO.OBJ_small")
        await store._link.ask("STREAM.UPDATE.OBJ_small", {**info["config"], "max_bytes": 3_000_000})
        kept = RANDOM.bytes(1_000_000)
        await put_bytes(store, kept)
        with pytest.raises(NoSpace):
            await put_bytes(store, RANDOM.bytes(4_000_000))
        assert await get_bytes(store, Digest.of(kept)) == kept
        assert (await put_bytes(store, RANDOM.bytes(1_000_000))).new, "what a refused put had sent was not taken back"


async def test_a_list_of_2500_blobs(server: NatsServer) -> None:
    async with nats_store(f"nats://{server.address}/many") as store:
        await check_scale(Harness(store, RANDOM), count=2500)


# -- who may come in


async def test_credentials_come_from_files(tmp_path: Path) -> None:
    seed = nkeys.encode_seed(RANDOM.bytes(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "secret").write_text("open sesame\n")
    (tmp_path / "seed").write_text(bytes(seed).decode() + "\n")
    for name, settings, right in (
        ("token", 'authorization { token: "open sesame" }\n', {"NATS_TOKEN_FILE": str(tmp_path / "secret")}),
        ("nkey", f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n", {"NATS_NKEY": str(tmp_path / "seed")}),
    ):
        guarded = one_server(tmp_path, settings=settings, name=name)
        with running([guarded]):
            await guarded.wait_ready()
            access = NatsAccess.from_environment(right)
            async with nats_store(f"nats://{guarded.address}/bucket", access=access) as store:
                await put_bytes(store, b"for us only")
            with pytest.raises(Denied, match="credentials"):
                async with nats_store(f"nats://{guarded.address}/bucket"):
                    pass


async def test_an_account_that_may_not_write_is_told_so(tmp_path: Path) -> None:
    rights = 'publish: { deny: ["$O.>", "$JS.API.STREAM.CREATE.>"] }'
    seed = nkeys.encode_seed(RANDOM.bytes(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "seed").write_bytes(bytes(seed))
    users = f"{{ nkey: {public}, permissions: {{ {rights} }} }}, {{ user: w, password: w }}"
    settings = f"authorization {{ users: [ {users} ] }}\n"
    guarded = one_server(tmp_path, settings=settings)
    with running([guarded]):
        await guarded.wait_ready()
        client = await nats.connect(f"nats://{guarded.address}", user="w", password="w")
        await client.jetstream().create_object_store("bucket")
        await client.close()
        access = NatsAccess.from_environment({"NATS_NKEY": str(tmp_path / "seed")})
        async with nats_store(f"nats://{guarded.address}/bucket", access=access, fresh=False) as store:
            with pytest.raises(Denied, match="may not"):
                await put_bytes(store, b"not allowed")


def test_access_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="only one"):
        NatsAccess.from_environment({"NATS_CREDS": "a", "NATS_NKEY": "b"})
    with pytest.raises(BadConfig, match="belong together"):
        NatsAccess.from_environment({"NATS_CERT": "a"})
    with pytest.raises(BadConfig, match="NATS_NKEY"):
        NatsAccess.from_environment({"NATS_NKEY": str(tmp_path / "missing")}).options(tls=False)


async def test_tls_is_spoken_and_never_left_out(tmp_path: Path, server: NatsServer) -> None:
    certificate, key = self_signed(tmp_path)
    guarded = one_server(tmp_path, settings=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
    access = NatsAccess.from_environment({"NATS_CA": str(certificate)})
    with running([guarded]):
        await guarded.wait_ready()
        async with nats_store(f"nats://{guarded.address}/bucket?tls", access=access) as store:
            await put_bytes(store, b"unseen")
        with pytest.raises(BadConfig, match="certificate"):
            async with nats_store(f"nats://{guarded.address}/bucket?tls", fresh=False):
                pass
    with pytest.raises(BadConfig, match="no TLS"):
        async with nats_store(f"nats://{server.address}/bucket?tls", access=access):
            pass


def self_signed(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "certificate.pem", tmp_path / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_link, "CONNECT_S", 0.5)
    with pytest.raises(Unavailable, match="no NATS server"):
        async with nats_store("nats://127.0.0.1:1/bucket", fresh=False):
            pass
