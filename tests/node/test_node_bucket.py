"""A node on a bucket that it cannot lock: what it keeps, shows, deletes and believes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.node.house import VAULT, identity, pack

from holdfast.blob import Digest, pieces
from holdfast.errors import BadConfig, Corrupt, NoSpace, NotFound
from holdfast.files import OsFiles
from holdfast.node.bucket import BucketStore, check_free, claim
from holdfast.node.keeper import Keeper
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.reconcile import Reconciler
from holdfast.node.trash import TrashPurge
from holdfast.pool import InlinePool
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Traits, get_bytes, put_bytes
from holdfast.worker import Progress

POOL = InlinePool()
NOW = 1000.0


class MemoryBucket(MemoryStore):
    """A bucket in memory."""

    id: str | None = "ab" * 16
    served_by: str | None = None

    @property
    def traits(self) -> Traits:
        return replace(super().traits, durable=True)

    async def claim(self, server: str | None) -> str:
        self.served_by = self.served_by or server
        return self.served_by or ""

    def damage(self, digest: Digest) -> None:
        self._blobs[digest] = bytes(len(self._blobs[digest]))


@asynccontextmanager
async def keeping(
    path: Path, bucket: MemoryBucket, *, alone: bool = False, capacity: int | None = None
) -> AsyncIterator[Keeper]:
    path.mkdir(exist_ok=True)
    ledger = await Ledger.open(path, files=OsFiles(), writer=POOL, reader=POOL)
    store = BucketStore(bucket, pool=POOL, capacity=capacity, used=lambda: ledger.held_bytes, alone=alone)
    keeper = Keeper(store=store, ledger=ledger, slow_time=lambda: NOW, lost=lambda: None)
    keeper.reconciled = True
    try:
        yield keeper
    finally:
        await ledger.close()


async def put(keeper: Keeper, data: bytes) -> Digest:
    await keeper.put_shared(Digest.of(data), len(data), pieces(data), "manifest")
    return Digest.of(data)


async def test_what_another_node_put_is_here(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    plain, sealed = b"plain" * 100, pack(VAULT.id, 4096)
    async with keeping(tmp_path / "x", bucket) as x, keeping(tmp_path / "y", bucket) as y:
        await put(x, plain)
        await x.put(Digest.of(sealed), len(sealed), VAULT.id, pieces(sealed))
        entry = await y.find(Digest.of(plain))
        assert entry is not None
        assert (entry.kept, entry.size) == ("manifest", 500)
        found = await y.find_all([Digest.of(sealed), Digest.of(b"nowhere")])
        assert found[Digest.of(sealed)].vault == VAULT.id
        assert len(found) == 1
        # and gone again when the other one has deleted it
        await bucket.delete([Digest.of(plain)])
        await y.forget(Digest.of(plain))
        assert await y.find(Digest.of(plain)) is None


async def test_a_shared_bucket_is_compared_again_and_again(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    async with keeping(tmp_path / "x", bucket) as x, keeping(tmp_path / "mine", bucket, alone=True) as mine:
        reconciler = Reconciler(x)
        for number in range(3):
            await put_bytes(bucket, bytes([number]) * 100)
            assert await reconciler.unit() is Progress.IDLE
            assert x.ledger.shared["manifest"][0] == number + 1
        assert await Reconciler(mine).unit() is Progress.DONE


async def test_nothing_is_given_up_that_others_may_want(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    async with keeping(tmp_path / "x", bucket) as x, keeping(tmp_path / "mine", bucket, alone=True) as mine:
        for keeper, freed in ((x, 0), (mine, 100)):
            digest = await put(keeper, b"x" * 100)
            await keeper.release(digest)
            assert await keeper.evict(digest) == freed
            assert (await bucket.stat([digest]) == [None]) == bool(freed)


async def test_deleted_blobs_stay_in_the_bucket_until_their_time_has_come(tmp_path: Path) -> None:
    bucket, data = MemoryBucket(), pack(VAULT.id, 4096)
    digest = Digest.of(data)
    async with keeping(tmp_path / "x", bucket, alone=True) as keeper:
        sequence, _ = await keeper.put(digest, len(data), VAULT.id, pieces(data))
        await keeper.delete(digest, VAULT.id, sequence, lambda size: None)
        assert await keeper.find(digest) is None
        keeper.reconciled = False
        assert await keeper.find(digest) is None, "what lies in trash is not adopted"
        await Reconciler(keeper).unit()
        assert await keeper.find(digest) is None
        assert await get_bytes(bucket, digest) == data
        await TrashPurge(keeper, slow_time=lambda: NOW + 50, keep_s=100).unit()
        assert await get_bytes(bucket, digest) == data
        # put again, it stays
        again, new = await keeper.put(digest, len(data), VAULT.id, pieces(data))
        assert (again > sequence, new) == (True, False)
        await TrashPurge(keeper, slow_time=lambda: NOW + 200, keep_s=100).unit()
        assert await get_bytes(bucket, digest) == data
        await keeper.delete(digest, VAULT.id, again, lambda size: None)
        await TrashPurge(keeper, slow_time=lambda: NOW + 200, keep_s=100).unit()
        assert await bucket.stat([digest]) == [None]
        entry = await keeper.ledger.find(digest)
        assert entry is not None
        assert (entry.here, entry.trashed) == (False, None)


async def test_a_wrong_copy_is_given_to_nobody_and_replaced_by_a_put(tmp_path: Path) -> None:
    bucket, data = MemoryBucket(), pack(VAULT.id, 4096)
    digest = Digest.of(data)
    async with keeping(tmp_path / "x", bucket) as keeper:
        await keeper.put(digest, len(data), VAULT.id, pieces(data))
        bucket.damage(digest)
        with pytest.raises(Corrupt):
            await get_bytes(keeper.store, digest)
        assert await keeper.verify(digest) == "quarantined"
        assert await keeper.find(digest) is None
        await keeper.put(digest, len(data), VAULT.id, pieces(data))
        assert await get_bytes(keeper.store, digest) == data
        assert await keeper.verify(digest) == "ok"


async def test_a_copy_that_somebody_else_put_is_hashed_before_it_is_acknowledged(tmp_path: Path) -> None:
    bucket, data = MemoryBucket(), b"d" * 3000
    await put_bytes(bucket, data)
    bucket.damage(Digest.of(data))
    async with keeping(tmp_path / "x", bucket) as keeper:
        assert await put(keeper, data) == Digest.of(data)
    assert await get_bytes(bucket, Digest.of(data)) == data


async def test_capacity_is_what_this_node_may_fill(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    await put_bytes(bucket, b"of others" * 1000)
    async with keeping(tmp_path / "x", bucket, capacity=5000) as keeper:
        await put(keeper, b"a" * 3000)
        assert keeper.store.space().available == 2000
        with pytest.raises(NoSpace):
            await put(keeper, b"b" * 3000)
        with pytest.raises(NotFound):
            await get_bytes(bucket, Digest.of(b"b" * 3000))


async def test_what_cut_off_puts_left_is_swept_where_a_bucket_can() -> None:
    class Tidy(MemoryBucket):
        async def sweep(self) -> int:
            return 3

    for bucket, swept in ((Tidy(), 3), (MemoryBucket(), 0)):
        store = BucketStore(bucket, pool=POOL, capacity=None, used=lambda: 0, alone=False)
        assert await store.sweep() == swept


async def test_who_may_serve_a_bucket() -> None:
    one, two = identity(21).id, identity(22).id
    shared = MemoryBucket()
    for joined in (True, False):
        await check_free(shared, joined=joined)
    assert shared.served_by is None, "looked at only"
    await claim(shared, one, joined=False)
    await claim(shared, two, joined=False)
    await check_free(shared, joined=False)
    with pytest.raises(BadConfig, match="belong to no network"):
        await check_free(shared, joined=True)
    with pytest.raises(BadConfig, match="belong to no network"):
        await claim(shared, one, joined=True)
    owned = MemoryBucket()
    await claim(owned, one, joined=True)
    await claim(owned, one, joined=True)
    for joined in (True, False):
        with pytest.raises(BadConfig, match=str(one)):
            await claim(owned, two, joined=joined)
        with pytest.raises(BadConfig, match=str(one)):
            await check_free(owned, joined=joined)
    unnamed = MemoryBucket()
    unnamed.id = None
    with pytest.raises(BadConfig, match="store init"):
        await claim(unnamed, one, joined=False)
