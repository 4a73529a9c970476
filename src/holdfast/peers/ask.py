"""'Who has it?', asked of one peer: what comes up while an answer is awaited goes into the next message together.

So a thousand misses at once cost a few messages, and one alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from holdfast.blob import Digest
from holdfast.errors import HoldfastError

Ask = Callable[[Sequence[Digest]], Awaitable[list[bool]]]

DIGESTS_MAX = 4096


class Asking:
    """For one peer. Any number of calls at once; a question that everybody has given up is not sent."""

    def __init__(self, ask: Ask) -> None:
        """``ask`` sends one message of at most ``DIGESTS_MAX`` digests."""
        self._ask = ask
        self._waiting: dict[Digest, list[asyncio.Future[bool]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def has(self, digest: Digest) -> bool:
        """What the peer says; the errors of ``ask``."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(digest, []).append(future)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send(), name="ask a peer")
        return await future

    async def close(self) -> None:
        """Ends what is under way. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        try:
            while self._waiting:
                group = {
                    digest: futures
                    for digest, futures in list(self._waiting.items())[:DIGESTS_MAX]
                    if not all(future.done() for future in futures)
                }
                self._waiting = dict(list(self._waiting.items())[DIGESTS_MAX:])
                if not group:
                    continue
                waiting = [future for futures in group.values() for future in futures]
                try:
                    answers = dict(zip(group, await self._ask(list(group)), strict=True))
                except HoldfastError as error:
                    for future in waiting:
                        if not future.done():
                            future.set_exception(error)
                except BaseException:
                    for future in waiting:
                        future.cancel()
                    raise
                else:
                    for digest, futures in group.items():
                        for future in futures:
                            if not future.done():
                                future.set_result(answers[digest])
        finally:
            self._task = None
            for futures in self._waiting.values():
                for future in futures:
                    future.cancel()
            self._waiting.clear()
