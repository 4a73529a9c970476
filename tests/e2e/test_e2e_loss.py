"""Real processes: coordinator.db is deleted, made again from the nodes by the command, and everything is there."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from holdfast import assemble
from holdfast.cli.local_network import LocalNetwork
from holdfast.sdk import Vault


async def holdfast(network: LocalNetwork, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "holdfast", "--json", "--no-input", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.timeout(180)
async def test_a_deleted_database_is_made_again(tmp_path: Path) -> None:
    settings = {"reflog_interval": "1s"}
    async with LocalNetwork(tmp_path / "net", nodes=4, survive=1, settings=settings) as network:
        data = network.coordinator.data
        async with await Vault.open(network.home) as vault:
            for number in range(10):
                await vault.put(b"%d" % number * 1000, f"file-{number}")
            log = network.directory / "logs" / "coordinator.log"
            while "reflog_written" not in log.read_text():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.1)
            await vault.put(b"newest", "newest")
        code, out, err = await holdfast(
            network, "coordinator", "backup", "--data", str(data), "-o", str(tmp_path / "backup")
        )
        assert code == 0, err
        assert json.loads(out)["id"] == network.coordinator.id
        await network.kill(network.coordinator)
        for path in data.glob("coordinator.db*"):
            path.unlink()
        code, _, err = await holdfast(
            network, "coordinator", "rebuild", "--data", str(data), "--nodes", "http://127.0.0.1:1"
        )
        assert code == 1
        assert "no node answers" in json.loads(err)["error"]["detail"]
        urls = ",".join(node.url for node in network.nodes[:3])  # one of them has the reflog, which lies on two
        code, out, err = await holdfast(network, "coordinator", "rebuild", "--data", str(data), "--nodes", urls)
        assert code == 0, err
        made = json.loads(out)
        assert made["nodes"] == 4
        assert made["epoch"] == 2
        await network.restart(network.coordinator)
        async with await Vault.open(network.home) as vault:
            for number in range(10):
                assert await vault.read(f"file-{number}") == b"%d" % number * 1000
            assert await vault.read("newest") == b"newest"
            await vault.put(b"goes on", "newest")
        words = " ".join(assemble.recovery_words(network.home, lambda: None))
        home = tmp_path / "new"
        await assemble.init_home(home, join=made["invites"]["operator"], words=words)
        async with await Vault.open(home) as vault:
            assert await vault.read("newest") == b"goes on"
            assert len([entry async for entry in vault.list()]) == 11
        code, out, err = await holdfast(network, "coordinator", "recover", "--data", str(data))
        assert code != 0, "a running coordinator holds its directory"
        await network.kill(network.coordinator)
        code, out, err = await holdfast(network, "coordinator", "recover", "--data", str(data))
        assert code == 0, err
        assert json.loads(out)["changed"] is False
        code, out, err = await holdfast(
            network, "coordinator", "restore", str(tmp_path / "backup"), "--data", str(tmp_path / "other")
        )
        assert code == 0, err
        assert json.loads(out)["id"] == network.coordinator.id
