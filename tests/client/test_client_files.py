"""Round trips through a real network: what was put comes back, with few bytes sent and few bytes read."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.client.fleet import SMALL, Fleet

from holdfast.blob import Buffer
from holdfast.client.names.entries import Progress
from holdfast.client.vault import Vault
from holdfast.errors import BadRequest, Conflict, Exists, NotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNK, PACK = SMALL.chunk_bytes, SMALL.pack_bytes
SIZES = sorted(
    {0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, PACK - 1, PACK, PACK + 1, 3 * PACK + 17, 5 * PACK + CHUNK}
)


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 1000 + seed).randbytes(size)


async def pieces(data: bytes, size: int) -> AsyncIterator[Buffer]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest_asyncio.fixture(loop_scope="module")
async def vault(fleet: Fleet) -> Vault:
    return await fleet.vault()


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_comes_back(fleet: Fleet, vault: Vault, tmp_path: Path, size: int) -> None:
    data = data_of(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    entry = await vault.put(source, f"files/{size}")
    assert (entry.kind, entry.size, entry.version) == ("file", size, 1)
    assert await vault.read(f"files/{size}") == data
    other = fleet.open(fleet.home_of(vault))  # nothing remembered in memory
    target = tmp_path / "target"
    await other.get(f"files/{size}", target)
    assert target.read_bytes() == data
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert list(tmp_path.glob(".*")) == []
    await other.close()


async def test_bytes_and_streams_are_sources_too(vault: Vault) -> None:
    data = data_of(PACK + 5)
    await vault.put(data, "memory", mode=0o600, mtime_ns=5)
    await vault.put(pieces(data, 10_000), "stream")
    assert await vault.read("memory") == data == await vault.read("stream")
    entry = await vault.stat("memory")
    assert (entry.mode, entry.mtime_ns) == (0o600, 5)


async def test_ranges_bring_only_the_chunks_they_touch(vault: Vault) -> None:
    data = data_of(3 * PACK)
    await vault.put(data, "ranged")
    await vault.read("ranged", 0, 1)  # the recipe is known from here on
    before = vault._reader.bytes_read
    for start, stop in ((0, 1), (CHUNK - 1, CHUNK + 1), (PACK + 3, PACK + 9), (len(data) - 1, len(data))):
        assert await vault.read("ranged", start, stop) == data[start:stop]
    assert vault._reader.bytes_read - before <= 10 * (CHUNK + 16)  # of 48; a hedged read counts twice
    assert await vault.read("ranged", len(data)) == b""
    assert await vault.read("ranged", 5, 5) == b""
    assert await vault.read("ranged", len(data) - 2, len(data) + 100) == data[-2:]
    with pytest.raises(BadRequest):
        await vault.read("ranged", 5, 4)


async def test_a_stream_gives_all_in_order(vault: Vault) -> None:
    data = data_of(2 * PACK + 99)
    await vault.put(data, "streamed")
    parts = [bytes(piece) async for piece in vault.stream("streamed", 10, len(data) - 10)]
    assert b"".join(parts) == data[10:-10]
    async for piece in vault.stream("streamed"):  # given up: nothing is left under way
        assert piece
        break


async def test_known_content_is_neither_sent_nor_described_again(vault: Vault) -> None:
    data = data_of(2 * PACK)
    await vault.put(data, "first")
    sent = new_bytes(vault)
    await vault.put(data, "second")
    assert new_bytes(vault) - sent <= 8192  # a pack of ref chunks
    changed = data[:CHUNK] + b"x" + data[CHUNK + 1 :]
    sent = new_bytes(vault)
    await vault.put(changed, "third")
    assert new_bytes(vault) - sent <= 2 * CHUNK
    for name, content in (("first", data), ("second", data), ("third", changed)):
        assert await vault.read(name) == content


async def test_a_chunk_that_repeats_is_stored_once(vault: Vault) -> None:
    data = bytes(CHUNK) * 40
    await vault.put(data, "zeros")
    assert new_bytes(vault) <= 3 * CHUNK
    assert await vault.read("zeros") == data


async def test_without_dedup_equal_content_is_unlinked(vault: Vault) -> None:
    data = data_of(2 * CHUNK)
    await vault.put(data, "linked")
    sent = new_bytes(vault)
    await vault.put(data, "alone", dedup=False)
    assert new_bytes(vault) - sent > len(data)
    assert await vault.read("alone") == data


def new_bytes(vault: Vault) -> int:
    return sum(uploader.new_bytes for uploader in vault._uploaders.values())


async def test_an_unchanged_file_is_not_read_again(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(data_of(CHUNK))
    stamp_long_ago(source)
    await wait_for_a_tick(source)
    first = await vault.put(source, "unchanged")
    read: list[Progress] = []
    second = await vault.put(source, "unchanged", progress=read.append)
    assert [step.bytes for step in read if step.files == 0] == []
    assert second.version in (first.version, first.version + 1)
    read.clear()
    await vault.put(source, "unchanged", reread=True, progress=read.append)
    assert read[-1].bytes == CHUNK
    source.write_bytes(data_of(CHUNK, seed=1))
    await vault.put(source, "unchanged")
    assert await vault.read("unchanged") == data_of(CHUNK, seed=1)


def stamp_long_ago(path: Path) -> None:
    os.utime(path, ns=(10**18, 10**18))


async def wait_for_a_tick(path: Path) -> None:
    """Until the file's change time, which cannot be set, is old enough to be trusted."""
    while (time.time() - path.stat().st_ctime) < 0.03:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_replacing_needs_no_asking_and_survives_a_rival(fleet: Fleet, vault: Vault) -> None:
    assert (await vault.put(b"one", "name")).version == 1
    assert (await vault.put(b"two", "name")).version == 2
    rival = fleet.open(fleet.home_of(vault))
    rival._index._path = rival._index._path.with_name("other.db")  # type: ignore[union-attr]
    assert (await rival.put(b"three", "name")).version == 3
    assert (await vault.put(b"four", "name")).version == 4  # prepared against version 2, rebased
    assert await rival.read("name") == b"four"


