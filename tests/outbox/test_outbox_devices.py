"""Two devices edit the same names offline, on what they saw last or long ago; whoever delivers for them is killed.

On a web server and on the manifests of a holdfast node: nothing acknowledged is lost, no effect happens twice, none out
of order, every write that would go over somebody else's is kept as a conflict with both contents, and no other is: but
for one whose answer was lost and which the other device had changed before anybody could look, which nobody can tell.
``HOLDFAST_CRASH_ROUNDS`` says how many interruptions (50 by default, an eighth of them for each of the two here).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from tests.node.street import Home, street
from tests.outbox import crash_child
from tests.outbox.test_outbox_crash import killed, start
from tests.outbox.upstream import Upstream, lost, reset

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.node.exchange.manifests import Kept, Precondition
from holdfast.outbox import Entry, NewEntry, Outbox, State, http
from holdfast.peers import manifest as manifests

ROUNDS = max(4, int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "50")) // 8)
NAMES = ("a", "b", "c")


@dataclass
class Effect:
    """A write that was carried out: what the name held before, and holds now."""

    name: str
    before: bytes | None
    after: bytes


class WebServer:
    """A server of others, which loses answers."""

    def __init__(self, up: Upstream, chance: random.Random) -> None:
        self.up = up
        self.effects: list[Effect] = []
        up.everywhere = self._unreliable
        self._chance = chance
        self._plain = up.plain
        up.plain = self._noted  # type: ignore[method-assign]

    def _noted(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        before, done = self.up.files.get(request.path), len(self.up.effects)
        answer = self._plain(request, body)
        if len(self.up.effects) > done:
            self.effects.append(Effect(request.path.strip("/"), before, body))
        return answer

    async def _unreliable(self, request: web.Request, body: bytes) -> web.StreamResponse | None:
        turn = self._chance.random()
        if request.method == "PUT" and turn < 0.06:
            return await lost(self.up)(request, body)
        return await reset(request, body) if turn > 0.97 else None

    def seed(self, device: int) -> bytes | None:
        return None

    def content(self, device: int, number: int) -> bytes:
        return f"{device}:{number}".encode()

    def held(self, name: str) -> bytes | None:
        return self.up.files.get(f"/{name}")

    def entry(self, name: str, base: bytes | None, body: bytes) -> NewEntry:
        url = f"{self.up.url}/{name}"
        if base is None:
            return http.put(url, if_absent=True)
        return http.put(url, if_match='"' + hashlib.sha256(base).hexdigest()[:16] + '"')

    def reliable(self) -> None:
        self.up.everywhere = None


class NodeServer:
    """A holdfast node and its manifests."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.effects: list[Effect] = []
        self._held: dict[str, bytes] = {}
        kept = home.running.exchange.manifests
        self._put = kept.put
        kept.put = self._noted  # type: ignore[method-assign]

    async def _noted(self, name: str, data: bytes, condition: Precondition) -> tuple[Kept, bool]:
        before = self.home.running.exchange.manifests.find(name)
        found = await self._put(name, data, condition)
        if before is None or before.etag != found[0].etag:
            self.effects.append(Effect(name, self._held.get(name), data))
            self._held[name] = data
        return found

    def seed(self, device: int) -> bytes | None:
        return bytes((0x31 + device,)) * 32

    def content(self, device: int, number: int) -> bytes:
        entry = manifests.Entry(Digest.of(b"blob"), 4)
        return manifests.encode(manifests.make("name", [(f"{device}-{number}", entry)]))

    def held(self, name: str) -> bytes | None:
        return self._held.get(name)

    def entry(self, name: str, base: bytes | None, body: bytes) -> NewEntry:
        return http.put(
            f"{self.home.running.url}/v1/manifests/{name}",
            content_type="application/json",
            if_match=None if base is None else manifests.etag_field(manifests.etag(base)),
            if_absent=base is None,
            node=self.home.id,
            etag=manifests.etag_field(manifests.etag(body)),
        )

    def reliable(self) -> None:
        pass


@dataclass
class Edit:
    """One acknowledged write; ``over``: contents that it may replace."""

    device: int
    name: str
    number: int
    over: set[bytes | None]


