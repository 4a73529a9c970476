"""The stream that is a bucket: made, opened, changed, and asked how safe it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, Exists, Unavailable
from holdfast.stores.nats.layout import Bucket
from holdfast.stores.nats.link import NO_STREAM, NatsLink, Refused
from holdfast.wire.network import Network

STORE_ID = "holdfast-store"
"""The key of the store's id in the stream's metadata."""
SERVED_BY = "holdfast-served-by"
"""The key of who may serve the store in the stream's metadata: see ``claim``."""
DUPLICATE_WINDOW_S = 120
SCALE_POLL_S = 0.25
MONITOR_S = 5.0


class Peer(NamedTuple):
    """One server that keeps a copy."""

    name: str
    current: bool
    lag: int  # messages it has yet to take over
    leads: bool


@dataclass(frozen=True, slots=True)
class BucketState:
    """A bucket as its servers describe it."""

    store_id: str | None
    replicas: int
    peers: Sequence[Peer]
    in_memory: bool
    written_late: bool  # persist_mode async: acknowledged before it is written
    bytes: int

    @property
    def current(self) -> int:
        """How many copies are complete."""
        return sum(peer.current and not peer.lag for peer in self.peers)


async def look(link: NatsLink, bucket: Bucket) -> BucketState | None:
    """None if there is no such bucket."""
    found = await _info(link, bucket)
    if found is None:
        return None
    config, cluster = found["config"], found.get("cluster") or {}
    peers = [Peer(cluster["leader"], True, 0, True)] if cluster.get("leader") else []
    for replica in cluster.get("replicas") or []:
        current = bool(replica.get("current")) and not replica.get("offline")
        peers.append(Peer(replica["name"], current, int(replica.get("lag", 0)), False))
    return BucketState(
        store_id=(config.get("metadata") or {}).get(STORE_ID),
        replicas=int(config.get("num_replicas", 1)),
        peers=peers,
        in_memory=config.get("storage") == "memory",
        written_late=config.get("persist_mode") == "async",
        bytes=int(found["state"].get("bytes", 0)),
    )


async def create(link: NatsLink, bucket: Bucket, replicas: int, randomness: Randomness) -> str:
    """Makes the bucket, or gives an id to one that other clients made; the store's id. Exists if it has one."""
    store_id = randomness.bytes(16).hex()
    found = await _info(link, bucket)
    if found is not None:
        config = found["config"]
        metadata = config.get("metadata") or {}
        if STORE_ID in metadata:
            raise Exists(f"the bucket {bucket.name} holds a store already ({metadata[STORE_ID]})")
        await _configure(link, "UPDATE", {**config, "metadata": {**metadata, STORE_ID: store_id}})
        return store_id
    await _configure(
        link,
        "CREATE",
        {
            "name": bucket.stream,
            "description": "a store of holdfast",
            "subjects": bucket.subjects,
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "discard": "new",
            "storage": "file",
            "num_replicas": replicas,
            "duplicate_window": DUPLICATE_WINDOW_S * 1_000_000_000,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "metadata": {STORE_ID: store_id},
        },
    )
    return store_id


async def claim(link: NatsLink, bucket: Bucket, server: str | None) -> str:
    """Writes down who serves the bucket unless that stands there already; what stands there then.

    ``server`` None: writes nothing; "" if nobody does.
    """
    found = await _info(link, bucket)
    if found is None:
        raise missing(bucket)
    metadata = found["config"].get("metadata") or {}
    if SERVED_BY not in metadata and server is not None:
        await _configure(link, "UPDATE", {**found["config"], "metadata": {**metadata, SERVED_BY: server}})
        found = await _info(link, bucket) or found  # two at once: the last one stands, and each reads the same
        metadata = found["config"].get("metadata") or {}
    return str(metadata.get(SERVED_BY, ""))


async def scale(
    link: NatsLink,
    bucket: Bucket,
    replicas: int,
    *,
    clock: Clock,
    patience_s: float = 600.0,
    seen: Callable[[BucketState], None] = lambda state: None,
) -> BucketState:
    """Changes the number of copies and waits until all are complete; ``seen`` is told each state on the way.

    Unavailable after ``patience_s``: the servers go on, and calling again waits again.
    """
    found = await _info(link, bucket)
    if found is None:
        raise missing(bucket)
    if found["config"].get("num_replicas", 1) != replicas:
        await _configure(link, "UPDATE", {**found["config"], "num_replicas": replicas})
    deadline = clock.monotonic() + patience_s
    while True:
        state = await look(link, bucket)
        if state is None:
            raise missing(bucket)
        seen(state)
        if state.replicas == replicas == len(state.peers) == state.current:
            return state
        if clock.monotonic() > deadline:
            raise Unavailable(f"{state.current} of {replicas} copies are complete so far; the servers go on")
        await clock.sleep(SCALE_POLL_S)


async def unsynced(state: BucketState, monitors: Sequence[str], network: Network) -> str | None:
    """Why an acknowledged put may not survive a power cut, in words; None if every server syncs first.

    A client cannot see ``sync_interval``; a server's monitoring port shows it. ``monitors``: host:port of each server.
    """
    if why := volatile(state):
        return why
    synced: dict[str, bool] = {}
    timeout = aiohttp.ClientTimeout(total=MONITOR_S)
    async with aiohttp.ClientSession(connector=network.connector(limit_per_host=2, tls=None), timeout=timeout) as web:
        for monitor in monitors:
            try:
                async with web.get(f"http://{monitor}/varz") as answer:
                    found = await answer.json()
                    config = found["jetstream"]["config"]
                    synced[found["server_name"]] = bool(config.get("sync_always"))
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
                raise Unavailable(f"{monitor} does not answer as a NATS server's monitoring port: {error}") from error
    for peer in state.peers:
        if peer.name not in synced:
            return f"the server {peer.name} keeps a copy, and no monitoring address of it was given"
        if not synced[peer.name]:
            return f"the server {peer.name} acknowledges before it syncs: set 'sync_interval: always' there"
    return None


def volatile(state: BucketState) -> str | None:
    """What the bucket's own settings say against it."""
    if state.in_memory:
        return "the bucket is kept in memory only"
    if state.written_late:
        return "the bucket has persist_mode async: it acknowledges before it writes"
    return None


def missing(bucket: Bucket) -> BadConfig:
    """The error for a bucket that is not there; nothing but ``create`` makes one."""
    return BadConfig(f"there is no bucket {bucket.name}: is it the right server? 'holdfast store init URL' makes one")


async def _info(link: NatsLink, bucket: Bucket) -> dict[str, Any] | None:
    try:
        return await link.ask(f"STREAM.INFO.{bucket.stream}")
    except Refused as error:
        if error.error_code == NO_STREAM:
            return None
        raise error.translated(f"looking at the bucket {bucket.name}") from error


async def _configure(link: NatsLink, verb: str, config: Mapping[str, Any]) -> None:
    try:
        await link.ask(f"STREAM.{verb}.{config['name']}", config)
    except Refused as error:
        if "replicas" in error.description or "peers" in error.description:
            raise BadConfig(
                f"these servers cannot keep {config['num_replicas']} copies: {error.description}"
            ) from error
        if error.code == 400:
            raise BadConfig(f"the servers refuse this bucket: {error.description}") from error
        raise error.translated(f"{verb.lower()} of the bucket") from error
