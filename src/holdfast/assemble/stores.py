"""Stores named by URLs, for the verbs that work on a store alone: made, checked, copied, given more replicas."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast.assemble.machine import THIS_MACHINE
from holdfast.errors import BadConfig, UsageError
from holdfast.files import Files
from holdfast.stores import open_url
from holdfast.stores import url as store_urls
from holdfast.stores.check import Outcome, Report, check
from holdfast.stores.copy import Progress, copy
from holdfast.stores.open_url import Seams, init_store, open_store
from holdfast.stores.url import StoreUrl


@asynccontextmanager
async def _seams() -> AsyncIterator[Seams]:
    machine = THIS_MACHINE
    pool = machine.pool(None, "stores")
    try:
        yield Seams(machine.files, pool, machine.clock, machine.randomness, machine.network, os.environ)
    finally:
        pool.close()


async def make_store(text: str) -> str:
    """Makes an empty store and returns its id; Exists or BadConfig if there is one."""
    async with _seams() as seams:
        return await init_store(store_urls.parse(text), seams)


async def check_store(text: str, show: Callable[[Outcome], None]) -> Report:
    """Checks the store and leaves nothing behind.

    A directory is checked by a store of its own inside of it, so that neither a node that runs there nor its trash is
    touched; all others by blobs that are deleted at the end.
    """
    url = store_urls.parse(text)
    async with _seams() as seams:
        if url.scheme == "file":
            return await _check_directory(Path(url.path), seams, show)
        store = await open_store(url, seams)
        try:
            return await check(store, clock=seams.clock, randomness=seams.randomness, show=show)
        finally:
            await store.close()


async def _check_directory(path: Path, seams: Seams, show: Callable[[Outcome], None]) -> Report:
    if not path.is_dir():
        raise BadConfig(f"{path} is no directory; a check makes none")
    scratch = path / f".check-{seams.randomness.bytes(8).hex()}"
    url = StoreUrl("file", path=str(scratch.absolute()))
    try:
        await init_store(url, seams)
        store = await open_store(url, seams)
        try:
            return await check(store, clock=seams.clock, randomness=seams.randomness, show=show)
        finally:
            await store.close()
    finally:
        await seams.pool.run(_remove, seams.files, scratch)


def _remove(files: Files, path: Path) -> None:
    for name in files.list(path):
        entry = path / name
        if entry.is_dir():
            _remove(files, entry)
        else:
            files.unlink(entry)
    files.remove_directory(path)


async def copy_store(source: str, target: str, show: Callable[[Progress], None]) -> Progress:
    """Copies every blob that the target does not hold; what failed stands in the result."""
    if store_urls.parse(source) == store_urls.parse(target):
        raise UsageError("Source and target are the same store.")
    async with _seams() as seams:
        origin = await open_store(store_urls.parse(source), seams)
        try:
            there = await open_store(store_urls.parse(target), seams)
            try:
                return await copy(origin, there, show=show)
            finally:
                await there.close()
        finally:
            await origin.close()


async def scale_store(text: str, replicas: int, show: Callable[[int, int], None]) -> None:
    """Gives a store that many replicas and waits; ``show`` is told how many are complete, and of how many."""
    async with _seams() as seams:
        await open_url.scale_store(store_urls.parse(text), replicas, seams, show)
