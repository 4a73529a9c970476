"""Nodes that fail, lie, are slow; a coordinator that is gone, old or forgetful."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.client.fleet import Fleet, LossyProxy

from holdfast import assemble
from holdfast.auth.documents import read, sign
from holdfast.auth.grants import Receipt
from holdfast.blob import Digest
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.errors import Corrupt, Denied, NotFound, TooFewNodes, Unavailable
from holdfast.files import AnyPath, OsFiles
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.serve import Reply


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 1000 + seed).randbytes(size)


async def test_a_node_that_fails_during_a_put_is_replaced(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"warm", "warm")
    await small_fleet.nodes[0].stop()

    async def fail(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        raise Unavailable("the disk is on fire")

    small_fleet.wrap(1, routes.BLOB_PUT, fail)
    data = data_of(600_000)
    await vault.put(data, "file")
    assert await vault.read("file") == data
    for number in (2, 3):
        assert small_fleet.blobs(number)


async def test_too_few_nodes_that_answer(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    for number in (0, 1, 2):
        await small_fleet.nodes[number].stop()
    with pytest.raises(Unavailable):
        await vault.put(b"x" * 1000, "file")
    assert [entry async for entry in vault.list()] == []


async def test_nothing_is_committed_with_too_few_receipts(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    service: Any = small_fleet.coordinator.app.service  # type: ignore[union-attr]
    asked: list[Any] = []

    async def told(call: Any, message: Any) -> Any:
        asked.append(message)
        raise Unavailable("nothing should be asked")

    async def fail(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        raise Unavailable("the disk is on fire")

    for route in (routes.COMMIT, routes.REGISTER):
        service.add(route, told)
    for number in (0, 1, 2):
        small_fleet.wrap(number, routes.BLOB_PUT, fail)
    with pytest.raises(Unavailable, match="of 2 copies"):
        await vault.put(b"x" * 1000, "file")
    assert asked == []


async def test_more_copies_than_nodes(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    with pytest.raises(TooFewNodes):
        await vault.put(b"x", "file", survive=7)
    entry = await vault.put(b"x", "file", survive=3)
    assert entry.survive == 3
    degraded = await vault.put(b"y", "other", survive=7, allow_degraded=True)
    assert degraded.survive == 7
    assert await vault.read("other") == b"y"


async def test_a_slow_node_does_not_hold_up_reads_or_writes(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(300_000)
    await vault.put(data, "file")

    async def hang(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        await released.wait()
        raise Unavailable("never mind")

    released = asyncio.Event()
    for number in (0, 1):
        undo = [small_fleet.wrap(number, route, hang) for route in (routes.BLOB_GET, routes.BLOB_PUT)]
        async with asyncio.timeout(8):
            fresh = small_fleet.open(small_fleet.home_of(vault))
            assert await fresh.read("file") == data
            await fresh.put(data_of(1000, number), f"slow {number}")
        for restore in undo:
            restore()
        await fresh.close()
    released.set()


def flip(fleet: Fleet, numbers: list[int], offset: int) -> set[int]:
    """Flips a bit of the largest pack on those nodes; which of them had it."""
    packs = {path.name: path for number in range(len(fleet.nodes)) for path in fleet.blobs(number)}
    largest = max(packs, key=lambda name: packs[name].stat().st_size)
    hit = set()
    for number in numbers:
        for path in fleet.blobs(number):
            if path.name == largest:
                data = bytearray(path.read_bytes())
                data[offset] ^= 1
                path.chmod(0o600)
                path.write_bytes(data)
                hit.add(number)
    return hit


async def test_a_flipped_bit_in_one_copy_is_read_around_and_reported(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    data = data_of(200_000)
    await vault.put(data, "file")
    holders = flip(small_fleet, [0, 1, 2, 3], 70_000)
    assert len(holders) == 2
    bad, good = sorted(holders)
    flip(small_fleet, [good], 70_000)  # back again
    large = max((path for path in small_fleet.blobs(bad)), key=lambda path: path.stat().st_size)
    reports: list[str] = []
    reported = asyncio.Event()

    async def verify(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        answer = await handler(call, message)
        reports.append(answer.state)
        reported.set()
        return answer

    async def later(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        async with asyncio.timeout(10):
            await reported.wait()  # so the bad copy is read first, or beside this one
        return await handler(call, message)

    small_fleet.wrap(bad, routes.BLOB_VERIFY, verify)
    small_fleet.wrap(good, routes.BLOB_GET, later)
    fresh = small_fleet.open(small_fleet.home_of(vault))
    assert await fresh.read("file") == data
    await fresh._reader.reported()
    assert reports == ["quarantined"]
    assert not large.exists()
    aside = (small_fleet.node_path(bad) / "quarantine").iterdir()
    assert [path.name.partition("-")[2] for path in aside] == [large.name]
    await vault.get("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data


@pytest.mark.parametrize("size", [200_000, 900_000])  # in one pack with its recipe; in several packs
async def test_a_flipped_bit_in_all_copies_is_said_and_nothing_is_written(
    small_fleet: Fleet, tmp_path: Path, size: int
) -> None:
    vault = await small_fleet.vault()
    await vault.put(data_of(size), "file")
    flip(small_fleet, [0, 1, 2, 3], 70_000)
    with pytest.raises(Corrupt) as caught:
        await vault.get("file", tmp_path / "file")
    assert len(caught.value.extra["nodes"]) == 2
    assert list(tmp_path.glob("*file*")) == []
    with pytest.raises(Corrupt):  # by now the nodes have put their copies aside, and may have said so
        await vault.read("file")


async def test_known_names_are_read_while_the_coordinator_is_gone(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    data = data_of(500_000)
    await vault.put(data, "folder/file")
    await vault.read("folder/file")
    [entry async for entry in vault.list("folder")]
    await vault.close()
    vault = small_fleet.open(small_fleet.home_of(vault))
    await small_fleet.stop_coordinator()
    assert await vault.read("folder/file") == data
    await vault.get("folder/file", tmp_path / "file")
    assert [entry.name async for entry in vault.list("folder")] == ["folder/file"]
    for call in (vault.read("folder/file", fresh=True), vault.read("other"), vault.put(b"x", "new")):
        with pytest.raises(Unavailable, match="coordinator does not answer"):
            async with asyncio.timeout(15):
                await call
    await small_fleet.start_coordinator()
    assert await vault.read("folder/file", fresh=True) == data


async def test_an_old_state_of_a_name_is_refused(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"one", "name")
    old = await vault._names.find("name")
    await vault.put(b"two", "name")
    service: Any = small_fleet.coordinator.app.service  # type: ignore[union-attr]

    async def serve_old(call: Any, message: Any) -> Any:
        return m.RefAnswer(record=old.record, keep=old.keep)

    service.add(routes.REF, serve_old)
    with pytest.raises(Corrupt, match="old state"):
        await vault.read("name")


def serve_instead(fleet: Fleet, answer: m.RefAnswer | Exception) -> None:
    """The coordinator gives this for every name."""
    service: Any = fleet.coordinator.app.service  # type: ignore[union-attr]

    async def serve(call: Any, message: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    service.add(routes.REF, serve)


async def test_a_keep_list_that_the_record_does_not_name_is_refused(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"one", "name")
    found = await vault._names.find("name")
    serve_instead(small_fleet, m.RefAnswer(record=found.record, keep=refs.keep_list([Digest.of(b"other")])))
    with pytest.raises(Corrupt, match="keep list"):
        await vault.read("name")


async def test_a_name_that_was_seen_is_not_said_away(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"one", "name")
    await vault.read("name")
    serve_instead(small_fleet, NotFound("no such name"))
    with pytest.raises(Corrupt, match="this device has seen"):
        await vault.read("name")
    with pytest.raises(NotFound):
        await vault.read("never")


async def test_two_states_of_one_version_are_a_fork(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"one", "name")
    found = await vault._names.find("name")
    keys = VaultKeys(small_fleet.home_of(vault).root)
    other = refs.encode_record(keys, bytes(16), found.ref.clear, found.ref.sealed, found.ref.keep)
    serve_instead(small_fleet, m.RefAnswer(record=other, keep=found.keep))
    with pytest.raises(Corrupt, match="both are kept") as caught:
        await vault.read("name")
    assert "'name'" in caught.value.detail
    assert "versions 1" in caught.value.detail
    tag = found.ref.clear.name_tag
    seen = await vault._index.ref(tag)
    assert seen is not None
    assert seen.etag == found.ref.etag
    forks = await vault._index.run(lambda file: file._db.execute("SELECT tag, etag, record FROM forks").fetchall())
    assert forks == [(tag, bytes(refs.etag(other)), other)]
    await vault.put(b"two", "name")  # decides
    serve_instead(small_fleet, m.RefAnswer(record=other, keep=found.keep))
    with pytest.raises(Corrupt, match="old state"):
        await vault.read("name")


async def test_a_fork_in_a_listing_is_told_too(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"one", "name")
    found = await vault._names.find("name")
    keys = VaultKeys(small_fleet.home_of(vault).root)
    other = refs.encode_record(keys, bytes(16), found.ref.clear, found.ref.sealed, found.ref.keep)
    service: Any = small_fleet.coordinator.app.service  # type: ignore[union-attr]

    async def listing(call: Any, message: Any) -> Any:
        return m.RefPage(records=[other])

    service.add(routes.REFS, listing)
    with pytest.raises(Corrupt, match="both are kept"):
        [entry async for entry in vault.list()]


async def test_a_commit_whose_answer_is_lost_is_made_once_and_is_a_success(small_fleet: Fleet) -> None:
    home = await small_fleet.home()
    async with LossyProxy(small_fleet.url) as proxy:
        vault = await assemble.open_vault(home.path, kind=assemble.OpenVault, coordinator=proxy.url)
        async with vault:
            vault.coordinators.urls = [proxy.url]  # no way around it, nor is one learnt
            small_fleet.coordinator.app.state.urls = [proxy.url]  # type: ignore[union-attr]
            await vault.put(b"one", "name")
            proxy.lose(b"POST /v1/commit")
            entry = await vault.put(b"two", "name")
            assert proxy.lost == 1
            assert entry.version == 2
            assert [version.version for version in await vault.log("name")] == [2, 1]
            assert await vault.read("name") == b"two"
            proxy.lose(b"POST /v1/commit")
            entry = await vault.put(b"new", "folder/new", no_clobber=True)
            assert proxy.lost == 2
            assert entry.version == 1
            assert [entry.name async for entry in vault.list(recursive=True)] == ["folder", "name", "folder/new"]


async def test_a_hedged_read_of_small_files_writes_each_once(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"{number}").write_bytes(data_of(3000, number))
    await vault.put_tree([tmp_path / "tree"], "tree")
    asked: set[int] = set()
    both = asyncio.Event()

    def slow(number: int) -> Callable[..., Awaitable[Any]]:
        async def wait(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
            asked.add(number)
            if len(asked) == 2:
                both.set()
            async with asyncio.timeout(10):
                await both.wait()
            return await handler(call, message)

        return wait

    for number in range(4):
        small_fleet.wrap(number, routes.BLOB_GET, slow(number))
    links: Counter[str] = Counter()

    class Counting(OsFiles):
        def link(self, source: AnyPath, target: AnyPath) -> bool:
            links[Path(target).name] += 1
            return super().link(source, target)

    vault._files = Counting()
    await vault.get("tree", tmp_path / "back")
    assert len(asked) == 2
    assert links == Counter({str(number): 1 for number in range(20)})
    for number in range(20):
        assert (tmp_path / "back" / f"{number}").read_bytes() == data_of(3000, number)


async def test_a_receipt_for_something_else_is_no_receipt(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()

    def lying(number: int) -> Callable[..., Awaitable[Any]]:
        service: Any = small_fleet.nodes[number].app.service  # type: ignore[attr-defined]

        async def lie(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
            reply = await handler(call, message)
            receipt, _, _ = read(Receipt, reply.message.receipt)
            false = msgspec.structs.replace(receipt, digest=Digest.of(b"something else"))
            return Reply(m.BlobStored(receipt=sign(false, service._identity)), reply.status)

        return lie

    for number in (0, 1):
        small_fleet.wrap(number, routes.BLOB_PUT, lying(number))
    for number in range(4):
        await vault.put(data_of(1000, number), f"file {number}")
        assert await vault.read(f"file {number}") == data_of(1000, number)


async def test_packs_that_are_gone_are_sent_again(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(300_000)
    await vault.put(data, "file")

    def forge(file: Any) -> None:
        for (number,) in file._db.execute("SELECT number FROM packs").fetchall():
            file._db.execute("UPDATE packs SET digest = randomblob(32) WHERE number = ?", (number,))
        for id_, place in file._db.execute("SELECT id, place FROM contents").fetchall():
            file._db.execute("UPDATE contents SET place = ? WHERE id = ?", (bytes(32) + place[32:], id_))
        file._packs.clear()

    await vault._index.run(forge)
    await vault.put(data + b"more", "other")
    await vault.put(data, "third")
    assert await vault.read("other") == data + b"more"
    assert await vault.read("third") == data


async def test_an_invite_is_used_once_and_a_home_is_never_overwritten(small_fleet: Fleet) -> None:
    line = await small_fleet.invite()
    home = await small_fleet.home(line)
    with pytest.raises(Denied):
        await small_fleet.home(line)
    again = await small_fleet.invite()
    small_fleet._homes -= 2
    with pytest.raises(Exception, match="belongs to a network already"):
        await small_fleet.home(again)
    assert home.membership.vault
