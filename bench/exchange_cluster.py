"""Real processes for the exchange's figures: nodes without a coordinator, nginx beside them, and rogues."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from holdfast.assemble import free_ports
from holdfast.auth.identity import Id

START_S = 30.0


def port() -> int:
    """One that is free now."""
    return asyncio.run(free_ports(1))[0]


class Process:
    """A program that answers on ``port`` once it runs; it is ended with the context."""

    def __init__(self, arguments: list[str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, path: str = "/") -> None:
        """Returns once it answers to a GET of ``path``."""
        until = time.monotonic() + START_S
        while True:
            with suppress(OSError, http.client.HTTPException):
                ask(self.port, path)
                return
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._process.args!r} did not start")
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Processes(ExitStack):
    """Several of them that run together from entering to leaving; ``_start`` enters each."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        raise NotImplementedError


class Node(Process):
    """A node of its own that gives everything to everybody. ``data``: its directory."""

    def __init__(self, data: Path, *, peers: list[str] | None = None, origin: str | None = None) -> None:
        if not (data / "node.json").exists():
            subprocess.run(
                [sys.executable, "-m", "holdfast", "node", "init", "--data", str(data), "--alone", "--name", data.name],
                check=True, capture_output=True,
            )  # fmt: skip
        self.data = data
        number = port()
        arguments = ["--data", str(data), "--listen", f"127.0.0.1:{number}", "--open-read", "--cache", "4GiB"]
        for url in peers or []:
            arguments += ["--peer", url]
        if origin is not None:
            arguments += ["--origin", origin]
        super().__init__([sys.executable, "-m", "holdfast", "node", "run", *arguments], number)
        self.wait("/v1/health")

    def put(self, paths: list[Path], name: str) -> None:
        """The files of one directory, kept for a manifest."""
        subprocess.run(
            [sys.executable, "-m", "holdfast", "manifest", "push", str(paths[0].parent), "--as", name,
             "--node", self.url, "--data", str(self.data)],
            check=True, capture_output=True,
        )  # fmt: skip

    @property
    def id(self) -> Id:
        return Id.parse(json.loads(ask(self.port, "/v1/health")[1])["id"])

    def until_healthy(self, count: int) -> None:
        """Returns once it finds ``count`` of its peers healthy."""
        command = [sys.executable, "-m", "holdfast", "peers", "--json", "--node", self.url, "--data", str(self.data)]
        until = time.monotonic() + START_S
        while True:
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            if sum(peer["healthy"] for peer in found["peers"]) >= count:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"the peers are not healthy: {found}")
            time.sleep(0.2)

    @property
    def processor_s(self) -> float:
        """Seconds of processor time that it has used: what other work on the machine does not change much."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    @property
    def resident(self) -> int:
        """Bytes of memory that the process has used at most."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise RuntimeError("no VmHWM")


class Nginx(Process):
    """nginx with its defaults for static files, serving ``directory``."""

    def __init__(self, directory: Path, work: Path, *, counting: bool = False) -> None:
        """``counting``: keeps a log, from which ``requests`` reads."""
        work.mkdir(parents=True, exist_ok=True)
        number = port()
        self.log = work / "access.log"
        configuration = work / "nginx.conf"
        access = f"{self.log} path" if counting else "off"
        configuration.write_text(
            f"daemon off; worker_processes 2; pid {work}/pid; error_log {work}/error.log; user root;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ log_format path '$uri'; access_log {access}; sendfile on; keepalive_requests 1000000;\n"
            f"client_body_temp_path {work}/body;\n"
            f"proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi;\n"
            f"scgi_temp_path {work}/scgi;\n"
            f"server {{ listen 127.0.0.1:{number}; root {directory}; }} }}\n"
        )
        super().__init__(["nginx", "-c", str(configuration), "-p", str(work)], number)
        self.wait()

    def requests(self, path: str) -> int:
        """How often ``path`` was asked for."""
        return self.log.read_text().split().count(path)


def has_nginx() -> bool:
    return shutil.which("nginx") is not None


def ask(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
