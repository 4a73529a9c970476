"""Writes without a network: queued in the home, read back at once, delivered later; conflicts keep both sides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.client.offline_stories import Away, bytes_of, grid_story, names, outbox_of, waiting

from holdfast import errors
from holdfast.outbox import State
from holdfast.testing.grid import Grid
from holdfast.wire import routes


def test_a_put_without_a_network_is_queued_readable_and_delivered(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        data = grid.loop.randomness("data").bytes(300_000)
        async with Away(grid):
            said: list[object] = []
            entry = await vault.put(data, "docs/a", on_queued=said.append)
            assert entry.queued == 1
            assert isinstance(said[0], errors.Unavailable)
            assert await vault.read("docs/a") == data
            assert await vault.read("docs/a", 100_000, 100_010) == data[100_000:100_010]
            assert (await vault.stat("docs/a")).queued == 1
            assert (await vault.stat("docs")).kind == "directory"
            assert await names(vault) == {"docs": True}
            assert await names(vault, recursive=True) == {"docs": True, "docs/a": True}
            await vault.get("docs", path / "got")
            assert (path / "got" / "a").read_bytes() == data
            again = await grid.vault(outbox=True)  # another process
            assert await again.read("docs/a") == data
        summary = await vault.flush()
        assert (summary.delivered, summary.waiting) == (1, 0)
        assert await names(vault, recursive=True) == {"docs": False, "docs/a": False}
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        found = await other.stat("docs/a")
        assert found.etag == entry.etag, "what goes out is what was queued, byte for byte"
        assert await other.read("docs/a") == data
        assert not list((grid.directory / "operator/outbox/bodies").iterdir())

    grid_story(story, tmp_path)


def test_two_edits_of_one_name_offline_go_out_in_order(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        await vault.put(b"zero", "a")
        async with Away(grid):
            first = await vault.put(b"one", "a")
            second = await vault.put(b"two", "a")
            assert (first.version, second.version) == (2, 3)
            assert await vault.read("a") == b"two"
        summary = await vault.flush()
        assert (summary.delivered, summary.conflicts, summary.waiting) == (2, 0, 0), summary
        versions = await vault.log("a")
        assert [version.etag for version in versions[:2]] == [second.etag, first.etag]
        assert await vault.read("a", fresh=True) == b"two"

    grid_story(story, tmp_path)


def test_what_others_changed_meanwhile_is_a_conflict_with_both_contents(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"base", "a")
        await vault.put(b"mine", "a", offline=True)
        await vault.put(b"mine too", "a", offline=True)
        theirs = await other.put(b"theirs", "a")
        summary = await vault.flush()
        assert (summary.delivered, summary.conflicts) == (0, 1)
        (conflict,) = await waiting(vault, State.CONFLICT)
        assert conflict.theirs is not None
        assert await bytes_of(conflict.theirs) == b"theirs"
        assert conflict.theirs.facts["etag"] == str(theirs.etag)
        assert len(await waiting(vault)) == 2, "later entries of the key wait with it"
        assert await vault.read("a", fresh=True) == b"theirs", "nothing was overwritten"
        await (await outbox_of(vault)).resolve(conflict.sequence, "mine")
        summary = await vault.flush()
        assert (summary.delivered, summary.conflicts, summary.waiting) == (2, 0, 0), summary
        assert await other.read("a", fresh=True) == b"mine too"
        kept = [version.etag for version in await vault.log("a")]
        assert len(kept) == 4
        assert kept[2] == theirs.etag

    grid_story(story, tmp_path)


@pytest.mark.parametrize("rebased", [False, True])
def test_an_answer_lost_after_the_commit_is_no_conflict(tmp_path: Path, rebased: bool) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"one", "a", offline=True)
        if rebased:  # made anew over a state that is nobody's content
            await other.put(b"gone soon", "a")
            await other.delete("a")
        ask, lost = vault.coordinators.ask, 0

        async def losing(route: Any, *rest: Any, **words: Any) -> Any:
            nonlocal lost
            answer = await ask(route, *rest, **words)
            if route is routes.COMMIT and lost < 2 and all(r.state == "committed" for g in answer.groups for r in g):
                lost += 1
                raise errors.Unavailable("the answer was lost")
            return answer

        vault.coordinators.ask = losing  # type: ignore[method-assign]
        for _ in range(3):
            await vault.flush()
            await asyncio.sleep(60)
        assert lost >= 1
        assert not await waiting(vault)
        versions = await vault.log("a")
        assert len(versions) == (3 if rebased else 1), "its effect is there once"
        assert await other.read("a", fresh=True) == b"one"

    grid_story(story, tmp_path)


def test_equal_content_is_no_conflict(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        await vault.put(b"the same" * 1000, "a", offline=True)
        await other.put(b"the same" * 1000, "a")
        summary = await vault.flush()
        assert (summary.delivered, summary.conflicts) == (1, 0)

    grid_story(story, tmp_path)


def test_a_deletion_waits_too(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        await vault.put(b"1", "d/a")
        await vault.put(b"2", "d/b")
        assert await vault.delete("d", recursive=True, offline=True) == 3
        assert await names(vault) == {}
        with pytest.raises(errors.NotFound):
            await vault.read("d/a")
        await vault.put(b"new", "d/c", offline=True)
        assert await names(vault, recursive=True) == {"d": False, "d/c": True}, "the network has d still"
        async with Away(grid):
            with pytest.raises(errors.Unavailable):
                await vault.delete("never heard of")
        summary = await vault.flush()
        assert (summary.delivered, summary.waiting) == (4, 0)
        assert await names(vault, recursive=True, fresh=True) == {"d": False, "d/c": False}

    grid_story(story, tmp_path)


def test_what_was_deleted_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        for name in ("edited", "deleted"):
            await vault.put(b"base", name)
            await other.stat(name)
        await vault.put(b"mine", "edited", offline=True)
        await vault.delete("deleted", offline=True)
        await other.delete("edited")
        await other.put(b"theirs", "deleted")
        summary = await vault.flush()
        assert (summary.delivered, summary.conflicts) == (0, 2)
        first, second = await waiting(vault, State.CONFLICT)
        assert first.theirs is not None
        assert first.theirs.absent
        assert second.theirs is not None
        assert await bytes_of(second.theirs) == b"theirs"
        box = await outbox_of(vault)
        await box.resolve(first.sequence, "mine")
        await box.resolve(second.sequence, "theirs")
        assert (await vault.flush()).waiting == 0
        assert await other.read("edited", fresh=True) == b"mine"
        assert await other.read("deleted", fresh=True) == b"theirs"

    grid_story(story, tmp_path)


def test_a_tree_goes_to_the_outbox_without_what_stands_already(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        tree = path / "tree"
        (tree / "sub/deep").mkdir(parents=True)
        for number in range(20):
            (tree / f"sub/{number}").write_bytes(bytes([number]) * 1000 * number)
        (tree / "sub/deep/link").symlink_to("../1")
        vault = await grid.vault(outbox=True)
        await asyncio.sleep(1)
        summary = await vault.put_tree([tree])
        assert not summary.queued
        (tree / "sub/3").write_bytes(b"changed")
        (tree / "sub/deep/new").write_bytes(b"new")
        (tree / "sub/deep").chmod(0o700)
        async with Away(grid):
            summary = await vault.put_tree([tree])
            assert not summary.failed
            assert await vault.read("tree/sub/3") == b"changed"
            assert await vault.read("tree/sub/deep/new") == b"new"
            assert set(await names(vault, "tree/sub/deep")) == {"tree/sub/deep/link", "tree/sub/deep/new"}
        assert summary.queued <= 5
        done = await vault.flush()
        assert done.waiting == done.conflicts == 0
        other = await grid.vault("elsewhere", home=await grid.add_device("elsewhere"))
        assert await other.read("tree/sub/3") == b"changed"
        assert (await other.stat("tree/sub/deep")).mode == 0o700
        assert (await other.stat("tree/sub/deep/link")).target == "../1"
        assert (await vault.put_tree([tree])).unchanged == 25

    grid_story(story, tmp_path)


def test_too_few_nodes_answer(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        await vault.put(b"x", "before")
        for node in grid.nodes[1:]:
            await grid.kill(node)
        entry = await vault.put(b"queued", "a")
        assert entry.queued
        with pytest.raises(errors.Unavailable):
            await vault.put(b"never", "b", offline=False)
        with pytest.raises(errors.TooFewNodes):
            await vault.put(b"never", "c", survive=20)
        assert (await vault.flush()).delivered == 0
        for node in grid.nodes[1:]:
            await grid.start(node)
        await grid.until_up(3)
        await asyncio.sleep(60)
        assert (await vault.flush()).waiting == 0
        assert await vault.read("a", fresh=True) == b"queued"

    grid_story(story, tmp_path)
