"""Bazel's remote cache over HTTP: requests as Bazel writes them, and ccache as a client of flesh and blood."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast import assemble
from holdfast.blob import Digest
from holdfast.config import Config
from holdfast.errors import BadConfig
from holdfast.gateway.action_keys import FILE_NAME, ActionKeys
from holdfast.pool import InlinePool

KEY = "7f" * 32
TOKEN = {"HOLDFAST_BUILD_CACHE_TOKEN": "secret"}


@asynccontextmanager
async def node(path: Path, *, environment: Mapping[str, str] | None = None, **flags: Any) -> AsyncIterator[Any]:
    """A node that serves a build cache; its ``Running``."""
    if not path.exists():
        await assemble.init_node(path, join=None, name=path.name)
    before = {name: os.environ.get(name) for name in environment or {}}
    os.environ.update(environment or {})
    try:
        config = Config.load(path / "no-home", environment={}, flags={"build_cache": True} | flags)
        running = await assemble.make_node(path, config, listen=("127.0.0.1", 0))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


async def bazel(running: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """One request, byte for byte as Bazel's HTTP client writes it."""
    host, _, port = running.url.removeprefix("http://").rpartition(":")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: */*"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    else:
        lines.append("Accept-Encoding: gzip")
    lines += ["Connection: keep-alive", "User-Agent: bazel/release 7.4.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b""))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split()[1])
        size = int(head.partition("content-length: ")[2].split()[0])
        assert "transfer-encoding" not in head
        return status, b"" if method == "HEAD" else await reader.readexactly(size)
    finally:
        writer.close()


async def test_blobs_and_keys_come_back(tmp_path: Path) -> None:
    async with node(tmp_path / "node") as running:
        for size in (0, 5, 100_000, 3_000_000):
            data = os.urandom(size)
            where = f"/cas/{Digest.of(data)}"
            assert (await bazel(running, "GET", where))[0] == 404
            assert (await bazel(running, "PUT", where, data))[0] == 201
            assert (await bazel(running, "PUT", where, data))[0] == 201
            assert await bazel(running, "GET", where) == (200, data)
            assert await bazel(running, "HEAD", where) == (200, b"")
        where = f"/ac/{KEY}"
        assert (await bazel(running, "GET", where))[0] == 404
        for value in (b"first", b"second", os.urandom(200_000)):
            assert (await bazel(running, "PUT", where, value))[0] == 201
            assert await bazel(running, "GET", where) == (200, value)
    async with node(tmp_path / "node") as running:
        assert await bazel(running, "GET", where) == (200, value)
        assert (await bazel(running, "DELETE", where))[0] == 200
        assert (await bazel(running, "GET", where))[0] == 404


async def test_what_is_wrong_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    data = os.urandom(70_000)
    where = f"/cas/{Digest.of(data)}"
    async with node(tmp_path / "node") as running:
        assert (await bazel(running, "PUT", where, data[:-1] + b"x"))[0] == 400
        assert (await bazel(running, "GET", where))[0] == 404
        for path in ("/cas/abc", "/cas/..%2F..%2Fnode.json", f"/cas/{'G' * 64}", "/ac/" + "a" * 129, "/ac/a%2Fb"):
            assert (await bazel(running, "GET", path))[0] == 400, path
            assert (await bazel(running, "PUT", path, b"x"))[0] == 400, path
        assert (await bazel(running, "GET", "/ac/../node.json"))[0] == 404
        assert (await bazel(running, "POST", where, data))[0] == 400


@pytest.mark.parametrize("open_read", [False, True])
async def test_a_token_guards_it(tmp_path: Path, open_read: bool) -> None:
    data = b"object file"
    where = f"/cas/{Digest.of(data)}"
    right = base64.b64encode(b"anybody:secret").decode()
    async with node(tmp_path / "node", environment=TOKEN, open_read=open_read) as running:
        for path in (where, f"/ac/{KEY}"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic ?"}):
                assert (await bazel(running, "PUT", path, data, **headers))[0] == 401
            assert (await bazel(running, "PUT", path, data, Authorization=f"Basic {right}"))[0] == 201
            assert (await bazel(running, "GET", path))[0] == (200 if open_read else 401)
            assert await bazel(running, "GET", path, Authorization="Bearer secret") == (200, data)


async def test_without_a_token_it_is_served_on_loopback_only(tmp_path: Path) -> None:
    await assemble.init_node(tmp_path / "node", join=None, name="node")
    config = Config.load(tmp_path / "no-home", environment={}, flags={"build_cache": True, "advertise": "http://h:1"})
    with pytest.raises(BadConfig, match="token"):
        await assemble.make_node(tmp_path / "node", config, listen=("0.0.0.0", 7420))
    async with node(tmp_path / "node", build_cache=False) as running:
        assert (await bazel(running, "GET", f"/ac/{KEY}"))[0] == 404


async def test_a_value_that_had_to_make_room_is_a_miss(tmp_path: Path) -> None:
    async with node(tmp_path / "node", cache=150_000) as running:
        for number in range(3):
            assert (await bazel(running, "PUT", f"/ac/{number}", os.urandom(100_000)))[0] == 201
        assert [(await bazel(running, "GET", f"/ac/{number}"))[0] for number in range(3)] == [404, 404, 200]
        assert (await bazel(running, "PUT", "/ac/large", os.urandom(200_000)))[0] == 507


async def test_blobs_of_a_neighbour_are_found(tmp_path: Path) -> None:
    data = os.urandom(500_000)
    where = f"/cas/{Digest.of(data)}"
    async with node(tmp_path / "one", open_read=True) as one:
        await bazel(one, "PUT", where, data)
        async with node(tmp_path / "two", peer=(one.url,)) as two:
            await two.app.exchange.exchange.unit()
            assert await bazel(two, "GET", where) == (200, data)


async def test_keys_are_bounded_and_begun_anew_when_they_cannot_be_read(tmp_path: Path) -> None:
    from holdfast.files import OsFiles

    digest = Digest.of(b"x")
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    keys = ActionKeys(tmp_path, files=OsFiles(), pool=InlinePool(), limit=3)
    await keys.open()
    for number in range(5):
        await keys.put(str(number), digest)
    assert [await keys.find(str(number)) for number in range(5)] == [None, None, digest, digest, digest]
    assert not await keys.remove("4", Digest.of(b"y"))
    assert await keys.remove("4", digest)
    await keys.close()
    await keys.close()


SOURCE = "int answer(void) { return %d; }\n"


@pytest.mark.rig
@pytest.mark.skipif(
    not (shutil.which("ccache") and shutil.which("cc")), reason="needs ccache (4.4 or newer) and a C compiler"
)
@pytest.mark.parametrize("secret", [False, True])
async def test_ccache_shares_what_it_compiled(tmp_path: Path, secret: bool) -> None:
    """Two machines that share nothing but the node: the second compiles nothing."""
    sources = []
    for number in range(5):
        source = tmp_path / f"part{number}.c"
        source.write_text(SOURCE % number)
        sources.append(source)

    async def compile_all(machine: str, url: str) -> tuple[dict[str, int], list[bytes]]:
        home = tmp_path / machine
        home.mkdir()
        bearer = "|bearer-token=secret" if secret else ""
        environment = os.environ | {
            "CCACHE_DIR": str(home), "CCACHE_REMOTE_STORAGE": f"{url}|layout=bazel{bearer}", "CCACHE_NODIRECT": "1",
        }  # fmt: skip

        async def run(*arguments: str) -> str:
            process = await asyncio.create_subprocess_exec(
                *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, err = await process.communicate()
            assert process.returncode == 0, err.decode()
            return out.decode()

        for source in sources:
            await run("ccache", "cc", "-c", str(source), "-o", str(home / f"{source.stem}.o"))
        rows = [line.split("\t") for line in (await run("ccache", "--print-stats")).splitlines()]
        return {name: int(value) for name, value in rows}, [
            (home / f"{source.stem}.o").read_bytes() for source in sources
        ]

    async with node(tmp_path / "node", environment=TOKEN if secret else {}) as running:
        _, first = await compile_all("one", running.url)
        counts, second = await compile_all("two", running.url)
    assert first == second
    assert counts["cache_miss"] == 0
    hits = counts.get("remote_storage_hit", counts.get("secondary_storage_hit", 0))
    assert hits >= len(sources)
    assert counts.get("remote_storage_error", 0) == 0