async def test_no_clobber_and_if_match(fleet: Fleet, vault: Vault) -> None:
    first = await vault.put(b"one", "guarded", no_clobber=True)
    with pytest.raises(Exists):
        await vault.put(b"two", "guarded", no_clobber=True)
    fresh = fleet.open(fleet.home_of(vault))
    fresh._index._path = None
    with pytest.raises(Exists):
        await fresh.put(b"two", "guarded", no_clobber=True)
    second = await vault.put(b"two", "guarded", if_match=first.etag)
    with pytest.raises(Conflict):
        await vault.put(b"three", "guarded", if_match=first.etag)
    with pytest.raises(Conflict):
        await fresh.put(b"three", "guarded", if_match=first.etag)
    with pytest.raises(Conflict):
        await vault.put(b"x", "nothing there", if_match=first.etag)
    assert (await fresh.put(b"three", "guarded", if_match=second.etag)).version == 3
    assert await vault.read("guarded") == b"three"


async def test_a_file_and_a_directory_do_not_replace_each_other(vault: Vault) -> None:
    await vault.put(b"x", "plain")
    with pytest.raises(Conflict):
        await vault.put(b"y", "plain/below")
    await vault.put(b"x", "folder/file")
    with pytest.raises(Conflict):
        await vault.put(b"y", "folder")


async def test_many_small_puts_at_once_share_packs_and_commits(vault: Vault) -> None:
    await vault.put(b"warm", "warm")
    before = vault._http.epoch[1]
    await asyncio.gather(*(vault.put(data_of(500, seed), f"many/{seed}") for seed in range(60)))
    for seed in range(60):
        assert await vault.read(f"many/{seed}") == data_of(500, seed)
    assert vault._http.epoch[1] - before <= 20
    assert len([entry async for entry in vault.list("many")]) == 60


