"""``http`` entries for holdfast nodes: signed both ways, and nothing unsigned counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.outbox.upstream import Upstream

from holdfast import errors
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.clock import SeededRandomness, SystemClock, SystemRandomness
from holdfast.files import OsFiles
from holdfast.outbox import Outbox, State, http
from holdfast.outbox.http import HttpDelivery
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.pool import ThreadPool
from holdfast.wire import messages as m
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient
from holdfast.wire.network import TcpNetwork
from holdfast.wire.routes import Route
from holdfast.wire.serve import Call, Reply, Service

NODE, OTHER, DEVICE = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2, 3))
PUT: Route[m.BlobStored, m.Empty] = Route("PUT", "/v1/things/{name}", m.BlobStored, m.Empty)
GET: Route[None, m.BlobStored] = Route("GET", "/v1/things/{name}", None, m.BlobStored)
DELETE: Route[None, m.Empty] = Route("DELETE", "/v1/things/{name}", None, m.Empty)


@dataclass
class Things:
    """A node's handlers, with compare-and-set on the digest of what is kept."""

    kept: dict[str, bytes] = field(default_factory=dict)
    effects: int = 0
    fail: list[Exception] = field(default_factory=list)
    forget_answer: bool = False

    def etag(self, name: str) -> str:
        return f'"{Digest.of(self.kept[name])}"'

    def check(self, call: Call) -> str:
        if self.fail:
            raise self.fail.pop(0)
        name = call.path["name"]
        present = self.etag(name) if name in self.kept else None
        if call.headers.get("if-none-match") == "*" and present:
            raise errors.Conflict("is there")
        if "if-match" in call.headers and call.headers["if-match"] != present:
            raise errors.Conflict("changed")
        return name

    async def put(self, call: Call, message: m.BlobStored) -> Reply:
        name = self.check(call)
        self.kept[name] = m.encode(message)
        self.effects += 1
        if self.forget_answer:
            self.forget_answer = False
            raise errors.Unavailable("lost")
        return Reply(headers={"etag": self.etag(name)})

    async def get(self, call: Call, _: None) -> Reply:
        name = call.path["name"]
        if name not in self.kept:
            raise errors.NotFound("no such thing")
        return Reply(m.decode(self.kept[name], m.BlobStored), headers={"etag": self.etag(name)})

    async def delete(self, call: Call, _: None) -> Reply:
        name = self.check(call)
        if self.kept.pop(name, None) is None:
            raise errors.NotFound("no such thing")
        self.effects += 1
        return Reply()


@dataclass
class Rig:
    outbox: Outbox
    things: Things
    url: str

    async def put(self, name: str, word: bytes, **wish: Any) -> int:
        return await self.outbox.enqueue(http.put(f"{self.url}/v1/things/{name}", node=NODE.id, **wish), content(word))


def content(word: bytes) -> bytes:
    return m.encode(m.BlobStored(receipt=word))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    network, clock, pool, things = TcpNetwork(), SystemClock(), ThreadPool(2), Things()
    service = Service(identity=NODE, role="node", name="n1", clock=clock, network=network)
    service.add(PUT, things.put)
    service.add(GET, things.get)
    service.add(DELETE, things.delete)
    listener = await service.start("127.0.0.1", 0)
    client = HttpClient(identity=DEVICE, network=network, clock=clock)
    delivery = HttpDelivery(
        ForeignHttp(network=network),
        clock=clock,
        randomness=SystemRandomness(),
        files=OsFiles(),
        pool=pool,
        nodes=NodeDelivery(client, clock),
    )
    async with await Outbox.open(tmp_path / "outbox", http=delivery, seed=DEVICE.seed()) as outbox:
        yield Rig(outbox, things, f"http://127.0.0.1:{listener.port}")
    await client.close()
    await service.stop(1)
    pool.close()


async def test_puts_chain_by_etag_and_one_request_each_is_enough(rig: Rig) -> None:
    for word in (b"one", b"two"):
        await rig.put("a", word, if_absent=True)
    await rig.outbox.enqueue(http.delete(rig.url + "/v1/things/b", node=NODE.id))
    assert (await rig.outbox.flush()).delivered == 3
    assert rig.things.kept == {"a": content(b"two")}
    assert rig.things.effects == 2


async def test_a_lost_answer_is_found_out_and_a_real_change_is_a_conflict(rig: Rig) -> None:
    rig.things.forget_answer = True
    await rig.put("a", b"one", if_absent=True)
    assert (await rig.outbox.flush()).deferred == 1
    await rig.outbox.retry(1)
    assert (await rig.outbox.flush()).delivered == 1
    assert rig.things.effects == 1
    rig.things.kept["a"] = content(b"theirs")
    await rig.put("a", b"mine", if_absent=True)
    assert (await rig.outbox.flush()).conflicts == 1
    found = await rig.outbox.show(2)
    assert found.theirs is not None
    assert found.theirs.open is not None
    assert b"".join([bytes(piece) async for piece in found.theirs.open()]) == content(b"theirs")
    await rig.outbox.resolve(2, "mine")
    assert (await rig.outbox.flush()).delivered == 1
    assert rig.things.kept["a"] == content(b"mine")


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (errors.BadRequest("no"), State.REJECTED),
        (errors.TooLarge("no"), State.REJECTED),
        (errors.Denied("no"), State.DEFERRED),
        (errors.Unauthorized("no"), State.DEFERRED),
        (errors.StaleEpoch("old"), State.DEFERRED),
        (errors.NoSpace("full"), State.DEFERRED),
    ],
)
async def test_signed_refusals_end_as_the_table_says(rig: Rig, failure: Exception, state: State) -> None:
    rig.things.fail.append(failure)
    await rig.put("a", b"one")
    await rig.outbox.flush()
    assert (await rig.outbox.show(1)).state is state
    await rig.outbox.retry(1)
    assert (await rig.outbox.flush()).delivered == 1


async def test_a_node_that_asks_for_a_pause_gets_it(rig: Rig) -> None:
    rig.things.fail.append(errors.TooManyRequests("slow", retry_after=50))
    await rig.put("a", b"one")
    assert (await rig.outbox.flush()).deferred == 1
    await rig.outbox.retry(1)
    summary = await rig.outbox.flush()
    assert (summary.delivered, summary.waiting) == (0, 1)


async def test_unsigned_answers_and_other_nodes_deliver_nothing(rig: Rig) -> None:
    async with Upstream() as up:
        await rig.outbox.enqueue(http.put(up.url + "/v1/things/a", node=NODE.id), content(b"one"))
        await rig.outbox.enqueue(http.delete(up.url + "/v1/things/b", node=NODE.id))
        summary = await rig.outbox.flush()
        assert (summary.delivered, summary.rejected, summary.conflicts, summary.waiting) == (0, 0, 0, 2)
    await rig.outbox.enqueue(http.put(rig.url + "/v1/things/a", node=OTHER.id), content(b"one"))
    summary = await rig.outbox.flush()
    assert (summary.delivered, summary.rejected) == (0, 0)
    assert rig.things.effects == 0


async def test_without_a_key_such_entries_wait(rig: Rig, tmp_path: Path) -> None:
    async with await Outbox.open(tmp_path / "plain") as plain:
        await plain.enqueue(http.put(rig.url + "/v1/things/a", node=NODE.id), b"{}")
        assert (await plain.flush()).waiting == 1
