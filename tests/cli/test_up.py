"""``holdfast up`` for real: processes, files in and out, one killed, all ended by SIGTERM, and the same again.

The tests of this file share a network but no names; the last one ends it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import blocking
from holdfast.cli import main

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

    @property
    def environment(self) -> dict[str, str]:
        lines = (self.directory / "env").read_text().splitlines()
        return {**os.environ, **dict(line.split("=", 1) for line in lines)}

    def process_of(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A verb in a process of its own."""
        command = [sys.executable, "-m", "holdfast", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, env=self.environment, timeout=60)


@dataclass
class Shell:
    """Verbs in this process, against the network's home: a process for each would take most of the test's time."""

    network: Network
    capture: pytest.CaptureFixture[bytes]

    def __call__(self, *arguments: str, code: int = 0) -> bytes:
        """stdout, or stderr of a failure."""
        self.capture.readouterr()
        found = main.run(list(arguments))
        output = self.capture.readouterr()
        assert found == code, (arguments, found, output.err.decode())
        assert b"Traceback" not in output.err
        return output.out if code == 0 else output.err

    def json(self, *arguments: str) -> dict[str, Any]:
        """The last JSON document."""
        found: dict[str, Any] = json.loads(self("--json", *arguments).splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    found = Network(tmp_path_factory.mktemp("up") / "net")
    found.start("--nodes", "3", "--survive", "1")
    yield found
    if found.process is not None:
        found.process.kill()
        found.process.communicate()


@pytest.fixture
def shell(network: Network, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name, value in network.environment.items():
        monkeypatch.setenv(name, value)
    return Shell(network, capfdbinary)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_says_what_runs(network: Network) -> None:
    rows = json.loads((network.directory / "network.json").read_text())
    assert [row["role"] for row in rows] == ["coordinator", "node", "node", "node"]
    assert rows == network.members
    assert all(alive(row["pid"]) for row in rows)
    assert set(rows[0]) == {"role", "id", "pid", "url", "data"}


def test_files_in_and_out(shell: Shell, network: Network, tmp_path: Path) -> None:
    source = tmp_path / "photo.raw"
    source.write_bytes(CONTENT)
    (tmp_path / "album" / "deep").mkdir(parents=True)
    (tmp_path / "album" / "a.txt").write_bytes(b"a")
    (tmp_path / "album" / "deep" / "b.txt").write_bytes(b"bb")
    put = shell.json("put", str(source))
    assert (put["event"], put["files"], put["bytes"]) == ("summary", 1, len(CONTENT))
    done = network.process_of("put", "-", "--as", "notes/today.txt", "--meta", "mood=fine", stdin=b"dear diary")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    would = shell.json("put", str(tmp_path / "album"), "--dry-run")
    assert (would["files"], would["dry_run"]) == (2, True)
    shell("cat", "album/a.txt", code=4)
    shell("put", str(tmp_path / "album"))
    assert shell.json("put", str(tmp_path / "album"))["unchanged"] >= 2

    assert {"album/", "notes/", "photo.raw"} <= set(shell("ls").decode().split())
    assert shell("ls", "-R", "album").decode().split() == ["a.txt", "deep/", "deep/b.txt"]
    assert b"1.2 MiB" in shell("ls", "-l", "photo.raw")
    assert network.process_of("cat", "notes/today.txt", "album/a.txt").stdout == b"dear diarya"
    stat = shell.json("stat", "photo.raw")
    assert (stat["size"], stat["kind"], stat["version"], stat["survive"]) == (len(CONTENT), "file", 1, 1)
    assert shell.json("stat", "notes/today.txt")["meta"] == {"mood": "fine"}
    assert b"mood" in shell("stat", "notes/today.txt")

    shell("get", "photo.raw", "-o", str(tmp_path / "copy.raw"))
    assert (tmp_path / "copy.raw").read_bytes() == CONTENT
    assert b"copy.raw" in shell("get", "photo.raw", "-o", str(tmp_path / "copy.raw"), code=8)
    shell("get", "photo.raw", "-o", str(tmp_path / "copy.raw"), "--force")
    shell("get", "album", "-o", str(tmp_path / "album copy"))
    assert (tmp_path / "album copy" / "deep" / "b.txt").read_bytes() == b"bb"
    assert shell("get", "photo.raw", "-o", "-") == CONTENT

    source.write_bytes(b"second")
    shell("put", str(source), "--if-match", stat["etag"])
    shell("put", str(source), "--if-match", stat["etag"], "--reread", code=8)
    assert [row["version"] for row in shell.json("log", "photo.raw")["versions"]] == [2, 1]
    assert b"present" in shell("log", "photo.raw")
    assert shell("get", "photo.raw", "--version", "1", "-o", "-") == CONTENT
    assert shell("cat", "photo.raw") == b"second"


def test_how_it_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "something").write_bytes(b"something")
    shell("put", str(tmp_path / "something"))
    status = shell.json("status")
    assert status["nodes"] == {"up": 3, "suspect": 0, "down": 0, "out": 0}
    assert status["packs"]["total"] == status["packs"]["healthy"] > 0
    assert {"pending", "running", "failed"} <= set(status["tasks"])
    assert {"waiting", "conflict", "rejected"} <= set(status["outbox"])
    assert status["may_die"] == 1
    assert b"one disk" in shell("status")
    assert b"any one of the nodes may die now" in shell("status")
    assert [node["name"] for node in shell.json("nodes")["nodes"]] == ["node-1", "node-2", "node-3"]
    assert shell("nodes", "ls").count(b" up ") == 3
    assert shell("invite", "node").startswith(b"hf1-")
    assert shell.json("doctor", "--data", str(shell.network.directory / "node-1"))["ok"]
    assert shell("policy") == b"survive 1\n"
    assert shell("policy", "survive", "0") == b"survive 0\n"
    assert shell.json("policy", "survive", "1")["survive"] == 1


def test_what_is_refused(shell: Shell, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    shell("put", str(small))
    shell("cat", "nothing", code=4)
    shell("put", str(small), "--no-clobber", code=8)
    assert b"policy survive" in shell("put", str(small), "--as", "safe", "--survive", "3", code=7)
    shell("put", str(tmp_path / "nonexistent"), code=4)
    shell("put", str(tmp_path / "nonexistent"), str(small), code=3)
    shell("put", str(small), "--as", "../up", code=1)
    shell("get", "small", "-o", str(tmp_path / "no" / "such" / "place"), code=4)
    shell("rm", "small", "nothing", code=3)
    shell("cat", "small", code=4)
    shell("up", "--dir", str(shell.network.directory), code=78)
    assert shell("up", "--dir", str(tmp_path / "x"), "--nodes", "0", code=2)


def test_the_blocking_face(network: Network, tmp_path: Path) -> None:
    home = network.environment["HOLDFAST_HOME"]
    with blocking.Vault.open(home) as vault:
        entry = vault.put(b"hello", "blocking/first.txt")
        assert (entry.size, entry.version) == (5, 1)
        assert vault.read("blocking/first.txt", 1, 3) == b"el"
        vault.put((part for part in (b"one ", b"two")), "blocking/parts")
        assert b"".join(map(bytes, vault.stream("blocking/parts"))) == b"one two"
        for _ in vault.stream("blocking/parts"):
            break
        assert [entry.name for entry in vault.list("blocking")] == ["blocking/first.txt", "blocking/parts"]
        assert vault.get("blocking/parts", tmp_path / "parts").size == 7
        assert vault.stat("blocking/parts").kind == "file"
        with pytest.raises(holdfast.NotFound):
            vault.stat("blocking/nothing")
        assert len(vault.log("blocking/parts")) == 1
        assert vault.put_tree([tmp_path / "parts"], "blocking/again").files == 1
        assert vault.delete("blocking", recursive=True) == 4
    vault.close()
    with pytest.raises(holdfast.NotFound, match="holdfast init"):
        blocking.Vault.open(tmp_path / "nowhere")


async def test_the_face_of_the_package(network: Network) -> None:
    async with await holdfast.Vault.open(network.environment["HOLDFAST_HOME"]) as vault:
        await vault.put(b"hello", "greetings/first.txt")
        assert await vault.read("greetings/first.txt") == b"hello"
        await vault.delete("greetings", recursive=True)


def test_one_dies_all_stop_and_all_come_back(network: Network, shell: Shell, tmp_path: Path) -> None:
    for name in ("kept", "gone"):
        (tmp_path / name).write_bytes(CONTENT + name.encode())
    shell("put", str(tmp_path / "kept"), str(tmp_path / "gone"), "--as", "last")
    shell("put", str(tmp_path / "gone"), "--as", "last/deep/er")
    rows = network.members
    os.kill(rows[-1]["pid"], signal.SIGKILL)
    assert shell("cat", "last/kept") == CONTENT + b"kept"
    shell("rm", "last/gone")
    shell("cat", "last/gone", code=4)
    shell("rm", "last/deep", code=8)
    shell("rm", "-r", "last/deep")
    assert shell("ls", "-R", "last") == b"kept\n"
    assert network.stop() == 0
    assert not any(alive(row["pid"]) for row in rows)
    assert b"does not answer" in shell("status", code=1)

    network.start()
    assert [(row["id"], row["url"]) for row in network.members] == [(row["id"], row["url"]) for row in rows]
    assert shell("cat", "last/kept") == CONTENT + b"kept"
    pids = [row["pid"] for row in network.members]
    assert network.process is not None
    network.process.kill()  # its children see that it is gone
    network.process.communicate()
    network.process = None
    for pid in pids:
        with subprocess.Popen(["tail", f"--pid={pid}", "-f", "/dev/null"]) as waiting:
            waiting.wait(40)
    assert not any(alive(pid) for pid in pids)
