"""The coordinator's database is lost: everything is found again on the nodes. On virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.heal.test_heal_grid import coordinator, copies
from tests.loss.stage import (
    HOUR,
    MINUTE,
    all_on_nodes,
    check_tree,
    listed,
    lose_database,
    on_disks,
    plant,
    rebuild,
    story,
    versions,
)

from holdfast import assemble
from holdfast.errors import BadConfig, NotFound, Unavailable
from holdfast.testing.grid import Grid


def test_the_database_is_made_again_from_the_nodes(tmp_path: Path) -> None:
    tell_lost_database(tmp_path, files=200)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_files_outlive_the_database(tmp_path: Path) -> None:
    tell_lost_database(tmp_path, files=10_000)


def tell_lost_database(tmp_path: Path, files: int) -> None:
    async def tell(grid: Grid) -> None:
        tree = tmp_path / "source"
        plant(tree, files)
        vault = await grid.vault()
        await vault.put_tree([tree], "tree")
        for edition in range(3):
            await vault.put(b"edition %d" % edition, "often")
        await vault.put(b"to be removed", "removed")
        await vault.delete("removed")
        await vault.put(b"removed and put again", "again")
        await vault.delete("again")
        await vault.put(b"put again", "again")
        await all_on_nodes(grid)
        await vault.put(b"after the last word", "late/newest")
        await vault.put(b"edition 3", "often")
        before = await listed(vault)
        logs = {name: await versions(vault, name) for name in ("often", "again", "tree/d1/e1/file-1")}
        commit = coordinator(grid).state.position.commit
        await grid.kill(grid.coordinator)
        lose_database(grid)

        made = await rebuild(grid)
        assert made.recovered.nodes == 7, "the others are found by the reflog"
        assert made.recovered.epoch == 2
        assert made.recovered.adopted > 0
        await grid.start(grid.coordinator)
        await grid.until_up(7)
        fresh = await grid.vault("another")
        assert await fresh.read("late/newest") == b"after the last word"
        assert await listed(fresh) == before
        assert {name: await versions(fresh, name) for name in logs} == logs
        assert await fresh.read("often", version=2) == b"edition 1"
        with pytest.raises(NotFound):
            await fresh.read("removed")
        await check_tree(fresh, tree, tmp_path / "back")
        assert coordinator(grid).state.position.current > (2, commit - 100)
        assert not coordinator(grid).state.unread

        old_device = await grid.vault()  # the one that had seen everything goes on as before
        await old_device.put(b"edition 4", "often")
        assert await fresh.read("often") == b"edition 4"
        await asyncio.sleep(10 * MINUTE)
        assert await listed(await grid.vault("third")) == {**before, "often": ("file", 9, 5, None)}
        await check_tree(await grid.vault("third"), tree, tmp_path / "later")

    story(tmp_path / "net", tell)


def test_without_a_device_of_its_vault_nothing_is_ever_let_go_of(tmp_path: Path) -> None:
    """The reflog holds the members and no name; the owner comes back long after all leases have ended."""

    async def tell(grid: Grid) -> None:
        await all_on_nodes(grid)  # the members; the next time is far
        vault = await grid.vault()
        contents = {f"file-{number}": b"%d" % number * 5000 for number in range(5)}
        for name, data in contents.items():
            await vault.put(data, name)
        await vault.put(b"newer", "file-0")
        await vault.close()
        await grid.kill(grid.coordinator)
        lose_database(grid)
        made = await rebuild(grid)
        assert made.recovered.refs == 0
        assert made.recovered.adopted == made.recovered.packs > 0
        await grid.start(grid.coordinator)
        packs = await on_disks(grid)
        await asyncio.sleep(HOUR)
        assert await on_disks(grid) == packs
        late = await grid.vault()
        assert await late.read("file-0") == b"newer"
        assert {name: await late.read(name) for name in contents} == {**contents, "file-0": b"newer"}
        assert await versions(late, "file-0") == [(2, "file"), (1, "file")]

    quick = {"adopt_lease": 15 * MINUTE, "history": 15 * MINUTE, "lease": 15 * MINUTE, "reflog_interval": 5 * MINUTE}
    story(tmp_path, tell, nodes=6, survive=4, settings=quick)


def test_a_node_that_was_away_brings_its_packs_later(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        for number in range(6):
            await vault.put(b"%d" % number * 3000, f"file-{number}")
        for node in grid.nodes[:3]:
            await grid.kill(node)
        await grid.kill(grid.coordinator)
        lose_database(grid)
        machine_names = [node.name for node in grid.nodes[3:]]
        made = await rebuild(grid, *machine_names)
        assert len(made.recovered.silent) == 3
        await grid.start(grid.coordinator)
        for node in grid.nodes[:3]:
            await grid.start(node)
        await grid.until_up(7)
        vault = await grid.vault("another")
        for number in range(6):
            assert await vault.read(f"file-{number}") == b"%d" % number * 3000
        await asyncio.sleep(10 * MINUTE)
        assert min(await copies(grid)) >= 5

    story(tmp_path, tell)


def test_too_few_nodes_are_not_enough_to_be_sure(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        vault = await grid.vault()
        await vault.put(b"here", "file")
        await all_on_nodes(grid)
        await grid.kill(grid.coordinator)
        lose_database(grid)
        for node in grid.nodes[:5]:
            await grid.kill(node)
        with pytest.raises(Unavailable, match=r"survive 4 at most 4 may be missing"):
            await rebuild(grid, "node-6", "node-7")
        with pytest.raises(Unavailable, match="no node answers"):
            await rebuild(grid, "node-1")
        await grid.start(grid.nodes[0])
        assert (await rebuild(grid, "node-6")).recovered.nodes == 3
        with pytest.raises(BadConfig, match="coordinator recover"):
            await rebuild(grid, "node-6")
        (grid.coordinator.data / "identity.key").unlink()
        with pytest.raises(BadConfig, match="nodes obey no other key"):
            await rebuild(grid, "node-6")

    story(tmp_path, tell)


def test_the_owner_comes_back_with_the_words_alone(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        tree = tmp_path / "source"
        plant(tree, 30)
        vault = await grid.vault()
        await vault.put_tree([tree], "tree")
        await vault.close()
        words = " ".join(assemble.recovery_words(grid._operator_home, lambda: None))
        await grid.kill(grid.coordinator)
        lose_database(grid)
        made = await rebuild(grid)
        await grid.start(grid.coordinator)
        home = tmp_path / "new-home"
        machine = grid.machine("new-laptop")
        await assemble.init_home(home, join=made.invites["operator"], words=words, machine=machine)
        machine = grid.machine("new-laptop")
        vault = await assemble.open_vault(home, kind=assemble.OpenVault, machine=machine)
        try:
            await check_tree(vault, tree, tmp_path / "back")
            await vault.put(b"goes on", "tree/d0/new")
        finally:
            await vault.close()

    story(tmp_path / "net", tell)


def test_without_the_key_nodes_and_devices_join_a_new_coordinator(tmp_path: Path) -> None:
    async def tell(grid: Grid) -> None:
        tree = tmp_path / "source"
        plant(tree, 20)
        vault = await grid.vault()
        await vault.put_tree([tree], "tree")
        await vault.put(b"one", "twice")
        await vault.put(b"two", "twice")
        await vault.close()
        words = " ".join(assemble.recovery_words(grid._operator_home, lambda: None))
        await grid.kill(grid.coordinator)
        for path in grid.coordinator.data.iterdir():
            path.unlink()
        lose_database(grid)
        made = await assemble.init_coordinator(
            grid.coordinator.data,
            advertise="http://coordinator:7430",
            survive=4,
            database=grid.database,
            machine=grid.machine("coordinator"),
        )
        await grid.start(grid.coordinator)
        for node in grid.nodes:
            await grid.kill(node)
            (node.data / "network.json").rename(node.data / "network.json.old")
            machine = grid.machine(node.name)
            await assemble.init_node(node.data, join=made.invites["node"], name=node.name, machine=machine)
            await grid.start(node)
        home = tmp_path / "home"
        machine = grid.machine("laptop")
        await assemble.init_home(home, join=made.invites["operator"], words=words, machine=machine)
        await asyncio.sleep(5 * MINUTE)
        vault = await assemble.open_vault(home, kind=assemble.OpenVault, machine=grid.machine("laptop"))
        try:
            assert await vault.read("twice") == b"two"
            assert await versions(vault, "twice") == [(2, "file"), (1, "file")]
            await check_tree(vault, tree, tmp_path / "back")
            await vault.put(b"three", "twice")
        finally:
            await vault.close()

    story(tmp_path / "net", tell)
