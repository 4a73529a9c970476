"""A network of real processes on this machine: one coordinator and some nodes, each a child process on loopback.

``holdfast up`` and ``holdfast demo`` run one, and so do the tests that kill processes. The directory holds everything
(``coordinator/``, ``node-1/`` ..., ``home/``, ``logs/``, ``network.json``, ``env``), so the same directory is the same
network again, with its data, addresses and keys. A child ends when its parent does: it watches its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from holdfast.clock import Clock, SystemClock
from holdfast.errors import BadConfig, TimedOut, Unavailable, UsageError
from holdfast.files import OsFiles, write_file

READY_S = 30.0
STOP_S = 35.0  # a little more than a server's own 30 s
NODES_MAX = 64
SURVIVE_MAX = 4
POLL_S = 0.05
_LOG_TAIL_BYTES = 64 << 10


def survive_default(nodes: int) -> int:
    """How many of ``nodes`` may die unless told otherwise: two are kept as a margin for putting and healing."""
    return max(0, min(SURVIVE_MAX, nodes - 2))


@dataclass(slots=True)
class Member:
    """One process. ``code``: None while it runs or before it has run, then its exit code (negative: the signal)."""

    role: Literal["coordinator", "node"]
    name: str
    data: Path
    url: str
    id: str = ""
    process: asyncio.subprocess.Process | None = None
    watch: asyncio.Task[int] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def code(self) -> int | None:
        return self.process.returncode if self.process is not None else None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def row(self) -> dict[str, object]:
        """As in ``network.json``."""
        return {"role": self.role, "id": self.id, "pid": self.pid, "url": self.url, "data": str(self.data)}


class LocalNetwork:
    """The processes of one directory. Use as ``async with``: leaving ends all of them.

    ``nodes`` and ``port`` matter when the network is made: without ``port`` free ones are taken, with it the
    coordinator gets ``port`` and the nodes the ones that follow. ``settings``: by setting name, as they would stand in
    config.toml; every process of this run gets them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int | None = None,
        port: int | None = None,
        survive: int | None = None,
        settings: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        on_exit: Callable[[Member], None] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.home = self.directory / "home"
        self.members: list[Member] = []
        self._nodes = nodes
        self._port = port
        self._survive = survive
        self._settings = {f"HOLDFAST_{name.upper()}": value for name, value in (settings or {}).items()}
        self._clock = clock or SystemClock()
        self._files = OsFiles()
        self._on_exit = on_exit
        self._stopping = False
        self._held = contextlib.ExitStack()

    @property
    def coordinator(self) -> Member:
        return self.members[0]

    @property
    def nodes(self) -> list[Member]:
        return self.members[1:]

    @property
    def variables(self) -> dict[str, str]:
        """What ``env`` holds: with them set, every verb speaks to this network."""
        return {"HOLDFAST_HOME": str(self.home), "HOLDFAST_COORDINATOR": self.coordinator.url}

    async def __aenter__(self) -> LocalNetwork:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, ready_s: float = READY_S) -> None:
        """Makes what is missing, starts everything and waits until all nodes are up; TimedOut after ``ready_s``."""
        self._files.make_directory(self.directory)
        self._held.enter_context(self._files.lock(self.directory / "lock"))
        self._files.make_directory(self.directory / "logs")
        deadline = asyncio.timeout(ready_s)
        try:
            async with deadline:
                await self._found() if (self.directory / "network.json").exists() else await self._made()
                self._write()
                await self._wait_until_up()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimedOut(f"not ready after {ready_s:g} s; {self.directory / 'logs'} says more") from error

    async def kill(self, member: Member) -> None:
        """kill -9, and waits until it is gone."""
        if member.process is not None and member.running:
            member.process.kill()
        await self._ended(member)

    async def restart(self, member: Member) -> None:
        """Starts a member that has ended; same data, same address. Waits until it serves; TimedOut."""
        try:
            async with asyncio.timeout(READY_S):
                await self._spawn(member)
        except TimeoutError as error:
            raise TimedOut(f"{member.name} does not serve after {READY_S:g} s") from error
        self._write()

    async def stop(self, stop_s: float = STOP_S) -> None:
        """Ends all: nodes first, so that they can still say that they leave. May be called twice."""
        self._stopping = True
        for members in ([m for m in self.members if m.role == "node"], [m for m in self.members if m.role != "node"]):
            await asyncio.gather(*(self._stop_member(member, stop_s) for member in members))
        self._held.close()

    async def _stop_member(self, member: Member, stop_s: float) -> None:
        if member.process is None:
            return
        if member.running:
            with contextlib.suppress(ProcessLookupError):
                member.process.terminate()
        try:
            async with asyncio.timeout(stop_s):
                await self._ended(member)
        except TimeoutError:
            await self.kill(member)

    async def _ended(self, member: Member) -> None:
        if member.watch is not None:
            await asyncio.shield(member.watch)

    async def _made(self) -> None:
        """A new network; what an interrupted attempt left is used again."""
        from holdfast import assemble

        count = 6 if self._nodes is None else self._nodes
        if not 1 <= count <= NODES_MAX:
            raise UsageError(f"A network on one machine has 1 to {NODES_MAX} nodes, not {count}.")
        survive = survive_default(count) if self._survive is None else self._survive
        ports = await self._ports(count + 1)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.members = [Member("coordinator", "coordinator", self.directory / "coordinator", urls[0])]
        self.members += [
            Member("node", f"node-{number}", self.directory / f"node-{number}", urls[number])
            for number in range(1, count + 1)
        ]
        made = await assemble.init_coordinator(
            self.coordinator.data,
            advertise=urls[0],
            survive=survive,
            name="coordinator",
            node_uses=count,
            again=True,
            database=self._settings.get("HOLDFAST_DATABASE", ""),
        )
        self.coordinator.url = made.url  # an earlier attempt may have chosen another port
        await self._spawn(self.coordinator)
        await asyncio.gather(*(self._join(node, made.invites["node"]) for node in self.nodes))
        await asyncio.gather(*(self._spawn(node) for node in self.nodes))
        await assemble.init_home(self.home, join=made.invites["operator"], again=True)

    async def _join(self, node: Member, invite: str) -> None:
        from holdfast import assemble

        await assemble.init_node(node.data, join=invite, name=node.name, again=True)

    async def _found(self) -> None:
        """The network that ``network.json`` names."""
        path = self.directory / "network.json"
        try:
            rows = json.loads(path.read_text())
            self.members = [
                Member(row["role"], Path(row["data"]).name, self.directory / Path(row["data"]).name, row["url"])
                for row in rows
            ]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise BadConfig(f"{path} is damaged ({error}); remove it only together with its directory") from error
        if not self.members or self.members[0].role != "coordinator":
            raise BadConfig(f"{path} names no coordinator")
        if self._nodes is not None and self._nodes != len(self.nodes):
            raise UsageError(f"{self.directory} holds a network of {len(self.nodes)} nodes; leave out --nodes.")
        if self._port is not None and self._port != urlsplit(self.coordinator.url).port:
            raise UsageError(f"{self.directory} holds a network at {self.coordinator.url}; leave out --port.")
        if self._survive is not None:
            raise UsageError("This network has its policy already; change it with: holdfast policy survive N")
        await self._spawn(self.coordinator)
        await asyncio.gather(*(self._spawn(node) for node in self.nodes))

    async def _ports(self, count: int) -> list[int]:
        if self._port is not None:
            if self._port + count > 65536:
                raise UsageError(f"--port {self._port} leaves no room for {count} ports.")
            return list(range(self._port, self._port + count))
        from holdfast import assemble

        return await assemble.free_ports(count)

    async def _spawn(self, member: Member) -> None:
        """Starts one process and waits for its word that it serves; Unavailable with its last words if it ends."""
        host = urlsplit(member.url)
        command: Sequence[str] = [
            *(sys.executable, "-m", "holdfast", member.role, "run", "--json", "-v", "--no-input", "--with-parent"),
            *("--data", str(member.data), "--listen", f"{host.hostname}:{host.port}"),
        ]
        log = self.directory / "logs" / f"{member.name}.log"
        with log.open("ab") as errors:
            member.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **self._settings, "HOLDFAST_HOME": str(self.home), "PORT": ""},
                start_new_session=True,  # ^C is for the parent, who ends them in order
            )
        assert member.process.stdout is not None
        line = await member.process.stdout.readline()
        member.watch = asyncio.create_task(self._watch(member), name=f"watch {member.name}")
        try:
            ready = json.loads(line)
        except ValueError:
            await self._ended(member)
            raise Unavailable(f"{member.name} did not start: {_last_words(log)}") from None
        member.id = ready["id"]

    async def _watch(self, member: Member) -> int:
        assert member.process is not None
        assert member.process.stdout is not None
        while await member.process.stdout.readline():
            pass
        code = await member.process.wait()
        if self._on_exit is not None and not self._stopping:
            self._on_exit(member)
        return code

    async def _wait_until_up(self) -> None:
        from holdfast import assemble

        async with await assemble.open_network(self.home) as network:
            while True:
                states = {str(node.id): node.state for node in await network.nodes()}
                if all(states.get(node.id) == "up" for node in self.nodes):
                    return
                for member in self.members:
                    if not member.running:
                        log = self.directory / "logs" / f"{member.name}.log"
                        raise Unavailable(f"{member.name} ended: {_last_words(log)}")
                await self._clock.sleep(POLL_S)

    def _write(self) -> None:
        rows = [member.row() for member in self.members]
        write_file(self._files, self.directory / "network.json", (json.dumps(rows, indent=1) + "\n").encode())
        lines = [f"{name}={value}\n" for name, value in self.variables.items()]
        write_file(self._files, self.directory / "env", "".join(lines).encode())


def _last_words(log: Path) -> str:
    """The last line of a process's log, for a person."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").split("\n")
    for line in reversed(lines):
        if line.strip():
            try:
                found = json.loads(line)
                error = found.get("error", found)
                return str(error["detail"]) if isinstance(error, dict) and "detail" in error else line
            except (ValueError, AttributeError):
                return line
    return "it said nothing"
