"""Following a manifest: what is new, what is kept, and hints that are only a reason to look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.street import READER, WRITER, Home, Street, manifest_of, street

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.errors import BadConfig, BadRequest, Denied
from holdfast.node.exchange.following import Agree, Conflict, Copy, Known, Step, Take, agreed, decide
from holdfast.outbox.entry import DeliveryClass
from holdfast.peers.settings import PeersSettings
from holdfast.wire import exchange_messages as x
from holdfast.wire import routes

A, B, C = (Identity(bytes((number,)) * 32).id for number in (1, 2, 3))
BOTH = Conflict("it was changed here, and elsewhere")
V0, V1, V2, V3 = (Digest.of(bytes((number,))) for number in range(4))


def own(peer: Id, etag: Digest) -> Copy:
    return Copy(peer, etag, followed=False)


def took(peer: Id, etag: Digest) -> Copy:
    return Copy(peer, etag, followed=True)


@pytest.mark.parametrize(
    ("why", "ours", "known", "copies", "step"),
    [
        ("nobody has it", None, Known(), [], None),
        ("it is new here", None, Known(), [own(A, V1)], Take(V1)),
        ("only followers answer", None, Known(), [took(B, V1), took(C, V1)], Take(V1)),
        ("followers differ", None, Known(), [took(B, V1), took(C, V2)], Conflict("nodes keep different ones")),
        ("two clients, two nodes", None, Known(), [own(A, V1), own(B, V2)], Conflict("nodes keep different ones")),
        ("the client went on", V1, Known(V1, True, {A: V1}), [own(A, V2)], Take(V2)),
        ("the client went back", V2, Known(V2, True, {A: V2}), [own(A, V1)], Take(V1)),
        ("nothing new", V1, Known(V1, True, {A: V1}), [own(A, V1), took(B, V0)], None),
        ("a late follower says nothing", V2, Known(V2, True, {A: V2}), [took(B, V1)], None),
        ("one that did not change says nothing", V2, Known(V2, True, {A: V2, B: V1}), [own(A, V2), own(B, V1)], None),
        ("one of two changed", V1, Known(V1, True, {A: V1, B: V1}), [own(A, V2), own(B, V1)], Take(V2)),
        ("deleted there", V1, Known(V1, True, {A: V1}), [], None),
        ("deleted here", None, Known(V1, True, {A: V1}), [own(A, V1)], Take(V1)),
        ("ours alone", V1, Known(), [], None),
        ("ours, and they follow", V2, Known(V1, False, {A: V1}), [took(B, V1)], None),
        ("ours changed, theirs did not", V2, Known(V1, True, {A: V1}), [own(A, V1)], None),
        ("ours and theirs changed", V3, Known(V1, True, {A: V1}), [own(A, V2)], BOTH),
        ("never in common", V1, Known(), [own(A, V2)], BOTH),
        ("the same by chance", V1, Known(), [own(A, V1)], Agree()),
    ],
)  # fmt: skip
def test_what_is_taken(why: str, ours: Digest | None, known: Known, copies: list[Copy], step: Step) -> None:
    assert decide(ours, known, copies) == step, why


VERSIONS = st.sampled_from([V0, V1, V2])
COPIES = st.lists(st.builds(Copy, st.sampled_from([A, B, C]), VERSIONS, st.booleans()), unique_by=lambda one: one.peer)


@given(ours=st.none() | VERSIONS, last=st.none() | VERSIONS, seen=st.dictionaries(st.sampled_from([A, B]), VERSIONS),
       copies=COPIES)  # fmt: skip
def test_following_comes_to_rest_and_overwrites_nothing_of_ours(
    ours: Digest | None, last: Digest | None, seen: dict[Id, Digest], copies: list[Copy]
) -> None:
    known = Known(last, False, seen)
    step = decide(ours, known, copies)
    if isinstance(step, Take):
        assert ours in (None, last), "what clients changed here stays"
        assert step.etag in {one.etag for one in copies}
        ours, known = step.etag, agreed(known, step.etag, copies, taken=True)
        assert not isinstance(decide(ours, known, copies), Take), "the same peers make nothing new twice"
    elif isinstance(step, Agree) and ours is not None:
        assert decide(ours, agreed(known, ours, copies, taken=False), copies) is None


# --- nodes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def row(tmp_path: Path) -> AsyncIterator[Street]:
    async with street(tmp_path) as made:
        yield made


async def three(row: Street) -> list[Home]:
    """A, and B and C which follow; nobody looks without a reason."""
    homes = await row.build(3)
    for home in homes[1:]:
        home.peers = PeersSettings(peer_check_s=600, follow=("tools",), follow_check_s=600)
    await row.acquaint()
    return homes


async def push(row: Street, home: Home, files: dict[str, bytes]) -> Digest:
    for data in files.values():
        await row.put(home, data)
    raw = msgspec.Raw(manifest_of("tools", files))
    return (await row.client(WRITER).call(home.target, routes.MANIFEST_PUT, raw, path={"ref": "tools"})).etag


def has(home: Home) -> Digest | None:
    kept = home.running.exchange.manifests.find("tools")
    return None if kept is None else kept.etag


async def until(say: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not say():  # noqa: ASYNC110 - real networks
            await asyncio.sleep(0.01)


async def until_has(home: Home, etag: Digest | None) -> None:
    """It took it by following, and has written down that it did."""

    def say() -> bool:
        kept = home.running.exchange.manifests.find("tools")
        return kept is not None and kept.etag == etag and home.running.exchange.follower.followed(kept)

    await until(say)


async def test_followers_have_it_a_moment_after_a_push(row: Street) -> None:
    a, b, c = await three(row)
    for number in range(3):
        files = {"one": b"one" * 1000, "two": b"%d" % number * 5000}
        etag = await push(row, a, files)
        for home in (b, c):
            await until_has(home, etag)
            assert [await row.get(home, Digest.of(data)) for data in files.values()] == list(files.values())
    stats = await row.client().call(b.target, routes.STATS)
    assert (stats.follows, stats.followed, stats.follow_conflicts) == (1, 3, [])


async def test_one_that_was_away_has_it_when_it_is_back_and_nothing_waits_for_it(row: Street) -> None:
    a, b, c = await three(row)
    await until_has(b, await push(row, a, {"one": b"1"}))
    await until_has(c, has(a))
    await c.stop()
    await a.check_peers()
    etag = await push(row, a, {"one": b"2"})
    await until_has(b, etag)
    assert a.running.outbox is not None
    await a.running.outbox.unit()
    assert a.running.outbox.waiting == 0, "no hint waits for whoever is away"
    await row.acquaint()
    await until_has(c, etag)


async def test_what_clients_changed_here_is_kept(row: Street) -> None:
    a, b, c = await three(row)
    await until_has(b, await push(row, a, {"one": b"1"}))
    await until_has(c, has(a))
    mine = await push(row, b, {"one": b"mine"})
    await until_has(c, mine)  # only b has anything new
    theirs = await push(row, a, {"one": b"theirs"})
    await until(lambda: bool(b.running.exchange.follower.conflicts))
    assert has(b) == mine
    assert (await row.client().call(b.target, routes.STATS)).follow_conflicts == ["tools"]
    await push(row, b, {"one": b"theirs"})  # a person's choice
    b.running.exchange.follower.hinted("tools")
    await until_has(c, theirs)
    await until_has(b, await push(row, a, {"one": b"3"}))
    assert not b.running.exchange.follower.conflicts


async def test_what_is_deleted_there_stays_here(row: Street) -> None:
    a, b, _ = await three(row)
    etag = await push(row, a, {"one": b"1"})
    await until_has(b, etag)
    await row.client(WRITER).call(a.target, routes.MANIFEST_DELETE, path={"ref": "tools"})
    await b.running.exchange.follower.unit()
    assert (has(a), has(b)) == (None, etag)
    await until_has(b, await push(row, a, {"one": b"2"}))


async def hint(row: Street, home: Home, who: Identity, name: str = "tools", etag: Digest | None = V1) -> None:
    await row.client(who).call(home.target, routes.HINT, x.Hint(etag=etag), path={"ref": name})


async def test_a_hint_is_a_reason_to_look_and_nothing_else(row: Street) -> None:
    a, b, _ = await three(row)
    etag = await push(row, a, {"one": b"1"})
    await until_has(b, etag)
    follower = b.running.exchange.follower
    looks: list[str] = []
    look = follower._look

    async def counted(name: str) -> None:
        await look(name)
        looks.append(name)

    follower._look = counted  # type: ignore[method-assign]
    liar = a.directory.identity
    await hint(row, b, liar, etag=V3)
    await hint(row, b, liar, name="not-followed")
    await until(lambda: bool(looks))
    assert (set(looks), has(b)) == ({"tools"}, etag)  # more than one look, if a's own hint came late
    for stranger in (WRITER, READER):
        with pytest.raises(Denied):
            await hint(row, b, stranger)
    with pytest.raises(BadRequest):
        await hint(row, b, liar, name="No%20Name")


async def test_hints_go_once_for_a_name_and_peer_and_are_moderate(row: Street) -> None:
    a, b, c = await three(row)
    b.authorize((WRITER.id, "read,write,delete"), (c.id, "peer"), (a.id, "read"))  # b listens to a no more
    await b.check_peers()
    await a.running._outbox_worker.stop()  # the test's hands do what it would
    assert a.running.outbox is not None
    outbox = await a.running._hints._door.open()
    for number in range(5):
        await push(row, a, {"one": b"%d" % number})
        await a.running._hints.queue()
    waiting = [entry async for entry in outbox.entries()]
    assert [entry.delivery_class for entry in waiting] == [DeliveryClass.MODERATE] * 2, "one for each peer"
    for _ in range(4):
        await outbox.flush(now=True)
        await a.running._hints.forget(outbox)
    assert not [entry async for entry in outbox.entries()], "who refuses it is asked three times"
    await until_has(c, has(a))


async def test_a_name_that_no_manifest_can_have_is_refused_at_start(row: Street) -> None:
    (home,) = await row.build(1)
    home.peers = PeersSettings(follow=("No Name",))
    with pytest.raises((BadConfig, BadRequest)):
        await home.start()
    home.node = None


async def test_what_was_agreed_on_survives_and_may_be_lost(row: Street) -> None:
    a, b, _ = await three(row)
    await until_has(b, await push(row, a, {"one": b"1"}))
    await b.stop()
    (b.path / "following.json").write_bytes(b"\xff no json")
    await b.start()
    await row.acquaint()
    await b.running.exchange.follower.unit()
    await until_has(b, await push(row, a, {"one": b"2"}))
