"""Sources that lie, stall, crawl, break off or never end: the next source, or a clear error; never a wrong byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from tests.peers.rig import Member, Rig, blob, cluster

from holdfast.blob import Buffer, Digest
from holdfast.errors import Corrupt, NotFound, Unavailable
from holdfast.wire.serve import BytesReply, Call, StreamReply, parse_range

SMALL, LARGE = 40_000, 5_000_000

Behaviour = Callable[[bytes], Callable[[Call, Digest], Any]]


def answer(data: bytes, *, total: int | None = None, after: float = 0.0) -> Behaviour:
    """Sends these bytes in one piece."""

    def make(_: bytes) -> Callable[[Call, Digest], Any]:
        async def behave(call: Call, digest: Digest) -> BytesReply:
            await asyncio.sleep(after)
            return BytesReply(data, len(data) if total is None else total)

        return behave

    return make


def sending(source: Callable[[bytes], AsyncIterator[Buffer]], size: Callable[[int], int] = lambda n: n) -> Behaviour:
    def make(data: bytes) -> Callable[[Call, Digest], Any]:
        def behave(call: Call, digest: Digest) -> StreamReply:
            range_ = parse_range(call.headers.get("range"), len(data))
            start = range_[0] if range_ else 0
            return StreamReply(source(data[start:]), size(len(data)), range_)

        return behave

    return make


async def half(data: bytes) -> AsyncIterator[Buffer]:
    yield data[: len(data) // 2]
    raise Unavailable("broken off")


async def stalling(data: bytes) -> AsyncIterator[Buffer]:
    yield data[: len(data) // 2]
    await asyncio.sleep(3600)


async def silent(data: bytes) -> AsyncIterator[Buffer]:
    await asyncio.sleep(3600)
    yield data


async def crawling(data: bytes) -> AsyncIterator[Buffer]:
    for at in range(len(data)):
        yield data[at : at + 1]
        await asyncio.sleep(0.2)


async def wrong_at_the_end(data: bytes) -> AsyncIterator[Buffer]:
    yield data[:-1]
    yield bytes([data[-1] ^ 1])


BROKEN: dict[str, Behaviour] = {
    "breaks off in the middle": sending(half),
    "stalls in the middle": sending(stalling),
    "says nothing": sending(silent),
    "crawls": sending(crawling),
}
LYING: dict[str, Behaviour] = {
    "other bytes": lambda data: answer(bytes(len(data)))(data),
    "wrong only at the end": sending(wrong_at_the_end),
}
SHORT: dict[str, Behaviour] = {
    "shorter": lambda data: answer(data[:-100])(data),
    "longer": lambda data: answer(data + b"more")(data),
    "empty": answer(b""),
    "html": answer(b"<html>please log in</html>"),
}


async def _with_bad_peer(rig: Rig, behaviour: Behaviour, size: int) -> tuple[Member, Digest, bytes]:
    node, bad = rig.members[:2]
    digest, data = blob(size)
    rig.cdn.blobs[digest] = data
    bad.claims = True
    bad.behave = behaviour(data)
    return node, digest, data


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("name", BROKEN)
def test_a_peer_in_trouble_is_left_for_the_next_source(name: str, size: int) -> None:
    async def scene(rig: Rig) -> None:
        node, digest, data = await _with_bad_peer(rig, BROKEN[name], size)
        began = asyncio.get_running_loop().time()
        assert await node.read(digest) == data
        assert asyncio.get_running_loop().time() - began < 4.0
        await node.settle()
        assert (await node.store.stat([digest]))[0] is not None
        if "middle" in name and size == LARGE:
            assert began_at(rig) > size // 4, "it goes on where it stopped"

    cluster(2, scene)


@pytest.mark.parametrize("name", [*LYING, *SHORT])
def test_a_small_lie_costs_the_reader_nothing(name: str) -> None:
    async def scene(rig: Rig) -> None:
        node, digest, data = await _with_bad_peer(rig, (LYING | SHORT)[name], SMALL)
        assert await node.read(digest) == data
        await node.settle()
        assert await node.read(digest) == data
        (peer,) = node.directory.all()
        assert (peer.lies, peer.healthy) == (1, False)
        await asyncio.sleep(120)
        await node.neighbours.unit()
        assert not peer.healthy, "a liar rests whatever it says"

    cluster(2, scene)


@pytest.mark.parametrize("name", [*LYING, *SHORT])
def test_a_large_lie_never_arrives_whole_and_the_next_try_is_right(name: str) -> None:
    async def scene(rig: Rig) -> None:
        node, digest, data = await _with_bad_peer(rig, (LYING | SHORT)[name], LARGE)
        got: list[bytes] = []
        try:
            async with node.through.get(digest) as body:
                async for piece in body:
                    got.append(bytes(piece))
        except Corrupt:
            assert sum(map(len, got)) < size_said(name)
        else:
            assert b"".join(got) == data
        await node.settle()
        (peer,) = node.directory.all()
        assert peer.lies == 1
        assert await node.read(digest) == data
        await node.settle()
        assert (await node.store.stat([digest]))[0] is not None

    def size_said(name: str) -> int:
        return {"shorter": LARGE - 100, "longer": LARGE + 4}.get(name, LARGE)

    cluster(2, scene)


def test_a_pull_without_a_reader_tries_again_by_itself() -> None:
    async def scene(rig: Rig) -> None:
        node, digest, _ = await _with_bad_peer(rig, LYING["other bytes"], LARGE)
        assert await node.puller.fetch(digest)
        assert (await node.store.stat([digest]))[0] is not None

    cluster(2, scene)


def began_at(rig: Rig) -> int:
    """The first byte that the origin was asked for, once."""
    (range_,) = rig.cdn.ranges
    return int(range_.removeprefix("bytes=").removesuffix("-") or 0)


def test_two_sources_each_with_a_half() -> None:
    async def scene(rig: Rig) -> None:
        node, one, two = rig.members
        digest, data = blob(LARGE)
        for member in (one, two):
            member.claims = True
            member.behave = BROKEN["breaks off in the middle"](data)
        rig.cdn.blobs[digest] = data
        assert await node.read(digest) == data
        assert began_at(rig) > LARGE // 2

    cluster(3, scene)


ORIGIN: dict[str, Callable[[bytes], Callable[[web.BaseRequest], Any]]] = {
    "html": lambda data: lambda request: web.Response(text="<html>", content_type="text/html"),
    "another blob": lambda data: lambda request: web.Response(body=bytes(len(data))),
    "half": lambda data: lambda request: _raw(request, data[: len(data) // 2], len(data)),
    "error 500": lambda data: lambda request: web.Response(status=500),
    "no length and endless": lambda data: lambda request: _endless(request),
    "by the byte": lambda data: lambda request: _by_the_byte(request, data),
    "a redirect": lambda data: lambda request: web.Response(status=302, headers={"location": "http://169.254.1.1/x"}),
    "another range": lambda data: (
        lambda request: web.Response(status=206, body=b"x", headers={"content-range": "bytes 5-5/6"})
    ),
}


async def _raw(request: web.BaseRequest, data: bytes, size: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": str(size)})
    await response.prepare(request)
    await response.write(data)
    assert request.transport is not None
    request.transport.abort()
    return response


async def _by_the_byte(request: web.BaseRequest, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": str(len(data))})
    await response.prepare(request)
    for at in range(1000):
        await response.write(data[at : at + 1])
        await asyncio.sleep(0.2)
    return response


async def _endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(10_000):
        await response.write(bytes(64 << 10))
        await asyncio.sleep(0.001)
    return response


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("name", ORIGIN)
def test_an_origin_in_trouble_is_a_clear_error_in_bounded_time(name: str, size: int) -> None:
    async def scene(rig: Rig) -> None:
        node = rig.members[0]
        digest, data = blob(size)
        rig.cdn.override = ORIGIN[name](data)
        began = asyncio.get_running_loop().time()
        with pytest.raises((Unavailable, Corrupt, NotFound)):
            await node.read(digest)
        assert asyncio.get_running_loop().time() - began < 15
        await node.settle()
        assert (await node.store.stat([digest]))[0] is None
        rig.cdn.override = None
        rig.cdn.blobs[digest] = data
        await asyncio.sleep(35)
        assert await node.read(digest) == data, "and it is asked again"

    cluster(1, scene)


def test_a_reader_that_leaves_early_takes_nobody_with_it() -> None:
    async def scene(rig: Rig) -> None:
        node = rig.members[0]
        digest, data = blob(LARGE)
        rig.cdn.blobs[digest] = data
        rig.cdn.rate = 1e6
        first = asyncio.ensure_future(node.read(digest))
        second = asyncio.ensure_future(node.read(digest))
        await asyncio.sleep(1)
        first.cancel()
        assert await second == data
        assert len(rig.cdn.requests) == 1

    cluster(1, scene)


def test_a_slow_reader_holds_up_nobody_and_memory_stays_bounded() -> None:
    async def scene(rig: Rig) -> None:
        node = rig.members[0]
        digest, data = blob(30 << 20)
        rig.cdn.blobs[digest] = data

        async def slowly() -> bytes:
            parts = []
            async with node.through.get(digest) as body:
                async for piece in body:
                    parts.append(bytes(piece))
                    await asyncio.sleep(1)
            return b"".join(parts)

        slow = asyncio.ensure_future(slowly())
        began = asyncio.get_running_loop().time()
        assert await node.read(digest) == data
        assert asyncio.get_running_loop().time() - began < 2
        assert await slow == data
        assert len(rig.cdn.requests) == 1

    cluster(1, scene)


def test_many_blobs_by_ten_nodes_are_one_origin_fetch_each() -> None:
    async def scene(rig: Rig) -> None:
        blobs = dict(blob(2000, seed) for seed in range(100))
        rig.cdn.blobs |= blobs

        async def all_of(member: Member, order: list[Digest]) -> None:
            for at in range(0, len(order), 8):
                group = order[at : at + 8]
                got = await asyncio.gather(*(member.read(digest) for digest in group))
                assert got == [blobs[digest] for digest in group]

        digests = list(blobs)
        await asyncio.gather(
            *(
                all_of(member, digests[number * 10 :] + digests[: number * 10])
                for number, member in enumerate(rig.members)
            )
        )
        assert len(rig.cdn.requests) == len(blobs)

    cluster(10, scene)