async def test_the_same_name_put_at_once_ends_with_one_of_them(vault: Vault) -> None:
    entries = await asyncio.gather(*(vault.put(f"{n}".encode(), "contended") for n in range(4)))
    last = max(entries, key=lambda entry: entry.version)
    assert await vault.read("contended") == f"{entries.index(last)}".encode()
    assert (await vault.stat("contended")).etag == last.etag


async def test_names_that_are_not_there(vault: Vault, tmp_path: Path) -> None:
    for call in (vault.read("nothing"), vault.stat("nothing"), vault.get("nothing", tmp_path / "x"), vault.log("no")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await vault.put(tmp_path / "missing", "x")
    with pytest.raises(BadRequest):
        await vault.put(b"", "a//b")
    with pytest.raises(BadRequest):
        await vault.put(b"", "../x")


async def test_get_does_not_replace_unless_forced(vault: Vault, tmp_path: Path) -> None:
    await vault.put(b"new", "file")
    target = tmp_path / "file"
    target.write_bytes(b"mine")
    with pytest.raises(Exists):
        await vault.get("file", target)
    assert target.read_bytes() == b"mine"
    await vault.get("file", target, force=True)
    assert target.read_bytes() == b"new"


async def test_get_goes_on_from_what_is_there_and_right(vault: Vault, tmp_path: Path) -> None:
    data = data_of(4 * PACK)
    await vault.put(data, "resumed")
    part = tmp_path / ".big.holdfast-part"
    wrong = bytearray(data[: 3 * PACK + 100])
    wrong[CHUNK + 5] ^= 1
    part.write_bytes(wrong)
    before = vault._reader.bytes_read
    await vault.get("resumed", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == data
    assert vault._reader.bytes_read - before < 3 * PACK  # of 4; a hedged read counts twice
    assert not part.exists()


async def test_an_interrupted_put_resumes_as_dedup(vault: Vault, tmp_path: Path) -> None:
    data = data_of(40 * PACK)
    stopped = asyncio.Event()

    async def slowly() -> AsyncIterator[Buffer]:
        for start in range(0, len(data), CHUNK):
            if start >= 30 * PACK:
                stopped.set()
                await asyncio.sleep(3600)
            yield data[start : start + CHUNK]

    task = asyncio.create_task(vault.put(slowly(), "long"))
    await stopped.wait()
    while new_bytes(vault) < 20 * PACK:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = new_bytes(vault)
    await vault.put(data, "long")
    assert new_bytes(vault) - sent < 28 * PACK
    assert await vault.read("long") == data


async def test_versions_and_deletes(vault: Vault) -> None:
    await vault.put(b"one", "history")
    await vault.put(b"two", "history")
    assert await vault.delete("history") == 1
    with pytest.raises(NotFound):
        await vault.read("history")
    with pytest.raises(NotFound):
        await vault.delete("history")
    log = await vault.log("history")
    assert [(one.version, one.kind) for one in log] == [(3, None), (2, "file"), (1, "file")]
    assert await vault.read("history", version=1) == b"one"
    assert await vault.read("history", version=2) == b"two"
    with pytest.raises(NotFound):
        await vault.read("history", version=3)
    with pytest.raises(NotFound):
        await vault.read("history", version=9)
    assert (await vault.put(b"three", "history")).version == 4
    with pytest.raises(Conflict):
        await vault.delete("history", if_match=log[0].etag)


async def test_meta_and_progress(vault: Vault) -> None:
    steps: list[Progress] = []
    await vault.put(data_of(PACK), "described", meta={"camera": "x100"}, progress=steps.append)
    assert (await vault.stat("described")).meta == {"camera": "x100"}
    assert steps[-1] == Progress(1, 1, PACK, PACK, "described")
    assert all(one.bytes <= other.bytes for one, other in itertools.pairwise(steps))
