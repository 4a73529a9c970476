"""Real nodes follow a manifest: they have it a moment after a push, and one that was killed meanwhile catches up."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from tests.e2e.alone import START_S, Node, check

from holdfast import assemble
from holdfast.blob import Digest
from holdfast.errors import HoldfastError

NAME = "tools"


async def push(node: Node, tree: Path) -> Digest:
    tree.mkdir(exist_ok=True)
    for file in range(10):
        (tree / f"{file}").write_bytes(os.urandom(50_000))
    async with node.client() as client:
        return (await client.pusher.push(tree, NAME)).etag


async def until_has(node: Node, etag: Digest) -> None:
    """Nobody looks by himself for five minutes, so within one it was a hint, or a start, that made it look."""
    async with asyncio.timeout(START_S), node.client() as client:
        while True:
            with contextlib.suppress(HoldfastError):
                if Digest.of(await client.node.manifest(NAME)) == etag:
                    break
            await asyncio.sleep(0.05)
    assert await check(node, NAME)


@pytest.mark.timeout(300)
async def test_a_push_reaches_all_followers(tmp_path: Path) -> None:
    ports = await assemble.free_ports(3)
    names = [f"node-{number}" for number in range(3)]
    ids = [(await assemble.init_node(tmp_path / name, join=None, name=name)).id for name in names]
    nodes = []
    for number, name in enumerate(names):
        others = [other for other in range(3) if other != number]
        keys = "".join(f"{ids[other]} peer {names[other]}\n" for other in others)
        (tmp_path / name / "authorized_keys").write_text(keys)
        words = [word for other in others for word in ("--peer", f"{ids[other]}@http://127.0.0.1:{ports[other]}")]
        words += ["--follow", NAME] if number else []
        nodes.append(Node(tmp_path / name, ports[number], *words))
    source, near, far = nodes
    try:
        for node in nodes:
            await node.start()
        for _ in range(2):
            etag = await push(source, tmp_path / "tree")
            for node in (near, far):
                await until_has(node, etag)
        await far.kill()
        etag = await push(source, tmp_path / "tree")
        await until_has(near, etag)
        await far.start()
        await until_has(far, etag)
    finally:
        for node in nodes:
            await node.kill()
