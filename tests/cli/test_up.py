"""``holdfast up`` for real: processes, a file in and out, one killed, all ended by SIGTERM, and the same again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[bytes]]

CONTENT = bytes(range(256)) * 5000


class Network:
    """One ``holdfast up`` and the verbs against its home."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.members: list[dict[str, Any]] = []

    def start(self, *flags: str) -> None:
        command = [sys.executable, "-m", "holdfast", "--json", "up", "--dir", str(self.directory), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end_and_read()
        ready = json.loads(line)
        assert ready["event"] == "ready"
        self.members = ready["members"]

    def end_and_read(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        self.process.terminate()
        said = self.process.stderr.read().decode()
        self.process.wait(40)
        return said

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        code, self.process = self.process.returncode, None
        return code

    def run(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> bytes:
        lines = (self.directory / "env").read_text().splitlines()
        environment = {**os.environ, **dict(line.split("=", 1) for line in lines)}
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=60,
        )
        assert done.returncode == code, (arguments, done.returncode, done.stderr.decode())
        assert b"Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("--json", *arguments).splitlines()[-1])
        return found


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    found = Network(tmp_path / "net")
    yield found
    if found.process is not None:
        found.process.kill()
        found.process.communicate()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.timeout(180)
def test_a_network_on_one_machine(network: Network, tmp_path: Path) -> None:
    network.start("--nodes", "3", "--survive", "1")
    rows = json.loads((network.directory / "network.json").read_text())
    assert [row["role"] for row in rows] == ["coordinator", "node", "node", "node"]
    assert rows == network.members
    assert all(alive(row["pid"]) for row in rows)

    source = tmp_path / "photo.raw"
    source.write_bytes(CONTENT)
    (tmp_path / "album" / "deep").mkdir(parents=True)
    (tmp_path / "album" / "a.txt").write_bytes(b"a")
    (tmp_path / "album" / "deep" / "b.txt").write_bytes(b"bb")
    put = network.json("put", str(source))
    assert put["event"] == "summary"
    assert put["files"] == 1
    network.run("put", "-", "--as", "notes/today.txt", stdin=b"dear diary")
    network.run("put", str(tmp_path / "album"))

    assert network.run("ls").decode().split() == ["album/", "notes/", "photo.raw"]
    assert network.run("ls", "-R", "album").decode().split() == ["a.txt", "deep/", "deep/b.txt"]
    assert b"1.2 MiB" in network.run("ls", "-l", "photo.raw")
    assert network.run("cat", "notes/today.txt") == b"dear diary"
    stat = network.json("stat", "photo.raw")
    assert (stat["size"], stat["kind"], stat["version"]) == (len(CONTENT), "file", 1)

    network.run("get", "photo.raw", "-o", str(tmp_path / "copy.raw"))
    assert (tmp_path / "copy.raw").read_bytes() == CONTENT
    assert b"copy.raw" in network.run("get", "photo.raw", "-o", str(tmp_path / "copy.raw"), code=8)
    network.run("get", "album", "-o", str(tmp_path / "album copy"))
    assert (tmp_path / "album copy" / "deep" / "b.txt").read_bytes() == b"bb"
    assert network.run("get", "photo.raw", "-o", "-") == CONTENT

    status = network.json("status")
    assert status["nodes"] == {"up": 3, "suspect": 0, "down": 0, "out": 0}
    assert status["packs"]["total"] == status["packs"]["healthy"] > 0
    assert {"pending", "running", "failed"} <= set(status["tasks"])
    assert {"waiting", "conflict", "rejected"} <= set(status["outbox"])
    assert b"one disk" in network.run("status")
    assert len(network.json("nodes")["nodes"]) == 3
    assert network.run("policy").decode() == "survive 1\n"
    assert network.run("invite", "node").startswith(b"hf1-")
    assert network.json("doctor")["ok"]

    network.run("cat", "nothing", code=4)
    network.run("put", str(source), "--no-clobber", code=8)
    network.run("put", str(source), "--survive", "3", code=7)
    network.run("put", "/nonexistent", code=4)

    os.kill(network.members[-1]["pid"], signal.SIGKILL)
    assert network.run("cat", "photo.raw") == CONTENT
    assert network.run("rm", "notes/today.txt") == b""
    network.run("cat", "notes/today.txt", code=4)
    network.run("rm", "album", code=8)
    network.run("rm", "-r", "album")
    assert network.run("ls").decode().split() == ["notes/", "photo.raw"]

    pids = [row["pid"] for row in network.members]
    assert network.stop() == 0
    assert not any(alive(pid) for pid in pids)

    network.start()
    assert [row["id"] for row in network.members] == [row["id"] for row in rows]
    assert [row["url"] for row in network.members] == [row["url"] for row in rows]
    assert network.run("cat", "photo.raw") == CONTENT
    pids = [row["pid"] for row in network.members]
    assert network.process is not None
    network.process.kill()  # its children see that it is gone
    network.process.communicate()
    network.process = None
    with subprocess.Popen(["tail", f"--pid={pids[0]}", "-f", "/dev/null"]) as waiting:
        waiting.wait(40)
    assert not alive(pids[0])
