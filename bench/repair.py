"""A node is lost: how fast the others make its copies again, alone and beside somebody who reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from bench.local import Holdfast
from bench.measure import MIB, Rounds, Scale, random_file, seconds
from bench.raw_pipeline import PACK_BYTES, RawNetwork, copy_each, fill
from bench.report import Figure, ratio_at_least
from holdfast import assemble
from holdfast.cli.local_network import Member
from holdfast.client.device.network import NetworkCalls
from holdfast.wire.messages import Status

_MB = 1e6
_NODES = 5
_COPIES = 2
_FILES = 4
_READ_BYTES = 256 * MIB
_HEARTBEAT_S = 1
"""Short, so that a run need not wait for minutes until a node counts as down; repair is timed from then on."""
_WAIT_S = 600.0
_POLL_S = 0.02


def run(scale: Scale, directory: Path) -> list[Figure]:
    """Two nodes are lost, one after the other; each time about ``scale.lost`` bytes have one copy left."""
    total = scale.lost * _NODES // _COPIES
    settings = {"heartbeat_interval": f"{_HEARTBEAT_S}s"}
    with Holdfast(directory / "holdfast", nodes=_NODES, survive=_COPIES - 1, settings=settings) as ours:
        read = random_file(directory / "read", min(_READ_BYTES, max(1, total // _FILES)))
        ours.do(ours.vault.put(read, "read"))
        for number in range(_FILES):
            source = random_file(directory / "source", max(1, total // _FILES))
            ours.do(ours.vault.put(source, f"kept-{number}"))
            source.unlink()
        bare = _raw(scale, directory / "raw")
        idle = ours.do(_repaired(ours, ours.do(_down(ours, ours.network.nodes[-1]))))
        held = ours.do(_down(ours, ours.network.nodes[-2]))
        size = read.stat().st_size / _MB
        alone = [size / seconds(lambda: ours.do(ours.drain("read"))) for _ in range(scale.repeat + 1)][1:]
        beside, reading = ours.do(_Reader(ours, "read").rate(_repaired(ours, held)))
    return [
        Figure("repair of a lost node, nobody reading", idle, "MB/s", bare, "raw copy", ratio_at_least(0.6)),
        Figure("repair of a lost node, beside a get", beside, "MB/s", idle, "nobody reading", ratio_at_least(0.15)),
        Figure(
            "get as a stream, beside repair", reading, "MB/s", Rounds(alone).median, "get alone", ratio_at_least(0.7),
            limit_rounds=tuple(alone),
        ),
    ]  # fmt: skip


def _raw(scale: Scale, directory: Path) -> float:
    """As many bytes in packs, each sent from one receiver's disk to another, checked and durable there; MB/s."""
    packs = max(1, scale.lost // PACK_BYTES)
    with RawNetwork(directory, nodes=_NODES - 1, copies=1) as raw:
        held = fill(raw, packs)
        return packs * PACK_BYTES / _MB / seconds(lambda: copy_each(raw, held))


class _Reader:
    """Reads one file again and again while a repair runs."""

    def __init__(self, ours: Holdfast, name: str) -> None:
        self._ours = ours
        self._name = name
        self._bytes = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            async for piece in self._ours.vault.stream(self._name):
                self._bytes += len(piece)

    async def rate(self, work: Coroutine[Any, Any, float]) -> tuple[float, float]:
        """What ``work`` gives, and MB/s that were read meanwhile."""
        reading = asyncio.create_task(self.run())
        began = time.perf_counter()
        try:
            result = await work
            return result, self._bytes / _MB / (time.perf_counter() - began)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _down(ours: Holdfast, node: Member) -> int:
    """Kills ``node``; returns when it counts as down. How many bytes of packs it held."""
    async with await assemble.open_network(ours.home) as network:
        await _until(network, lambda status: status.packs.healthy == status.packs.total)
        held = next(one.stored for one in await network.nodes() if str(one.id) == node.id)
        before = (await network.status()).nodes.get("up", 0)
        await ours.network.kill(node)
        await _until(network, lambda status: status.packs.degraded > 0 and status.nodes.get("up", 0) < before)
        await _until(network, lambda status: status.nodes.get("suspect", 0) == 0)
        return held


async def _repaired(ours: Holdfast, held: int) -> float:
    """MB/s of packs, from an operator's word until every pack has its copies again."""
    async with await assemble.open_network(ours.home) as network:
        began = time.perf_counter()
        await network.order_repair("now")
        await _until(network, lambda status: status.packs.healthy == status.packs.total)
        return held / _MB / (time.perf_counter() - began)


async def _until(network: NetworkCalls, is_so: Callable[[Status], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not is_so(await network.status()):  # noqa: ASYNC110  # other processes decide
            await asyncio.sleep(_POLL_S)
