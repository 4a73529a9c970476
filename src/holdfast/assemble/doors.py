"""The outbox of a home or a node, opened when it is first needed: whoever was never cut off has none."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from holdfast.assemble.machine import Machine
from holdfast.auth.identity import Identity
from holdfast.errors import Unavailable
from holdfast.outbox.http import HttpDelivery
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.outbox.outbox import Outbox
from holdfast.outbox.settings import OutboxSettings
from holdfast.pool import Pool
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient


class Door:
    """Use from one event loop. Whoever made it closes it."""

    def __init__(
        self, directory: Path, owner: Identity, http: HttpClient, settings: OutboxSettings, pool: Pool, machine: Machine
    ) -> None:
        """``directory``: the home's or the node's. ``http`` signs as ``owner``, whose key seals the outbox."""
        self._directory = directory / "outbox"
        self._owner = owner
        self._http = http
        self._settings = settings
        self._pool = pool
        self._machine = machine
        self._opened: Outbox | None = None
        self._kept = AsyncExitStack()
        self._busy = asyncio.Lock()
        self._closed = False

    async def found(self) -> Outbox | None:
        """The outbox, None if there is none. Errors as ``Outbox.open``."""
        path = self._directory / "queue.db"
        if self._opened is None and await self._pool.run(self._machine.files.size, path) is None:
            return None
        return await self.open()

    async def open(self) -> Outbox:
        """The outbox, made if there is none. Errors as ``Outbox.open``."""
        async with self._busy:
            if self._closed:
                raise Unavailable("this outbox is closed")
            if self._opened is None:
                self._opened = await self._open()
            return self._opened

    async def _open(self) -> Outbox:
        machine = self._machine
        async with AsyncExitStack() as opening:
            thread = machine.pool(1, "outbox")
            opening.callback(thread.close)
            delivery = HttpDelivery(
                ForeignHttp(network=machine.network),
                clock=machine.clock,
                randomness=machine.randomness,
                files=machine.files,
                pool=self._pool,
                nodes=NodeDelivery(self._http, machine.clock),
                content_bytes_max=self._settings.body_bytes_max,
            )
            opening.push_async_callback(delivery.close)
            opened = await Outbox.open(
                self._directory,
                seed=self._owner.seed(),
                http=delivery,
                settings=self._settings,
                clock=machine.clock,
                randomness=machine.randomness,
                files=machine.files,
                network=machine.network,
                pool=self._pool,
                thread=thread,
            )
            opening.push_async_callback(opened.close)
            self._kept = opening.pop_all()
        return opened

    async def close(self) -> None:
        """What is under way is given back. May be called twice."""
        async with self._busy:
            self._closed = True
            await self._kept.aclose()
