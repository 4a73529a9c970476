"""Copies between stores: complete, resumed, checked, and honest about what failed."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import SeededRandomness
from holdfast.errors import NoSpace
from holdfast.stores.copy import PAGE, Progress, copy, plan_page
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Body, Info, Range, Stored, Traits, get_bytes, put_bytes

RANDOM = SeededRandomness(14)


class Damaged(MemoryStore):
    """Sends wrong bytes for some blobs."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[Digest, bytes] = {}
        self.gets = 0

    @asynccontextmanager
    async def get(self, digest: Digest, range_: Range | None = None) -> AsyncIterator[Body]:
        self.gets += 1
        if digest in self.wrong:
            yield _Bytes(self.wrong[digest])
        else:
            async with super().get(digest, range_) as body:
                yield body


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.size = self.total = len(data)
        self._data = data

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return pieces(self._data)


class Small(MemoryStore):
    """Takes only small blobs."""

    @property
    def traits(self) -> Traits:
        return replace(super().traits, blob_bytes_max=1000)


async def filled(store: MemoryStore, count: int) -> list[bytes]:
    blobs = [RANDOM.bytes(100 + number) for number in range(count)]
    for data in blobs:
        await put_bytes(store, data)
    return blobs


async def test_everything_arrives_and_a_second_run_reads_nothing() -> None:
    source, target, seen = Damaged(), MemoryStore(), list[Progress]()
    blobs = await filled(source, 2 * PAGE + 3)
    done = await copy(source, target, show=seen.append)
    total = sum(map(len, blobs))
    assert (done.seen, done.copied, done.skipped, done.failed) == (len(blobs), len(blobs), 0, 0)
    assert (done.seen_bytes, done.copied_bytes) == (total, total)
    assert seen[-1] == done
    assert [await get_bytes(target, Digest.of(data)) for data in blobs] == blobs
    source.gets = 0
    again = await copy(source, target)
    assert (again.copied, again.skipped, source.gets) == (0, len(blobs), 0)


async def test_a_copy_that_broke_off_goes_on_where_it_stopped() -> None:
    source = Damaged()
    blobs = await filled(source, 60)
    target = MemoryStore(capacity_bytes=sum(map(len, blobs)) // 2)
    with pytest.raises(NoSpace):
        await copy(source, target)
    there = len(await target.list(None, 1000))
    assert 0 < there < len(blobs)
    target._capacity = None
    source.gets = 0
    done = await copy(source, target)
    assert (done.skipped, done.copied, source.gets) == (there, len(blobs) - there, len(blobs) - there)


async def test_damaged_blobs_are_reported_and_the_others_go_on() -> None:
    source, target = Damaged(), MemoryStore()
    blobs = await filled(source, 20)
    flipped, short, gone = (Digest.of(data) for data in blobs[3:6])
    source.wrong = {flipped: bytes(len(blobs[3])), short: blobs[4][:-1]}
    stat = source.list

    async def list_one_that_goes(after: Digest | None, limit: int) -> list[Info]:
        page = await stat(after, limit)
        await source.delete([gone])
        return page

    source.list = list_one_that_goes  # type: ignore[method-assign]  # a blob deleted behind the copy's back
    done = await copy(source, target)
    assert (done.copied, done.failed) == (17, 3)
    assert {failure.digest for failure in done.failures} == {flipped, short, gone}
    reasons = {failure.digest: failure.reason for failure in done.failures}
    assert "damaged" in reasons[flipped]
    assert "deleted" in reasons[gone]
    assert await target.stat([flipped, short, gone]) == [None, None, None]
    assert done.copied_bytes == sum(len(data) for data in blobs if Digest.of(data) not in reasons)


async def test_what_the_target_cannot_take_is_said() -> None:
    source, target = MemoryStore(), Small()
    await put_bytes(source, RANDOM.bytes(1001))
    await put_bytes(source, RANDOM.bytes(1000))
    done = await copy(source, target)
    assert (done.copied, done.failed) == (1, 1)
    assert "more than the target takes" in done.failures[0].reason


def test_the_plan_of_a_page() -> None:
    infos = [Info(Digest.of(bytes([number])), size) for number, size in enumerate((5, 5, 5, 2000))]
    found: Sequence[Info | None] = [infos[0], None, infos[2]._replace(size=6), None]
    page = plan_page(infos, found, 1000)
    assert (page.there, page.send) == ([infos[0]], [infos[1]])
    assert [info for info, _ in page.cannot] == [infos[2], infos[3]]


async def test_a_full_target_ends_the_copy_whatever_the_blob() -> None:
    class Full(MemoryStore):
        async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
            raise NoSpace("full")

    source = MemoryStore()
    await filled(source, 5)
    with pytest.raises(NoSpace):
        await copy(source, Full())
