"""Asking the coordinator: its addresses are tried in order, and after a bounded time one sentence says it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

from holdfast.auth.identity import Id
from holdfast.errors import TimedOut, TooManyRequests, Unavailable
from holdfast.wire.http import HttpClient, Target, checked_url
from holdfast.wire.routes import Route

COORDINATOR_S = 14.0

Q = TypeVar("Q")
A = TypeVar("A")

_NOTHING: Mapping[str, str] = {}


class Coordinators:
    """One coordinator under several addresses. Any number of calls at once."""

    def __init__(self, http: HttpClient, id_: Id, urls: Sequence[str], *, timeout_s: float = COORDINATOR_S) -> None:
        """``urls`` in the order of trying, at least one; ``timeout_s`` bounds all tries of one call together."""
        assert urls, "a coordinator has an address"
        self.id = id_
        self.urls = [checked_url(url) for url in urls]
        self._http = http
        self._timeout_s = timeout_s
        self._last = 0  # the address that answered last
        http.set_clock_source(id_)

    async def ask(
        self,
        route: Route[Q, A],
        message: Q | None = None,
        *,
        path: Mapping[str, str] = _NOTHING,
        first_byte_s: float | None = None,
    ) -> A:
        """The answer; Unavailable with one sentence when no address answers. Other errors are the coordinator's."""
        trouble: Unavailable | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                for step in range(max(2, len(self.urls)) if route.idempotent else len(self.urls)):
                    number = (self._last + step) % len(self.urls)
                    target = Target(self.id, self.urls[number])
                    try:
                        answer = await self._http.call(
                            target, route, message, path=path, first_byte_s=first_byte_s, tries=1
                        )
                    except TooManyRequests:
                        raise
                    except Unavailable as error:
                        trouble = error
                    else:
                        self._last = number
                        return answer
        except TimeoutError as error:
            raise TimedOut(self._gone("no answer in time")) from error
        assert trouble is not None
        raise type(trouble)(self._gone(trouble.detail)) from trouble

    def _gone(self, reason: str) -> str:
        return f"the coordinator does not answer at {' or '.join(self.urls)} ({reason}); is it running and reachable?"
