"""The three kinds of server as real processes, and what can be seen of them from outside: memory, descriptors, log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.auth.identity import Id, Identity

KINDS = ("coordinator", "node", "gateway")
"""``node`` belongs to the coordinator; ``gateway`` stands alone, is read by everybody and is a build cache."""
READY_S = 60
_BUGS = ("Traceback", "request_failed", "never retrieved")


@dataclass(frozen=True, slots=True)
class Server:
    """``identity`` is the server's own: requests signed by it may do everything."""

    kind: str
    process: subprocess.Popen[bytes]
    identity: Identity
    host: str
    port: int
    data: Path
    log: Path

    @property
    def id(self) -> Id:
        return self.identity.id

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def memory_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError(f"{self.kind} has no memory: is it dead?")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def complaints(self) -> list[str]:
        """Lines of its log that speak of a bug."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [number for number, line in enumerate(lines) if any(word in line for word in _BUGS)]
        return ["\n".join(lines[number : number + 30])[-3000:] for number in found]


def _holdfast(*words: str, home: Path) -> str:
    command = [sys.executable, "-m", "holdfast", "--json", "--no-input", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=READY_S, env=_environment(home))
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {**kept, "HOLDFAST_HOME": str(home), "PORT": ""}


def _run(kind: str, data: Path, *flags: str, host: str, port: int = 0) -> Server:
    role = "coordinator" if kind == "coordinator" else "node"
    log = data.with_suffix(".log")
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "holdfast",
                role,
                "run",
                "--json",
                "-v",
                "--no-input",
                "--with-parent",
                "--data",
                str(data),
                "--listen",
                f"{host}:{port}",
                *flags,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(data.parent / "home"),
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{kind} did not start: {log.read_text()[-2000:]}"
    ready = json.loads(line)
    identity = Identity(bytes.fromhex((data / "identity.key").read_text()))
    assert str(identity.id) == ready["id"]
    return Server(kind, process, identity, ready["host"], ready["port"], data, log)


@contextlib.contextmanager
def serving(path: Path, kinds: Sequence[str] = KINDS) -> Iterator[list[Server]]:
    """Starts them in ``path``; at the end all of them must stop by themselves, with 0."""
    started: list[Server] = []
    home = path / "home"
    try:
        if "coordinator" in kinds or "node" in kinds:
            port = _free_port()
            data = path / "coordinator"
            made = json.loads(
                _holdfast(
                    "coordinator",
                    "init",
                    "--data",
                    str(data),
                    "--advertise",
                    f"http://127.0.0.1:{port}",
                    "--survive",
                    "0",
                    home=home,
                )
            )
            started.append(_run("coordinator", data, host="127.0.0.1", port=port))
            if "node" in kinds:
                _holdfast("node", "init", "--data", str(path / "node"), "--join", made["invites"]["node"], home=home)
                started.append(_run("node", path / "node", host="127.0.0.1"))
        if "gateway" in kinds:
            _holdfast("node", "init", "--data", str(path / "gateway"), "--alone", home=home)
            started.append(_run("gateway", path / "gateway", "--open-read", "--build-cache", host="127.0.0.1"))
        yield [server for server in started if server.kind in kinds]
    finally:
        for server in reversed(started):
            server.process.send_signal(signal.SIGTERM)
        for server in started:
            try:
                server.process.wait(40)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
            for pipe in (server.process.stdin, server.process.stdout):
                if pipe is not None:
                    pipe.close()
    assert [server.process.returncode for server in started] == [0] * len(started)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
