"""One blob being pulled: the race for its first byte, its body from one source after another, the check at its end.

A body that breaks off, stalls or crawls is continued from another source where it stopped. The whole is hashed as it
comes; the end is given out only when the digest is right, and small blobs not at all before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from holdfast import logs
from holdfast.blob import Buffer, Digest
from holdfast.errors import Corrupt, HoldfastError, NotFound, TooLarge, Unavailable
from holdfast.peers.hashing import Hashing
from holdfast.peers.passage import MEMORY_BYTES_MAX, Passage
from holdfast.peers.race import HEAD_START_S, PEER, UNHURRIED_S, Entrant, Lane, Race
from holdfast.peers.sources import Askable, Source
from holdfast.pool import Pool
from holdfast.stores.protocol import Body

STALL_S = 0.5
"""A source that sends nothing for so long is left for another one, where there is one."""
STALL_ALONE_S = 10.0
RATE_WINDOW_S = 2.0
RATE_BYTES_PER_S_MIN = 32 << 10
"""A source slower than this is left for another one; where there is none, half of it is enough after 10 s."""
ANSWERS_S = 0.25
"""How long all that may have it are heard where nobody hurries."""
TRIES_MAX = 8
"""Sources that one blob is begun or continued from."""

_log = logs.get_logger(__name__)

MakePassage = Callable[[int], Passage]


@dataclass(slots=True)
class _Opened:
    """A source that has sent its first byte, or has said that there is none."""

    source: Source
    total: int
    first: Buffer
    pieces: AsyncIterator[Buffer]
    stack: AsyncExitStack

    async def close(self) -> None:
        await self.stack.aclose()


class _Left(Unavailable):
    """A source was left because it stalled or crawled."""


class _OtherLength(Unavailable):
    """Two sources disagree about the length; nobody knows yet which one is wrong."""


class Flight:
    """Pulls one blob; ``run`` once. ``passage`` is there once the first byte of somebody is."""

    def __init__(
        self,
        digest: Digest,
        *,
        askable: Sequence[Askable],
        last: Sequence[Source],
        pool: Pool,
        passage: MakePassage,
        size_max: int,
        hurried: bool = True,
    ) -> None:
        """``askable``: peers that say whether they have it. ``last``: who is asked when no peer has it, in order.

        ``hurried``: somebody waits for the first byte.
        """
        self.digest = digest
        self.narrow = not askable
        """Are only the last sources asked?"""
        self.begun: asyncio.Future[Passage] = asyncio.get_running_loop().create_future()
        self.sources: list[Source] = []
        """Those whose bytes were used."""
        self._askable = list(askable)
        self._last = list(last)
        self._holders: list[Askable] = []
        self._left: set[int] = set()  # id() of sources that are not asked again
        self._pool = pool
        self._make = passage
        self._size_max = size_max
        self._hurried = hurried
        self._lined_up = hurried
        self._race: Race[_Opened] | None = None

    async def run(self) -> Passage:
        """The passage, whole and right; the caller releases it. NotFound if everybody says so; Corrupt, Unavailable."""
        passage: Passage | None = None
        whole = False
        error: HoldfastError = Unavailable("the pull was given up")
        try:
            for _ in range(TRIES_MAX):
                opened = await self._open(0, None)
                if passage is None or passage.size != opened.total or passage.written:
                    if passage is not None:
                        passage.fail(Unavailable(f"{self.digest} begins anew"))
                        await passage.release()
                    passage = self._make(opened.total)
                try:
                    await self._body(passage, opened)
                except Corrupt:
                    if passage.given or (self.begun.done() and passage.size > MEMORY_BYTES_MAX):
                        raise
                    continue
                whole = True
                return passage
            raise Unavailable(f"no source of {self.digest} sent a right body")
        except HoldfastError as caught:
            error = caught
            raise
        finally:
            if passage is not None and not whole:
                passage.fail(error)
                await passage.release()
            if not self.begun.done():
                self.begun.set_exception(error)
                self.begun.exception()  # seen: perhaps nobody waits

    def hurry(self) -> None:
        """Somebody waits for the first byte, though nobody did when it began."""
        self._hurried = True
        if self._race is not None:
            self._race.hurry()

    # -- the first byte

    async def _open(self, start: int, total: int | None) -> _Opened:
        """The first source that sends a byte of the blob from ``start`` on."""
        race: Race[_Opened] = Race(discard=_Opened.close, head_start_s=HEAD_START_S if self._hurried else UNHURRIED_S)
        self._race = race
        asking: list[asyncio.Task[None]] = []
        known = [source for source in self._holders if id(source) not in self._left]
        for source in known:
            race.enter(self._lane(source, start, total))
        if not self._holders and self._askable:
            quick: list[asyncio.Task[None]] = []
            asked = [source for source in self._askable if id(source) not in self._left]
            if self._hurried and asked and asked[0].likely:  # one round trip less, and a wrong guess costs nothing
                race.enter(self._try(asked.pop(0), start, total))
            for source in asked:
                task = asyncio.ensure_future(self._ask(source, race, start, total))
                asking.append(task)
                if not source.slow:
                    quick.append(task)
            settling = asyncio.ensure_future(self._settle(race, quick, asking, start, total))
        else:
            settling = None
            race.settle()
        for last in self._last:
            if id(last) not in self._left:
                race.enter(self._lane(last, start, total))
        try:
            return await race.run()
        finally:
            tasks = [*asking, *([settling] if settling else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(
        self,
        race: Race[_Opened],
        quick: Sequence[asyncio.Task[None]],
        asking: Sequence[asyncio.Task[None]],
        start: int,
        total: int | None,
    ) -> None:
        """The last sources wait for those that answer quickly; that nobody has it is said once all have answered.

        Where nobody hurries the holders take turns: who has given least so far is read first, so that many nodes that
        want the same things from one serve each other.
        """
        if not self._lined_up:
            until = asyncio.get_running_loop().time() + ANSWERS_S
            while not (self._hurried or all(task.done() for task in asking)):
                if asyncio.get_running_loop().time() >= until:
                    break
                await asyncio.wait(asking, timeout=HEAD_START_S)
            for source in sorted(self._holders, key=lambda source: source.taken):
                race.enter(self._lane(source, start, total))
            self._lined_up = True
        await asyncio.gather(*quick, return_exceptions=True)
        race.settle(later=len(quick) < len(asking))
        await asyncio.gather(*asking, return_exceptions=True)
        race.settle()

    async def _ask(self, source: Askable, race: Race[_Opened], start: int, total: int | None) -> None:
        began = asyncio.get_running_loop().time()
        try:
            if await source.has(self.digest):
                self._holders.append(source)
                if self._lined_up:
                    race.enter(self._lane(source, start, total))
        except HoldfastError as error:
            race.failures.append((PEER, error))
        except asyncio.CancelledError:
            if (spent := asyncio.get_running_loop().time() - began) >= HEAD_START_S:
                source.late(spent)
            raise

    def _lane(self, source: Source, start: int, total: int | None) -> Lane[_Opened]:
        async def run() -> _Opened:
            return await self._first(source, start, total)

        return Lane(lambda: self._entrant(source), run)

    def _try(self, source: Askable, start: int, total: int | None) -> Lane[_Opened]:
        """Reads a peer that was not asked whether it has it."""

        async def run() -> _Opened:
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                opened = await self._first(source, start, total)
            except NotFound:
                source.tried(loop.time() - began, hit=False)
                raise
            source.tried(loop.time() - began, hit=True)
            self._holders.append(source)
            return opened

        return Lane(lambda: self._entrant(source), run)

    def _entrant(self, source: Source) -> Entrant:
        entrant = source.entrant
        return entrant if self._hurried else replace(entrant, patience_s=max(entrant.patience_s, UNHURRIED_S))

    async def _first(self, source: Source, start: int, total: int | None) -> _Opened:
        stack = AsyncExitStack()
        began = asyncio.get_running_loop().time()
        try:
            body: Body = await stack.enter_async_context(source.open(self.digest, start))
            if total is not None and body.total != total:
                raise _OtherLength(f"one source of {self.digest} says {total} bytes, another {body.total}")
            if body.total > self._size_max:
                raise TooLarge(f"{self.digest} has {body.total} bytes; at most {self._size_max} are pulled")
            pieces = aiter(body)
            first = await anext(pieces, b"")
            if not first and body.total > start:
                raise Unavailable("the body is empty")
        except asyncio.CancelledError:
            source.late(asyncio.get_running_loop().time() - began)
            await stack.aclose()
            raise
        except HoldfastError as error:
            await stack.aclose()
            self._leave(source, error)
            raise
        except BaseException:
            await stack.aclose()
            raise
        return _Opened(source, body.total, first, pieces, stack)

    def _leave(self, source: Source, error: HoldfastError) -> None:
        self._left.add(id(source))
        if not isinstance(error, TooLarge | _OtherLength):
            source.failed(error)

    # -- the body

    async def _body(self, passage: Passage, opened: _Opened) -> None:
        """Fills the passage; Corrupt if the whole is wrong."""
        hashing = Hashing(self._pool)
        try:
            await self._fill(passage, opened, hashing)
        finally:
            await hashing.close()

    async def _fill(self, passage: Passage, opened: _Opened, hashing: Hashing) -> None:
        contributors: list[tuple[Source, int]] = []
        if not self.begun.done() and passage.size > MEMORY_BYTES_MAX:
            self.begun.set_result(passage)
        for _ in range(TRIES_MAX):
            before = passage.written
            try:
                await self._stream(passage, opened, hashing)
            except HoldfastError as error:
                self._leave(opened.source, error)
                _log.info("pull_continues", digest=str(self.digest), at=passage.written, reason=error.detail)
            finally:
                await opened.close()
                if passage.written > before:
                    contributors.append((opened.source, passage.written - before))
            if passage.written == passage.size:
                break
            opened = await self._open(passage.written, passage.size)
        else:
            raise Unavailable(f"no source of {self.digest} sent all of it")
        if await hashing.digest() != self.digest:
            self._blame([source for source, _ in contributors] or [opened.source])
            raise Corrupt(f"what came for {self.digest} is another blob; ask again, another source will be used")
        self.sources = [source for source, _ in contributors]
        for source, size in contributors:
            source.served(size)
        passage.finish()
        if not self.begun.done():
            self.begun.set_result(passage)

    def _blame(self, sources: Sequence[Source]) -> None:
        """One source alone lied; of several nobody knows which, so all rest."""
        for source in sources:
            self._left.add(id(source))
            if len(sources) == 1:
                source.lied(self.digest)
            else:
                source.failed(Unavailable(f"one of {len(sources)} sources sent wrong bytes for {self.digest}"))

    async def _stream(self, passage: Passage, opened: _Opened, hashing: Hashing) -> None:
        loop = asyncio.get_running_loop()
        piece: Buffer = opened.first
        window, seen = loop.time(), 0
        began, started_at = window, passage.written
        while piece:
            if passage.written + len(piece) > passage.size:
                raise Unavailable("more bytes came than were announced")
            waited = loop.time()
            data = bytes(piece)
            await hashing.update(data)
            await passage.write(data)
            seen += len(piece)
            window += loop.time() - waited  # our own time is not the source's
            if passage.written == passage.size:
                return
            others = self._others(opened.source)
            spent = loop.time() - window
            if spent >= RATE_WINDOW_S:
                if others and seen < spent * RATE_BYTES_PER_S_MIN:
                    raise _Left(f"only {seen} bytes came in {spent:.1f} s")
                window, seen = loop.time(), 0
            total_s = loop.time() - began
            if total_s > STALL_ALONE_S and (passage.written - started_at) < total_s * RATE_BYTES_PER_S_MIN / 2:
                raise _Left("the body comes too slowly")
            piece = await _next(opened.pieces, STALL_S if others else STALL_ALONE_S)
        if passage.written < passage.size:
            raise Unavailable(f"the body ended after {passage.written} of {passage.size} bytes")

    def _others(self, source: Source) -> bool:
        return any(other is not source and id(other) not in self._left for other in [*self._holders, *self._last])


async def _next(pieces: AsyncIterator[Buffer], stall_s: float) -> Buffer:
    try:
        async with asyncio.timeout(stall_s):
            return await anext(pieces, b"")
    except TimeoutError as error:
        if isinstance(error, HoldfastError):
            raise
        raise _Left(f"nothing came for {stall_s:g} s") from error
