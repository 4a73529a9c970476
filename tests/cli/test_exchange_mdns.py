"""Two processes on one network that were told nothing of each other."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast import assemble
from holdfast.blob import Digest


async def holdfast(*arguments: str | Path) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast", *map(str, arguments), "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out) if out else None


@pytest.mark.rig
@pytest.mark.skipif(importlib.util.find_spec("zeroconf") is None, reason="needs zeroconf: pip install 'holdfast[mdns]'")
async def test_they_find_each_other_and_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "no-home"))
    ports = await assemble.free_ports(2)
    paths = [tmp_path / f"node{port}" for port in ports]
    processes = []
    try:
        for path, port in zip(paths, ports, strict=True):
            await holdfast("node", "init", "--data", path, "--alone", "--name", path.name)
            processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "holdfast", "node", "run", "--data", str(path), "--open-read", "--mdns",
                    "--listen", f"0.0.0.0:{port}",
                    stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                )
            )  # fmt: skip
        for path, port, other in zip(paths, ports, paths[::-1], strict=True):
            async with asyncio.timeout(30):
                while True:
                    try:
                        found = await holdfast("peers", "--node", f"http://127.0.0.1:{port}", "--data", path)
                    except AssertionError:  # it does not listen yet
                        found = {"peers": []}
                    healthy = {peer["name"]: peer["found"] for peer in found["peers"] if peer["healthy"]}
                    if other.name in healthy:
                        assert healthy[other.name] == ["mdns"]
                        break
                    await asyncio.sleep(0.2)
        file = tmp_path / "file"
        file.write_bytes(os.urandom(300_000))
        await holdfast("blob", "put", file, "--node", f"http://127.0.0.1:{ports[0]}", "--data", paths[0])
        out = tmp_path / "out"
        digest = Digest.of(file.read_bytes())
        await holdfast(
            "blob", "get", str(digest), "-o", out, "--node", f"http://127.0.0.1:{ports[1]}", "--data", paths[1]
        )
        assert out.read_bytes() == file.read_bytes()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            assert await process.wait() == 0
