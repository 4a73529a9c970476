"""Runs the contract's checks on a store that is in use, and takes away again what they put there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock, Randomness
from holdfast.errors import HoldfastError
from holdfast.stores.contract import CHECKS, Harness
from holdfast.stores.protocol import Body, Info, Range, Store, Stored, Traits, get_bytes, put_bytes

LARGE_BYTES = 32 << 20
DELETE_BATCH = 500
CHECK_S = 120.0
"""One check, on the slowest store that is of any use; one that hangs has failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check: what it wants, and why it failed (None if it passed)."""

    name: str
    wants: str
    failure: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a check. ``left`` blobs could not be taken away again."""

    outcomes: Sequence[Outcome]
    traits: Traits
    put_bytes_per_s: float | None
    get_bytes_per_s: float | None
    left: Sequence[Digest]

    @property
    def failed(self) -> int:
        return sum(outcome.failure is not None for outcome in self.outcomes)


class Guest:
    """A store as a guest uses it: remembers which blobs it brought, and leaves alone those that were there before."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._brought: dict[Digest, asyncio.Future[bool]] = {}

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
        await self._note(digest)
        return await self._inner.put(digest, size, source)

    async def _note(self, digest: Digest) -> bool:
        """Is what lies there later ours?"""
        if digest not in self._brought:
            self._brought[digest] = asyncio.ensure_future(self._absent(digest))
        return await asyncio.shield(self._brought[digest])

    async def _absent(self, digest: Digest) -> bool:
        return await self._inner.stat([digest]) == [None]

    def get(self, digest: Digest, range_: Range | None = None) -> AbstractAsyncContextManager[Body]:
        return self._inner.get(digest, range_)

    async def stat(self, digests: Sequence[Digest]) -> list[Info | None]:
        return await self._inner.stat(digests)

    async def delete(self, digests: Sequence[Digest]) -> None:
        await self._inner.delete([digest for digest in digests if await self._note(digest)])

    async def list(self, after: Digest | None, limit: int) -> list[Info]:
        return await self._inner.list(after, limit)

    async def close(self) -> None:
        """The store stays open: it is the host's."""

    async def leave(self) -> Sequence[Digest]:
        """Deletes what was brought; what could not be deleted."""
        notes = [(digest, note) for digest, note in self._brought.items() if note.done() and not note.cancelled()]
        ours = [digest for digest, note in notes if note.exception() is None and note.result()]
        batches = [ours[start : start + DELETE_BATCH] for start in range(0, len(ours), DELETE_BATCH)]
        try:
            for batch in batches:
                await self._inner.delete(batch)
            found = [info for batch in batches for info in await self._inner.stat(batch)]
        except HoldfastError:
            return ours
        return [info.digest for info in found if info is not None]


async def check(
    store: Store, *, clock: Clock, randomness: Randomness, show: Callable[[Outcome], None] = lambda outcome: None
) -> Report:
    """Every check of the contract, one after the other, whatever fails; then one large blob against the clock."""
    guest = Guest(store)
    harness = Harness(guest, randomness)
    outcomes: list[Outcome] = []
    speeds: tuple[float | None, float | None] = None, None
    try:
        for name, wanted in CHECKS.items():
            began, failure = clock.monotonic(), None
            try:
                async with asyncio.timeout(CHECK_S):
                    await wanted(harness)
            except AssertionError as error:
                failure = str(error) or "it does not"
            except HoldfastError as error:
                failure = error.detail
            except TimeoutError:
                failure = f"it did not end within {CHECK_S:g} s"
            wants = (wanted.__doc__ or "").partition("\n")[0]
            outcomes.append(Outcome(name.replace("_", " "), wants, failure, clock.monotonic() - began))
            show(outcomes[-1])
        if not any(outcome.failure for outcome in outcomes):
            speeds = await _speeds(guest, clock, randomness)
    finally:
        left = await guest.leave()
    return Report(outcomes, store.traits, *speeds, left)


async def _speeds(store: Store, clock: Clock, randomness: Randomness) -> tuple[float | None, float | None]:
    size = min(LARGE_BYTES, store.traits.blob_bytes_max or LARGE_BYTES)
    data = randomness.bytes(size)
    began = clock.monotonic()
    try:
        await put_bytes(store, data)
        put = clock.monotonic()
        await get_bytes(store, Digest.of(data))
    except HoldfastError:
        return None, None
    return size / max(put - began, 1e-9), size / max(clock.monotonic() - put, 1e-9)
