"""What is counted is what is there, whoever put it in; and a queue of an earlier version goes on as it was."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from tests.outbox.rigs import QueueRig, body_of, claim_all, entry

from holdfast.errors import NotFound, Unavailable
from holdfast.outbox.entry import State
from holdfast.outbox.next_step import Change, Settled
from holdfast.outbox.outcomes import Deferred, Delivered, Outcome, Rejected
from holdfast.outbox.queue.queue import Queue
from holdfast.outbox.queue.schema import UNCOUNTED_MAX

VECTORS = Path(__file__).parents[1] / "vectors"
ENDS: tuple[tuple[Settled, Outcome], ...] = (
    (Settled(Change.REMOVE, True), Delivered()),
    (Settled(Change.DEFER, True), Deferred("busy")),
    (Settled(Change.REJECT, True), Rejected("no")),
)


def counted_by_hand(queue: Queue) -> tuple[Counter[object], int]:
    db = queue._core.file._db
    found: Counter[object] = Counter()
    stored = 0
    for state, class_, size in db.execute("SELECT state, class, stored FROM entries").fetchall():
        assert isinstance(size, int)
        found[state, class_] += 1
        stored += size
    return found, stored


@pytest.mark.parametrize("seed", range(3))
async def test_counts_are_what_lies_there_whatever_two_processes_do(rig: QueueRig, seed: int) -> None:
    rng = random.Random(seed)
    queues = [await rig.open(), await rig.open()]
    newest = 0
    for _ in range(60):
        queue = rng.choice(queues)
        for _ in range(rng.choice((0, 1, 3, UNCOUNTED_MAX))):
            purpose = rng.choice(("update", "hint"))
            sequence = await queue.add(entry(f"k{rng.randrange(20)}", purpose=purpose), bytes(rng.randrange(50)))
            assert sequence == newest + 1, "no sequence is given twice, or left out"
            newest = sequence
        for lane, found in await claim_all(queue, rng.randrange(1, 5)):
            await queue.tries.settle(found, lane, *rng.choice(ENDS))
        for _ in range(rng.randrange(3)):
            with contextlib.suppress(NotFound, Unavailable):
                await queue.wishes.drop(rng.choice((newest, rng.randint(1, max(newest, 1)))))
        other = rng.choice(queues)
        expected, stored = await other._core.ask(lambda other=other: counted_by_hand(other))  # type: ignore[misc]
        totals = await other.totals()
        assert {(row.state, row.delivery_class): row.entries for row in totals if row.entries} == expected
        assert sum(row.stored for row in totals) == stored


async def test_the_oldest_and_pages_by_state(rig: QueueRig) -> None:
    queue = await rig.open()
    for number in range(8):
        await queue.add(entry(f"k{number}"))
    claimed = await claim_all(queue)
    assert await queue.oldest() is not None
    for (lane, found), (settled, outcome) in zip(claimed[:3], (ENDS[2], ENDS[0], ENDS[1]), strict=True):
        await queue.tries.settle(found, lane, settled, outcome)
    oldest = await queue.oldest()
    assert oldest is not None
    assert (oldest.sequence, oldest.state) == (3, State.DEFERRED)
    await queue.wishes.drop(3)
    oldest = await queue.oldest()
    assert oldest is not None
    assert (oldest.sequence, oldest.state) == (4, State.WAITING)
    assert [one.sequence for one in await queue.page(5, 2, [State.WAITING, State.REJECTED])] == [6, 7]
    assert [one.sequence for one in await queue.page(0, 2, [State.WAITING, State.REJECTED])] == [1, 4]


async def test_a_queue_of_version_1_goes_on_as_it_was(rig: QueueRig) -> None:
    shutil.copytree(VECTORS / "outbox-1", rig.directory)
    queue = await rig.open()
    found = {one.sequence: one for one in await queue.page()}
    assert {number: one.state for number, one in found.items()} == {
        1: State.WAITING, 2: State.WAITING, 3: State.DEFERRED, 4: State.CONFLICT, 5: State.REJECTED, 6: State.WAITING,
        7: State.WAITING,
    }, "the moderate one is forgotten with its process"  # fmt: skip
    assert [await body_of(found[number]) for number in (1, 2, 7)] == [b"first of a", b"second of a", b"behind a group"]
    assert (await body_of(found[5]), found[5].reason) == (b"x" * 20_000, "too odd")
    assert (found[2].payload, found[6].keys) == ({"number": 2}, ("e", "f"))
    theirs = found[4].theirs
    assert theirs is not None
    assert theirs.open is not None
    assert b"".join([bytes(piece) async for piece in theirs.open()]) == b"their bytes"
    (pack,) = found[6].needs
    assert b"".join([bytes(piece) async for piece in queue.read_pack(pack)]) == bytes(range(256))
    expected, stored = await queue._core.ask(lambda: counted_by_hand(queue))
    totals = await queue.totals()
    assert {
        (row.state, row.delivery_class): row.entries for row in totals if row.entries and row.state is not None
    } == (expected)
    assert queue._core.space.held == sum(row.stored for row in totals) == stored + 256
    assert [one.sequence for _, one in await claim_all(queue)] == [1, 3, 6]
    assert await queue.add(entry("delivered", base={"etag": '"1"'})) == 10, "9 was given already"
    assert (await queue.find(10)).left == {"etag": '"3"'}, "what an earlier delivery left is known"
