"""NATS buckets on real servers that sync always: put and get of a large blob beside the bare calls they are made of.

The limits are a windowed publish of the same chunks without hashing, and a pull consumer that fetches 32 messages at a
time and throws them away.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from tests.stores.nats_servers import BINARY, NatsServer, one_server, running, three_servers

from bench.measure import MIB, Rounds, Scale
from bench.report import Figure, Goal, ratio_at_least
from holdfast.blob import Digest, pieces
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.pool import ThreadPool
from holdfast.stores import url
from holdfast.stores.nats.access import NatsAccess
from holdfast.stores.nats.layout import CHUNK_BYTES_MAX
from holdfast.stores.nats.store import NatsStore
from holdfast.stores.nats.write import WINDOW_CHUNKS
from holdfast.stores.protocol import put_bytes
from holdfast.wire.network import TcpNetwork

_FETCH = 32


def run(scale: Scale, directory: Path) -> list[Figure]:
    """Figures for one copy and for three; nothing where there is no nats-server."""
    if BINARY is None:
        print("  no nats-server: left out", file=sys.stderr)
        return []
    figures: list[Figure] = []
    for replicas, servers in ((1, [one_server(directory)]), (3, three_servers(directory))):
        with running(servers):
            figures += asyncio.run(_measure(scale, servers, replicas))
    return figures


async def _measure(scale: Scale, servers: Sequence[NatsServer], replicas: int) -> list[Figure]:
    for server in servers:
        await server.wait_ready()
    address, data = servers[0].address, os.urandom(scale.size)
    digest = Digest.of(data)
    rounds = {name: Rounds() for name in ("put", "bare put", "get", "bare get", "small")}

    async def bare(number: int) -> None:
        bucket = f"bare{number}"
        client = await nats.connect(f"nats://{address}")
        stream = client.jetstream(timeout=30)
        await stream.create_object_store(bucket, replicas=replicas)
        window = asyncio.Semaphore(WINDOW_CHUNKS)
        began, acks = time.perf_counter(), []
        for start in range(0, len(data), CHUNK_BYTES_MAX):
            await window.acquire()
            ack = await stream.publish_async(f"$O.{bucket}.C.x", data[start : start + CHUNK_BYTES_MAX])
            ack.add_done_callback(lambda _: window.release())
            acks.append(ack)
        await asyncio.gather(*acks)
        rounds["bare put"].add(_speed(len(data), began))
        began, seen = time.perf_counter(), 0
        consumer = await stream.pull_subscribe(
            f"$O.{bucket}.C.x", stream=f"OBJ_{bucket}", config=ConsumerConfig(ack_policy=AckPolicy.NONE)
        )
        while seen < len(data):
            seen += sum(len(message.data) for message in await consumer.fetch(_FETCH, timeout=30))
        rounds["bare get"].add(_speed(len(data), began))
        await stream.delete_object_store(bucket)
        await client.close()

    async def ours(number: int) -> None:
        async with _store(f"nats://{address}/ours{number}?replicas={replicas}") as store:
            began = time.perf_counter()
            await store.put(digest, len(data), pieces(data))
            rounds["put"].add(_speed(len(data), began))
            began, seen = time.perf_counter(), 0
            async with store.get(digest) as body:
                async for piece in body:
                    seen += len(piece)
            if seen != len(data):
                raise ValueError("a blob came back with another length")
            rounds["get"].add(_speed(len(data), began))
            began = time.perf_counter()
            for _ in range(scale.singles):
                await put_bytes(store, os.urandom(scale.small_bytes))
            rounds["small"].add(scale.singles / (time.perf_counter() - began))
            await store.delete([digest])

    for number in range(scale.repeat):
        for work in (bare, ours) if number % 2 == 0 else (ours, bare):
            await work(number)
    name, goal = f"NATS, {replicas} cop{'y' if replicas == 1 else 'ies'}", ratio_at_least(0.8)
    return [
        _figure(f"{name}: put", rounds["put"], rounds["bare put"], "windowed publish", goal),
        _figure(f"{name}: get", rounds["get"], rounds["bare get"], "pull consumer", goal),
        Figure(f"{name}: small puts one after another", rounds["small"].median, "blobs/s"),
    ]


def _figure(name: str, ours: Rounds, limit: Rounds, limit_name: str, goal: Goal) -> Figure:
    return Figure(name, ours.median, "MiB/s", limit.median, limit_name, goal, tuple(ours.values), tuple(limit.values))


def _speed(size: int, began: float) -> float:
    return size / MIB / (time.perf_counter() - began)


@asynccontextmanager
async def _store(address: str) -> AsyncIterator[NatsStore]:
    named, access, pool = url.parse(address), NatsAccess(), ThreadPool(2)
    clock, randomness = SystemClock(), SystemRandomness()
    await NatsStore.init(named, access=access, clock=clock, randomness=randomness)
    store = await NatsStore.open(
        named, access=access, pool=pool, clock=clock, randomness=randomness, network=TcpNetwork()
    )
    try:
        yield store
    finally:
        await store.close()
        pool.close()
