"""The project's own client and server skeleton, unchanged, over the memory network on virtual time."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest

from holdfast import errors
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.memory_network import MemoryNetwork
from holdfast.testing.virtual import VirtualClock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.wire.serve import Call, FileReply, Reply, Service

BLOB = bytes(range(256)) * 8192
DIGEST = Digest.of(BLOB)


class Shelf:
    kept = b""

    async def put(self, call: Call, _: None) -> Reply:
        self.kept = b"".join([bytes(piece) async for piece in call.body()])
        return Reply(m.BlobStored(receipt=b"receipt"), status=201)

    async def get(self, call: Call, _: None) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the service closes it
        file.write(self.kept)
        file.seek(0)
        return FileReply(file, len(self.kept), None)


async def _scene(loop: VirtualLoop) -> str:
    network, shelf = MemoryNetwork(loop), Shelf()
    identities = [Identity.generate(SeededRandomness(seed)) for seed in (1, 2)]
    node, laptop = network.host("node"), network.host("laptop")
    service = Service(
        identity=identities[0], role="node", name="node", network=node, epoch=lambda: (1, 1),
        clock=VirtualClock(loop, skew_s=20, gate=node.gate),
    )  # fmt: skip
    service.add(routes.BLOB_PUT, shelf.put)
    service.add(routes.BLOB_GET, shelf.get)
    await service.start("0.0.0.0", 7420)
    client = HttpClient(identity=identities[1], network=laptop, clock=VirtualClock(loop, gate=laptop.gate))
    target = Target(identities[0].id, "http://node:7420")

    async def put() -> None:
        await client.put_blob(target, DIGEST, len(BLOB), BLOB, grant=b"grant")

    async def read() -> bytes:
        async with client.get_blob(target, DIGEST) as body:
            return b"".join([bytes(piece) async for piece in body])

    await put()
    assert shelf.kept == BLOB
    assert await read() == BLOB

    network.pause("node")
    with pytest.raises(errors.TimedOut):
        await read()
    network.resume("node")
    network.partition("laptop", "node")
    network.reset("laptop", "node")
    with pytest.raises(errors.Unavailable):
        await read()
    network.heal()
    assert await read() == BLOB
    network.crash("node")
    with pytest.raises(errors.Unavailable):
        await read()
    await client.close()
    await service.stop(1)
    assert not loop.unhandled
    return loop.trace.digest()


def test_the_wire_runs_in_memory_and_repeats() -> None:
    assert run(_scene, seed=1, limit_s=600) == run(_scene, seed=1, limit_s=600)
