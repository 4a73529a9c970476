"""The index: a cache that is small, remembers in batches and is never fatal."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.local import FileStat
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import Batch, ChunkPlace, IndexFile, NodeRow, SeenRef, number_of
from holdfast.client.offline.queueing import UnsentIndex
from holdfast.files import OsFiles
from holdfast.pool import ThreadPool


def digest(number: int) -> Digest:
    return Digest.of(number.to_bytes(8))


def ref(version: int, name: str = "x") -> SeenRef:
    return SeenRef(version, digest(version), f"record {name} {version}".encode(), b"k" * 32, b"mark")


async def open_index(path: Path) -> Index:
    return Index(path / "vaults" / "index.db", OsFiles(), ThreadPool(1))


async def test_what_is_remembered_later_is_known_at_once_and_after_a_restart(tmp_path: Path) -> None:
    index = await open_index(tmp_path)
    batch = Batch()
    node = NodeRow(Id(bytes(32)), "attic", "http://attic:1")
    batch.nodes[node.id] = node
    batch.packs[digest(1)] = (1000, [node.id])
    batch.chunks.append((bytes(digest(2)), ChunkPlace(digest(1), 96, 100, b"m" * 16)))
    batch.refs[b"tag"] = (b"parent", ref(3))
    batch.stats.append((b"/home", b"file", FileStat(1, 2, 3, 4, b"content")))
    await index.later(batch)
    assert await index.ref(b"tag") == ref(3)
    await index.close()
    await index.close()
    assert (tmp_path / "vaults" / "index.db").stat().st_mode & 0o777 == 0o600

    index = await open_index(tmp_path)
    assert await index.ref(b"tag") == ref(3)
    assert await index.chunks([bytes(digest(2)), bytes(digest(9))]) == {
        bytes(digest(2)): ChunkPlace(digest(1), 96, 100, b"m" * 16)
    }
    assert await index.places([digest(1), digest(7)]) == {digest(1): [node]}
    assert await index.run(lambda file: file.stats(b"/home")) == {b"file": FileStat(1, 2, 3, 4, b"content")}
    await index.forget_packs([digest(1)])
    assert await index.chunks([bytes(digest(2))]) == {}
    await index.close()


async def test_a_lower_version_never_replaces_a_higher_one(tmp_path: Path) -> None:
    index = await open_index(tmp_path)
    for version in (2, 5, 4):
        batch = Batch()
        batch.refs[b"tag"] = (b"parent", ref(version))
        await index.write(batch)
    assert await index.ref(b"tag") == ref(5)
    assert await index.run(lambda file: file.refs([b"tag"])) == {b"tag": ref(5)}
    await index.close()


@pytest.mark.parametrize("broken", [b"no database at all" * 100, b"", None])
async def test_a_broken_or_foreign_file_is_set_aside(tmp_path: Path, broken: bytes | None) -> None:
    path = tmp_path / "vaults" / "index.db"
    path.parent.mkdir()
    if broken is None:
        db = apsw.Connection(str(path))
        db.execute("CREATE TABLE other (x)")
        db.close()
    else:
        path.write_bytes(broken)
    index = await open_index(tmp_path)
    assert await index.ref(b"tag") is None
    batch = Batch()
    batch.refs[b"tag"] = (b"parent", ref(1))
    await index.write(batch)
    await index.close()
    assert (path.with_name("index.db.broken").exists()) == (broken != b"")
    index = await open_index(tmp_path)
    assert await index.ref(b"tag") == ref(1)
    await index.close()


async def test_damage_found_while_in_use_costs_only_what_was_remembered(tmp_path: Path) -> None:
    index = await open_index(tmp_path)
    batch = Batch()
    for number in range(2000):
        batch.chunks.append((bytes(digest(number)), ChunkPlace(digest(1), number, 100, b"m" * 16)))
    await index.write(batch)
    await index.close()
    path = tmp_path / "vaults" / "index.db"
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data) - 100, 4096):
        data[at : at + 100] = b"\xff" * 100
    path.write_bytes(data)
    index = await open_index(tmp_path)
    assert len(await index.chunks([bytes(digest(number)) for number in range(2000)])) < 2000
    await index.write(batch)
    assert len(await index.chunks([bytes(digest(number)) for number in range(2000)])) == 2000
    await index.close()


async def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "vaults").write_bytes(b"a file")
    index = await open_index(tmp_path)
    assert await index.ref(b"tag") is None
    await index.close()


def test_a_chunk_takes_little_room(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    file = IndexFile(path, OsFiles())

    def number(query: str) -> int:
        return number_of(file._db.execute(query).fetchall())

    empty = number("PRAGMA page_count")
    batch = Batch()
    count = 20_000
    for at in range(count):
        place = ChunkPlace(digest(at // 64), at * 4_000_000 % (1 << 24), 4_194_320, b"m" * 16)
        batch.chunks.append((bytes(Digest.of(b"chunk" + at.to_bytes(4))), place))
    file.write(batch)
    file._db.execute("VACUUM")
    pages = number("PRAGMA page_count")
    index_pages = number("SELECT count(*) FROM dbstat WHERE name = 'chunks'")
    assert index_pages * 4096 / count <= 72  # 64 bytes and the pages' own
    assert (pages - empty) * 4096 / count <= 110
    file.close()


async def test_an_index_for_unsent_puts_knows_places_and_forgets_them_with_the_one_below(tmp_path: Path) -> None:
    below = await open_index(tmp_path)
    unsent, pack = UnsentIndex(below), Digest.of(b"pack")
    node = NodeRow(Id(bytes(32)), "n", "http://n")
    batch = Batch()
    batch.nodes[node.id], batch.packs[pack] = node, (1, [node.id])
    await unsent.later(batch)
    assert await unsent.places([pack]) == {pack: [node]}
    await unsent.forget_packs([pack])
    assert not (await below.places([pack])).get(pack)
    await below.close()
