"""Asking the coordinator: its addresses are tried in order, and after a bounded time one sentence says it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.client.device.reasons import reason_of
from holdfast.errors import HoldfastError, NotFound, Standby, TimedOut, TooManyRequests, Unavailable
from holdfast.wire import messages as m
from holdfast.wire.http import HttpClient, Target, checked_url
from holdfast.wire.routes import Route

COORDINATOR_S = 14.0
STANDBY_PAUSE_S = 0.5
URLS_MAX = 8

Q = TypeVar("Q")
A = TypeVar("A")

KeepUrls: TypeAlias = Callable[[Sequence[str], str], Awaitable[None]]
"""Hears the coordinator's addresses, as it has signed them, and the one that has just answered."""

_NOTHING: Mapping[str, str] = {}
_log = logs.get_logger(__name__)


class Coordinators:
    """One coordinator under several addresses. Any number of calls at once."""

    def __init__(
        self,
        http: HttpClient,
        id_: Id,
        urls: Sequence[str],
        *,
        timeout_s: float = COORDINATOR_S,
        keep: KeepUrls | None = None,
    ) -> None:
        """``urls`` in the order of trying, at least one; ``timeout_s`` bounds all tries of one call together.

        ``keep`` hears, once, of addresses in a signed answer that are not ``urls``.
        """
        assert urls, "a coordinator has an address"
        self.id = id_
        self.urls = [checked_url(url) for url in urls]
        self._http = http
        self._timeout_s = timeout_s
        self._last = 0  # the address that answered last
        self._keep = keep
        self._heard = False
        self.catch_up: Callable[[bool], Awaitable[bool]] | None = None
        """Told that packs of the vault wait to be read (``recommit``); with True it is waited for, and says whether it
        is worth asking again."""
        http.set_clock_source(id_)

    async def ask(
        self,
        route: Route[Q, A],
        message: Q | None = None,
        *,
        path: Mapping[str, str] = _NOTHING,
        first_byte_s: float | None = None,
    ) -> A:
        """The answer; Unavailable with one sentence when no address answers. Other errors are the coordinator's.

        A coordinator that lost its database may not know the newest names: they are brought to it, then it is asked
        once more.
        """
        try:
            answer = await self._ask(route, message, path=path, first_byte_s=first_byte_s)
        except NotFound as error:
            if not (error.extra.get("unread") and self.catch_up is not None and await self.catch_up(True)):
                raise
            return await self._ask(route, message, path=path, first_byte_s=first_byte_s)
        if getattr(answer, "unread", False) and self.catch_up is not None:
            waits = not isinstance(answer, m.Plan)  # a put needs no names
            if await self.catch_up(waits):
                return await self._ask(route, message, path=path, first_byte_s=first_byte_s)
        return answer

    async def _ask(
        self,
        route: Route[Q, A],
        message: Q | None = None,
        *,
        path: Mapping[str, str] = _NOTHING,
        first_byte_s: float | None = None,
    ) -> A:
        trouble: Unavailable | None = None
        reason = ""
        answer: A | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                step, rounds = 0, max(2, len(self.urls)) if route.idempotent else len(self.urls)
                waits = False
                while step < rounds:
                    number = (self._last + step) % len(self.urls)
                    target = Target(self.id, self.urls[number])
                    step += 1
                    try:
                        answer = await self._http.call(
                            target, route, message, path=path, first_byte_s=first_byte_s, tries=1
                        )
                    except TooManyRequests:
                        raise
                    except Unavailable as error:
                        trouble, reason = error, reason_of(error.detail, target.url)
                        waits = waits or isinstance(error, Standby)
                        if step == rounds and waits and route.idempotent:  # it takes over in a moment
                            await asyncio.sleep(STANDBY_PAUSE_S)
                            step = 0
                    else:
                        self._last = number
                        break
        except TimeoutError as error:
            raise TimedOut(self._gone("no answer in time")) from error
        if answer is None:
            assert trouble is not None
            raise type(trouble)(self._gone(reason)) from trouble
        if isinstance(answer, m.Plan | m.Status) and answer.urls and not self._heard:
            await self._hear(answer.urls, self.urls[self._last])
        return answer

    async def _hear(self, said: Sequence[str], answered: str) -> None:
        """The coordinator may have moved: its addresses are tried from now on, and kept for the next time."""
        self._heard = True
        try:
            urls = [checked_url(url) for url in said[:URLS_MAX]]
            if urls != self.urls[: len(urls)]:
                self.urls += [url for url in urls if url not in self.urls]
                if self._keep is not None:
                    await self._keep(urls, answered)
        except HoldfastError as error:
            _log.warning("addresses_not_kept", reason=error.detail)

    def _gone(self, reason: str) -> str:
        return f"the coordinator does not answer at {' or '.join(self.urls)} ({reason}); is it running and reachable?"
