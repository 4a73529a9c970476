"""What every store must do, as plain functions: ``holdfast store check`` and the tests of each store run the same ones.

A check is ``async def check(harness: Harness)``; it raises AssertionError with a sentence when the store breaks its
word. Checks use their own random blobs and leave them behind, so one store may serve many checks; they delete nothing
but what they put. ``CHECKS`` lists them by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from holdfast.blob import PIECE_BYTES_MAX, Buffer, Digest, collect, pieces
from holdfast.clock import Randomness, shuffled
from holdfast.errors import BadRequest, DigestMismatch, HoldfastError, NotFound, RangeInvalid
from holdfast.stores.protocol import LIST_LIMIT_MAX, Info, Range, Store, get_bytes, put_bytes

LIST_PAGES_MAX = 100
"""So far a list is followed: stores of operators hold millions of blobs."""

Peek = Callable[[Digest], Awaitable[bytes | None]]


async def _peek_through(store: Store, digest: Digest) -> bytes | None:
    try:
        return await get_bytes(store, digest)
    except NotFound:
        return None


@dataclass(frozen=True)
class Harness:
    """What a check works with."""

    store: Store
    randomness: Randomness
    peek: Peek | None = None
    """What lies in the store, seen behind its back; None: through ``get``, for stores that cannot be looked into."""
    large_bytes: int = 3 * PIECE_BYTES_MAX + 4097
    many: int = 40
    """How many blobs the checks of lists and of bulk calls use."""

    async def look(self, digest: Digest) -> bytes | None:
        """The bytes kept under ``digest``, None if there are none."""
        return await (self.peek(digest) if self.peek is not None else _peek_through(self.store, digest))

    def blob(self, size: int = 200) -> bytes:
        """Random bytes; sizes below 16 may repeat."""
        return self.randomness.bytes(size)


Check = Callable[[Harness], Awaitable[None]]


async def _refused(attempt: Awaitable[object], kind: type[BaseException], what: str) -> None:
    try:
        await attempt
    except kind:
        return
    raise AssertionError(f"{what} was accepted; {kind.__name__} was expected")


async def _absent(harness: Harness, digest: Digest, what: str) -> None:
    assert await harness.look(digest) is None, f"{what} left bytes behind"
    assert await harness.store.stat([digest]) == [None], f"{what} left a blob that stat shows"
    await _refused(get_bytes(harness.store, digest), NotFound, f"a get after {what}")


async def check_round_trip(harness: Harness) -> None:
    """What was put comes back, and lies there as it is."""
    for size in (1, 100, 4096, 64 * 1024, 64 * 1024 + 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1):
        data = harness.blob(size) if size > 16 else b"\0"
        stored = await put_bytes(harness.store, data)
        digest = Digest.of(data)
        assert (stored.digest, stored.size) == (digest, size), f"put of {size} bytes answered {stored}"
        assert await harness.look(digest) == data, f"other bytes than the {size} that were put lie in the store"
        assert await get_bytes(harness.store, digest) == data, f"{size} bytes came back changed"


async def check_body_shape(harness: Harness) -> None:
    """Bodies say their size and come in pieces of 1 byte to 1 MiB."""
    data = harness.blob(2 * PIECE_BYTES_MAX + 5)
    await put_bytes(harness.store, data)
    for range_, size in ((None, len(data)), (Range(3, 2 * PIECE_BYTES_MAX), 2 * PIECE_BYTES_MAX - 3)):
        async with harness.store.get(Digest.of(data), range_) as body:
            assert (body.size, body.total) == (size, len(data)), "a body does not know its size"
            sizes = [len(piece) async for piece in body]
        assert sum(sizes) == size, "a body's pieces are not its size"
        assert all(0 < piece <= PIECE_BYTES_MAX for piece in sizes), f"pieces of {sorted(set(sizes))} bytes"


async def check_missing(harness: Harness) -> None:
    """What was never put is NotFound, also by range; stat says None."""
    digest = Digest(harness.blob(32))
    await _absent(harness, digest, "nothing at all")
    await _refused(get_bytes(harness.store, digest, Range(0, 1)), NotFound, "a range of a missing blob")
    await harness.store.delete([digest, digest])


async def check_idempotent(harness: Harness) -> None:
    """A second put changes nothing and says so."""
    data = harness.blob()
    assert (await put_bytes(harness.store, data)).new, "a first put said that the blob was there"
    again = await put_bytes(harness.store, data)
    assert (again.digest, again.size, again.new) == (Digest.of(data), len(data), False), f"a second put said {again}"
    assert await harness.look(Digest.of(data)) == data, "a second put changed the bytes"


async def check_same_bytes_same_digest(harness: Harness) -> None:
    """However a source is cut, the blob is the same; sources may reuse their buffer."""
    data = harness.blob(150_000)

    async def cut() -> AsyncIterator[Buffer]:
        buffer = bytearray(7001)
        for start in range(0, len(data), len(buffer)):
            piece = data[start : start + len(buffer)]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(len(buffer))

    await harness.store.put(Digest.of(data), len(data), cut())
    assert await get_bytes(harness.store, Digest.of(data)) == data, "a source in small pieces was kept wrong"
    small = data[:5000]

    async def drops() -> AsyncIterator[Buffer]:
        buffer = bytearray(1)
        for number in small:
            buffer[0] = number
            yield buffer

    await harness.store.put(Digest.of(small), len(small), drops())
    assert await get_bytes(harness.store, Digest.of(small)) == small, "a source byte by byte was kept wrong"


async def check_ranges(harness: Harness) -> None:
    """Ranges are cut at the end; what lies outside is RangeInvalid."""
    for size in (1000, 2 * PIECE_BYTES_MAX + 10):
        data = harness.blob(size)
        digest = Digest.of(data)
        await put_bytes(harness.store, data)
        for start, stop in ((0, 1), (0, None), (5, 500), (size - 1, None), (size - 1, size), (7, size + 99)):
            found = await get_bytes(harness.store, digest, Range(start, stop))
            assert found == data[start:stop], f"bytes {start} to {stop} of {size} came back wrong"
        for start, stop in ((size, None), (size + 1, size + 2), (5, 5), (6, 5), (-1, 5)):
            attempt = get_bytes(harness.store, digest, Range(start, stop))
            await _refused(attempt, RangeInvalid, f"the range {start} to {stop} of {size} bytes")


async def check_empty_blob(harness: Harness) -> None:
    """Nothing is a blob too."""
    digest = Digest.of(b"")
    await put_bytes(harness.store, b"")
    assert await get_bytes(harness.store, digest) == b"", "the empty blob is not empty"
    assert await harness.store.stat([digest]) == [Info(digest, 0)], "stat does not know the empty blob"
    await _refused(get_bytes(harness.store, digest, Range(0, None)), RangeInvalid, "a range of the empty blob")


async def check_large_blob(harness: Harness) -> None:
    """The largest blob the check was told to try."""
    data = harness.blob(harness.large_bytes)
    assert (await put_bytes(harness.store, data)).size == len(data)
    assert await get_bytes(harness.store, Digest.of(data)) == data, "a large blob came back changed"


async def check_bulk_stat(harness: Harness) -> None:
    """One answer for each digest, in the order asked, duplicates and missing ones too."""
    blobs = {Digest.of(data): data for data in (harness.blob(50 + number) for number in range(harness.many))}
    for data in blobs.values():
        await put_bytes(harness.store, data)
    missing = [Digest(harness.blob(32)) for _ in range(harness.many)]
    asked = shuffled([*blobs, *missing, *list(blobs)[:5], missing[0]], harness.randomness)
    expected = [Info(digest, len(blobs[digest])) if digest in blobs else None for digest in asked]
    assert await harness.store.stat(asked) == expected, "stat does not answer in the order asked"
    assert await harness.store.stat([]) == [], "stat of nothing is not nothing"


async def check_list(harness: Harness) -> None:
    """Ascending, complete, by pages of any size; the last page alone is short."""
    for limit in (0, LIST_LIMIT_MAX + 1):
        await _refused(harness.store.list(None, limit), BadRequest, f"a page of {limit}")
    blobs = [harness.blob(20 + number) for number in range(harness.many)]
    for data in blobs:
        await put_bytes(harness.store, data)
    put = {Digest.of(data): len(data) for data in blobs}
    for limit in (7, LIST_LIMIT_MAX):
        after: Digest | None = None
        seen: list[Info] = []
        for _ in range(LIST_PAGES_MAX):
            page = await harness.store.list(after, limit)
            assert len(page) <= limit, f"a page of {limit} has {len(page)} entries"
            seen += page
            after = page[-1].digest if len(page) == limit else None
            if after is None:
                break
        assert [info.digest for info in seen] == sorted({info.digest for info in seen}), "a list is not ascending"
        reached = {info for info in put.items() if after is None or info[0] <= after}
        assert reached <= dict(seen).items(), f"a list by pages of {limit} leaves blobs out"
    first = min(put)
    assert all(info.digest > first for info in await harness.store.list(first, 10)), "a page begins too early"


async def check_concurrent_puts(harness: Harness) -> None:
    """Many puts of one digest at once: all succeed, one says that it was new."""
    for size in (3000, 200_000):
        data = harness.blob(size)

        async def slow(data: bytes = data) -> AsyncIterator[Buffer]:
            for start in range(0, len(data), 50_000):
                await asyncio.sleep(0)
                yield data[start : start + 50_000]

        answers = await asyncio.gather(*(harness.store.put(Digest.of(data), size, slow()) for _ in range(8)))
        assert {(stored.digest, stored.size) for stored in answers} == {(Digest.of(data), size)}
        assert sum(stored.new for stored in answers) == 1, "not exactly one of many equal puts was new"
        assert await harness.look(Digest.of(data)) == data, "equal puts at once left other bytes"


async def check_put_after_a_failed_one(harness: Harness) -> None:
    """A put that joins one that fails is not taken along."""
    data = harness.blob(100_000)
    digest = Digest.of(data)
    begun, fail = asyncio.Event(), asyncio.Event()

    async def broken() -> AsyncIterator[Buffer]:
        yield data[:70_000]
        begun.set()
        await fail.wait()
        raise ConnectionResetError

    first = asyncio.ensure_future(harness.store.put(digest, len(data), broken()))
    await begun.wait()
    second = asyncio.ensure_future(harness.store.put(digest, len(data), pieces(data)))
    await asyncio.sleep(0)
    fail.set()
    await _refused(first, Exception, "a source that breaks off")
    assert (await second).size == len(data)
    assert await get_bytes(harness.store, digest) == data


async def check_delete(harness: Harness) -> None:
    """Deleted blobs are not there, others are; deleting twice and putting again are fine."""
    gone, kept = harness.blob(), harness.blob()
    for data in (gone, kept):
        await put_bytes(harness.store, data)
    await harness.store.delete([Digest.of(gone), Digest(harness.blob(32)), Digest.of(gone)])
    await _absent(harness, Digest.of(gone), "a deleted blob")
    assert await get_bytes(harness.store, Digest.of(kept)) == kept, "a delete took another blob"
    await harness.store.delete([Digest.of(gone)])
    await harness.store.delete([])
    assert (await put_bytes(harness.store, gone)).new, "a blob put again after its delete was not new"
    assert await get_bytes(harness.store, Digest.of(gone)) == gone


async def check_delete_while_read(harness: Harness) -> None:
    """A reader that has begun gets the right bytes or an error, never a short or a wrong body."""
    data = harness.blob(harness.large_bytes)
    await put_bytes(harness.store, data)
    got = bytearray()
    try:
        async with harness.store.get(Digest.of(data)) as body:
            async for piece in body:
                if not got:
                    await harness.store.delete([Digest.of(data)])
                got += piece
    except HoldfastError:
        assert data.startswith(got), "a reader of a deleted blob got wrong bytes"
    else:
        assert got == data, "a reader of a deleted blob got a body that is not it"


async def check_wrong_length(harness: Harness) -> None:
    """Shorter or longer than announced: DigestMismatch, nothing kept."""
    for size in (1000, 70_000, PIECE_BYTES_MAX + 9):
        data = harness.blob(size)
        for announced in (size - 1, size + 1, 0):
            attempt = harness.store.put(Digest.of(data), announced, pieces(data))
            await _refused(attempt, DigestMismatch, f"{size} bytes announced as {announced}")
            await _absent(harness, Digest.of(data), f"{size} bytes announced as {announced}")
    await _refused(harness.store.put(Digest.of(b"x"), -1, pieces(b"x")), BadRequest, "a negative size")


async def check_wrong_length_of_known(harness: Harness) -> None:
    """A put of a blob that is there, with another length: DigestMismatch, and the blob stays."""
    data = harness.blob(1000)
    await put_bytes(harness.store, data)
    attempt = harness.store.put(Digest.of(data), 999, pieces(data[:999]))
    await _refused(attempt, DigestMismatch, "a known blob with another length")
    assert await get_bytes(harness.store, Digest.of(data)) == data


async def check_wrong_digest(harness: Harness) -> None:
    """Bytes under another name: DigestMismatch, nothing kept under either."""
    for size in (1000, 70_000, PIECE_BYTES_MAX + 9):
        data, other = harness.blob(size), Digest(harness.blob(32))
        await _refused(harness.store.put(other, size, pieces(data)), DigestMismatch, "a wrong digest")
        await _absent(harness, other, "a wrong digest")
        await _absent(harness, Digest.of(data), "a wrong digest")


async def check_endless_source(harness: Harness) -> None:
    """A source is cut off as soon as it gives more than announced."""
    for size, piece in ((1000, b"e" * 300), (500_000, b"e" * 65536)):
        given = 0

        async def endless(piece: bytes = piece) -> AsyncIterator[Buffer]:
            nonlocal given
            while True:
                given += len(piece)
                yield piece

        attempt = harness.store.put(Digest.of(b"e" * size), size, endless())
        await _refused(attempt, DigestMismatch, "an endless source")
        assert given <= size + 4 * PIECE_BYTES_MAX, f"{given} bytes were taken where {size} were announced"
        await _absent(harness, Digest.of(b"e" * size), "an endless source")


async def check_source_raises(harness: Harness) -> None:
    """A source that fails: its exception, nothing kept, and the blob can be put afterwards."""

    class Interruption(Exception):
        pass

    for size in (1000, 500_000, 2 * PIECE_BYTES_MAX):
        data = harness.blob(size)

        async def broken(data: bytes = data) -> AsyncIterator[Buffer]:
            yield data[: len(data) // 2]
            raise Interruption

        await _refused(harness.store.put(Digest.of(data), size, broken()), Interruption, "a source that breaks off")
        await _absent(harness, Digest.of(data), "a source that breaks off")
        assert (await put_bytes(harness.store, data)).new
        assert await get_bytes(harness.store, Digest.of(data)) == data


async def check_put_cancelled(harness: Harness) -> None:
    """A put that is cancelled while its source waits keeps nothing and does not block the next."""
    for size in (1000, 500_000):
        data = harness.blob(size)
        begun = asyncio.Event()

        async def stuck(data: bytes = data, begun: asyncio.Event = begun) -> AsyncIterator[Buffer]:
            yield data[: len(data) // 2]
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(harness.store.put(Digest.of(data), size, stuck()))
        await begun.wait()
        task.cancel()
        await _refused(task, asyncio.CancelledError, "a cancel")
        await _absent(harness, Digest.of(data), "a put that was cancelled")
        assert (await put_bytes(harness.store, data)).new


async def check_reads_at_once(harness: Harness) -> None:
    """Many readers of one blob, whole and by range, each get their bytes."""
    data = harness.blob(harness.large_bytes)
    digest = Digest.of(data)
    await put_bytes(harness.store, data)
    ranges = [None, Range(0, 10), Range(1000, 2_000_000), Range(len(data) - 3, None)] * 3
    found = await asyncio.gather(*(get_bytes(harness.store, digest, range_) for range_ in ranges))
    for range_, part in zip(ranges, found, strict=True):
        assert part == (data if range_ is None else data[range_.start : range_.stop]), f"{range_} came back wrong"


async def check_reader_that_leaves(harness: Harness) -> None:
    """Leaving a body early is fine, and the store goes on."""
    data = harness.blob(harness.large_bytes)
    await put_bytes(harness.store, data)
    for _ in range(3):
        async with harness.store.get(Digest.of(data)) as body:
            async for _piece in body:
                break
    async with harness.store.get(Digest.of(data)) as body:
        assert await collect(body, len(data)) == data


CHECKS: Mapping[str, Check] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and callable(check)
}
"""Every check by its name, in the order above."""


async def check_scale(harness: Harness, count: int = 100_000, at_once: int = 64) -> None:
    """A list of ``count`` small blobs is complete and ascending. Slow; not in ``CHECKS``; the store must be empty."""
    expected: dict[Digest, int] = {}
    numbers = iter(range(count))

    async def writer() -> None:
        for number in numbers:
            data = number.to_bytes(8, "big")
            expected[Digest.of(data)] = len(data)
            await put_bytes(harness.store, data)

    await asyncio.gather(*(writer() for _ in range(at_once)))
    seen: list[Info] = []
    while page := await harness.store.list(seen[-1].digest if seen else None, LIST_LIMIT_MAX):
        seen += page
    assert [info.digest for info in seen] == sorted(expected), f"the list has {len(seen)} of {count} blobs"
