"""Nodes as processes on one bucket of real servers: what is put through one is read through another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.stores.nats_servers import free_ports, needs_nats, running, three_servers
from tests.stores.s3_servers import ENVIRONMENT, moto, needs

from holdfast.blob import Digest
from holdfast.stores import url

pytestmark = pytest.mark.rig


class NodeProcess:
    """One node without a coordinator."""

    def __init__(self, path: Path, store: str) -> None:
        self.path = path
        self.store = store
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, *arguments: str | Path, code: int = 0) -> bytes:
        """A verb; its stdout."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", *map(str, arguments), env=self._environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err
        return out

    async def ask(self, *arguments: str | Path) -> bytes:
        return await self.run(*arguments, "--node", self.url, "--data", self.path)

    async def start(self) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        log = (self.path / "log").open("ab")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", "node", "run", "--data", str(self.path), "--listen", f"127.0.0.1:{port}",
            env=self._environment(), stdout=log, stderr=log,
        )  # fmt: skip
        for _ in range(600):
            assert self._process.returncode is None, (self.path / "log").read_text()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the node does not listen")

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) | dict(ENVIRONMENT) | {"HOLDFAST_HOME": str(self.path / "no-home")}


@contextlib.asynccontextmanager
async def two_nodes(root: Path, store: str) -> AsyncIterator[tuple[NodeProcess, NodeProcess]]:
    nodes = NodeProcess(root / "x", store), NodeProcess(root / "y", store)
    try:
        for node in nodes:
            await node.run("node", "init", "--data", node.path, "--alone", "--store", store)
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.kill()


async def through_one_and_the_other(root: Path, x: NodeProcess, y: NodeProcess) -> list[Digest]:
    """Blobs put through ``x``, which is then killed, and read through ``y``."""
    digests = []
    for size in (100, 70_000, 5_000_000):
        source = root / f"blob-{size}"
        source.write_bytes(os.urandom(size))
        digests.append(Digest.of(source.read_bytes()))
        await x.ask("blob", "put", source)
    (root / "tree").mkdir()
    (root / "tree" / "file").write_bytes(b"in a manifest" * 10_000)
    await x.ask("manifest", "push", root / "tree", "--as", "tree")
    await x.kill()
    for digest in digests:
        found = await y.ask("blob", "get", str(digest))
        assert Digest.of(found) == digest
    return digests


@needs_nats
async def test_a_replicated_bucket_outlives_a_node_and_a_server(tmp_path: Path) -> None:
    with running(three_servers(tmp_path / "servers")) as servers:
        await asyncio.gather(*(server.wait_ready() for server in servers))
        store = f"nats://{','.join(server.address for server in servers)}/blobs?replicas=3"
        async with two_nodes(tmp_path, store) as (x, y):
            digests = await through_one_and_the_other(tmp_path, x, y)
            servers[0].kill()
            for digest in digests:
                assert Digest.of(await y.ask("blob", "get", str(digest))) == digest
            await x.start()  # on the bucket it served before
            for digest in digests:
                assert Digest.of(await x.ask("blob", "get", str(digest))) == digest


@needs("moto_server", "moto[server]")
async def test_s3(tmp_path: Path) -> None:
    with moto(tmp_path) as server:
        async with two_nodes(tmp_path, server.url("shared")) as (x, y):
            await through_one_and_the_other(tmp_path, x, y)
            record = json.loads((y.path / "node.json").read_text())
            assert url.parse(record["store"]) == url.parse(server.url("shared"))


@needs("moto_server", "moto[server]")
async def test_a_store_that_is_another_one_than_last_time_is_refused(tmp_path: Path) -> None:
    with moto(tmp_path) as server:
        node = NodeProcess(tmp_path / "x", server.url("mine"))
        await node.run("node", "init", "--data", node.path, "--alone", "--store", node.store)
        for key in ("mine/holdfast-store", "mine/holdfast-served-by"):
            with contextlib.suppress(server.behind.exceptions.ClientError):
                server.behind.delete_object(Bucket="holdfast-tests", Key=key)
        await node.run("node", "run", "--data", node.path, "--listen", "127.0.0.1:0", code=78)
        await node.run("store", "init", node.store)
        await node.run("node", "run", "--data", node.path, "--listen", "127.0.0.1:0", code=78)
