"""Random operations on a disk store beside a dictionary that says what must come out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.errors import NoSpace, NotFound, RangeInvalid
from holdfast.pool import InlinePool
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Range, get_bytes, put_bytes
from holdfast.testing.crash_disk import CrashDisk

T = TypeVar("T")
ROOT = Path("/store")
POOL = InlinePool()


class DiskStoreMachine(RuleBasedStateMachine):
    blobs = Bundle("blobs")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.disk = CrashDisk(SeededRandomness(1))
        self.kept: dict[Digest, bytes] = {}
        self.trash: dict[Digest, bytes] = {}
        self.now = 0.0
        self.run(DiskStore.init(ROOT, files=self.disk, pool=POOL, randomness=SeededRandomness(2)))
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def open(self) -> None:
        self.store = self.run(
            DiskStore.open(ROOT, files=self.disk, pool=POOL, clock=SystemClock(), trash_clock=lambda: self.now)
        )

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @rule(target=blobs, data=st.binary(max_size=40) | st.integers(65_000, 66_500).map(bytes))
    def put(self, data: bytes) -> bytes:
        digest = Digest.of(data)
        stored = self.run(put_bytes(self.store, data))
        assert stored == (digest, len(data), digest not in self.kept)
        self.kept[digest] = data
        self.trash.pop(digest, None)
        return data

    @rule(data=blobs)
    def get(self, data: bytes) -> None:
        try:
            assert self.run(get_bytes(self.store, Digest.of(data))) == self.kept[Digest.of(data)]
        except NotFound:
            assert Digest.of(data) not in self.kept

    @rule(data=blobs, start=st.integers(0, 70_000), length=st.none() | st.integers(1, 70_000))
    def get_range(self, data: bytes, start: int, length: int | None) -> None:
        range_ = Range(start, None if length is None else start + length)
        try:
            assert self.run(get_bytes(self.store, Digest.of(data), range_)) == data[start : range_.stop]
        except NotFound:
            assert Digest.of(data) not in self.kept
        except RangeInvalid:
            assert start >= len(data)

    @rule(chosen=st.lists(blobs, max_size=4))
    def delete(self, chosen: list[bytes]) -> None:
        self.run(self.store.delete([Digest.of(data) for data in chosen]))
        for data in chosen:
            if self.kept.pop(Digest.of(data), None) is not None:
                self.trash[Digest.of(data)] = data

    @rule(data=blobs)
    def restore(self, data: bytes) -> None:
        digest = Digest.of(data)
        try:
            assert self.run(self.store.restore(digest)) == (digest, len(data))
            self.trash.pop(digest, None)
            self.kept[digest] = data
        except NotFound:
            assert digest not in self.kept
            assert digest not in self.trash

    @rule()
    def purge(self) -> None:
        self.now += 1
        assert self.run(self.store.purge_trash(self.now)).blobs == len(self.trash)
        self.trash.clear()

    @rule(power_cut=st.booleans())
    def restart(self, power_cut: bool) -> None:
        self.run(self.store.close())
        if power_cut:
            self.disk.cut_power()
        self.open()

    @invariant()
    def agrees(self) -> None:
        listed = self.run(self.store.list(None, 1000))
        assert listed == [(digest, len(self.kept[digest])) for digest in sorted(self.kept)]
        asked = [*self.kept, *self.trash]
        expected = [(digest, len(self.kept[digest])) if digest in self.kept else None for digest in asked]
        assert self.run(self.store.stat(asked)) == expected
        assert {entry.digest: entry.size for entry in self.store.trash()} == {
            digest: len(data) for digest, data in self.trash.items()
        }
        space = self.store.space()
        assert space.used == sum(map(len, self.kept.values()))
        assert space.trash == sum(map(len, self.trash.values()))
        assert space.incoming == space.quarantine == 0


TestDiskStoreMachine = DiskStoreMachine.TestCase
TestDiskStoreMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


async def test_memory_refuses_what_exceeds_its_capacity() -> None:
    store = MemoryStore(capacity_bytes=10)
    await put_bytes(store, b"123456")
    try:
        await put_bytes(store, b"abcde")
    except NoSpace:
        pass
    else:
        raise AssertionError("eleven bytes in ten")
    await put_bytes(store, b"abcd")
    await store.delete([Digest.of(b"123456")])
    await put_bytes(store, b"xyz")
