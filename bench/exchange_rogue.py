"""A peer that misbehaves, as a process: ``slow`` answers after two seconds, ``liar`` has everything and sends zeros."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from holdfast.auth.identity import Identity
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.errors import NotFound
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.network import TcpNetwork
from holdfast.wire.serve import BytesReply, Call, Service

SLOW_S = 2.0


async def serve(kind: str, port: int, size: int) -> None:
    """Until it is ended. ``size``: bytes of what the liar sends."""
    service = Service(
        identity=Identity.generate(SystemRandomness()), role="node", name=kind, clock=SystemClock(),
        network=TcpNetwork(),
    )  # fmt: skip

    async def has(call: Call, message: m.HasRequest) -> m.HasAnswer:
        if kind == "slow":
            await asyncio.sleep(SLOW_S)
        return m.HasAnswer(bitmap=m.bitmap([kind == "liar"] * len(message.digests)))

    async def get(call: Call, message: None) -> Any:
        if kind == "liar":
            return BytesReply(bytes(size), size)
        await asyncio.sleep(SLOW_S)
        raise NotFound("not here")

    service.add(routes.HAS, has)
    service.add(routes.BLOB_GET, get)
    await service.start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
