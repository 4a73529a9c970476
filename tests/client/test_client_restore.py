"""What was deleted or replaced comes back while the history keeps it; a deleted tree is deleted in steps."""

from __future__ import annotations

import json
import random

import pytest
import pytest_asyncio
from sqlalchemy import Connection, text
from tests.client.fleet import SMALL, Fleet
from tests.client.test_client_files import new_bytes
from tests.client.test_client_move import names_in

from holdfast.cli import main
from holdfast.cli.restore import split_version
from holdfast.client.vault import Vault
from holdfast.errors import BadRequest, Exists, NotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = random.Random(2).randbytes(2 * SMALL.pack_bytes + 5)


@pytest_asyncio.fixture(loop_scope="module")
async def vault(fleet: Fleet) -> Vault:
    return await fleet.vault()


async def trash_of(vault: Vault, directory: str = "", *, recursive: bool = True) -> list[str]:
    return sorted([thrown.entry.name async for thrown in vault.trash(directory, recursive=recursive)])


async def test_a_deleted_file_comes_back_without_its_data(vault: Vault) -> None:
    before = await vault.put(DATA, "in/file", mode=0o640, mtime_ns=7)
    await vault.put(b"newer", "in/file")
    await vault.delete("in/file")
    [thrown] = [one async for one in vault.trash("in")]
    assert (thrown.entry.name, thrown.entry.version, thrown.entry.size) == ("in/file", 2, 5)
    assert 6.9 * 86400 < thrown.until_s <= 7 * 86400
    sent = new_bytes(vault)
    done = await vault.restore("in/file")
    assert (done.names, done.entry.version) == (1, 4)
    assert await vault.read("in/file") == b"newer"
    done = await vault.restore("in/file", version=1)
    assert new_bytes(vault) - sent <= 16384
    assert (done.entry.version, done.entry.mode, done.entry.mtime_ns) == (5, before.mode, before.mtime_ns)
    assert await vault.read("in/file", fresh=True) == DATA
    assert [version.version for version in await vault.log("in/file")] == [5, 4, 3, 2, 1]
    assert await trash_of(vault) == []


async def test_a_restore_under_another_name_and_what_cannot_be_restored(vault: Vault) -> None:
    await vault.put(b"one", "a")
    await vault.put(b"two", "a")
    await vault.put(b"there", "b")
    with pytest.raises(BadRequest, match="say which version"):
        await vault.restore("a")
    with pytest.raises(Exists):
        await vault.restore("a", version=1, new="b", no_clobber=True)
    assert (await vault.restore("a", version=1, new="far/c")).entry.version == 1
    assert [await vault.read(name) for name in ("a", "far/c")] == [b"two", b"one"]
    with pytest.raises(NotFound, match="version 9 of 'a' is not kept"):
        await vault.restore("a", version=9)
    with pytest.raises(NotFound):
        await vault.restore("never")
    await vault.delete("a")
    with pytest.raises(NotFound, match="is a deletion"):
        await vault.restore("a", version=3)


async def test_a_deleted_directory_comes_back_with_all_in_it(vault: Vault) -> None:
    for name in ("x", "deep/y", "deep/er/z"):
        await vault.put(name.encode(), f"tree/{name}")
    await vault.put(b"old", "tree/deep/gone")
    await vault.delete("tree/deep/gone")
    assert await vault.delete("tree", recursive=True) == 6
    everything = ["tree", "tree/deep", "tree/deep/er", "tree/deep/er/z", "tree/deep/gone", "tree/deep/y", "tree/x"]
    assert await trash_of(vault) == everything
    assert await trash_of(vault, recursive=False) == ["tree"]
    assert await trash_of(vault, "tree/deep", recursive=False) == ["tree/deep/er", "tree/deep/gone", "tree/deep/y"]
    done = await vault.restore("tree", new="copy")
    assert done.names == 7
    assert await names_in(vault) == [name.replace("tree", "copy") for name in everything]
    assert (await vault.restore("tree")).names == 7
    assert await names_in(vault, "tree") == everything[1:]
    assert await vault.read("tree/deep/er/z") == b"deep/er/z"
    await vault.delete("tree/x")
    assert (await vault.restore("tree")).names == 1  # the directory is there: what is missing in it
    assert (await vault.restore("tree")).names == 0


async def test_packs_that_were_let_go_are_named_in_a_sentence(fleet: Fleet, vault: Vault) -> None:
    await vault.put(DATA + b"other", "lost")
    await vault.delete("lost")
    assert fleet.coordinator is not None

    def trashed(connection: Connection) -> None:
        connection.execute(text("UPDATE packs SET state = 4"))

    async def put_back() -> None:
        def back(connection: Connection) -> None:
            connection.execute(text("UPDATE packs SET state = 2"))

        await state.database.run(back)

    state = fleet.coordinator.app.state  # type: ignore[attr-defined]
    recipe = await vault._names.at_version("lost", 1)
    await vault._content.open(recipe, with_data=False)  # read before they went
    await state.database.run(trashed)
    try:
        with pytest.raises(NotFound, match=r"lost cannot be brought back: \d of its packs were let go"):
            await vault.restore("lost")
    finally:
        await put_back()
    assert (await vault.restore("lost")).names == 1
    assert await vault.read("lost") == DATA + b"other"


async def test_a_name_deleted_long_ago_is_put_and_restored_like_any_other(fleet: Fleet, vault: Vault) -> None:
    """90 days later only the version is left of the tombstone; versions count on, also for a device that knew more."""
    away = fleet.open(fleet.home_of(vault))
    await vault.put(b"1", "old")
    assert await away.read("old") == b"1"
    await vault.delete("old")
    assert fleet.coordinator is not None
    state = fleet.coordinator.app.state  # type: ignore[attr-defined]

    def shrink(connection: Connection) -> None:
        from holdfast.coordinator import collect

        assert collect.release(connection, state.slow_now() + 91 * 86400) is not None

    await state.database.run(shrink)
    for one in (vault, away):
        with pytest.raises(NotFound):
            await one.stat("old", fresh=True)
    with pytest.raises(NotFound, match="nothing of 'old' is kept any more"):
        await vault.restore("old")
    assert (await away.put(b"3", "old")).version == 3
    assert (await vault.stat("old")).version == 3
    await away.close()


async def test_names_with_a_version() -> None:
    assert split_version("a/b@3") == ("a/b", 3)
    assert split_version("a@b") == ("a@b", None)
    assert split_version("a@3@1") == ("a@3", 1)
    assert split_version("a@") == ("a@", None)


async def test_the_commands(fleet: Fleet, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    home = str(fleet.home_of(vault).path)

    async def run(*words: str) -> tuple[int, list[dict[str, object]]]:
        code = await asyncio.to_thread(main.run, [*words, "--json", "--home", home])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    await vault.put(b"one", "d/a")
    code, [found] = await run("mv", "d/a", "d/b")
    assert (code, found["names"], found["name"]) == (0, 1, "d/b")
    code, rows = await run("ls", "--trash", "-R")
    assert (code, rows[0]["name"], rows[-1]) == (0, "d/a", {"event": "summary", "entries": 1})
    code, [found] = await run("restore", "d/a")
    assert (code, found["names"], found["version"]) == (0, 1, 3)
    code, [found] = await run("restore", "d/a@1", "--as", "e")
    assert (code, found["name"], found["version"]) == (0, "e", 1)
    assert (await run("restore", "d/a"))[0] == 1
    assert (await run("restore", "nothing"))[0] == 4
    assert (await run("mv", "nothing", "x"))[0] == 4
    assert (await run("mv", "e", "d/a", "--no-clobber"))[0] == 8
