"""What this machine has to offer: ports, space, and how fast its disk syncs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.assemble.machine import THIS_MACHINE
from holdfast.errors import Unavailable
from holdfast.files import Space
from holdfast.wire.network import Listener

PORT_LOWEST, PORT_HIGHEST = 10_000, 32_000  # below the ports that the system gives to outgoing connections


async def free_ports(count: int) -> list[int]:
    """Ports on loopback, one after the other, that nobody uses and the system gives to no outgoing connection."""
    for _ in range(100):
        first = PORT_LOWEST + THIS_MACHINE.randomness.below(PORT_HIGHEST - PORT_LOWEST - count)
        held: list[Listener] = []
        try:
            for port in range(first, first + count):
                held.append(await THIS_MACHINE.network.listen(asyncio.Protocol, "127.0.0.1", port, tls=None))
        except Unavailable:
            continue
        finally:
            for listener in held:
                await listener.close()
        return list(range(first, first + count))
    raise Unavailable(f"no {count} free ports were found on this machine")


def space(path: Path) -> Space:
    """Bytes of the file system that holds ``path``."""
    return THIS_MACHINE.files.space(path)


def time_syncs(directory: Path, rounds: int) -> float:
    """Seconds that writing and syncing 4 KiB takes there: the median of ``rounds``. Blocks."""
    path = directory / f".doctor-{THIS_MACHINE.randomness.bytes(8).hex()}"
    descriptor = THIS_MACHINE.files.create(path)
    spent = []
    try:
        for _ in range(rounds):
            THIS_MACHINE.files.write(descriptor, bytes(4096))
            began = THIS_MACHINE.clock.monotonic()
            THIS_MACHINE.files.sync(descriptor)
            spent.append(THIS_MACHINE.clock.monotonic() - began)
    finally:
        THIS_MACHINE.files.close(descriptor)
        THIS_MACHINE.files.unlink(path)
    return sorted(spent)[rounds // 2]
