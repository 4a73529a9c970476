"""What the outbox of names may hold and when: nothing outside of it, order within names, packs sent again, moves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.client.offline_stories import Away, grid_story, names, outbox_of, waiting

from holdfast import errors
from holdfast.auth.documents import canonical
from holdfast.client.offline.ref_entry import decode
from holdfast.client.offline.resolve import conflict_name
from holdfast.outbox import State
from holdfast.testing.grid import Grid


def test_a_queued_put_needs_nothing_outside_of_the_outbox(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        data = grid.loop.randomness("data").bytes(200_000)
        await vault.put(data, "stored")
        await vault.put(data, "queued", offline=True)
        (entry,) = await waiting(vault)
        for change in decode(entry.payload).changes:
            assert set(change.packs_kept()) <= set(entry.needs)

    grid_story(story, tmp_path)


def test_packs_that_are_gone_are_sent_again_from_the_outbox(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        await vault.put(b"queued", "a", offline=True)
        (entry,) = await waiting(vault)
        queue = (await outbox_of(vault)).queue
        for digest in entry.needs:  # as if they were sent long ago, and collected since
            await queue.pack_sent(digest, canonical([True, 4096, [], []]))
        summary = await vault.flush()
        assert (summary.delivered, summary.waiting) == (1, 0)
        assert await vault.read("a", fresh=True) == b"queued"

    grid_story(story, tmp_path)


def test_a_write_never_overtakes_one_of_the_same_name(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"1", "a")
        await vault.put(b"2", "a", offline=True)
        await vault.put(b"3", "a")  # the network is there: what waits goes first
        assert not await waiting(vault)
        assert [version.size for version in await vault.log("a")] == [1, 1, 1]
        await vault.put(b"mine", "a", offline=True)
        await other.put(b"theirs", "a")
        await vault.flush()
        entry = await vault.put(b"behind the conflict", "a")
        assert entry.queued
        assert (await vault.put(b"free", "b")).queued == 0, "one conflict blocks its own name only"
        with pytest.raises(errors.Unavailable, match="earlier writes of a wait"):
            await vault.put(b"x", "a", offline=False)

    grid_story(story, tmp_path)


def test_a_move_waits_too(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"stored", "old/a")
        async with Away(grid):
            await vault.put(b"queued", "old/b")
            said: list[object] = []
            summary = await vault.move("old", "new", on_queued=said.append)
            assert summary.entry.queued
            assert len(said) == 1
            assert await names(vault, recursive=True) == {"new": True, "new/a": True, "new/b": True}
            assert await vault.read("new/b") == b"queued"
        done = await vault.flush()
        assert (done.waiting, done.conflicts) == (0, 0), done
        assert {entry.name async for entry in other.list(recursive=True, fresh=True)} == {"new", "new/a", "new/b"}
        assert await other.read("new/a") == b"stored"
        assert await other.read("new/b") == b"queued"

    grid_story(story, tmp_path)


def test_a_restore_waits_too_if_this_device_knows_what_it_was(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        for name in ("d/stored", "d/kept", "gone", "twice"):
            await vault.put(name.encode(), name)
        await vault.put(b"twice more", "twice")
        await vault.delete("gone")
        async with Away(grid):
            await vault.put(b"queued", "d/queued")
            await vault.delete("d", recursive=True)
            assert await names(vault, recursive=True) == {"twice": False}
            said: list[object] = []
            summary = await vault.restore("d", on_queued=said.append)
            assert (summary.names, len(said)) == (4, 1)
            assert summary.entry.queued
            assert await vault.read("d/queued") == b"queued"
            for name, version in (("gone", None), ("never", None), ("twice", 1)):
                with pytest.raises(errors.Unavailable, match="once the network answers"):
                    await vault.restore(name, version=version)
            with pytest.raises(errors.Unavailable) as refused:
                await vault.restore("d/kept", new="copy", offline=False)
            assert "wait in the outbox" in refused.value.detail
        done = await vault.flush()
        assert (done.waiting, done.conflicts) == (0, 0), done
        assert await names(other, recursive=True, fresh=True) == dict.fromkeys(
            ("d", "d/stored", "d/kept", "d/queued", "twice"), False
        )
        assert await other.read("d/stored") == b"d/stored"
        assert await other.read("d/queued") == b"queued"
        assert (await vault.restore("twice", version=1)).entry.queued == 0, "the network knows"
        await vault.delete("d/kept", offline=True)
        assert (await vault.restore("d/kept")).entry.queued == 0, "what waits goes first"
        assert [one.kind for one in (await vault.log("d/kept"))[:3]] == ["file", None, "file"]

    grid_story(story, tmp_path)


def test_rules_of_a_put_hold_offline(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        first = await vault.put(b"1", "a")
        with pytest.raises(errors.Exists):
            await vault.put(b"2", "a", no_clobber=True, offline=True)
        second = await vault.put(b"2", "a", if_match=first.etag, offline=True)
        with pytest.raises(errors.Conflict):
            await vault.put(b"3", "a", if_match=first.etag, offline=True)
        await vault.put(b"3", "a", if_match=second.etag, offline=True)
        with pytest.raises(errors.Conflict):
            await vault.put(b"below a file", "a/b", offline=True)
        assert (await vault.flush()).delivered == 2

    grid_story(story, tmp_path)


def test_both_sides_stay_under_two_names(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"mine " * 50_000, "d/a.txt", offline=True)
        await vault.put(b"mine again", "d/a.txt", offline=True)
        await other.put(b"theirs", "d/a.txt")
        kept: dict[str, bytes] = {}
        for expected in (b"mine " * 50_000, b"mine again"):
            await vault.flush()
            conflict = (await waiting(vault, State.CONFLICT))[0]
            renamed = await (await vault.resolver()).resolve(conflict.sequence, "both", "laptop")
            kept[renamed["d/a.txt"]] = expected
        assert (await vault.flush()).waiting == 0
        assert len(kept) == 2
        assert await other.read("d/a.txt", fresh=True) == b"theirs"
        for name, data in kept.items():
            assert name.startswith("d/a.txt (conflict ")
            assert await other.read(name) == data

    grid_story(story, tmp_path)


def test_a_directory_is_not_replaced_by_a_file_whatever_a_person_says(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"a file", "a", offline=True)
        await other.put(b"in a directory", "a/b")
        assert (await vault.flush()).conflicts == 1
        (conflict,) = await waiting(vault, State.CONFLICT)
        resolver = await vault.resolver()
        with pytest.raises(errors.BadRequest):
            await resolver.resolve(conflict.sequence, "mine", "laptop")
        await resolver.resolve(conflict.sequence, "both", "laptop")
        assert (await vault.flush()).waiting == 0
        assert await other.read("a/b", fresh=True) == b"in a directory"

    grid_story(story, tmp_path)


def test_a_watch_in_the_same_process_delivers_and_holds_nobody_up(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        watch = asyncio.create_task(vault.watch())
        async with Away(grid), asyncio.timeout(300):
            assert (await vault.put(b"1", "a")).queued
            assert (await vault.put(b"2", "a")).queued
        async with asyncio.timeout(600):
            while await waiting(vault):  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert [version.version for version in await vault.log("a")] == [2, 1]

    grid_story(story, tmp_path)


def test_a_conflict_name_fits() -> None:
    assert conflict_name("a/b", "conflict 2026-01-02 laptop") == "a/b (conflict 2026-01-02 laptop)"
    long = conflict_name("a/" + "ö" * 127, "conflict 2026-01-02 laptop")
    assert len(long.rpartition("/")[2].encode()) <= 255
    assert long.endswith("ö (conflict 2026-01-02 laptop)")
