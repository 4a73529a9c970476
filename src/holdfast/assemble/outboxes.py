"""The outbox of a home or of a node: beside a vault, which delivers names too, or alone, for those who look into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from holdfast.assemble.homes import home_path
from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.auth.identity import Identity
from holdfast.client import home as homes
from holdfast.client import keyfile
from holdfast.client.outbox_door import OutboxDoor
from holdfast.config import Config
from holdfast.outbox.delivery import Deliver
from holdfast.outbox.http import HttpDelivery
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.outbox.outbox import Outbox
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient


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
    http: HttpDelivery,
) -> HomeOutbox:
    thread = machine.pool(1, "outbox")
    try:
        opened = await HomeOutbox.open(
            outbox_path(home),
            seed=device.seed(),
            deliver=deliver,
            http=http,
            settings=config.section(OutboxSettings),
            clock=machine.clock,
            randomness=machine.randomness,
            files=machine.files,
            network=machine.network,
            pool=pool,
            thread=thread,
        )
    except BaseException:
        thread.close()
        await http.close()
        raise
    assert isinstance(opened, HomeOutbox), "open makes what it is called on"
    opened.thread = thread
    return opened


def outbox_door(
    home: Path, device: Identity, http: HttpClient, config: Config, pool: Pool, machine: Machine
) -> OutboxDoor:
    """Of a home, or of a node's directory: opened when it is needed; delivers to holdfast nodes with its key."""

    async def make(deliver: Mapping[str, Deliver]) -> Outbox:
        delivery = HttpDelivery(
            ForeignHttp(network=machine.network),
            clock=machine.clock,
            randomness=machine.randomness,
            files=machine.files,
            pool=pool,
            nodes=NodeDelivery(http, machine.clock),
            content_bytes_max=body_bytes_max,
        )
        return await _open(home, device, config, pool, machine, deliver, delivery)

    body_bytes_max = config.section(OutboxSettings).body_bytes_max
    return OutboxDoor(outbox_path(home), make, files=machine.files, pool=pool, body_bytes_max=body_bytes_max)


async def open_outbox(home: Path | None = None, *, machine: Machine = THIS_MACHINE) -> HomeOutbox | None:
    """A home's outbox to look into and to put in order; None if there is none. It delivers nothing.

    No passphrase is needed. NotFound without a device key.
    """
    path = home_path(home)
    if machine.files.size(outbox_path(path) / "queue.db") is None:
        return None
    device = keyfile.read_device(machine.files, homes.device_key(path))
    pool = machine.pool(2, "outbox")
    http = HttpDelivery(
        ForeignHttp(network=machine.network),
        clock=machine.clock,
        randomness=machine.randomness,
        files=machine.files,
        pool=pool,
    )
    try:
        opened = await _open(path, device, Config.load(path), pool, machine, {}, http)
    except BaseException:
        pool.close()
        raise
    opened._pools = (pool,)
    return opened
