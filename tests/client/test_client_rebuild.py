"""A device without an index learns from the packs' sealed indexes what the vault holds, and sends nothing twice."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.client.fleet import SMALL, Fleet

from holdfast.client.device.home import Home
from holdfast.client.device.keyfile import to_words
from holdfast.client.reading import index_rebuild
from holdfast.client.vault import IndexRebuilt, Vault
from holdfast.errors import Unavailable
from holdfast.wire import messages as m
from holdfast.wire import routes

PACK = SMALL.pack_bytes
NOTHING_NEW = 16 << 10
"""A name's own pack, and at most a recipe's."""


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 1000 + seed).randbytes(size)


def new_bytes(vault: Vault) -> int:
    return sum(uploader.new_bytes for uploader in vault._uploaders.values())


async def second_device(fleet: Fleet, vault: Vault) -> Vault:
    """Another device of the same vault, made with the 24 words."""
    return fleet.open(await fleet.home(words=" ".join(to_words(fleet.home_of(vault).root))))


def count(fleet: Fleet, route: Any) -> list[None]:
    """A list that grows with each request of all nodes for ``route``."""
    seen: list[None] = []

    async def counted(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        seen.append(None)
        return await handler(call, message)

    for number in range(len(fleet.nodes)):
        fleet.wrap(number, route, counted)
    return seen


async def test_a_second_device_sends_nothing_that_is_there(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(10 * PACK)
    await vault.put(data, "file")
    other = await second_device(small_fleet, vault)
    rebuilt = await other.rebuild_index()
    assert rebuilt.packs >= 10
    assert rebuilt.chunks == len(data) // SMALL.chunk_bytes
    assert (rebuilt.known, rebuilt.missed) == (0, 0)
    await other.put(data, "again")
    assert new_bytes(other) <= NOTHING_NEW
    assert await other.read("again") == data
    assert await vault.read("again") == data


async def test_a_first_large_put_waits_for_what_is_there(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    (tmp_path / "file").write_bytes(data_of(6 * PACK))
    (tmp_path / "tree").mkdir()
    for number in range(50):
        (tmp_path / "tree" / f"{number}").write_bytes(data_of(20_000, number))
    await vault.put(tmp_path / "file", "file")
    await vault.put_tree([tmp_path / "tree"], "tree")
    other = await second_device(small_fleet, vault)
    await other.put(tmp_path / "file", "file 2")
    assert new_bytes(other) <= NOTHING_NEW
    third = await second_device(small_fleet, vault)
    summary = await third.put_tree([tmp_path / "tree"], "tree 2")
    assert summary.files == 50
    assert summary.bytes == 50 * 20_000
    assert summary.new_bytes < 64 << 10
    assert await third.read("tree 2/7") == data_of(20_000, 7)


@pytest.mark.parametrize("broken", [None, b"no database"])
async def test_a_lost_or_broken_index_comes_back(small_fleet: Fleet, tmp_path: Path, broken: bytes | None) -> None:
    vault = await small_fleet.vault()
    (tmp_path / "file").write_bytes(data_of(6 * PACK))
    await vault.put(tmp_path / "file", "file")
    home = small_fleet.home_of(vault)
    await vault.close()
    for path in home.index_path.parent.iterdir():
        path.unlink()
    if broken is not None:
        home.index_path.write_bytes(broken)
    vault = small_fleet.open(home)
    await vault.put(tmp_path / "file", "again")
    assert new_bytes(vault) <= NOTHING_NEW


async def test_an_index_that_breaks_while_in_use_is_read_back(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(8 * PACK)
    await vault.put(data, "file")
    await vault._index.run(lambda file: file.recover())
    before = new_bytes(vault)
    await vault.put(data, "again")
    assert new_bytes(vault) - before <= NOTHING_NEW


async def test_packs_that_were_seen_are_not_read_again(small_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_rebuild, "WRITTEN", 2)
    vault = await small_fleet.vault()
    await vault.put(data_of(8 * PACK), "file")
    own = await vault.rebuild_index()
    assert own.packs == 0  # it knows what it has sent
    assert own.known >= 8
    other = await second_device(small_fleet, vault)
    reads = count(small_fleet, routes.BLOB_GET)

    def stop(done: IndexRebuilt) -> None:
        if done.packs >= 4:
            raise Unavailable("the lid was closed")

    with pytest.raises(Unavailable, match="lid"):
        await other.rebuild_index(stop)
    first = len(reads)
    home = small_fleet.home_of(other)
    await other.close()
    other = small_fleet.open(home)
    rest = await other.rebuild_index()
    assert rest.known == 4
    assert rest.packs == own.known - 4
    assert len(reads) - first < first * 2
    reads.clear()
    assert (await other.rebuild_index()) == IndexRebuilt(0, 0, own.known, 0)
    assert not reads


async def test_an_index_longer_than_the_first_read(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    chunk = 1000
    data = data_of(200 * chunk)
    await vault.put(data, "file", chunk_bytes=chunk)
    other = await second_device(small_fleet, vault)
    assert (await other.rebuild_index()).chunks == 200
    await other.put(data, "again", chunk_bytes=chunk)
    assert new_bytes(other) <= NOTHING_NEW + 60 * 200  # a recipe of 200 entries


async def test_packs_that_nobody_gives_are_missed_not_fatal(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(4 * PACK)
    await vault.put(data, "file")
    other = await second_device(small_fleet, vault)

    async def fail(handler: Callable[..., Awaitable[Any]], call: Any, message: Any) -> Any:
        raise Unavailable("not now")

    undo = [small_fleet.wrap(number, routes.BLOB_GET, fail) for number in range(4)]
    missed = await other.rebuild_index()
    assert missed.packs == 0
    assert missed.missed >= 4
    for restore in undo:
        restore()
    await other.put(data, "again")  # only sent once more
    assert await vault.read("again") == data
    assert (await other.rebuild_index()).packs == missed.missed


async def test_an_index_that_no_device_sealed_is_not_believed(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    data = data_of(PACK // 2)
    await vault.put(data, "file")
    other = await second_device(small_fleet, vault)
    for number in range(4):
        for path in small_fleet.blobs(number):
            garbled = bytearray(path.read_bytes())
            garbled[-1000] ^= 1  # padding or index
            garbled[-100] ^= 1  # the signature
            path.chmod(0o600)
            path.write_bytes(garbled)
    rebuilt = await other.rebuild_index()
    assert rebuilt.packs == rebuilt.chunks == 0
    assert rebuilt.missed >= 1


async def test_while_the_coordinator_is_gone_a_rebuild_says_so(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await small_fleet.stop_coordinator()
    with pytest.raises(Unavailable, match="coordinator does not answer"):
        await vault.rebuild_index()
    await small_fleet.start_coordinator()
    assert await vault.rebuild_index() == IndexRebuilt()


async def test_contents_that_were_read_are_known_when_put(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    large, small = data_of(3 * PACK), data_of(5000)
    await vault.put(large, "large")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "small").write_bytes(small)
    await vault.put_tree([tmp_path / "tree"], "tree")
    other = await second_device(small_fleet, vault)
    await other.read("large")
    await other.get("tree", tmp_path / "back")
    await other.rebuild_index()
    contents = await other._index.run(lambda file: file._db.execute("SELECT count(*) FROM contents").fetchall())
    assert contents == [(2,)]
    await other.put(large, "large 2")
    one = new_bytes(other)
    assert one <= 4096  # the name alone, no recipe
    summary = await other.put_tree([tmp_path / "tree"], "tree 2")
    assert summary.new_bytes <= 4096
    assert await vault.read("large 2") == large
    assert await vault.read("tree 2/small") == small


async def test_a_lost_machine_recovers_everything_with_words_and_an_invite(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "large").write_bytes(data_of(3 * PACK))
    (tree / "deep" / "small").write_bytes(b"small")
    (tree / "deep" / "link").symlink_to("small")
    await vault.put_tree([tree], "tree")
    words = " ".join(to_words(small_fleet.home_of(vault).root))
    lost = small_fleet.home_of(vault)
    await vault.close()
    for path in sorted(lost.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    home: Home = await small_fleet.home(words=words)
    assert home.membership.vault == lost.membership.vault
    assert home.device.id != lost.device.id
    async with small_fleet.open(home) as new:
        names = [entry.name async for entry in new.list(recursive=True)]
        assert names == ["tree", "tree/deep", "tree/large", "tree/deep/link", "tree/deep/small"]
        await new.get("tree", tmp_path / "back")
        assert (tmp_path / "back" / "large").read_bytes() == data_of(3 * PACK)
        assert (tmp_path / "back" / "deep" / "link").readlink() == Path("small")
        assert (tmp_path / "back" / "deep" / "small").read_bytes() == b"small"
        assert [version.version for version in await new.log("tree/large")] == [1]
        summary = await new.put_tree([tree], "tree")
        assert not summary.failed
        assert summary.new_bytes < 64 << 10
        await new.put(b"new", "tree/deep/small")
        assert await new.read("tree/deep/small") == b"new"


async def test_the_coordinator_cannot_make_a_rebuild_go_on_for_ever(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    service: Any = small_fleet.coordinator.app.service  # type: ignore[union-attr]

    async def endless(call: Any, message: Any) -> Any:
        return m.VaultPacks(packs=[], nodes=[], after="ab" * 32)

    service.add(routes.VAULT_PACKS, endless)
    with pytest.raises(Unavailable, match="do not go on"):
        await vault.rebuild_index()
