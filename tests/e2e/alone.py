"""Nodes without a coordinator, each a real process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from holdfast import assemble
from holdfast.blob import Digest
from holdfast.errors import HoldfastError, NotFound
from holdfast.peers import manifest as manifests

START_S = 60


class Node:
    """A node of its own as a process."""

    def __init__(self, data: Path, port: int, *arguments: str) -> None:
        self.data = data
        self.url = f"http://127.0.0.1:{port}"
        self._arguments = ["--data", str(data), "--listen", f"127.0.0.1:{port}", "--open-read", *arguments]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log = self.data.with_suffix(".log")
        with log.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "holdfast", "node", "run", *self._arguments,
                stdin=asyncio.subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(HoldfastError):
                    async with self.client() as client:
                        await client.node.peers()
                    return
                assert self._process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[assemble.ExchangeClient]:
        async with assemble.open_exchange(node=self.url, data=self.data) as opened:
            yield opened


async def check(node: Node, name: str) -> bool:
    """Is the manifest there? If so all its blobs are here, and right."""
    async with node.client() as client:
        try:
            data = await client.node.manifest(name)
        except NotFound:
            return False
        wanted = sorted(manifests.decode(data, name).digests())
        assert await client.node.has(wanted) == set(wanted), "a manifest was saved whose blobs are not all here"
        for digest in wanted:
            async with client.node.read(digest) as body:
                assert Digest.of(b"".join([bytes(piece) async for piece in body])) == digest
    return True
