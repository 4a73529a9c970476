"""Delivers entries of kind ``http`` to holdfast nodes: signed requests, and only signed answers count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from holdfast import errors
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest, pieces
from holdfast.clock import Clock
from holdfast.errors import MEANINGS, HoldfastError
from holdfast.outbox.entry import Entry
from holdfast.outbox.http_state import Present, conditions, present_of, retry_after
from holdfast.outbox.outcomes import (
    ABSENT,
    Conflicted,
    Deferred,
    Delivered,
    Next,
    Outcome,
    compared,
    verdict,
    verdict_of_error,
)
from holdfast.wire import messages
from holdfast.wire.foreign import origin
from holdfast.wire.http import Exchange, HttpClient, Target

_NOBODYS_CHANGE = frozenset(
    meaning.type for kind, meaning in MEANINGS.items() if kind in (errors.StaleEpoch, errors.TooFewNodes)
)
"""Problems with status 409 that no other writer has made."""


class NodeDelivery:
    """Speaks to nodes for one identity."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    async def __call__(self, entry: Entry) -> Outcome:
        url, method = entry.payload["url"], entry.payload["method"]
        target = Target(Id.parse(entry.payload["node"]), origin(url))
        where = urlsplit(url).path or "/"
        base = entry.payload["base"] if entry.left is None else entry.left
        try:
            answer = await self._http.exchange(
                target,
                method,
                where,
                headers={**entry.payload["headers"], **conditions(base)},
                body=entry.open,
                size=entry.size,
                digest=entry.digest,
            )
            wait = retry_after(answer.headers, self._clock.now())
            found = verdict(answer.status, method=method, holdfast=True, retry_after_s=wait)
            if isinstance(found, Delivered):
                gone = method == "DELETE"
                return Delivered(present_of(answer.headers).base(entry.digest) if not gone else {"absent": True})
            if found is not Next.COMPARE:
                assert not isinstance(found, Next), "a signed 2xx is delivered"
                return found
            if _type(answer) in _NOBODYS_CHANGE:
                return Deferred(f"the target answered {_type(answer)}", target=True)
            return await self._compare(entry, target, where)
        except HoldfastError as error:
            found = verdict_of_error(error, method=method)
            return Deferred(error.detail) if isinstance(found, Next | Delivered) else found

    async def _compare(self, entry: Entry, target: Target, where: str) -> Outcome:
        """409 or 412: the present state is read, then decided."""
        answer = await self._http.exchange(target, "GET", where)
        if answer.status in ABSENT:
            gone: dict[str, Any] = {"base": {"absent": True}}
            return compared(
                ours=entry.payload["method"] == "DELETE",
                left={"absent": True},
                conflict=Conflicted("somebody else deleted it", gone, absent=True),
            )
        if answer.status != 200:
            return Deferred(f"the target answered {answer.status} when asked for its present state", target=True)
        present: Present = present_of(answer.headers)
        same = entry.payload["method"] == "PUT" and (
            (present.etag is not None and present.etag == entry.payload.get("etag"))
            or Digest.of(answer.body) == entry.digest
        )

        def content() -> AsyncIterator[Buffer]:
            return pieces(answer.body)

        return compared(
            ours=same,
            left=present.base(entry.digest),
            conflict=Conflicted(
                "somebody else changed it", {"base": present.base(), **present.facts()}, False, content
            ),
        )


def _type(answer: Exchange) -> str:
    """The problem type of a refusal, empty if it has none."""
    try:
        return messages.decode(answer.body, messages.Problem).type
    except HoldfastError:
        return ""
