"""A Tahoe-LAFS grid on this machine: introducer, storage servers and a client with its web interface."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from bench.exchange_cluster import Process, Processes, ask, port
from bench.peers.environment import program
from bench.peers.plain import get_file, put_file

_READY_S = 120.0


class Tahoe(Processes):
    """One share of a file is all of it, ``copies`` of them on as many servers: full copies, as holdfast keeps them."""

    def __init__(self, directory: Path, *, nodes: int, copies: int) -> None:
        super().__init__()
        self._directory = directory
        self._nodes = nodes
        self._copies = copies
        self._web = 0

    def put(self, source: Path) -> str:
        """The capability by which the file is read."""
        return put_file(self._web, "/uri", source).decode("ascii").strip()

    def get(self, capability: str, target: Path) -> None:
        get_file(self._web, f"/uri/{capability}", target)

    def _start(self) -> None:
        self._directory.mkdir(parents=True)
        introducer = self._directory / "introducer"
        self._made("create-introducer", introducer, *_address(port()))
        self._run(introducer)
        furl = _when_there(introducer / "private" / "introducer.furl")
        servers = [self._directory / f"server-{number}" for number in range(self._nodes)]
        for server in servers:
            self._made("create-node", server, f"--introducer={furl}", "--webport=none", *_address(port()))
            self._run(server)
        client = self._directory / "client"
        self._web = port()
        shares = ("--shares-needed=1", f"--shares-happy={self._copies}", f"--shares-total={self._copies}")
        web = f"--webport=tcp:{self._web}:interface=127.0.0.1"
        self._made("create-client", client, f"--introducer={furl}", web, *shares)
        self._run(client).wait("/?t=json")
        until = time.monotonic() + _READY_S
        while True:
            found = json.loads(ask(self._web, "/?t=json")[1])
            if sum(server["connection_status"] == "connected" for server in found["servers"]) >= self._nodes:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"Tahoe's servers did not connect: {found}")
            time.sleep(0.2)

    def _made(self, verb: str, directory: Path, *arguments: str) -> None:
        subprocess.run([str(program("tahoe")), verb, *arguments, str(directory)], check=True, capture_output=True)

    def _run(self, directory: Path) -> Process:
        command = [str(program("tahoe")), "run", "--allow-stdin-close", str(directory)]
        return self.enter_context(Process(command, self._web))


def _address(number: int) -> tuple[str, str]:
    return f"--port=tcp:{number}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{number}"


def _when_there(path: Path) -> str:
    until = time.monotonic() + _READY_S
    while not path.exists():
        if time.monotonic() > until:
            raise RuntimeError(f"Tahoe did not write {path.name}")
        time.sleep(0.05)
    return path.read_text().strip()
