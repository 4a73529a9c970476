"""Every byte in a node's store is on its account, and nothing else is, through all that happens to blobs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.node.house import VAULT, House, pack

from holdfast.blob import Digest, pieces
from holdfast.errors import NotFound
from holdfast.files import OsFiles
from holdfast.node.exchange.cache import Cache
from holdfast.stores.disk.layout import Layout
from holdfast.stores.disk.store import DiskStore

ROUNDS = 120
WHAT = ("put", "put", "again", "delete", "cache", "cache", "hold", "release", "evict", "rot", "purge", "restart")
CACHE_BYTES = 20_000


def on_disk(path: Path) -> dict[str, int]:
    """Bytes of the files below each directory of the store, as a program sees them that knows nothing of holdfast."""
    layout = Layout(path)
    places = {"objects": layout.objects, "trash": layout.trash, "quarantine": layout.quarantine}
    places["incoming"] = layout.incoming
    return {
        name: sum(file.lstat().st_size for file in place.rglob("*") if file.is_file()) for name, place in places.items()
    }


def check(house: House, cached: dict[Digest, int]) -> None:
    space, found = house.running.overview().space, on_disk(house.path)
    assert space.used + space.cached == found["objects"]
    assert space.cached == sum(cached.values())
    assert space.trash == found["trash"]
    assert space.reclaimable == found["quarantine"]
    assert space.incoming == found["incoming"] == 0
    assert space.stored == sum(found.values())


async def settle(house: House) -> None:
    """Here manifests are only spoken of: what their worker would find out about that is found out now."""
    exchange = house.running.exchange
    for worker in exchange.workers:
        await worker.stop()
    await exchange.manifests.settle()


@pytest.mark.parametrize("seed", [1, 2])
async def test_used_cached_trash_and_reclaimable_are_what_lies_on_the_disk(house: House, seed: int) -> None:
    chance = random.Random(seed)
    packs: dict[Digest, bytes] = {}
    held: dict[Digest, int] = {}
    cached: dict[Digest, int] = {}
    await settle(house)
    cache = Cache(house.running.keeper, limit=CACHE_BYTES)
    happened: set[str] = set()
    for number in range(ROUNDS):
        keeper = house.running.keeper
        what = chance.choice(WHAT)
        data = pack(VAULT.id, chance.randrange(200, 5000), number)
        here = [digest for digest in packs if house.blob_path(digest).exists()]
        if what == "put" or (what == "again" and packs):
            data = data if what == "put" else packs[chance.choice(sorted(packs))]
            packs[Digest.of(data)] = data
            await keeper.put(Digest.of(data), len(data), VAULT.id, pieces(data))
        elif what == "delete" and here:
            digest = chance.choice(sorted(here))
            entry = await keeper.find(digest)
            assert entry is not None
            await keeper.delete(digest, VAULT.id, entry.sequence, lambda size: None)
        elif what == "cache":
            plain = chance.randbytes(chance.randrange(100, 4000))
            before = set(cached)
            await cache.keep(Digest.of(plain), len(plain), pieces(plain))
            cached[Digest.of(plain)] = len(plain)
            cached = {digest: size for digest, size in cached.items() if house.blob_path(digest).exists()}
            happened |= {"room made"} if before - set(cached) else set()
        elif what == "hold" and cached:
            digest = chance.choice(sorted(cached))
            held[digest] = cached.pop(digest)
            assert await keeper.hold(digest) == held[digest]
        elif what == "release" and held:
            digest = chance.choice(sorted(held))
            cached[digest] = held.pop(digest)
            await keeper.release(digest)
        elif what == "evict" and cached:
            await cache.make_room(1)
            cached = {digest: size for digest, size in cached.items() if house.blob_path(digest).exists()}
        elif what == "rot" and here:
            digest = chance.choice(sorted(here))
            house.blob_path(digest).write_bytes(bytes(len(packs[digest])))
            assert await keeper.verify(digest) == "quarantined"
            with pytest.raises(NotFound):
                await house.get(digest)
        elif what == "purge":
            store = house.running.store
            assert isinstance(store, DiskStore)
            await store.purge_trash(float("inf"))
        elif what == "restart":
            await (house.crash() if chance.random() < 0.5 else house.stop())
            await house.start()
            await settle(house)
            cache = Cache(house.running.keeper, limit=CACHE_BYTES)
            cached, held = cached | held, {}  # no manifest names them
        else:
            continue
        happened.add(what)
        check(house, cached)
    assert happened == {*WHAT, "room made"}


async def test_a_file_of_foreign_bytes_is_on_no_account(house: House) -> None:
    """What is no blob is neither counted nor touched."""
    (house.path / "objects" / "ab" / "notes.txt").write_bytes(b"x" * 1000)
    await house.stop()
    await house.start()
    assert house.running.overview().space.stored == 0
    assert OsFiles().size(house.path / "objects" / "ab" / "notes.txt") == 1000
