"""peers, manifest, blob and fetch as a person uses them, against nodes that run here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.node.street import Home, Street, street

from holdfast.blob import Digest


@pytest.fixture
async def row(tmp_path: Path) -> AsyncIterator[Street]:
    async with street(tmp_path / "nodes") as made:
        await made.build(2)
        await made.acquaint()
        yield made


async def holdfast(home: Home, *arguments: str | Path, code: int = 0) -> str:
    """Runs a verb as the node in ``home``; its stdout."""
    environment = os.environ | {"HOLDFAST_HOME": str(home.street.path / "no-home")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast", *map(str, arguments), "--node", home.running.url, "--data", str(home.path),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err
    return out.decode()


async def document(home: Home, *arguments: str | Path) -> Any:
    return json.loads(await holdfast(home, *arguments, "--json"))


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "tool").write_bytes(os.urandom(300_000))
    (made / "bin" / "tool").chmod(0o755)
    (made / "README").write_bytes(b"read me")
    (made / "copy").write_bytes(b"read me")
    return made


async def test_push_list_sync_and_the_choice_between_two(row: Street, source: Path, tmp_path: Path) -> None:
    here, there = row.homes
    pushed = await document(here, "manifest", "push", source, "--as", "tools")
    assert (pushed["entries"], pushed["blobs"], pushed["sent"]) == (3, 2, 2)
    (listed,) = (await document(there, "manifest", "ls"))["manifests"]
    assert (listed["name"], listed["etag"], [by["name"] for by in listed["holders"]]) == (
        "tools", pushed["etag"], ["house0"],
    )  # fmt: skip
    # its files in a directory, through the other node; again, nothing is missing
    out = tmp_path / "out"
    first = await document(there, "manifest", "sync", "tools", "--to", out)
    assert (first["brought"], first["etag"]) == (3, pushed["etag"])
    assert tree(out) == tree(source)
    assert (out / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    (out / "README").write_bytes(b"damaged")
    assert (await document(there, "manifest", "sync", "tools", "--to", out))["brought"] == 1
    assert tree(out) == tree(source)
    # to the other node
    assert (await document(there, "manifest", "sync", "tools"))["etag"] == pushed["etag"]
    (listed,) = (await document(there, "manifest", "ls"))["manifests"]
    assert len(listed["holders"]) == 2
    # two different ones
    (source / "new").write_bytes(b"new")
    changed = await document(there, "manifest", "push", source, "--as", "tools")
    assert changed["sent"] == 1
    await holdfast(here, "manifest", "sync", "tools", code=8)
    assert (await document(here, "manifest", "sync", "tools", "--from", "house1"))["etag"] == changed["etag"]
    stored = await holdfast(here, "manifest", "show", "tools")
    assert Digest.of(stored.rstrip("\n").encode()) == Digest.parse(changed["etag"])
    await holdfast(here, "manifest", "rm", "tools", "--if-match", pushed["etag"], code=8)
    await holdfast(here, "manifest", "rm", "tools")
    await holdfast(here, "manifest", "rm", "tools", code=4)


async def test_nothing_is_written_through_a_planted_link(row: Street, source: Path, tmp_path: Path) -> None:
    here, _ = row.homes
    await holdfast(here, "manifest", "push", source, "--as", "tools")
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "bin").symlink_to(outside)
    (out / "README").symlink_to(outside / "README")
    await holdfast(here, "manifest", "sync", "tools", "--to", out, code=3)
    assert list(outside.iterdir()) == []
    assert (out / "README").read_bytes() == b"read me"
    assert not (out / "README").is_symlink()


async def test_a_link_is_not_pushed(row: Street, source: Path) -> None:
    (source / "link").symlink_to("/etc/passwd")
    await holdfast(row.homes[0], "manifest", "push", source, "--as", "tools", code=1)


async def test_blobs_and_fetch(row: Street, tmp_path: Path) -> None:
    here, there = row.homes
    data = os.urandom(2_000_000)
    file = tmp_path / "file"
    file.write_bytes(data)
    digest = (await holdfast(here, "blob", "put", file)).strip()
    assert digest == str(Digest.of(data))
    assert (await document(there, "blob", "where", digest))["peers"][0]["name"] == "house0"
    await holdfast(there, "blob", "has", digest, code=4)
    assert (await document(there, "blob", "has", "--cluster", digest))["has"] == {digest: True}
    await holdfast(there, "blob", "has", "--cluster", digest, "0" * 64, code=4)
    out = tmp_path / "got"
    await holdfast(there, "blob", "get", digest, "-o", out)
    assert out.read_bytes() == data
    assert (await document(here, "blob", "where", digest))["local"] is True
    # fetch: by the node while it has the blob, else from the URL itself
    row.cdn.blobs[Digest.of(b"only there")] = b"only there"
    for wanted, by in ((Digest.of(data), "the node"), (Digest.of(b"only there"), "the URL")):
        out = tmp_path / str(wanted)
        found = await document(there, "fetch", f"{row.cdn.url}/{wanted}", "--sha256", str(wanted), "-o", out)
        assert found["by"] == by
        assert Digest.of(out.read_bytes()) == wanted
    row.cdn.blobs[Digest.of(b"right")] = b"wrong"
    wrong = tmp_path / "wrong"
    await holdfast(
        there,
        "fetch",
        f"{row.cdn.url}/{Digest.of(b'right')}",
        "--sha256",
        str(Digest.of(b"right")),
        "-o",
        wrong,
        code=6,
    )
    assert not wrong.exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


async def test_a_node_that_is_away_is_75_and_one_sentence(row: Street, source: Path) -> None:
    here, there = row.homes
    there.authorize((here.id, "read,write,delete,peer"))
    address = f"{there.id}@{there.running.url}"
    await there.stop()
    for verb in (
        ["blob", "put", source / "README"],
        ["manifest", "push", source, "--as", "tools"],
        ["manifest", "rm", "tools"],
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", *map(str, verb), "--node", address, "--data", str(here.path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
        assert process.returncode == 75, err.decode()
        assert b"waits in the outbox" in err
        assert b"Traceback" not in err
    assert here.running.outbox is not None
    async with asyncio.timeout(30):  # two blobs, a manifest and its removal; a new outbox is seen in a while
        while here.running.outbox.waiting != 4:
            await here.running.outbox.unit()
            await asyncio.sleep(0.05)
    assert b'holdfast_outbox_entries{state="waiting"}' in here.running.service.metrics.text()


async def test_peers(row: Street) -> None:
    here, there = row.homes
    found = await document(here, "peers", "--stats")
    (peer,) = found["peers"]
    assert (peer["name"], peer["id"], peer["healthy"]) == ("house1", str(there.id), True)
    assert found["stats"]["nodes"] == {"total": 2, "healthy": 2}
    assert "house1" in await holdfast(here, "peers", "--stats")
