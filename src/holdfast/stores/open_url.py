"""From a store's URL to a store: one table of schemes. The engines' libraries are extras, imported when they are used.

Nodes (``http``, ``https``) are not here: what they may be asked depends on credentials that a URL does not hold.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, UsageError
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.stores.protocol import Store
from holdfast.stores.url import StoreUrl
from holdfast.wire.network import Network


@dataclass(frozen=True, slots=True)
class Seams:
    """What stores are made of; all of it stays the caller's."""

    files: Files
    pool: Pool
    clock: Clock
    randomness: Randomness
    network: Network
    environment: Mapping[str, str]
    """Where credentials are named; never in the URL."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How stores of one scheme are made and opened."""

    init: Callable[[StoreUrl, Seams], Awaitable[str]]
    open: Callable[[StoreUrl, Seams], Awaitable[Store]]


async def init_store(url: StoreUrl, seams: Seams) -> str:
    """Makes an empty store and returns its id; Exists or BadConfig if there is one."""
    return await _engine(url).init(url, seams)


async def open_store(url: StoreUrl, seams: Seams) -> Store:
    """Opens what is there and never makes anything; BadConfig if there is none. Close it."""
    return await _engine(url).open(url, seams)


async def scale_store(url: StoreUrl, replicas: int, seams: Seams, show: Callable[[int, int], None]) -> None:
    """Changes how many copies the servers of a nats store keep, and waits until all are complete.

    ``show`` is told how many are complete, of how many. UsageError for stores that have no replicas of their own.
    """
    if url.scheme != "nats":
        raise UsageError(f"{url} has no replicas of its own; only nats stores have")
    with _extra("nats"):
        from holdfast.stores.nats.access import NatsAccess
        from holdfast.stores.nats.store import NatsStore

    await NatsStore.scale(
        url,
        replicas,
        access=NatsAccess.from_environment(seams.environment),
        clock=seams.clock,
        randomness=seams.randomness,
        seen=lambda state: show(state.current, replicas),
    )


async def _init_disk(url: StoreUrl, seams: Seams) -> str:
    from holdfast.stores.disk.store import DiskStore

    return await DiskStore.init(Path(url.path), files=seams.files, pool=seams.pool, randomness=seams.randomness)


async def _open_disk(url: StoreUrl, seams: Seams) -> Store:
    from holdfast.stores.disk.store import DiskStore

    return await DiskStore.open(Path(url.path), files=seams.files, pool=seams.pool, clock=seams.clock)


async def _init_memory(url: StoreUrl, seams: Seams) -> str:
    return seams.randomness.bytes(16).hex()


async def _open_memory(url: StoreUrl, seams: Seams) -> Store:
    from holdfast.stores.memory import MemoryStore

    return MemoryStore()


async def _init_nats(url: StoreUrl, seams: Seams) -> str:
    with _extra("nats"):
        from holdfast.stores.nats.access import NatsAccess
        from holdfast.stores.nats.store import NatsStore

    access = NatsAccess.from_environment(seams.environment)
    return await NatsStore.init(url, access=access, clock=seams.clock, randomness=seams.randomness)


async def _open_nats(url: StoreUrl, seams: Seams) -> Store:
    with _extra("nats"):
        from holdfast.stores.nats.access import NatsAccess
        from holdfast.stores.nats.store import NatsStore

    return await NatsStore.open(
        url,
        access=NatsAccess.from_environment(seams.environment),
        pool=seams.pool,
        clock=seams.clock,
        randomness=seams.randomness,
        network=seams.network,
    )


async def _init_s3(url: StoreUrl, seams: Seams) -> str:
    with _extra("s3"):
        from holdfast.stores.s3.store import S3Store

    return await S3Store.init(url, environment=seams.environment, randomness=seams.randomness)


async def _open_s3(url: StoreUrl, seams: Seams) -> Store:
    with _extra("s3"):
        from holdfast.stores.s3.store import S3Store

    return await S3Store.open(url, environment=seams.environment, pool=seams.pool)


ENGINES: Mapping[str, Engine] = {
    "file": Engine(_init_disk, _open_disk),
    "memory": Engine(_init_memory, _open_memory),
    "nats": Engine(_init_nats, _open_nats),
    "s3": Engine(_init_s3, _open_s3),
}


def _engine(url: StoreUrl) -> Engine:
    if url.scheme not in ENGINES:
        raise UsageError(f"{url} is a node: its blobs are reached with 'holdfast blob --node', not as a store")
    return ENGINES[url.scheme]


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Says how to install what a URL needs."""
    try:
        yield
    except ImportError as error:
        raise BadConfig(
            f"{name} stores need a library that is not installed: pip install 'holdfast[{name}]'"
        ) from error
