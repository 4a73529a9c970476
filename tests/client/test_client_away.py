"""Blobs and manifests for a node that is away: queued by whoever pushes, delivered when it is back, over nobody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.node.street import Home, Street, street

from holdfast import assemble
from holdfast.assemble import ExchangeClient
from holdfast.blob import Digest, pieces
from holdfast.client.offline.resolve import resolve_http
from holdfast.errors import BadRequest, DigestMismatch, NotFound, TooLarge, Unavailable
from holdfast.outbox import Entry, Outbox, State
from holdfast.outbox.settings import OutboxSettings
from holdfast.peers import manifest as manifests


@pytest.fixture
async def row(tmp_path: Path) -> AsyncIterator[Street]:
    """The second node may write to the first."""
    async with street(tmp_path / "nodes") as made:
        here, there = await made.build(2)
        here.authorize((there.id, "read,write,delete,peer"))
        await here.start()
        await there.start()
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    (made / "large").write_bytes(os.urandom(300_000))
    (made / "small").write_bytes(b"small")
    return made


def asking(of: Home, through: str) -> AbstractAsyncContextManager[ExchangeClient]:
    return assemble.open_exchange(node=through, data=of.path)


async def away(home: Home) -> tuple[str, int]:
    """Stops it; its URL and port."""
    url = home.running.url
    await home.stop()
    return url, int(url.rpartition(":")[2])


async def back(home: Home, port: int, by: Home) -> None:
    """It runs again, and the other one's process delivers."""
    await home.start(port)
    await outbox_of(by)
    assert by.running.outbox is not None
    async with asyncio.timeout(30):
        await by.running.outbox.unit()
        while by.running.outbox.waiting:
            await asyncio.sleep(0.05)  # a manifest before its blobs is tried again after a second
            await by.running.outbox.unit()


async def outbox_of(home: Home) -> Outbox:
    """The node's, which somebody else has filled: it looks once a second whether there is one."""
    assert home.running.outbox is not None
    async with asyncio.timeout(10):
        while (found := await home.running.outbox._door.found()) is None:  # noqa: ASYNC110 - nobody can tell it
            await asyncio.sleep(0.1)
    return found


async def entries(home: Home) -> list[Entry]:
    return [entry async for entry in (await outbox_of(home)).entries()]


async def test_a_push_to_a_node_that_is_away_arrives_when_it_is_back(row: Street, source: Path) -> None:
    here, there = row.homes
    url, port = here.running.url, int(here.running.url.rpartition(":")[2])
    async with asking(there, url) as opened:
        first = await opened.pusher.push(source, "tools")
        assert (first.away, first.sent) == ("", 2)
    await away(here)
    (source / "new").write_bytes(b"new")
    async with asking(there, url) as opened:  # its id is remembered
        second = await opened.pusher.push(source, "tools")
        assert second.away
        (source / "new").write_bytes(b"newer")
        third = await opened.pusher.push(source, "tools")
        assert "still waits" in third.away
        done = await opened.pusher.put_file(source / "large")
        assert done.away
    queued = await entries(there)
    changes = [entry for entry in queued if "manifests" in entry.keys[0]]
    assert [entry.payload["base"] for entry in changes] == [{"etag": manifests.etag_field(first.etag)}] * 2
    blobs = [entry.keys[0] for entry in queued if "blobs" in entry.keys[0]]
    assert len(blobs) == len(set(blobs)) == 4, "no blob twice"
    await back(here, port, there)
    async with asking(there, url) as opened:
        assert manifests.etag(await opened.node.manifest("tools")) == third.etag
        assert (await opened.pusher.push(source, "tools")).sent == 0
        (source / "new").unlink()
    assert await entries(there) == []


async def test_what_somebody_else_pushed_meanwhile_is_kept_as_a_conflict(row: Street, source: Path) -> None:
    here, there = row.homes
    url, port = here.running.url, int(here.running.url.rpartition(":")[2])
    async with asking(there, url) as opened:
        await opened.pusher.push(source, "tools")
    await away(here)
    async with asking(there, url) as opened:
        (source / "mine").write_bytes(b"mine")
        await opened.pusher.push(source, "tools")
    (source / "mine").unlink()
    (source / "theirs").write_bytes(b"theirs")
    await here.start(port)
    async with asking(here, url) as opened:
        theirs = await opened.pusher.push(source, "tools")
        assert not theirs.away
    await outbox_of(there)
    assert there.running.outbox is not None
    async with asyncio.timeout(30):
        while not there.running.outbox.conflicts:
            await there.running.outbox.unit()
            await asyncio.sleep(0.05)
    (left,) = await entries(there)
    assert left.state is State.CONFLICT
    assert left.theirs is not None
    assert left.theirs.open is not None
    kept = b"".join([bytes(piece) async for piece in left.theirs.open()])
    assert manifests.etag(kept) == theirs.etag
    async with asking(here, url) as opened:
        assert manifests.etag(await opened.node.manifest("tools")) == theirs.etag
    assert there.running.overview().outbox_conflicts == 1
    outbox = await outbox_of(there)
    with pytest.raises(BadRequest, match="under another name"):
        await resolve_http(outbox, left.sequence, "both", "host")
    await resolve_http(outbox, left.sequence, "mine", "host")
    await there.running.outbox.unit()
    async with asking(here, url) as opened:
        found = manifests.decode(await opened.node.manifest("tools"), "tools")
    assert sorted(found.objects) == ["large", "mine", "small"]
    assert await entries(there) == []


