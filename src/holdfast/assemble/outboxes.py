"""The outbox of a home or of a node: beside a vault, which delivers names too, or alone, for those who look into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast.assemble.homes import home_path
from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.servers import serve_metrics
from holdfast.auth.identity import Identity
from holdfast.client.device import home as homes
from holdfast.client.device import keyfile
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.config import Config
from holdfast.errors import NotFound
from holdfast.node import layout
from holdfast.outbox.delivery import Deliver
from holdfast.outbox.entry import State
from holdfast.outbox.http import HttpDelivery
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.outbox.outbox import Outbox
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool
from holdfast.telemetry import Metrics
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient
from holdfast.wire.network import Listener

METRICS_S = 5.0


class HomeOutbox(Outbox):
    """Also ends the thread that was made for it."""

    thread: Pool | None = None

    async def close(self) -> None:
        """May be called twice."""
        try:
            await super().close()
        finally:
            if self.thread is not None:
                self.thread.close()


def outbox_path(home: Path) -> Path:
    """Where the outbox of a home, or of a node's directory, lies."""
    return home / "outbox"


async def _open(
    home: Path,
    device: Identity,
    config: Config,
    pool: Pool,
    machine: Machine,
    deliver: Mapping[str, Deliver],
    http: HttpClient | None = None,
) -> HomeOutbox:
    """``http`` reaches holdfast nodes; without it what waits for them goes on waiting."""
    settings = config.section(OutboxSettings)
    delivery = HttpDelivery(
        ForeignHttp(network=machine.network),
        clock=machine.clock,
        randomness=machine.randomness,
        files=machine.files,
        pool=pool,
        nodes=None if http is None else NodeDelivery(http, machine.clock),
        content_bytes_max=settings.body_bytes_max,
    )
    thread = machine.pool(1, "outbox")
    try:
        opened = await HomeOutbox.open(
            outbox_path(home),
            seed=device.seed(),
            deliver=deliver,
            http=delivery,
            settings=settings,
            clock=machine.clock,
            randomness=machine.randomness,
            files=machine.files,
            network=machine.network,
            pool=pool,
            thread=thread,
        )
    except BaseException:
        thread.close()
        await delivery.close()
        raise
    assert isinstance(opened, HomeOutbox), "open makes what it is called on"
    opened.thread = thread
    return opened


def outbox_door(
    home: Path, device: Identity, http: HttpClient, config: Config, pool: Pool, machine: Machine
) -> OutboxDoor:
    """Of a home, or of a node's directory: opened when it is needed; delivers to holdfast nodes with its key."""

    async def make(deliver: Mapping[str, Deliver]) -> Outbox:
        return await _open(home, device, config, pool, machine, deliver, http)

    body_bytes_max = config.section(OutboxSettings).body_bytes_max
    return OutboxDoor(
        outbox_path(home), make, files=machine.files, pool=pool, clock=machine.clock, body_bytes_max=body_bytes_max
    )


async def outbox_counts(outbox: Outbox | None) -> dict[str, Any]:
    """Entries by what a person wants to know: ``waiting`` (with those deferred), and the other states by name.

    ``oldest_s``: age of the first that is still to be delivered, None if nothing is.
    """
    counts: dict[str, Any] = dict.fromkeys(("waiting", "conflict", "rejected", "abandoned", "damaged"), 0)
    counts["oldest_s"] = None
    if outbox is None:
        return counts
    for total in await outbox.totals():
        if total.state is not None:
            counts["waiting" if total.state is State.DEFERRED else total.state.label] += total.entries
    oldest = await outbox.oldest()
    if oldest is not None:
        counts["oldest_s"] = max(outbox.now() - oldest.created, 0.0)
    return counts


@asynccontextmanager
async def outbox_metrics(door: Outbox, port: int, *, machine: Machine = THIS_MACHINE) -> AsyncIterator[Listener]:
    """Serves depth by state and the age of the oldest entry on loopback, looked at every few seconds."""
    metrics = Metrics("outbox")
    depth = metrics.gauge("holdfast_outbox_entries", "Entries of the outbox.", ("state",))
    age = metrics.gauge("holdfast_outbox_oldest_seconds", "Age of the first entry that is still to be delivered.")

    async def look() -> None:
        while True:
            counts = await outbox_counts(door)
            age.set(counts.pop("oldest_s") or 0.0)
            for state, entries in counts.items():
                depth.labels(state).set(entries)
            await machine.clock.sleep(METRICS_S)

    async with AsyncExitStack() as opened:
        listener = await serve_metrics(metrics, port, machine, opened)
        task = asyncio.get_running_loop().create_task(look())
        try:
            yield listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def home_counts(home: Path | None = None, *, machine: Machine = THIS_MACHINE) -> dict[str, Any]:
    """``outbox_counts`` of a home; nothing waits in one that has no outbox, or no keys."""
    try:
        opened = await open_outbox(home, machine=machine)
    except NotFound:
        return await outbox_counts(None)
    try:
        return await outbox_counts(opened)
    finally:
        if opened is not None:
            await opened.close()


async def open_outbox(
    home: Path | None = None, *, data: Path | None = None, machine: Machine = THIS_MACHINE
) -> HomeOutbox | None:
    """A home's outbox, or that of the node in ``data``, to look into and to put in order; None if there is none.

    It delivers nothing. No passphrase is needed. NotFound without a device key.
    """
    path = home_path(home) if data is None else data
    if machine.files.size(outbox_path(path) / "queue.db") is None:
        return None
    if data is None:
        device = keyfile.read_device(machine.files, homes.device_key(path))
    else:
        device = layout.open_node(data, files=machine.files).identity
    pool = machine.pool(2, "outbox")
    try:
        opened = await _open(path, device, Config.load(path), pool, machine, {})
    except BaseException:
        pool.close()
        raise
    opened._pools = (pool,)
    return opened
