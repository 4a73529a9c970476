"""Manifests on a node: one form, one etag, preconditions, all blobs or nothing, and what survives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.node.street import READER, WRITER, Home, Street, manifest_of, street

from holdfast.blob import Digest
from holdfast.errors import BadRequest, Conflict, Denied, HoldfastError, NotFound, PacksGone, TooLarge
from holdfast.wire import exchange_messages as x
from holdfast.wire import routes

FILES = {"bin/tool": b"tool" * 1000, "README": b"read me", "empty": b""}


@pytest.fixture
async def row(tmp_path: Path) -> AsyncIterator[Street]:
    async with street(tmp_path) as made:
        yield made


async def push(row: Street, home: Home, name: str, files: dict[str, bytes], **headers: str) -> x.ManifestSaved:
    for data in files.values():
        await row.put(home, data)
    return await put(row, home, name, manifest_of(name, files), **headers)


async def put(row: Street, home: Home, name: str, data: bytes, **headers: str) -> x.ManifestSaved:
    return await row.client(WRITER).call(
        home.target, routes.MANIFEST_PUT, msgspec.Raw(data), path={"ref": name},
        headers={key.replace("_", "-"): value for key, value in headers.items()},
    )  # fmt: skip


async def get(row: Street, home: Home, name: str, **query: Any) -> bytes:
    found = await row.client().call(home.target, routes.MANIFEST_GET, x.ManifestFrom(**query), path={"ref": name})
    return bytes(found)


async def listed(row: Street, home: Home, **query: Any) -> list[x.ManifestInfo]:
    return (await row.client().call(home.target, routes.MANIFESTS, x.ManifestQuery(**query))).manifests


async def test_what_was_pushed_is_listed_and_comes_back(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    saved = await push(row, here, "tools", FILES)
    stored = manifest_of("tools", FILES)
    assert saved == x.ManifestSaved(etag=Digest.of(stored), new=True)
    assert await get(row, here, "tools") == stored
    (info,) = await listed(row, here)
    assert (info.name, info.etag, info.entries, info.blobs, info.stored) == ("tools", saved.etag, 3, 3, 4007)
    again = await put(row, here, "tools", stored)
    assert again == x.ManifestSaved(etag=saved.etag, new=False)


async def test_any_form_is_stored_in_the_one_form(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    for data in FILES.values():
        await row.put(here, data)
    plain = {path: str(Digest.of(data)) for path, data in reversed(FILES.items())}
    loose = json.dumps({"objects": plain, "version": 1, "name": "tools"}, indent=2).encode()
    saved = await put(row, here, "tools", loose)
    assert await get(row, here, "tools") == manifest_of("tools", FILES)
    assert saved.etag == Digest.of(manifest_of("tools", FILES))


async def test_it_is_saved_only_when_all_its_blobs_are_here(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    await row.put(here, FILES["README"])
    with pytest.raises(PacksGone) as caught:
        await put(row, here, "tools", manifest_of("tools", FILES))
    missing = {str(Digest.of(data)) for path, data in FILES.items() if path != "README"}
    assert set(caught.value.extra["packs"]) == missing
    with pytest.raises(NotFound):
        await get(row, here, "tools")
    assert here.running.ledger.shared["cache"][0] == 1, "what no manifest names is only cache"


async def test_preconditions(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    first = await push(row, here, "tools", FILES, if_none_match="*")
    changed = FILES | {"README": b"read me again"}
    with pytest.raises(Conflict) as caught:
        await push(row, here, "tools", changed, if_none_match="*")
    assert caught.value.extra["etag"] == str(first.etag)
    with pytest.raises(Conflict):
        await push(row, here, "tools", changed, if_match=f'"{Digest.of(b"other")}"')
    with pytest.raises(Conflict):
        await push(row, here, "tools", changed, if_unmodified_since="Sat, 01 Jan 2000 00:00:00 GMT")
    second = await push(row, here, "tools", changed, if_match=f'"{first.etag}"')
    assert not second.new
    with pytest.raises(Conflict):
        await push(row, here, "tools", FILES, if_match=f'"{first.etag}"')
    with pytest.raises(Conflict):
        await push(row, here, "others", FILES, if_match="*")
    with pytest.raises(BadRequest):
        await push(row, here, "tools", FILES, if_match="weak")
    client, path = row.client(WRITER), {"ref": "tools"}
    with pytest.raises(Conflict):
        await client.call(here.target, routes.MANIFEST_DELETE, path=path, headers={"if-match": f'"{first.etag}"'})
    await client.call(here.target, routes.MANIFEST_DELETE, path=path, headers={"if-match": f'"{second.etag}"'})
    with pytest.raises(NotFound):
        await get(row, here, "tools")


async def test_blobs_stay_while_any_manifest_names_them(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    await push(row, here, "tools", FILES)
    await push(row, here, "docs", {"README": FILES["README"]})
    shared = here.running.ledger.shared
    assert shared["manifest"] == (3, 4007)
    await push(row, here, "tools", {"new": b"new"})
    assert shared["manifest"] == (2, 10)
    assert shared["cache"] == (2, 4000)
    await row.client(WRITER).call(here.target, routes.MANIFEST_DELETE, path={"ref": "docs"})
    assert shared["manifest"] == (1, 3)


async def test_they_survive_a_restart_and_a_lost_ledger(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    saved = await push(row, here, "tools", FILES)
    for lose in (False, True):
        await here.stop()
        if lose:
            for file in here.path.glob("ledger.db*"):
                file.unlink()
        await here.start()
        (info,) = await listed(row, here)
        assert info.etag == saved.etag
        while here.running.ledger.shared.get("manifest") != (3, 4007):  # noqa: ASYNC110 - a real network
            await asyncio.sleep(0.01)
        for data in FILES.values():
            assert await row.get(here, Digest.of(data)) == data


async def test_a_damaged_file_is_not_served_and_stays(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    await push(row, here, "tools", FILES)
    file = here.path / "manifests" / "tools.json"
    assert file.stat().st_mode & 0o777 == 0o600
    await here.stop()
    file.write_bytes(file.read_bytes()[:-5])
    await here.start()
    with pytest.raises(NotFound):
        await get(row, here, "tools")
    assert file.exists()


async def test_over_the_cluster_unique_with_holders(row: Street) -> None:
    here, there, third = await row.build(3)
    await row.acquaint()
    for home in (here, there):
        await push(row, home, "tools", FILES)
    await push(row, third, "tools", {"other": b"other"})
    await push(row, third, "only", {"x": b"x"})
    rows = await listed(row, here, cluster=True)
    found = sorted((info.name, sorted(holder.name for holder in info.holders)) for info in rows)
    assert found == [("only", ["house2"]), ("tools", ["house0", "house1"]), ("tools", ["house2"])]
    assert await get(row, here, "tools", node=third.id) == manifest_of("tools", {"other": b"other"})
    stats = await row.client().call(here.target, routes.STATS)
    assert stats.manifests == x.Tally(total=4, unique=3)
    await third.stop()
    await here.check_peers()
    answer = await row.client().call(here.target, routes.MANIFESTS, x.ManifestQuery(cluster=True))
    assert [holder.name for holder in answer.silent] == ["house2"]


async def test_rights(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    await push(row, here, "tools", FILES)
    reader = row.client(READER)
    with pytest.raises(Denied):
        await reader.call(
            here.target, routes.MANIFEST_PUT, msgspec.Raw(manifest_of("tools", {})), path={"ref": "tools"}
        )
    with pytest.raises(Denied):
        await reader.call(here.target, routes.MANIFEST_DELETE, path={"ref": "tools"})


DIGEST = str(Digest.of(b""))
WRONG: dict[str, Any] = {
    "no json": b"{",
    "html": b"<html>",
    "a list": b"[]",
    "another name": {"version": 1, "name": "other", "objects": {}},
    "another version": {"version": 2, "name": "tools", "objects": {}},
    "true version": {"version": True, "name": "tools", "objects": {}},
    "a field more": {"version": 1, "name": "tools", "objects": {}, "more": 1},
    "no digest": {"version": 1, "name": "tools", "objects": {"a": "abc"}},
    "upper case": {"version": 1, "name": "tools", "objects": {"a": DIGEST.upper()}},
    "a negative size": {"version": 1, "name": "tools", "objects": {"a": {"digest": DIGEST, "size": -1}}},
    "another size": {"version": 1, "name": "tools", "objects": {"a": {"digest": DIGEST, "size": 1}}},
    "a strange mode": {"version": 1, "name": "tools", "objects": {"a": {"digest": DIGEST, "size": 0, "mode": 0o10000}}},
    "traversal": {"version": 1, "name": "tools", "objects": {"../a": DIGEST}},
    "absolute": {"version": 1, "name": "tools", "objects": {"/etc/passwd": DIGEST}},
    "inner dots": {"version": 1, "name": "tools", "objects": {"a/../../b": DIGEST}},
    "empty path": {"version": 1, "name": "tools", "objects": {"": DIGEST}},
    "control": {"version": 1, "name": "tools", "objects": {"a\nb": DIGEST}},
    "a file that is a directory": {"version": 1, "name": "tools", "objects": {"a": DIGEST, "a/b": DIGEST}},
    "decomposed": {"version": 1, "name": "tools", "objects": {"e\u0301": DIGEST}},
    "a key twice": b'{"version":1,"version":1,"name":"tools","objects":{}}',
    "deep": b"[" * 100_000,
    "nan": b'{"version":NaN,"name":"tools","objects":{}}',
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_manifest_is_refused(row: Street, name: str) -> None:
    (here,) = await row.build(1)
    await here.start()
    await row.put(here, b"")
    data = WRONG[name] if isinstance(WRONG[name], bytes) else json.dumps(WRONG[name]).encode()
    with pytest.raises(BadRequest):
        await put(row, here, "tools", data)
    assert list((here.path / "manifests").glob("*")) == []


async def test_limits(row: Street) -> None:
    (here,) = await row.build(1)
    await here.start()
    many = {f"f{number}": DIGEST for number in range(100_001)}
    with pytest.raises(TooLarge):
        await put(row, here, "tools", json.dumps({"version": 1, "name": "tools", "objects": many}).encode())
    with pytest.raises(TooLarge):
        await put(row, here, "tools", b" " * ((32 << 20) + 1))


@pytest.mark.parametrize("name", ["Tools", "..", ".hidden", "a" * 129, "a%2fb", "ä", "-a", "a b"])
async def test_a_wrong_name_is_refused(row: Street, name: str) -> None:
    (here,) = await row.build(1)
    await here.start()
    with pytest.raises(HoldfastError):
        await get(row, here, name)
    with pytest.raises(HoldfastError):
        await put(row, here, name, manifest_of("tools", {}))


async def test_who_holds_it_already_gets_no_body(row: Street) -> None:
    (home,) = await row.build(1)
    await home.start()
    etag = (await push(row, home, "tools", FILES)).etag
    other = Digest.of(b"another one")
    for field, status in ((f'"{etag}"', 304), (f'"{other}", "{etag}"', 304), ("*", 304), (f'"{other}"', 200)):
        answer = await row.client().exchange(
            home.target, "GET", "/v1/manifests/tools", headers={"if-none-match": field}
        )
        assert answer.status == status
        assert answer.headers["etag"] == f'"{etag}"'
        assert bool(answer.body) == (status == 200)
    answer = await row.client().exchange(home.target, "GET", "/v1/manifests/tools", headers={"if-none-match": "x"})
    assert answer.status == 400
