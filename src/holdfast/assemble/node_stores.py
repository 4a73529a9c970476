"""The store under a node: in its own directory, in another one, or a bucket; made once and opened at each start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from holdfast.assemble.machine import Machine
from holdfast.auth.identity import Id
from holdfast.errors import BadConfig, Exists, UsageError
from holdfast.node import bucket
from holdfast.node.bucket import Bucket, BucketStore
from holdfast.node.layout import NodeRecord
from holdfast.node.store import NodeStore
from holdfast.peers.origin_store import StoreOrigin
from holdfast.pool import Pool
from holdfast.stores import url as store_urls
from holdfast.stores.ballast import BALLAST_BYTES
from holdfast.stores.disk import layout as disk_layout
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.open_url import Seams, init_store, open_store
from holdfast.stores.url import StoreUrl

STORE_ORIGINS = ("s3:", "nats:")
"""Origins that are stores; all others are asked by HTTP."""
RESERVE_BYTES_MIN = 1 << 30
RESERVE_PART = 100  # one part in a hundred of the disk


def reserve_bytes(total: int) -> int:
    """What a node leaves to others of a disk of ``total`` bytes: 1 %, at least 1 GiB."""
    return max(total // RESERVE_PART, RESERVE_BYTES_MIN)


def checked_store_url(text: str, capacity: int | None, *, joining: bool) -> StoreUrl:
    """The store that a node is to serve; UsageError or BadConfig for what no node can."""
    url = store_urls.parse(text)
    if url.scheme not in ("file", "nats", "s3"):
        raise UsageError("A node's store is file:///DIRECTORY, nats://... or s3://...")
    if url.scheme != "file" and capacity is None and joining:
        raise UsageError("Say with --capacity how much of this bucket the network may fill: nobody else knows.")
    return url


def disk_root(data: Path, record: NodeRecord) -> Path | None:
    """The directory in which the node's store lies, None if it lies in none."""
    if not record.store:
        return data
    url = store_urls.parse(record.store)
    return Path(url.path) if url.scheme == "file" else None


async def make_store(data: Path, url: StoreUrl | None, *, joining: bool, pool: Pool, machine: Machine) -> str:
    """The id of the store, which is made if there is none. BadConfig for a bucket that must not count as durable."""
    seams = _seams(pool, machine)
    if url is None or url.scheme == "file":
        root = data if url is None else Path(url.path)
        if machine.files.size(root / "layout.json") is None:
            return await DiskStore.init(root, files=machine.files, pool=pool, randomness=machine.randomness)
        return disk_layout.load(machine.files, root, None)
    with contextlib.suppress(Exists):
        await init_store(url, seams)
    opened = await _open_bucket(url, seams, joined=joining)
    try:
        assert opened.id is not None, "it has been made"
        await bucket.check_free(opened, joined=joining)
        return opened.id
    finally:
        await opened.close()


def store_origin(text: str, pool: Pool, machine: Machine) -> StoreOrigin:
    """Blobs in S3 or NATS as ``holdfast store`` keeps them; credentials as for any such store. BadConfig."""
    url, seams = store_urls.parse(text), _seams(pool, machine)
    return StoreOrigin(f"{url.scheme}://{url.host}", lambda: open_store(url, seams), clock=machine.clock)


async def open_store_of(
    data: Path,
    record: NodeRecord,
    node: Id,
    *,
    joined: bool,
    pool: Pool,
    machine: Machine,
    slow_time: Callable[[], float],
    used: Callable[[], int],
    opened: AsyncExitStack,
) -> NodeStore:
    """Opens the store that ``record`` names; it is closed with ``opened``. BadConfig if it is not the one of last time.

    ``used``: bytes that this node keeps in a bucket.
    """
    root = disk_root(data, record)
    if root is not None:
        sync_pool = machine.pool(4, "sync")
        opened.callback(sync_pool.close)
        disk = await DiskStore.open(
            root,
            files=machine.files,
            pool=pool,
            sync_pool=sync_pool,
            clock=machine.clock,
            expected_id=record.store_id,
            capacity_bytes=record.capacity,
            reserve_bytes=reserve_bytes(machine.files.space(root).total),
            ballast_bytes=BALLAST_BYTES,
            trash_clock=slow_time,
        )
        opened.push_async_callback(disk.close)
        return disk
    found = await _open_bucket(store_urls.parse(record.store), _seams(pool, machine), joined=joined)
    opened.push_async_callback(found.close)
    await bucket.claim(found, node, joined=joined)
    return BucketStore(found, pool=pool, capacity=record.capacity, used=used, alone=joined)


async def _open_bucket(url: StoreUrl, seams: Seams, *, joined: bool) -> Bucket:
    found = await open_store(url, seams)
    assert isinstance(found, Bucket), "nats and s3 stores are buckets"
    if joined and not found.traits.durable:
        await found.close()
        raise BadConfig(
            f"{url} acknowledges before the data is on disk, as far as can be seen, so its copies would not count. "
            "If all its servers sync first, say so: sync=always (docs/stores.md)"
        )
    return found


def _seams(pool: Pool, machine: Machine) -> Seams:
    return Seams(machine.files, pool, machine.clock, machine.randomness, machine.network, os.environ)
