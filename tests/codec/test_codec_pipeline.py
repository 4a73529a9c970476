"""The packer: everything added comes out once, in bounded memory, whoever adds and whatever fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import pytest

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec import recipe as recipes
from holdfast.codec.keys import GenerationKeys, VaultKeys
from holdfast.codec.pack import open_entry, open_pack, padded_size
from holdfast.codec.pipeline import INLINE_BYTES, Packer, PendingPack, Placed
from holdfast.codec.sealer import Kind, chunk_id, open_chunk
from holdfast.errors import NoSpace, Unavailable
from holdfast.pool import InlinePool, Pool, ThreadPool

Pack: TypeAlias = PendingPack[str]
Make: TypeAlias = Callable[..., Packer[str]]


class Kept:
    """A consumer that keeps a copy of every pack and gives the buffer back at once."""

    def __init__(self) -> None:
        self.packs: dict[Digest, bytes] = {}

    async def __call__(self, pending: Pack) -> None:
        self.packs[pending.digest] = bytes(pending.data)
        await asyncio.sleep(0)
        pending.release()

    def chunks(self, vault: VaultKeys) -> list[tuple[Kind, bytes]]:
        return [
            (entry.kind, open_entry(vault.generation(1), data, entry))
            for data in self.packs.values()
            for entry in open_pack(vault, data)
        ]


@pytest.fixture(params=["inline", "threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool: Pool = InlinePool() if request.param == "inline" else ThreadPool(2)
    yield pool
    pool.close()


@pytest.fixture
def make(vault: VaultKeys, device: Identity, pool: Pool) -> Make:
    def packer(emit: Callable[[Pack], Awaitable[None]], **settings: int) -> Packer[str]:
        settings = {"pack_bytes": 10_000, "chunk_bytes_max": 1 << 20, **settings}
        return Packer(vault.generation(1), vault.vault, device, pool, emit=emit, **settings)

    return packer


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_all_that_is_added_comes_out_once(make: Make, vault: VaultKeys) -> None:
    kept = Kept()
    packer = make(kept, buffers=2)
    chance = random.Random(5)
    sizes = [chance.choice([1, 100, 3000, INLINE_BYTES - 1, INLINE_BYTES, 200_000]) for _ in range(80)]
    texts = [chance.randbytes(size) for size in sizes]

    async def some(mine: list[bytes]) -> list[Placed[str]]:
        return [await packer.add(Kind.DATA, text) for text in mine]

    placed = await asyncio.gather(*(some(texts[start::4]) for start in range(4)))
    await packer.flush()
    assert sorted(kept.chunks(vault)) == sorted((Kind.DATA, text) for text in texts)
    assert len(kept.packs) > 4
    for mine, start in zip(placed, range(4), strict=True):
        for found, text in zip(mine, texts[start::4], strict=True):
            data = kept.packs[found.pending.digest]
            sealed = data[found.offset : found.offset + found.length]
            assert open_chunk(vault.generation(1), Kind.DATA, found.id, sealed) == text
    await packer.close()


async def test_a_flush_pads_and_a_full_pack_does_not(make: Make) -> None:
    kept = Kept()
    packer = make(kept)
    await packer.flush()
    assert not kept.packs, "nothing added, nothing made"
    for n in range(30):
        await packer.add(Kind.DATA, bytes([n]) * 1000)
    await packer.flush()
    await packer.flush()
    padded = [len(data) == padded_size(len(data)) for data in kept.packs.values()]
    assert padded.count(True) == 1
    assert len(padded) == 3


async def test_adding_waits_while_all_buffers_are_in_use(make: Make) -> None:
    held: list[Pack] = []
    one_held = asyncio.Event()

    async def hold(pending: Pack) -> None:
        held.append(pending)
        one_held.set()

    packer = make(hold, buffers=2)
    for n in range(2):
        await packer.add(Kind.DATA, bytes([n]) * 10_000)
    third = asyncio.ensure_future(packer.add(Kind.DATA, b"third"))
    await one_held.wait()
    await settle()
    assert not third.done()
    copy = bytes(held[0].data)
    await settle()
    assert held[0].data == copy, "nobody writes into a pack that was not released"
    held[0].release()
    held[0].release()
    placed = await third
    with pytest.raises(AssertionError):
        _ = held[0].data
    assert held[0].entries, "entries outlive the buffer"
    await packer.flush()
    assert placed.pending in held
    assert len(held) == 3
    await packer.close()


async def test_built_chunks_know_their_pack_and_the_packs_before(make: Make, vault: VaultKeys) -> None:
    """A recipe names earlier packs by digest and its own as 0, wherever it lands."""
    kept = Kept()
    packer = make(kept, buffers=3)
    keys = vault.generation(1)
    files: list[tuple[bytes, Placed[str]]] = []
    chance = random.Random(1)

    async def put(name: str, size: int) -> None:
        content = chance.randbytes(size)
        placed = [await packer.add(Kind.DATA, content[start : start + 700]) for start in range(0, size, 700)]

        def build(pending: Pack) -> bytes:
            packs = list(dict.fromkeys(one.pending for one in placed if one.pending is not pending))
            pending.owners.append(name)
            return recipes.encode(
                recipes.Recipe(
                    size=size,
                    chunk_bytes=700,
                    generation=1,
                    packs=tuple(pack.digest for pack in packs),
                    entries=[
                        one.entry(0 if one.pending is pending else 1 + packs.index(one.pending)) for one in placed
                    ],
                    content_id=recipes.content_id(keys, [one.id for one in placed]),
                )
            )

        needs = [one.pending for one in placed]
        files.append((content, await packer.add_built(Kind.RECIPE, 10_000, build, needs=needs)))

    await asyncio.gather(*(put(f"f{n}", chance.randrange(0, 40_000)) for n in range(12)))
    await packer.flush()
    owners = [name for pending in {placed.pending for _, placed in files} for name in pending.owners]
    assert sorted(owners) == sorted(f"f{n}" for n in range(12)), "each builds once"
    for content, placed in files:
        data = kept.packs[placed.pending.digest]
        sealed = data[placed.offset : placed.offset + placed.length]
        found = recipes.decode(open_chunk(keys, Kind.RECIPE, placed.id, sealed))
        assert isinstance(found, recipes.Recipe)
        read = b""
        for entry in found.entries:
            pack = kept.packs[found.pack_digest(entry, placed.pending.digest)]
            read += open_chunk(keys, Kind.DATA, entry.id, pack[entry.offset : entry.offset + entry.length])
        assert read == content


async def test_salted_chunks_and_known_ids(make: Make, keys: GenerationKeys) -> None:
    packer = make(Kept())
    known = chunk_id(keys, b"known")
    assert (await packer.add(Kind.DATA, b"known", id=known)).id == known
    salted = await packer.add(Kind.DATA, b"known", salt=b"s" * 16)
    assert salted.id == chunk_id(keys, b"known", b"s" * 16) != known
    await packer.flush()


async def test_a_failed_emit_is_told_to_all_who_add(make: Make) -> None:
    async def fail(pending: Pack) -> None:
        raise NoSpace("the disk is full")

    packer = make(fail, buffers=1)
    await packer.add(Kind.DATA, bytes(10_000))
    with pytest.raises(NoSpace):
        await packer.add(Kind.DATA, b"waits for the one buffer")
    for call in (packer.flush(), packer.add(Kind.DATA, b"x")):
        with pytest.raises(NoSpace):
            await call
    await packer.close()


async def test_a_foreign_error_becomes_ours(make: Make) -> None:
    async def fail(pending: Pack) -> None:
        raise OSError("broken")

    packer = make(fail)
    await packer.add(Kind.DATA, b"x")
    with pytest.raises(Unavailable, match="broken") as caught:
        await packer.flush()
    assert isinstance(caught.value.__cause__, OSError)


async def test_close_ends_waiting_emits_and_adders(make: Make) -> None:
    async def never(pending: Pack) -> None:
        await asyncio.Event().wait()

    packer = make(never, buffers=1)
    first = await packer.add(Kind.DATA, bytes(10_000))
    waiting = asyncio.ensure_future(packer.add(Kind.DATA, b"x"))
    await first.pending.sealed()
    await packer.close()
    await packer.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_close_tells_those_who_wait_for_the_pack_under_way(make: Make) -> None:
    packer = make(Kept())
    placed = await packer.add(Kind.DATA, b"x")
    waiting = asyncio.ensure_future(placed.pending.sealed())
    await settle()
    await packer.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_cancelled_writer_leaves_a_whole_pack(vault: VaultKeys, device: Identity) -> None:
    """The thread that seals goes on after its caller was cancelled; the pack waits for it."""
    pool = ThreadPool(1)
    kept = Kept()
    packer: Packer[str] = Packer(vault.generation(1), vault.vault, device, pool, emit=kept)
    for _ in range(5):
        adding = asyncio.ensure_future(packer.add(Kind.DATA, b"c" * (4 << 20)))
        await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    await packer.add(Kind.DATA, b"after")
    await packer.flush()
    chunks = kept.chunks(vault)
    assert (Kind.DATA, b"after") in chunks
    assert {plaintext[:1] for _, plaintext in chunks} == {b"c", b"a"}
    pool.close()
