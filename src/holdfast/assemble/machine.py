"""The five seams as one process gets them: from this machine, or from a simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.clock import Clock, Randomness, SystemClock, SystemRandomness
from holdfast.files import Files, OsFiles
from holdfast.pool import Pool, ThreadPool
from holdfast.wire.network import Network, TcpNetwork


@dataclass(frozen=True, slots=True)
class Machine:
    """What a process runs on. ``pool`` makes threads: how many (None: as the cores ask), and their name."""

    files: Files
    clock: Clock
    randomness: Randomness
    network: Network
    pool: Callable[[int | None, str], Pool]


THIS_MACHINE = Machine(OsFiles(), SystemClock(), SystemRandomness(), TcpNetwork(), ThreadPool)