@pytest.mark.parametrize("changed_later", [False, True])
async def test_a_manifest_never_seen_is_replaced_only_if_it_is_older(
    row: Street, source: Path, changed_later: bool
) -> None:
    here, there = row.homes
    async with asking(here, here.running.url) as opened:
        await opened.pusher.push(source, "tools")
    id_ = here.id
    url, port = await away(here)
    await asyncio.sleep(1.1)  # HTTP dates have whole seconds, and a node gives one more
    async with asking(there, f"{id_}@{url}") as opened:
        (source / "mine").write_bytes(b"mine")
        mine = await opened.pusher.push(source, "tools")
        assert mine.away
    (change,) = [entry for entry in await entries(there) if "manifests" in entry.keys[0]]
    assert set(change.payload["base"]) == {"modified"}
    if changed_later:
        await asyncio.sleep(2.1)
        await here.start(port)
        async with asking(here, url) as opened:
            (source / "theirs").write_bytes(b"theirs")
            await opened.pusher.push(source, "tools")
        await here.stop()
    await back(here, port, there)
    async with asking(there, url) as opened:
        found = manifests.etag(await opened.node.manifest("tools"))
    states = [entry.state for entry in await entries(there)]
    assert (found == mine.etag, states) == ((False, [State.CONFLICT]) if changed_later else (True, []))


async def test_a_removal_waits_too(row: Street, source: Path) -> None:
    here, there = row.homes
    url = here.running.url
    async with asking(there, url) as opened:
        await opened.pusher.push(source, "tools")
        _, port = await away(here)
        assert await opened.pusher.remove("tools")
    await back(here, port, there)
    async with asking(there, url) as opened:
        with pytest.raises(NotFound):
            await opened.node.manifest("tools")


async def test_who_has_no_place_for_it_or_never_met_the_node_hears_so(
    row: Street, source: Path, tmp_path: Path
) -> None:
    here, there = row.homes
    id_ = here.id
    url, _ = await away(here)
    with pytest.raises(Unavailable):
        async with asking(there, url):
            pass
    async with assemble.open_exchange(tmp_path / "no-home", node=f"{id_}@{url}") as opened:
        with pytest.raises(Unavailable):
            await opened.pusher.push(source, "tools")


async def test_a_file_that_changes_or_is_too_large_is_refused(
    row: Street, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = row.homes
    id_ = here.id
    url, _ = await away(here)
    async with asking(there, f"{id_}@{url}") as opened:
        assert opened.pusher._away is not None
        outbox = await opened.pusher._away._door.open()
        monkeypatch.setattr(outbox.queue, "settings", OutboxSettings(body_bytes_max=100_000))
        with pytest.raises(TooLarge):
            await opened.pusher.push(source, "tools")
        with pytest.raises(DigestMismatch):
            await opened.pusher._away.blob(Digest.of(b"as it was"), 5, pieces(b"as is"))
        assert [entry async for entry in outbox.entries()] == []


async def test_the_home_of_a_user_queues_too(row: Street, source: Path, tmp_path: Path) -> None:
    here, there = row.homes
    home = tmp_path / "home"
    made = await assemble.init_home(home, join=None)
    here.authorize((made.device, "read,write"))
    url, port = await away(here)
    id_ = here.id
    async with assemble.open_exchange(home, node=f"{id_}@{url}") as opened:
        done = await opened.pusher.put_file(source / "small")
        assert done.away
    assert b"small" not in (home / "outbox" / "queue.db").read_bytes()
    await here.start(port)
    async with assemble.open_exchange(home, node=url) as opened:
        await opened.pusher.push(source, "tools")  # delivers what waits, too
        assert opened.pusher._away is not None
        outbox = await opened.pusher._away._door.found()
        assert isinstance(outbox, Outbox)
        assert await outbox.waiting() == 0
        assert await opened.node.has([Digest.of(b"small")]) == {Digest.of(b"small")}
    assert there.node is not None
