"""A real nginx with DAV PUT and DELETE as upstream: it knows nothing of us and ignores preconditions on PUT."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.outbox.rigs import body_of

from holdfast.outbox import Outbox, State, http

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

pytestmark = [
    pytest.mark.rig,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (package nginx-light)"),
]

CONFIG = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; user {user};
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi; default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port}; root {dir}/files; client_max_body_size 10m;
    location / {{ dav_methods PUT DELETE MKCOL; create_full_put_path on; }}
    location /login/ {{ return 302 http://127.0.0.1:{port}/; }}
    location /private/ {{
      dav_methods PUT DELETE; create_full_put_path on; if ($http_authorization != "Bearer s3cret") {{ return 401; }}
    }}
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    assert NGINX is not None
    directory, port = tmp_path / "nginx", free_port()
    (directory / "files").mkdir(parents=True)
    user = "root" if os.geteuid() == 0 else "nobody"
    (directory / "conf").write_text(CONFIG.format(dir=directory, port=port, user=user))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-c", str(directory / "conf"), "-p", str(directory), "-e", str(directory / "error.log"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, (directory / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}", directory / "files"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_a_plain_nginx_takes_puts_chains_and_deletes(nginx: tuple[str, Path], tmp_path: Path) -> None:
    url, files = nginx
    async with await Outbox.open(tmp_path / "outbox") as outbox:
        big = os.urandom(3_000_000)
        await outbox.enqueue(http.put(url + "/notes/a.txt", if_absent=True), b"one")
        await outbox.enqueue(http.put(url + "/notes/a.txt", if_absent=True), b"two")
        await outbox.enqueue(http.put(url + "/big", if_absent=True), big)
        await outbox.enqueue(http.put(url + "/gone", if_absent=True), b"x")
        await outbox.enqueue(http.delete(url + "/gone"))
        summary = await outbox.flush()
        assert (summary.delivered, summary.waiting) == (5, 0)
        assert (files / "notes" / "a.txt").read_bytes() == b"two"
        assert (files / "big").read_bytes() == big
        assert not (files / "gone").exists()


async def test_nginx_ignores_preconditions_and_still_nothing_is_overwritten(
    nginx: tuple[str, Path], tmp_path: Path
) -> None:
    url, files = nginx
    (files / "a").write_bytes(b"before")
    os.utime(files / "a", (1_000_000_000, 1_000_000_000))
    async with await Outbox.open(tmp_path / "outbox") as outbox:
        await outbox.enqueue(http.put(url + "/a", if_unmodified_since="Sun, 09 Sep 2001 01:46:40 GMT"), b"one")
        assert (await outbox.flush()).delivered == 1
        await outbox.enqueue(http.put(url + "/a", if_unmodified_since="Sun, 09 Sep 2001 01:46:40 GMT"), b"two")
        assert (await outbox.flush()).delivered == 1, "what changed since then was our own write"
        (files / "a").write_bytes(b"theirs")
        os.utime(files / "a", (2_000_000_000, 2_000_000_000))
        await outbox.enqueue(http.put(url + "/a", if_unmodified_since="Sun, 09 Sep 2001 01:46:40 GMT"), b"three")
        assert (await outbox.flush()).conflicts == 1
        assert (files / "a").read_bytes() == b"theirs"
        (found,) = [entry async for entry in outbox.entries()]
        assert found.theirs is not None
        assert found.theirs.open is not None
        assert b"".join([bytes(piece) async for piece in found.theirs.open()]) == b"theirs"
        assert await body_of(found) == b"three"
        await outbox.resolve(found.sequence, "mine")
        assert (await outbox.flush()).delivered == 1
        assert (files / "a").read_bytes() == b"three"


async def test_refusals_of_nginx_end_as_the_table_says(nginx: tuple[str, Path], tmp_path: Path) -> None:
    url, files = nginx
    token = tmp_path / "token"
    token.write_text("wrong")
    async with await Outbox.open(tmp_path / "outbox") as outbox:
        await outbox.enqueue(http.put(url + "/too-large"), os.urandom(11_000_000))
        await outbox.enqueue(http.put(url + "/login/a"), b"x")
        await outbox.enqueue(http.put(url + "/private/a", token_file=token, if_absent=True), b"secret")
        await outbox.flush()
        for sequence in (2, 3):
            await outbox.retry(sequence)
            await outbox.flush()
        states = {entry.sequence: entry.state async for entry in outbox.entries()}
        assert states == {1: State.REJECTED, 2: State.DEFERRED, 3: State.DEFERRED}
        token.write_text("s3cret")
        await outbox.drop(2)
        await outbox.retry(3)
        assert (await outbox.flush()).delivered == 1
        assert (files / "private" / "a").read_bytes() == b"secret"
