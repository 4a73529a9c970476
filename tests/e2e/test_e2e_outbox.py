"""Real processes: the coordinator is killed, the command line queues, reads back, delivers; another device reads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast import assemble
from holdfast.cli.local_network import LocalNetwork


class Shell:
    """The command line of one home."""

    def __init__(self, network: LocalNetwork, home: Path) -> None:
        self._environment = {**os.environ, **network.variables, "HOLDFAST_HOME": str(home)}

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", *words, env=self._environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        """(exit code, stdout, stderr)."""
        process = await self.start(*words)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out, err.decode()

    async def rows(self, *words: str) -> list[dict[str, Any]]:
        _, out, _ = await self(*words, "--json")
        return [json.loads(line) for line in out.splitlines()]


async def second_home(network: LocalNetwork, path: Path) -> Path:
    async with await assemble.open_network(network.home) as view:
        invite = await view.invite("user")
    words = " ".join(assemble.recovery_words(network.home, lambda: None))
    await assemble.init_home(path, join=invite, words=words)
    return path


@pytest.mark.timeout(300)
async def test_written_while_the_coordinator_is_dead(tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/big").write_bytes(data)
    (tmp_path / "notes/small").write_bytes(b"small")
    async with LocalNetwork(tmp_path / "net", nodes=3, survive=1) as network:
        mine = Shell(network, network.home)
        other = Shell(network, await second_home(network, tmp_path / "second"))
        assert (await mine("put", "-", "--as", "both", stdin=b"base"))[0] == 0
        assert (await other("cat", "both"))[1] == b"base"
        await network.kill(network.coordinator)

        code, out, err = await mine("put", str(tmp_path / "notes"))
        assert (code, out) == (75, b"")
        assert err.count("queued in the outbox, because the coordinator does not answer") == 1
        assert (await mine("put", "-", "--as", "both", "--no-queue", stdin=b"x"))[0] == 1
        assert (await mine("put", "-", "--as", "both", "--offline", stdin=b"mine"))[0] == 75
        assert (await mine("cat", "notes/big"))[1] == data
        assert (await mine("get", "notes", "-o", str(tmp_path / "back")))[0] == 0
        assert (tmp_path / "back/big").read_bytes() == data
        listed = {row["name"]: row for row in await mine.rows("ls", "-R") if row["event"] == "entry"}
        assert set(listed) == {"both", "notes", "notes/big", "notes/small"}
        assert all(row["queued"] for row in listed.values())
        seen = (await other.rows("stat", "both"))[0]
        assert seen["last_seen"] > 0, "another device says when it saw it last"
        code, _, err = await mine("outbox", "flush")
        assert (code, "still to be delivered" in err) == (75, True)

        await network.restart(network.coordinator)
        await wait_up(network)
        assert (await other("put", "-", "--as", "both", stdin=b"theirs"))[0] == 0
        assert (await mine.rows("status"))[0]["outbox"]["waiting"] == 4
        code, _, err = await mine("outbox", "flush")
        assert code == 8, err
        assert (await other("cat", "notes/big"))[1] == data
        assert (await other("cat", "notes/small"))[1] == b"small"
        assert (await other("cat", "both"))[1] == b"theirs", "nothing was overwritten"

        (conflict,) = [row for row in await mine.rows("outbox", "ls") if row["event"] == "entry"]
        assert conflict["state"] == "conflict"
        number = str(conflict["id"])
        assert (await mine("outbox", "show", number, "--save", str(tmp_path / "sides")))[0] == 0
        assert (tmp_path / "sides/mine-both").read_bytes() == b"mine"
        assert (tmp_path / "sides/theirs-both").read_bytes() == b"theirs"
        code, _, err = await mine("outbox", "resolve", number, "--keep", "both")
        assert code == 0, err
        names = [row["name"] for row in await other.rows("ls") if row["event"] == "entry"]
        (kept,) = [name for name in names if name.startswith("both (conflict ")]
        assert (await other("cat", kept))[1] == b"mine"
        assert (await other("cat", "both"))[1] == b"theirs"
        assert (await mine.rows("status"))[0]["outbox"] == {
            "waiting": 0, "conflict": 0, "rejected": 0, "abandoned": 0, "damaged": 0, "oldest_s": None,
        }  # fmt: skip


async def test_a_watching_process_delivers_and_ends_on_sigterm(tmp_path: Path) -> None:
    async with LocalNetwork(tmp_path / "net", nodes=3, survive=1) as network:
        shell = Shell(network, network.home)
        assert (await shell("put", "-", "--as", "a", "--offline", stdin=b"queued"))[0] == 75
        watcher = await shell.start("outbox", "flush", "--watch")
        async with asyncio.timeout(60):
            while any(row["event"] == "entry" for row in await shell.rows("outbox", "ls")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        watcher.send_signal(signal.SIGTERM)
        assert await watcher.wait() == 0
        code, out, err = await shell("cat", "--fresh", "a")
        assert (code, out) == (0, b"queued"), err


async def wait_up(network: LocalNetwork) -> None:
    async with await assemble.open_network(network.home) as view, asyncio.timeout(60):
        while sum(node.state == "up" for node in await view.nodes()) < 3:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
