"""Who may be claimed, against a naive list: whatever is added, delivered, refused, resolved or given another name."""

from __future__ import annotations

import functools
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.clock import SeededRandomness
from holdfast.errors import Unavailable
from holdfast.files import OsFiles
from holdfast.outbox.entry import DeliveryClass, State
from holdfast.outbox.queue.file import QueueFile
from holdfast.outbox.queue.rows import Fresh

TARGET = b"t" * 16
PROCESS, BOOT = b"process.", b"boot"
KEYS = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)


@dataclass
class Item:
    sequence: int
    keys: list[int]
    state: str = "waiting"  # claimed, conflict, aside

    @property
    def stands(self) -> bool:
        return self.state != "aside"


def tag(key: int) -> bytes:
    return bytes((key,)) * 16


@functools.cache
def empty() -> bytes:
    """An empty queue, made once: making one waits for the disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "queue.db"
        QueueFile(path, OsFiles(), bytes(32), SeededRandomness(1)).close()
        return path.read_bytes()


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "queue.db"
        path.write_bytes(empty())
        self.file = QueueFile(path, OsFiles(), bytes(32), SeededRandomness(1))
        self.file._db.pragma("synchronous", "off")
        self.items: list[Item] = []
        self.numbers = itertools.count(1)

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()
            self.directory.cleanup()

    def heads(self) -> list[int]:
        return [
            item.sequence
            for item in self.items
            if item.state == "waiting"
            and not any(
                other.stands and other.sequence < item.sequence and set(other.keys) & set(item.keys)
                for other in self.items
            )
        ]

    def some(self, data: st.DataObject, *states: str) -> Item | None:
        found = [item for item in self.items if item.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(several=st.lists(KEYS, min_size=1, max_size=6))
    def add(self, several: list[list[int]]) -> None:
        fresh = [
            Fresh(
                bytes(16), DeliveryClass.CRITICAL, "http", 0, 0, False, TARGET, tuple(map(tag, keys)), (), b"x", None
            )
            for keys in several
        ]  # fmt: skip
        with self.file.change():
            sequences = self.file.entries.add(fresh, PROCESS)
        for sequence, keys in zip(sequences, several, strict=True):
            assert sequence == next(self.numbers), "no sequence is used twice"
            self.items.append(Item(sequence, keys))

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        expected = self.heads()[:limit]
        with self.file.change():
            rows = self.file.claims.claim(("http", TARGET), limit, process=PROCESS, boot=BOOT, now=1.0, until=9.0)
        assert [row.sequence for row, _ in rows] == expected
        for item in self.items:
            if item.sequence in expected:
                item.state = "claimed"

    @rule(data=st.data(), end=st.sampled_from(["delivered", "conflict", "aside", "waiting", "damaged"]))
    def end(self, data: st.DataObject, end: str) -> None:
        item = self.some(data, "claimed")
        if item is None:
            return
        entries = self.file.entries
        with self.file.change():
            if end == "delivered":
                entries.remove(entries.row(item.sequence))
            elif end == "waiting":
                entries.defer(item.sequence, next_try=0.0, reached=True, patient=False, progress=None)
            elif end == "damaged":
                entries.damage([item.sequence])
            else:
                state = State.CONFLICT if end == "conflict" else State.REJECTED
                entries.park(item.sequence, state, tried=True, reached=True, progress=None)
        if end == "delivered":
            self.items.remove(item)
        else:
            item.state = "aside" if end == "damaged" else end

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        item = self.some(data, "waiting", "conflict", "aside")
        if item is not None:
            with self.file.change():
                self.file.entries.remove(self.file.entries.row(item.sequence))
            self.items.remove(item)

    @rule(data=st.data(), keys=KEYS, same=st.booleans())
    def enter_again(self, data: st.DataObject, keys: list[int], same: bool) -> None:
        """A person retries what stood aside, or gives a conflict another name."""
        item = self.some(data, "aside" if same else "conflict")
        if item is None:
            return
        keys = item.keys if same else keys
        under_way = any(other.state == "claimed" and set(other.keys) & set(keys) for other in self.items)

        def change() -> None:
            with self.file.change():
                self.file.entries.set_waiting(item.sequence)
                self.file.order.re_enter(self.file.entries.row(item.sequence), [tag(key) for key in keys])

        if under_way:
            with pytest.raises(Unavailable):
                change()
        else:
            change()
            item.state, item.keys = "waiting", keys

    @rule(data=st.data())
    def mine(self, data: st.DataObject) -> None:
        item = self.some(data, "conflict")
        if item is not None:
            with self.file.change():
                self.file.entries.set_waiting(item.sequence)
            item.state = "waiting"

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "file"):
            return
        for key in range(4):
            expected = [item.sequence for item in self.items if item.stands and key in item.keys]
            assert self.file.order.of_key(tag(key)) == expected
        view = self.file.claims.lanes(["http"], 1.0, 100).get(("http", TARGET))
        assert (0 if view is None else view.due) == len(self.heads())
        assert sum(total.entries for total in self.file.entries.totals()) == len(self.items)


TestMachine = Machine.TestCase
