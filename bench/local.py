"""holdfast itself for the benchmarks: a coordinator and nodes as real processes, and one client in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from holdfast import logs
from holdfast.cli.local_network import LocalNetwork, Member
from holdfast.sdk import Vault

T = TypeVar("T")


class Holdfast:
    """A running network and an open vault, called without await so that it can be timed like anything else."""

    def __init__(self, directory: Path, *, nodes: int, survive: int) -> None:
        logs.configure(verbosity=0)
        self._runner = asyncio.Runner()
        self._network = LocalNetwork(directory, nodes=nodes, survive=survive)
        self._vault: Vault | None = None

    def __enter__(self) -> Holdfast:
        self._runner.__enter__()
        try:
            self.do(self._network.start())
            self._vault = self.do(Vault.open(self.home))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._vault is not None:
            self.do(self._vault.close())
        self.do(self._network.stop())
        self._runner.close()

    @property
    def home(self) -> Path:
        return self._network.home

    @property
    def vault(self) -> Vault:
        assert self._vault is not None, "enter the context first"
        return self._vault

    @property
    def members(self) -> list[Member]:
        return self._network.members

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the event loop until ``work`` is done."""
        return self._runner.run(work)

    async def drain(self, name: str) -> int:
        """Reads all of a file and keeps nothing; how many bytes."""
        total = 0
        async for piece in self.vault.stream(name):
            total += len(piece)
        return total

    async def put_one_by_one(self, bodies: dict[str, bytes]) -> None:
        """Each put acknowledged before the next one begins."""
        for name, body in bodies.items():
            await self.vault.put(body, name)

    async def read_one_by_one(self, names: list[str]) -> list[bytes]:
        """Each read done before the next one begins."""
        return [await self.vault.read(name) for name in names]
