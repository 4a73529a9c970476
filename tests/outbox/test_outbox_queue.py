"""The durable queue: what was acknowledged stays, in order, sealed; what is damaged stands aside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import stat
from collections.abc import AsyncIterator, Iterator

import apsw
import pytest
from tests.outbox.rigs import SEED, QueueRig, body_of, claim_all, entry, in_pieces

from holdfast.blob import Buffer, Digest, pieces
from holdfast.errors import BadConfig, BadRequest, Corrupt, Denied, NoSpace, StorePoisoned, TooLarge, Unavailable
from holdfast.files import AnyPath, OsFiles
from holdfast.outbox.entry import CLASSES, DeliveryClass, Entry, NewEntry, State
from holdfast.outbox.next_step import Change, Lane, Settled
from holdfast.outbox.outcomes import Conflicted, Deferred, Delivered, Rejected
from holdfast.outbox.queue.queue import Queue
from holdfast.outbox.settings import OutboxSettings
from holdfast.testing.faults import SHORT_WRITE, Fault, FaultyFiles

REMOVE = Settled(Change.REMOVE, True)


async def settle(queue: Queue, found: tuple[Lane, Entry], left: object = None) -> bool:
    lane, claimed = found
    return await queue.tries.settle(claimed, lane, REMOVE, Delivered(left))


def names(found: list[tuple[Lane, Entry]]) -> list[int]:
    return [claimed.sequence for _, claimed in found]


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20, (1 << 20) + 1, 3_333_333])
async def test_a_body_comes_back_in_another_process(rig: QueueRig, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    first = await rig.open()
    sequence = await first.add(entry("a", colour="blue"), in_pieces(data, 700_001))
    await first.close()
    found = await (await rig.open()).find(sequence)
    assert (found.size, found.payload, found.keys) == (size, {"colour": "blue"}, ("a",))
    assert found.digest == hashlib.sha256(data).digest()
    assert await body_of(found) == data


async def test_nothing_can_be_read_from_the_directory(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("secret-key", target="http://secret-target", word="secret-payload"), b"secret-small " * 10)
    await queue.add(entry("secret-key-2"), b"secret-large " * 5000)
    for path in rig.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
        assert path.is_dir() or b"secret" not in path.read_bytes()


async def test_an_entry_is_acknowledged_after_file_directory_and_row_are_synced(rig: QueueRig) -> None:
    files = rig.files = FaultyFiles(OsFiles())
    queue = await rig.open()
    seen: list[tuple[str, int]] = []

    class Watching(FaultyFiles):
        def sync(self, descriptor: int) -> None:
            seen.append(("sync", rows()))
            super().sync(descriptor)

        def sync_directory(self, path: AnyPath) -> None:
            seen.append(("directory", rows()))
            super().sync_directory(path)

    def rows() -> int:
        reader = apsw.Connection(str(rig.directory / "queue.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            ((count,),) = reader.execute("SELECT count(*) FROM entries").fetchall()
            assert isinstance(count, int)
            return count
        finally:
            reader.close()

    files.__class__ = Watching
    await queue.add(entry("a"), b"x" * 100_000)
    assert seen == [("sync", 0), ("directory", 0)]
    assert rows() == 1
    assert queue._core.file._db.pragma("synchronous") == 2, "each commit is synced"
    await queue.tries.claim(("http", queue._core.seals.tag("target", "http://one")), 1)
    assert queue._core.file._db.pragma("synchronous") == 2, "claims alone are not"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("write", SHORT_WRITE), NoSpace),
        (Fault("sync", errno.ENOSPC), NoSpace),
        (Fault("sync", errno.EIO), StorePoisoned),
        (Fault("sync_directory", errno.EIO), StorePoisoned),
        (Fault("create", errno.ENOSPC), NoSpace),
    ],
)
async def test_a_disk_that_refuses_a_body_leaves_earlier_entries_intact(
    rig: QueueRig, fault: Fault, expected: type[Exception]
) -> None:
    files = rig.files = FaultyFiles(OsFiles())
    queue = await rig.open()
    await queue.add(entry("a"), b"a" * 50_000)
    files.set(fault)
    with pytest.raises(expected):
        await queue.add(entry("a"), b"b" * 50_000)
    assert not list(files.syncs_after_a_failure())
    assert len(list((rig.directory / "bodies").iterdir())) == 1
    if expected is StorePoisoned:
        with pytest.raises(StorePoisoned):
            await queue.add(entry("a"), b"c")
    else:
        await queue.add(entry("a"), b"c")
    first = (await queue.page())[0]
    assert await body_of(first) == b"a" * 50_000


async def test_a_full_database_refuses_the_write_and_keeps_the_rest(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"first")
    await queue._core.ask(
        lambda: queue._core.file._db.pragma("max_page_count", int(queue._core.file._db.pragma("page_count")) + 4)
    )

    async def fill() -> None:
        for _ in range(100):
            await queue.add(entry("a"), b"x" * 10_000)

    with pytest.raises(NoSpace):
        await fill()
    await queue._core.ask(lambda: queue._core.file._db.pragma("max_page_count", 1 << 30))
    again = await rig.open()
    page = await again.page()
    assert await body_of(page[0]) == b"first"
    assert len(page) == sum(total.entries for total in await again.totals())


async def test_limits_of_one_body_and_of_all(rig: QueueRig) -> None:
    rig.settings = OutboxSettings(total_bytes_max=1_000_000, body_bytes_max=400_000)
    queue = await rig.open()
    with pytest.raises(TooLarge):
        await queue.add(entry("a"), in_pieces(b"x" * 400_001, 50_000))
    await queue.add(entry("a"), b"x" * 400_000)
    await queue.add(entry("a"), b"x" * 350_000)
    hint = entry("a", purpose="hint")
    with pytest.raises(NoSpace, match="not critical"):
        await queue.add(hint, b"x" * 100_000)
    await queue.add(entry("a"), b"x" * 100_000)
    with pytest.raises(NoSpace, match="outbox is full"):
        await queue.add(entry("a"), b"x" * 200_000)
    other = await rig.open()
    with pytest.raises(NoSpace):
        await other.add(entry("a"), b"x" * 200_000)
    await queue.wishes.drop(1)
    await queue.add(entry("a"), b"x" * 200_000)


async def test_a_wrong_key_changes_nothing_and_rotation_rewraps(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"hello")
    await queue.close()
    other = bytes(32)
    with pytest.raises(Denied, match="another key"):
        await rig.open(other)
    queue = await rig.open()
    with pytest.raises(Denied):
        await queue.rewrap(other, SEED)
    await queue.rewrap(SEED, other)
    await queue.close()
    with pytest.raises(Denied):
        await rig.open()
    (found,) = await (await rig.open(other)).page()
    assert await body_of(found) == b"hello"


async def test_what_is_no_outbox_is_left_alone(rig: QueueRig) -> None:
    rig.directory.mkdir()
    path = rig.directory / "queue.db"
    path.write_bytes(b"something else, and not short of it" * 100)
    with pytest.raises(Corrupt):
        await rig.open()
    assert path.read_bytes().startswith(b"something else")
    path.unlink()
    foreign = apsw.Connection(str(path))
    foreign.execute("CREATE TABLE mine (x)")
    foreign.close()
    with pytest.raises(BadConfig, match="not an outbox"):
        await rig.open()


@pytest.mark.parametrize(("kind", "purpose"), [("http", "read"), ("http", "search"), ("smtp", "update"), ("ref", "ls")])
async def test_what_may_not_be_queued_is_refused(rig: QueueRig, kind: str, purpose: str) -> None:
    queue = await rig.open()
    with pytest.raises(BadRequest, match="takes no entry"):
        await queue.add(NewEntry(kind, purpose, ("a",), "t", {}))
    assert (kind, purpose) not in CLASSES


async def test_one_entry_of_a_key_at_a_time_and_keys_in_parallel(rig: QueueRig) -> None:
    queue = await rig.open()
    for key in ("a", "b", "a", "b", "c"):
        await queue.add(entry(key))
    first = await claim_all(queue)
    assert names(first) == [1, 2, 5]
    assert await claim_all(queue) == []
    assert await settle(queue, first[0], {"etag": "1"})
    second = await claim_all(queue)
    assert names(second) == [3]
    assert second[0][1].left == {"etag": "1"}


async def test_a_group_waits_in_the_queue_of_each_of_its_names(rig: QueueRig) -> None:
    queue = await rig.open()
    for keys in (("a",), ("b",), ("a", "b"), ("b", "c"), ("c",), ("d",)):
        await queue.add(entry(*keys))
    order = []
    while found := await claim_all(queue):
        order.append(names(found))
        for one in found:
            await settle(queue, one)
    assert order == [[1, 2, 6], [3], [4], [5]]


async def test_a_conflict_holds_its_key_a_rejected_entry_does_not(rig: QueueRig) -> None:
    queue = await rig.open()
    for key in ("a", "a", "b", "b"):
        await queue.add(entry(key), b"mine")
    lane = (await claim_all(queue))[0][0]

    async def theirs() -> AsyncIterator[Buffer]:
        yield b"their "
        yield b"bytes"

    (one, three) = [await queue.find(1), await queue.find(3)]
    conflict = Conflicted("changed", {"etag": '"2"', "base": {"etag": '"2"'}}, content=theirs)
    assert await queue.tries.settle(one, lane, Settled(Change.CONFLICT, True), conflict)
    assert await queue.tries.settle(three, lane, Settled(Change.REJECT, True), Rejected("too odd"))
    assert names(await claim_all(queue)) == [4]
    found = await queue.find(1)
    assert found.state is State.CONFLICT
    assert found.theirs is not None
    assert found.theirs.open is not None
    assert b"".join([bytes(piece) async for piece in found.theirs.open()]) == b"their bytes"
    assert await body_of(found) == b"mine"
    rejected = await queue.find(3)
    assert (rejected.state, rejected.reason) == (State.REJECTED, "too odd")
    with pytest.raises(BadRequest):
        await queue.wishes.retry(1)
    again = await queue.wishes.resolve_mine(1, {"etag": '"2"'})
    assert (again.state, again.left) == (State.WAITING, {"etag": '"2"'})
    assert names(await claim_all(queue)) == [1]
    assert not list((rig.directory / "bodies").iterdir())


async def test_both_sides_of_a_conflict_are_kept_under_two_names(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"mine" * 10_000)
    await queue.add(entry("a"), b"later")
    await queue.add(entry("new"), b"there already")
    ((lane, one), third) = await claim_all(queue)
    assert await queue.tries.settle(one, lane, Settled(Change.CONFLICT, True), Conflicted("changed", absent=True))
    with pytest.raises(Unavailable, match="same name"):
        await queue.wishes.resolve_elsewhere(1, entry("new", name="a (conflict)"))
    assert names(await claim_all(queue)) == [], "nothing was changed by that"
    await settle(queue, third)
    moved = await queue.wishes.resolve_elsewhere(1, entry("new", name="a (conflict)"))
    assert moved.payload == {"name": "a (conflict)"}
    assert await body_of(moved) == b"mine" * 10_000
    assert names(await claim_all(queue)) == [1, 2], "both names go on"


async def test_a_retried_entry_takes_its_old_place(rig: QueueRig) -> None:
    queue = await rig.open()
    for _ in range(3):
        await queue.add(entry("a"))
    ((lane, one),) = await claim_all(queue)
    assert await queue.tries.settle(one, lane, Settled(Change.REJECT, True), Rejected("no"))
    await queue.wishes.retry(1)
    assert names(await claim_all(queue)) == [1]
    with pytest.raises(Unavailable, match="being delivered"):
        await queue.wishes.drop(1)


async def test_the_chain_is_kept_when_one_in_it_gives_up(rig: QueueRig) -> None:
    queue = await rig.open()
    for _ in range(3):
        await queue.add(entry("a"))
    (one,) = await claim_all(queue)
    await settle(queue, one, {"etag": "after 1"})
    ((lane, two),) = await claim_all(queue)
    assert await queue.tries.settle(two, lane, Settled(Change.REJECT, True), Rejected("no"))
    ((_, three),) = await claim_all(queue)
    assert three.left == {"etag": "after 1"}


async def test_claims_of_the_dead_are_free_at_once_those_of_the_living_after_their_lease(rig: QueueRig) -> None:
    living, other = await rig.open(), await rig.open()
    await living.add(entry("a"))
    (mine,) = await claim_all(living)
    assert await other.tries.release_dead() == 0
    assert await claim_all(other) == []
    await living._core.ask(lambda: living._core.file.claims.renew([1], process=living._core.process or b"", until=0.0))
    assert await other.tries.release_dead() == 1
    (theirs,) = await claim_all(other)
    assert not await settle(living, mine, {"etag": "late"}), "the claim was lost, so nothing is written"
    await other.close()  # as if it had died: its lock is free
    third = await rig.open()
    assert names(await claim_all(third)) == [1]
    assert theirs[1].sequence == 1


async def test_claims_of_another_boot_are_void(rig: QueueRig) -> None:
    queue, other = await rig.open(), await rig.open()
    await queue.add(entry("a"))
    await claim_all(queue)
    other._core.boot = b"another boot...."
    assert await other.tries.release_dead() == 1


async def test_moderate_entries_do_not_outlive_their_process(rig: QueueRig) -> None:
    first, second = await rig.open(), await rig.open()
    await first.add(entry("a", purpose="hint"), b"x" * 50_000)
    await first.add(entry("b"))
    await second.add(entry("c", purpose="confirmation"))
    assert len(await (await rig.open()).page()) == 3
    await first.close()
    left = await (await rig.open()).page()
    assert [found.keys for found in left] == [("b",), ("c",)]
    assert left[1].delivery_class is DeliveryClass.MODERATE
    assert not list((rig.directory / "bodies").iterdir())


async def test_damaged_entries_stand_aside_and_the_rest_goes_on(rig: QueueRig) -> None:
    queue = await rig.open()
    for key in ("a", "a", "b"):
        await queue.add(entry(key), b"body")

    def damage() -> None:
        queue._core.file._db.execute("UPDATE entries SET sealed = zeroblob(100) WHERE sequence = 1")

    await queue._core.ask(damage)
    assert names(await claim_all(queue)) == [3]
    assert names(await claim_all(queue)) == [2]
    (found,) = await queue.page(states=[State.DAMAGED])
    assert (found.sequence, found.keys) == (1, ())
    with pytest.raises(Corrupt):
        await queue.wishes.retry(1)
    await queue.wishes.drop(1)
    assert len(await queue.page()) == 2


@pytest.mark.parametrize("size", [100, 50_000, 2_500_000])
async def test_a_body_that_the_disk_changed_is_never_handed_out(rig: QueueRig, size: int) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"x" * size)
    bodies = list((rig.directory / "bodies").iterdir())
    changes: list[bytes] = []
    if bodies:
        data = bodies[0].read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        changes = [bytes(flipped), data[:-1], data + b"x", data[:24], b"", data[: 24 + (1 << 20) + 16]]
    for change in changes:
        if change == data:
            continue
        bodies[0].write_bytes(change)
        with pytest.raises(Corrupt):
            await body_of(await queue.find(1))
    if bodies:
        bodies[0].unlink()
    else:
        await queue._core.ask(lambda: queue._core.file._db.execute("UPDATE entries SET body = zeroblob(140)"))
    with pytest.raises(Corrupt):
        await body_of(await queue.find(1))


async def test_bodies_that_no_row_names_are_swept_when_their_process_is_dead(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"x" * 50_000)
    kept = next(iter((rig.directory / "bodies").iterdir())).name
    process = kept.partition("-")[0]
    for name in (f"{process}-{'00' * 16}", f"{'11' * 8}-{'22' * 16}", f"{'11' * 8}-{'33' * 32}.pack", "not ours"):
        (rig.directory / "bodies" / name).write_bytes(b"left")
    assert await queue.sweep() == 2
    await queue.close()
    other = await rig.open()
    assert await other.sweep() == 1
    assert sorted(path.name for path in (rig.directory / "bodies").iterdir()) == sorted([kept, "not ours"])


async def test_packs_are_kept_until_the_last_entry_that_needs_them_is_gone(rig: QueueRig) -> None:
    queue = await rig.open()
    data = bytes(range(256)) * 9000
    digest = Digest.of(data)
    await queue.add_pack(digest, len(data), pieces(data))
    await queue.add_pack(digest, len(data), pieces(data))
    for key in ("a", "b"):
        await queue.add(NewEntry("ref", "update", (key,), "coordinator", {}, needs=(digest,)))
    other = await rig.open()
    row = await other.pack(digest)
    assert row is not None
    assert row.needed == 2
    assert b"".join([bytes(piece) async for piece in other.read_pack(digest)]) == data
    assert b"".join([bytes(piece) async for piece in other.read_pack(digest, 1000, 5000)]) == data[1000:5000]
    assert await other.pack_facts(digest) is None
    await other.pack_sent(digest, b"receipts")
    assert await queue.pack_facts(digest) == b"receipts"
    found = await claim_all(other)
    assert [one.needs for _, one in found] == [(digest,), (digest,)]
    await settle(other, found[0])
    assert await queue.pack(digest) is not None
    await settle(other, found[1])
    assert await queue.pack(digest) is None
    assert not list((rig.directory / "bodies").iterdir())


async def test_an_entry_cannot_need_a_pack_outside_the_outbox(rig: QueueRig) -> None:
    queue = await rig.open()
    with pytest.raises(LookupError):
        await queue.add(NewEntry("ref", "update", ("a",), "c", {}, needs=(Digest.of(b"?"),)))
    assert await queue.page() == []


@pytest.mark.parametrize("step", [30 * 86400.0, -30 * 86400.0])
async def test_a_stepped_clock_neither_stalls_nor_frees_anything(rig: QueueRig, step: float) -> None:
    queue, other = await rig.open(), await rig.open()
    for key in ("a", "b"):
        await queue.add(entry(key))
    found = await claim_all(queue)
    lane, first = found[0]
    await queue.tries.settle(first, lane, Settled(Change.DEFER, True, delay_s=300.0), Deferred("later"))
    assert await claim_all(queue) == []
    rig.clock.step_s = step
    assert await other.tries.release_dead() == 0, "a lease runs on the monotonic clock"
    assert names(await claim_all(other)) == [1], "no next try lies a month ahead"


async def test_listing_in_pages_and_by_state(rig: QueueRig) -> None:
    queue = await rig.open()
    await asyncio.gather(*(queue.add(entry(f"k{number}")) for number in range(250)))
    seen, after = [], 0
    while page := await queue.page(after, 100):
        seen += [found.sequence for found in page]
        after = seen[-1]
    assert seen == list(range(1, 251))
    assert await queue.page(states=[State.CONFLICT, State.REJECTED]) == []
    assert len(await queue.page(states=[State.WAITING, State.DEFERRED], limit=7)) == 7
    oldest = await queue.oldest()
    assert oldest is not None
    assert oldest.sequence == 1


async def test_of_key_shows_what_will_be_there(rig: QueueRig) -> None:
    queue = await rig.open()
    for body in (b"one", b"two"):
        await queue.add(entry("a"), body)
    found = await queue.of_key("a")
    assert [await body_of(one) for one in found] == [b"one", b"two"]
    assert await queue.of_key("b") == []


async def test_a_closed_outbox_says_so(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.close()
    with pytest.raises(Unavailable, match="closed"):
        await queue.page()


async def test_whoever_writes_for_others_may_be_cancelled(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"))
    adding = [asyncio.ensure_future(queue.add(entry(f"k{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    adding[0].cancel()
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    sequences = [found.sequence for found in await queue.page() if found.keys != ("a",)]
    assert [found for found in results[1:] if isinstance(found, BaseException)] == []
    assert set(results[1:]) <= set(sequences), "the others have theirs"
    assert len(sequences) - len(results[1:]) in (0, 1), "the cancelled one is there or not"


async def test_writers_at_once_each_get_their_own(rig: QueueRig) -> None:
    queue = await rig.open()
    await queue.add(entry("a"), b"before")
    unknown = NewEntry("ref", "update", ("a",), "c", {}, needs=(Digest.of(b"?"),))
    new = [entry(f"k{number % 9}", *[f"l{number % 4}"] * (number % 2), number=number) for number in range(50)]
    adding = [queue.add(one, f"{number}".encode()) for number, one in enumerate(new)]
    adding.insert(30, queue.add(unknown))
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert isinstance(results.pop(30), LookupError), "refused alone"
    assert results == list(range(2, 52)), "in the order of the calls"
    found = (await queue.page())[1:]
    assert [(one.payload["number"], await body_of(one)) for one in found] == [(n, b"%d" % n) for n in range(50)]
    heads: list[tuple[str, ...]] = [("a",)]
    standing = {"a"}
    for one in new:
        heads += [one.keys] * standing.isdisjoint(one.keys)
        standing.update(one.keys)
    assert [one.keys for _, one in await claim_all(queue)] == heads


async def test_a_commit_that_fails_acknowledges_nobody(rig: QueueRig, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await rig.open()
    await queue.add(entry("a"))
    change = queue._core.file.change

    @contextlib.contextmanager
    def failing(*, durable: bool = True) -> Iterator[None]:
        with change(durable=durable):
            yield
            raise NoSpace("the disk is full")  # where the commit would be

    monkeypatch.setattr(queue._core.file, "change", failing)
    adding = [asyncio.ensure_future(queue.add(entry(f"k{number}"), b"body")) for number in range(3)]
    await asyncio.sleep(0)
    adding[0].cancel()
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert [type(found) for found in results[1:]] == [NoSpace, NoSpace]
    assert queue._core.space.held == 0
    monkeypatch.undo()
    assert [found.keys for found in await queue.page()] == [("a",)]
    assert await queue.add(entry("b")) == 2
