"""holdfast itself for the benchmarks: a coordinator and nodes as real processes, and one client in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from holdfast import logs
from holdfast.cli.local_network import LocalNetwork, Member
from holdfast.sdk import Vault

T = TypeVar("T")


class Holdfast:
    """A running network and an open vault, called without await so that it can be timed like anything else."""

    def __init__(self, directory: Path, *, nodes: int, survive: int, settings: Mapping[str, str] | None = None) -> None:
        """``settings``: by name, for every process of the network."""
        logs.configure(verbosity=0)
        self._runner = asyncio.Runner()
        self._network = LocalNetwork(directory, nodes=nodes, survive=survive, settings=settings)
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
    def network(self) -> LocalNetwork:
        return self._network

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

    def put_singles(self, bodies: dict[str, bytes], at_once: int = 1) -> None:
        """Puts each body, ``at_once`` of them under way: with 1 each is acknowledged before the next one begins."""
        works = [partial(self.vault.put, body, name) for name, body in bodies.items()]
        self.do(self._each(works, at_once))

    def read_singles(self, names: list[str], at_once: int = 1) -> list[bytes]:
        """What stands under each name, ``at_once`` reads under way."""
        return self.do(self._each([partial(self.vault.read, name) for name in names], at_once))

    @staticmethod
    async def _each(works: Sequence[Callable[[], Coroutine[Any, Any, T]]], at_once: int) -> list[T]:
        found: dict[int, T] = {}
        waiting = iter(enumerate(works))

        async def worker() -> None:
            for number, work in waiting:
                found[number] = await work()

        await asyncio.gather(*(worker() for _ in range(at_once)))
        return [found[number] for number in range(len(works))]