@dataclass
class Story:
    """All that was written, and what became of it."""

    server: WebServer | NodeServer
    outboxes: list[Outbox]
    edits: dict[bytes, Edit] = field(default_factory=dict)
    seen: dict[tuple[int, str], bytes | None] = field(default_factory=dict)
    dropped: set[bytes] = field(default_factory=set)
    overtaken: set[bytes] = field(default_factory=set)
    """Carried out, but the answer was lost and the other device wrote on top of it before it was asked again."""
    conflicts: int = 0

    async def edit(self, chance: random.Random, device: int) -> None:
        """On what the device saw last; while an edit of its own waits, on the same as that."""
        name = chance.choice(NAMES)
        new = self.server.entry(name, None, b"")
        if not await self.outboxes[device].waiting_for(new.keys[0]) and chance.random() < 0.7:
            self.seen[device, name] = self.server.held(name)
        base = self.seen.get((device, name))
        number = len(self.edits)
        body = self.content(name, device, number)
        self.edits[body] = Edit(device, name, number, {base})
        await self.outboxes[device].enqueue(self.server.entry(name, base, body), body)

    def content(self, name: str, device: int, number: int) -> bytes:
        return self.server.content(device, number).replace(b'"name":"name"', f'"name":"{name}"'.encode())

    async def settle(self, device: int) -> bool:
        """Resolves what is a conflict, some one way and some the other; is anything left?"""
        outbox = self.outboxes[device]
        await outbox.flush()
        left = [entry async for entry in outbox.entries()]
        for entry in left:
            assert entry.state in (State.WAITING, State.DEFERRED, State.CONFLICT), (entry.state, entry.reason)
            if entry.state is State.CONFLICT:
                mine, theirs = await _both(entry)
                edit = self.edits[mine]
                assert theirs not in self.allowed(edit), "a conflict only where somebody else's write was in the way"
                assert self.edits[theirs].device != device
                done = [effect.after for effect in self.server.effects]
                assert theirs in done
                if mine in done:
                    assert done.index(mine) < done.index(theirs)
                    self.overtaken.add(mine)
                self.conflicts += 1
                if edit.number % 2:
                    edit.over.add(theirs)
                    await outbox.resolve(entry.sequence, "mine")
                else:
                    self.dropped.add(mine)
                    await outbox.resolve(entry.sequence, "theirs")
        return bool(left)

    def allowed(self, edit: Edit) -> set[bytes | None]:
        """What it may go over: its base, or what the device's own edits of the name before it have left."""
        own = {
            body
            for body, other in self.edits.items()
            if (other.device, other.name) == (edit.device, edit.name) and other.number < edit.number
        }
        return edit.over | own

    def check(self) -> None:
        done = [effect.after for effect in self.server.effects]
        twice = {body for body, times in Counter(done).items() if times > 1}
        assert twice <= self.overtaken, "no effect twice, unless a person said so"
        assert set(done) | self.dropped == set(self.edits), "nothing acknowledged is lost"
        assert set(done) & self.dropped <= self.overtaken
        for effect in self.server.effects:
            assert effect.before in self.allowed(self.edits[effect.after]), "nothing of others is overwritten"
        for device in range(len(self.outboxes)):
            for name in NAMES:
                numbers = [
                    self.edits[body].number
                    for body in dict.fromkeys(done)
                    if (self.edits[body].device, self.edits[body].name) == (device, name)
                ]
                assert numbers == sorted(numbers), "in order"


async def _both(entry: Entry) -> tuple[bytes, bytes]:
    assert entry.open is not None
    assert entry.theirs is not None
    assert entry.theirs.open is not None, entry.reason
    mine = b"".join([bytes(piece) async for piece in entry.open()])
    return mine, b"".join([bytes(piece) async for piece in entry.theirs.open()])


async def told(server: WebServer | NodeServer, directory: Path, chance: random.Random) -> Story:
    """Two devices, killed as often as ``ROUNDS`` says; then all is delivered and every conflict resolved."""
    seeds = [server.seed(device) for device in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        paths = [directory / f"device{device}" for device in range(2)]
        boxes = [
            await stack.enter_async_context(crash_child.opened(path, seed))
            for path, seed in zip(paths, seeds, strict=True)
        ]
        story = Story(server, boxes)

        async def deliverer(device: int) -> asyncio.subprocess.Process:
            seed = seeds[device]
            child = await start("deliver", str(paths[device]), *([seed.hex()] if seed else []))
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n", (await child.communicate())[1]
            return child

        children = [await deliverer(device) for device in range(2)]
        for number in range(ROUNDS):
            for device in range(2):
                for _ in range(chance.randint(1, 3)):
                    await story.edit(chance, device)
            # at any moment of the work, so the moment is drawn in real time: nothing is asserted about it
            await asyncio.sleep(chance.uniform(0.0, 0.25))
            await killed(children[number % 2])
            children[number % 2] = await deliverer(number % 2)
        for child in children:
            await killed(child)
        server.reliable()
        async with asyncio.timeout(60 + ROUNDS):
            left = True
            while left:
                left = any([await story.settle(device) for device in range(2)])
        for box in boxes:
            assert not list((box.queue.directory / "bodies").iterdir())
        return story


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Home]:
    async with street(tmp_path / "nodes") as made:
        (home,) = await made.build(1)
        keys = [(Identity(bytes((0x31 + device,)) * 32).id, "read,write") for device in range(2)]
        home.authorize(*keys)
        await home.start()
        client = made.client(Identity(b"\x31" * 32))
        await client.put_blob(home.target, Digest.of(b"blob"), 4, b"blob")
        yield home


@pytest.mark.timeout(120 + 8 * ROUNDS)
async def test_two_devices_on_a_web_server(tmp_path: Path) -> None:
    chance = random.Random(4)
    async with Upstream() as up:
        story = await told(WebServer(up, chance), tmp_path, chance)
        story.check()
        assert story.conflicts


@pytest.mark.timeout(120 + 8 * ROUNDS)
async def test_two_devices_on_the_manifests_of_a_node(tmp_path: Path, node: Home) -> None:
    story = await told(NodeServer(node), tmp_path, random.Random(5))
    story.check()
    assert story.conflicts
