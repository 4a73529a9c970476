"""New names for what is there: nothing is sent but names, nothing is lost or there twice, whatever happens between."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
import pytest_asyncio
from tests.client.fleet import SMALL, Fleet
from tests.client.test_client_files import new_bytes
from tests.client.test_client_removed import there

from holdfast.client.names.names import Found
from holdfast.client.vault import Vault
from holdfast.codec import refs
from holdfast.errors import BadRequest, Conflict, Exists, NotFound, PartlyDone

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = random.Random(1).randbytes(3 * SMALL.pack_bytes + 5)


@pytest_asyncio.fixture(loop_scope="module")
async def vault(fleet: Fleet) -> Vault:
    return await fleet.vault()


async def names_in(vault: Vault, directory: str = "") -> list[str]:
    return sorted([entry.name async for entry in vault.list(directory, recursive=True)])


async def keep_of(vault: Vault, name: str) -> tuple[Found, list[object]]:
    found = await vault._names.find(name, fresh=True)
    return found, list(refs.parse_keep_list(found.keep))


async def test_a_file_moves_without_its_data(vault: Vault) -> None:
    before = await vault.put(DATA, "here/file", mode=0o600, mtime_ns=5, meta={"a": "b"})
    sent = new_bytes(vault)
    done = await vault.move("here/file", "there/far/other")
    assert new_bytes(vault) - sent <= 8192
    assert (done.names, done.entry.name, done.entry.version) == (1, "there/far/other", 1)
    after = await vault.stat("there/far/other", fresh=True)
    fields = ("kind", "size", "mtime_ns", "mode", "meta", "survive")
    assert [getattr(after, field) for field in fields] == [getattr(before, field) for field in fields]
    assert await vault.read("there/far/other") == DATA
    assert await names_in(vault) == ["here", "there", "there/far", "there/far/other"]
    with pytest.raises(NotFound):
        await vault.stat("here/file", fresh=True)
    assert [version.kind for version in await vault.log("here/file")] == [None, "file"]
    with pytest.raises(NotFound):
        await vault.move("here/file", "again")


async def test_the_new_name_keeps_exactly_what_the_file_needs(fleet: Fleet, vault: Vault) -> None:
    """Also when the recipe must be read for it: another device knows no content of this one."""
    await vault.put(DATA, "a")
    await vault.put(DATA, "b")  # its ref lies in a pack of its own, which the next name must not keep
    found, packs = await keep_of(vault, "b")
    other = fleet.open(fleet.home_of(vault))
    await other._index.run(lambda file: file.forget_contents([bytes(32)]))
    await other.move("b", "c")
    moved, needed = await keep_of(other, "c")
    assert len(needed) == len(packs)
    assert len(set(needed) & set(packs)) == len(packs) - 1
    assert moved.ref.sealed.recipe == found.ref.sealed.recipe
    await vault.move("c", "d")
    assert len((await keep_of(vault, "d"))[1]) == len(packs)
    assert await other.read("d") == DATA
    await other.close()


async def test_what_is_there_is_replaced_as_a_put_would(vault: Vault) -> None:
    await vault.put(b"one", "one")
    two = await vault.put(b"two", "two")
    await vault.put(b"x", "directory/x")
    with pytest.raises(Exists):
        await vault.move("one", "two", no_clobber=True)
    with pytest.raises(Conflict):
        await vault.move("one", "two", if_match=(await vault.stat("one")).etag)
    with pytest.raises(Conflict):
        await vault.move("one", "directory")
    with pytest.raises(Conflict):
        await vault.move("directory", "two")
    for new in ("one", "one/below"):
        with pytest.raises(BadRequest):
            await vault.move("one", new)
    assert await names_in(vault) == ["directory", "directory/x", "one", "two"]
    done = await vault.move("one", "two", if_match=two.etag)
    assert (done.entry.version, await vault.read("two")) == (2, b"one")
    assert await vault.read("two", version=1) == b"two"
    back = await vault.move("two", "one")  # over its own tombstone
    assert back.entry.version == 3
    assert await names_in(vault) == ["directory", "directory/x", "one"]


async def test_a_change_of_the_old_name_meanwhile_stops_the_move(fleet: Fleet, vault: Vault) -> None:
    await vault.put(b"one", "name")
    other = fleet.open(fleet.home_of(vault))
    draft = vault._content.draft

    async def late(found: Found, path: str) -> object:
        await other.put(b"changed", "name")
        return await draft(found, path)

    vault._content.draft = late  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(Conflict):
            await vault.move("name", "new")
    finally:
        vault._content.draft = draft  # type: ignore[method-assign]
    assert await vault.read("name", fresh=True) == b"changed"
    with pytest.raises(NotFound):
        await vault.stat("new", fresh=True)
    await other.close()


async def test_a_directory_moves_with_all_in_it_and_beside_what_is_there(vault: Vault) -> None:
    await vault.put(b"1", "old/a")
    await vault.put(b"2", "old/deep/er/b")
    await vault.put(b"3", "new/deep/c")
    await vault.put(b"4", "new/a")
    with pytest.raises(PartlyDone, match="1 names were moved, 1 were not; the first: old/a: new/a exists already"):
        await vault.move("old", "new", no_clobber=True)
    assert await vault.read("new/a") == b"4"
    assert await names_in(vault, "old") == ["old/a", "old/deep", "old/deep/er"]
    assert (await vault.move("old", "new")).names == 4
    assert await names_in(vault) == ["new", "new/a", "new/deep", "new/deep/c", "new/deep/er", "new/deep/er/b"]
    assert [await vault.read(name) for name in ("new/a", "new/deep/er/b", "new/deep/c")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("steps", range(0, 9, 2))
async def test_a_move_that_was_stopped_goes_on_and_nothing_is_twice(fleet: Fleet, vault: Vault, steps: int) -> None:
    inside = ("a", "b/c", "b/d", "e/f/g")
    for name in inside:
        await vault.put(name.encode(), f"tree/{name}")
    first = fleet.open(fleet.home_of(vault))
    ask, asked = first.coordinators.ask, 0

    async def some(route: object, *rest: object, **more: object) -> object:
        nonlocal asked
        if getattr(route, "path", "").endswith("/commit"):
            asked += 1
            if asked > steps:
                raise asyncio.CancelledError
        return await ask(route, *rest, **more)  # type: ignore[arg-type]

    first.coordinators.ask = some  # type: ignore[method-assign, assignment]
    with contextlib.suppress(Exception):
        await first.move("tree", "moved")
    await first.close()
    found = {name: [await there(vault, f"{top}/{name}") for top in ("tree", "moved")] for name in inside}
    assert all(sum(places) == 1 for places in found.values()), found
    with contextlib.suppress(NotFound):
        await vault.move("tree", "moved")
    assert await names_in(vault) == sorted(
        f"moved{end}" for end in ("", "/a", "/b", "/b/c", "/b/d", "/e", "/e/f", "/e/f/g")
    )
    for name in inside:
        assert await vault.read(f"moved/{name}") == name.encode()
