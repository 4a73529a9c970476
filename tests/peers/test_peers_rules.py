"""The plain rules: who starts when in a race, who owns a blob, who rests, what an address or an origin may be."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.peers.rig import Rig, blob, cluster

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.clock import SystemClock
from holdfast.errors import BadConfig, BadRequest, Denied, HoldfastError, NotFound, Unauthorized, Unavailable
from holdfast.peers import manifest as manifests
from holdfast.peers.directory import Address, Directory
from holdfast.peers.discovery import address_of, parse_peer
from holdfast.peers.manifest import Entry
from holdfast.peers.origin import HttpOrigin, make_origin
from holdfast.peers.race import (
    HEAD_START_S,
    HEDGE_S,
    ORIGIN,
    OWNER,
    PATIENCE_S_MAX,
    PEER,
    Entrant,
    Lane,
    Race,
    Tier,
    next_start,
    peer_patience,
)
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient
from holdfast.wire.network import TcpNetwork


def peer(name: str = "peer", patience: float = HEDGE_S) -> Entrant:
    return Entrant(name, PEER, patience)


FAST, SLOW = peer("fast"), peer("slow", 0.1)
OWN, LAST = Entrant("owner", OWNER, 0.2), Entrant("origin", ORIGIN, 0.25)


@pytest.mark.parametrize(
    ("now", "waiting", "running", "more", "expected"),
    [
        (0.0, [], [], True, (None, None)),
        (0.0, [LAST], [], True, (None, HEAD_START_S)),
        (HEAD_START_S, [LAST], [], True, (0, None)),
        (0.0, [LAST], [], False, (0, None)),
        (0.001, [LAST, FAST], [], True, (1, None)),
        (0.002, [LAST], [(FAST, 0.001)], False, (None, HEAD_START_S)),
        (0.002, [LAST], [(SLOW, 0.001)], False, (None, 0.101)),
        (0.05, [LAST, OWN], [], False, (1, None)),
        (0.05, [LAST], [(OWN, 0.02)], False, (None, 0.22)),
        (0.22, [LAST], [(OWN, 0.02)], False, (0, None)),
        (0.03, [FAST], [(LAST, 0.02)], True, (0, None)),
        (0.03, [FAST], [(SLOW, 0.02), (FAST, 0.025)], True, (None, 0.045)),
    ],
)
def test_who_starts_when(now: float, waiting: Any, running: Any, more: bool, expected: Any) -> None:
    index, look_at = next_start(now, 0.0, waiting, running, more=more)
    assert index == expected[0]
    assert look_at == (None if expected[1] is None else pytest.approx(expected[1]))


@given(st.floats(0, 10, allow_nan=False))
def test_patience_has_bounds(usual: float) -> None:
    assert HEDGE_S <= peer_patience(usual) <= PATIENCE_S_MAX
    assert peer_patience(None) == HEDGE_S


class Moment(SystemClock):
    at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


IDS = [Identity(bytes([number]) * 32).id for number in range(1, 12)]


def directory(me: Id, others: list[Id], clock: Moment | None = None) -> Directory:
    made = Directory(me, clock=clock or Moment())
    made.learn("registry", [Address(f"http://h{index}:1", id_, f"h{index}") for index, id_ in enumerate(others)])
    for one in made.all():
        made.checked(one, 0.001)
    return made


@given(st.binary(min_size=32, max_size=32))
def test_all_agree_on_the_owner(data: bytes) -> None:
    digest = Digest(data)
    owners = set()
    for me in IDS:
        owner = directory(me, [id_ for id_ in IDS if id_ != me]).owner(digest)
        owners.add(me if owner is None else owner.id)
    assert len(owners) == 1


def test_failed_peers_rest_longer_each_time_until_a_check() -> None:
    clock = Moment()
    made = directory(IDS[0], IDS[1:3], clock)
    one = made.all()[0]
    for rest in (1, 2, 4):
        made.failed(one, "no answer")
        assert one not in made.usable()
        made.checked(one, 0.001)
        assert one not in made.usable(), "it rests first"
        clock.at += rest + 0.1
        assert one not in made.usable(), "nobody has checked it"
        made.checked(one, 0.001)
        assert one in made.usable()
    made.answered(one, 0.001, hit=True)
    assert one.failures == 0


def test_nothing_depends_on_a_slow_peer() -> None:
    made = directory(IDS[0], IDS[1:3])
    one = made.all()[0]
    made.checked(one, 2.0)
    assert one not in made.usable()
    assert one in made.to_ask(Digest(bytes(32)))
    assert made.owner(Digest(bytes(32))) is not one


def test_who_is_gone_from_the_registry_is_forgotten() -> None:
    made = directory(IDS[0], IDS[1:4])
    made.meet("list", IDS[1], "http://h0:1")
    made.learn("registry", [])
    assert [one.id for one in made.all()] == [IDS[1]]
    made.learn("registry", [Address("http://me:1", IDS[0])])
    assert len(made.all()) == 1, "a node is not its own peer"


@pytest.mark.parametrize("text", ["", "host:1", "ftp://h:1", "http://h:1/path", "x@http://h:1", "http://u:p@h:1"])
def test_a_wrong_peer_is_refused(text: str) -> None:
    with pytest.raises(BadConfig):
        parse_peer(text)


def test_a_peer_may_be_pinned() -> None:
    assert parse_peer(f"{IDS[1]}@http://h:1") == Address("http://h:1", IDS[1])
    assert parse_peer("http://h:1/") == Address("http://h:1", None)


def test_what_mdns_shows_is_checked() -> None:
    good: dict[bytes, bytes | None] = {b"id": str(IDS[1]).encode(), b"scheme": b"http", b"name": b"attic\n"}
    assert address_of(good, ["10.0.0.5"], 7420) == Address("http://10.0.0.5:7420", IDS[1], "attic")
    assert address_of(good, ["fe80::1%eth0"], 7420) == Address("http://[fe80::1]:7420", IDS[1], "attic")
    bad: list[dict[bytes, bytes | None]] = [{b"id": b"x"}, {b"scheme": b"file"}, {b"id": None}]
    for wrong in bad:
        assert address_of(good | wrong, ["10.0.0.5"], 7420) is None
    assert address_of(good, [], 7420) is None
    assert address_of(good, ["host"], 7420) is None


@pytest.mark.parametrize(
    "text", ["http://h/{digest}/{digest}", "http://h/{x}", "{digest}", "s3://bucket", "h:1", "http://u:p@h/{digest}"]
)
async def test_a_wrong_origin_is_refused(text: str) -> None:
    clock = SystemClock()
    http = HttpClient(identity=Identity(bytes(32)), network=TcpNetwork(), clock=clock)
    with pytest.raises(BadConfig):
        make_origin(text, http=http, foreign=ForeignHttp(network=TcpNetwork()), clock=clock)


REDIRECTS: dict[str, tuple[str, bool, bool, bool]] = {
    # location, redirects allowed, private allowed, does it come
    "not allowed": ("http://other:80/blobs/", False, False, False),
    "to another public host": ("http://other:80/blobs/", True, False, True),
    "to a private host": ("http://inside:80/blobs/", True, False, False),
    "to a private host that is allowed": ("http://inside:80/blobs/", True, True, True),
    "to a link-local address": ("http://169.254.169.254/latest/", True, False, False),
    "to loopback": ("http://127.0.0.1:80/", True, False, False),
    "to loopback by another spelling": ("http://[::ffff:127.0.0.1]:80/", True, False, False),
    "to a file": ("file:///etc/passwd?", True, True, False),
    "with a password": ("http://u:p@other:80/blobs/", True, True, False),
    "for ever": ("http://cdn:80/blobs/", True, True, False),
}


@pytest.mark.parametrize("name", REDIRECTS)
def test_redirects_only_as_allowed(name: str) -> None:
    location, redirects, private, comes = REDIRECTS[name]

    async def scene(rig: Rig) -> None:
        from aiohttp import web
        from tests.peers.rig import Cdn

        seen: list[str] = []

        async def resolve(host: str) -> list[str]:
            return {"other": ["93.184.216.34"], "inside": ["10.1.2.3"]}.get(host, [])

        digest, data = blob(5000)
        for host in ("other", "inside"):
            target = Cdn(rig.network, host)
            target.blobs[digest] = data

            def note(request: web.BaseRequest, target: Cdn = target) -> web.Response:
                seen.append(request.headers.get("authorization", ""))
                return web.Response(body=target.blobs[digest])

            target.override = note
            await target.start()
        rig.cdn.override = lambda request: web.Response(status=302, headers={"location": f"{location}{digest}"})
        node = rig.members[0]
        origin = HttpOrigin(
            rig.cdn.url + "/blobs/{digest}", http=ForeignHttp(network=node.host), clock=node.clock,
            token="Bearer secret", redirects=redirects, private=private, resolve=resolve,
        )  # fmt: skip
        node.neighbours.origin = origin
        if comes:
            assert await node.read(digest) == data
            assert seen == [""], "the token is for the operator's own host"
        else:
            with pytest.raises((Unavailable, NotFound)):
                await node.read(digest)
            assert seen == []

    cluster(1, scene, origin=False)


paths = st.lists(st.text("abcäö€𝄞 \"\\'", min_size=1, max_size=8), min_size=1, max_size=3).map("/".join)
entries = st.builds(
    Entry, st.binary(min_size=32, max_size=32).map(Digest), st.integers(0, 2**63 - 1), st.integers(0, 4095)
)


@given(st.dictionaries(paths, entries, max_size=20))
def test_a_manifest_has_one_form(objects: dict[str, Entry]) -> None:
    try:
        made = manifests.make("some.name", objects.items())
    except BadRequest:
        return
    data = manifests.encode(made)
    assert manifests.decode(data, "some.name") == made
    assert manifests.encode(manifests.decode(data)) == data
    shuffled = manifests.make("some.name", reversed(list(objects.items())))
    assert manifests.encode(shuffled) == data


def test_the_stored_form_byte_for_byte() -> None:
    """A golden vector: never changes."""
    made = manifests.make(
        "tools-1.2", [("b/ü", Entry(Digest(bytes(32)), 5, 0o755)), ("a", Entry(Digest(b"\xff" * 32), 0))]
    )
    assert manifests.encode(made).decode() == (
        '{"name":"tools-1.2","objects":{"a":{"digest":"' + "ff" * 32 + '","mode":420,"size":0},"b/ü":{"digest":"'
        + "00" * 32 + '","mode":493,"size":5}},"version":1}'
    )  # fmt: skip
    assert str(manifests.etag(manifests.encode(made))) == str(Digest.of(manifests.encode(made)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_clear_error(data: bytes) -> None:
    with contextlib.suppress(HoldfastError):
        manifests.decode(data)


def test_a_question_waits_for_nobody_and_many_go_together() -> None:
    from holdfast.peers.ask import Asking

    async def play() -> None:
        asked: list[int] = []

        async def ask(digests: Any) -> list[bool]:
            asked.append(len(digests))
            await asyncio.sleep(0)
            return [digest[0] % 2 == 0 for digest in digests]

        asking = Asking(ask)
        digests = [Digest(bytes([number]) * 32) for number in range(100)]
        first = asyncio.ensure_future(asking.has(digests[0]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = await asyncio.gather(*(asking.has(digest) for digest in digests))
        assert await first
        assert rest == [number % 2 == 0 for number in range(100)]
        assert asked == [1, 100]
        await asking.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("failures", "verdict"),
    [
        ([(PEER, NotFound("no"))], NotFound),
        ([(PEER, Denied("not for you")), (PEER, NotFound("no"))], NotFound),
        ([(OWNER, Unauthorized("who are you"))], NotFound),
        ([(PEER, Denied("not for you")), (PEER, Unavailable("away"))], Unavailable),
        ([(ORIGIN, Denied("pay first"))], Denied),
        ([(PEER, Unavailable("away")), (ORIGIN, NotFound("no"))], NotFound),
    ],
)
async def test_what_a_lost_race_tells(failures: list[tuple[Tier, HoldfastError]], verdict: type[HoldfastError]) -> None:
    """A peer's refusal of us is no refusal of whoever asked us."""

    async def discard(answer: None) -> None: ...

    def lane(tier: Tier, error: HoldfastError) -> Lane[None]:
        async def run() -> None:
            raise error

        return Lane(lambda: Entrant("source", tier, HEDGE_S), run)

    race: Race[None] = Race(discard=discard)
    for tier, error in failures:
        race.enter(lane(tier, error))
    race.settle()
    with pytest.raises(HoldfastError) as caught:
        await race.run()
    assert type(caught.value) is verdict
