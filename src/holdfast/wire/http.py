"""The one HTTP client: signed requests, checked answers, no redirects, deadlines on silence and not on size.

An answer counts only if the receiver that was asked for has signed it; blob bodies are the exception, because their
digest checks them. All errors are those of ``holdfast.errors``: network trouble is Unavailable or TimedOut, a problem
document is raised as the class it was made from.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast import errors
from holdfast.auth import signing
from holdfast.auth.documents import to_text
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.address import Target, checked_url
from holdfast.wire.blob_calls import BlobRead, SmallPut, blob_headers
from holdfast.wire.bodies import STALL_S, Source, Span, good_body, sent_body, small_body
from holdfast.wire.connections import Answer, Connections
from holdfast.wire.http1 import Body
from holdfast.wire.network import Network
from holdfast.wire.routes import Route
from holdfast.wire.throttle import Throttle
from holdfast.wire.trouble import raise_ours

__all__ = ["Exchange", "HttpClient", "Target", "checked_url"]

EXPECT_BYTES_MIN = 1 << 20
CLOCK_TOLERANCE_S = 2.0

Q = TypeVar("Q")
A = TypeVar("A")

_EPOCH = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)
_EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A signed answer, whatever its status. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Asks for one identity. Use from one event loop; any number of calls at once."""

    def __init__(
        self,
        *,
        identity: Identity,
        network: Network,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        connections_per_host: int = 16,
        upload: Throttle | None = None,
    ) -> None:
        """``upload`` limits the bodies of ``put_blob``, all of them together."""
        self.identity = identity
        self._upload = upload
        self.epoch = (0, 0)
        """The highest (epoch, commit number) that the clock source has signed."""
        self._clock = clock
        self._connections = Connections(network, per_server=connections_per_host, tls=tls)
        self._clock_source: Id | None = None
        self._clock_offset = 0.0

    def set_clock_source(self, coordinator: Id) -> None:
        """Whose signed answers say what time it is, and where the network stands."""
        self._clock_source = coordinator

    def time(self) -> float:
        """Seconds since 1970 as the clock source sees them, as far as known."""
        return self._clock.now() + self._clock_offset

    @property
    def clock_offset(self) -> float:
        """Seconds that the clock source is ahead of ours; 0 within the tolerance."""
        return self._clock_offset

    async def call(
        self,
        target: Target,
        route: Route[Q, A],
        message: Q | None = None,
        *,
        path: Mapping[str, str] = _EMPTY,
        grant: bytes | None = None,
        headers: Mapping[str, str] = _EMPTY,
        first_byte_s: float | None = None,
        tries: int = 2,
    ) -> A:
        """The answer to ``message``. Network trouble is tried ``tries`` times if the route is idempotent.

        A signed refusal by the clock source that shows that our time was wrong is followed by one more try.
        """
        where = route.where(path, message)
        body: bytes | None = None
        if route.method in ("POST", "PUT"):
            assert message is not None or route.request is None, f"{route.label} needs a message"
            if message is not None:
                body = m.encode(message)
                if len(body) > route.bytes_max:
                    raise errors.TooLarge(f"a message has at most {route.bytes_max} bytes, this one {len(body)}")
        left, offset = tries if route.idempotent else 1, self._clock_offset
        while True:
            try:
                data = await self._ask(target, route, where, body, grant, headers, first_byte_s)
            except errors.Unavailable as error:
                left -= 1
                if not left or isinstance(error, errors.TooManyRequests):
                    raise
            except errors.Unauthorized:
                if abs(self._clock_offset - offset) <= CLOCK_TOLERANCE_S:
                    raise
                offset = self._clock_offset  # nothing was done, and now we know better what time it is
            else:
                return m.decode(data, route.answer) if data else route.answer()

    async def _ask(
        self,
        target: Target,
        route: Route[Any, Any],
        where: str,
        body: bytes | None,
        grant: bytes | None,
        extra: Mapping[str, str],
        first_byte_s: float | None,
    ) -> bytes:
        headers = dict(extra)
        if body is not None:
            headers["content-digest"] = signing.body_digest(body)
            headers["content-length"] = str(len(body))
            headers["content-type"] = "application/json"
        elif route.method not in ("GET", "HEAD"):
            headers["content-length"] = "0"  # RFC 9110, 8.6: said where a body could be, and signed like any length
        return await self._told(
            target, route.method, where, headers, body,
            grant=grant, again=route.idempotent, first_byte_s=first_byte_s or route.first_byte_s,
        )  # fmt: skip

    def get_blob(
        self,
        target: Target,
        digest: Digest,
        range_: Span | None = None,
        *,
        grant: bytes | None = None,
        headers: Mapping[str, str] = _EMPTY,
    ) -> BlobRead:
        """A blob or a range of it; nothing is hashed here. NotFound, Denied and the like on entering."""
        sent = dict(headers)
        if range_ is not None:
            start, stop = range_
            sent["range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        return BlobRead(self, target, digest, range_, grant, sent)

    async def read_blob(
        self, target: Target, digest: Digest, range_: Span | None, *, size_max: int, grant: bytes | None = None
    ) -> bytearray:
        """A blob or range of at most ``size_max`` bytes in one buffer; not hashed."""
        async with self.get_blob(target, digest, range_, grant=grant) as body:
            if body.size > size_max:
                raise errors.TooLarge(f"{digest}: {body.size} bytes, at most {size_max} were expected")
            data = bytearray(body.size)
            await body.read_into(memoryview(data))
            return data

    async def head_blob(self, target: Target, digest: Digest, *, grant: bytes | None = None) -> int:
        """A blob's size, in bytes, as the node has signed it; NotFound, Denied and the like."""
        response, signature = await self._send(
            target, "HEAD", f"/v1/blobs/{digest}", {}, grant=grant, first_byte_s=routes.BLOB_HEAD.first_byte_s
        )
        response.close()
        answer = response.headers
        try:
            created = signing.verify_answer(response.status, answer, signature, target.id)
        except errors.Unauthorized as error:
            raise _unsigned(target, response.status, error) from error
        self._learn(created, answer.get("holdfast-epoch", ""), target.id)
        if response.status != 200:
            raise errors.from_problem(response.status, "", f"{target.url} answered {response.status}", {})
        length = answer.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 19):
            raise errors.Unavailable(f"{target.url} did not say how long {digest} is")
        return int(length)

    async def put_blob(
        self,
        target: Target,
        digest: Digest,
        size: int,
        body: Source,
        *,
        grant: bytes | None = None,
    ) -> bytes:
        """Sends a blob; returns the envelope of the receipt. ``body`` is not hashed: the name signs it.

        A node that takes nothing for ten seconds is TimedOut.
        """
        headers = blob_headers(digest, size)
        data = await self._told(
            target, "PUT", f"/v1/blobs/{digest}", headers, sent_body(body, size, self._upload),
            grant=grant, ask_first=size >= EXPECT_BYTES_MIN,
        )  # fmt: skip
        return m.decode(data, m.BlobStored).receipt

    def put_small(
        self,
        target: Target,
        digest: Digest,
        data: bytes,
        heard: Callable[[bytes | Exception], None],
        *,
        grant: bytes | None = None,
    ) -> SmallPut:
        """As ``put_blob``, for at most ``WHOLE_BODY_BYTES_MAX`` bytes, without a task of its own while a connection is
        free: ``heard`` is called later with the receipt's envelope, or with why there is none.

        After ``end`` of what is returned nothing is heard.
        """
        return SmallPut(self, target, digest, data, heard, grant)

    async def exchange(
        self,
        target: Target,
        method: str,
        where: str,
        *,
        headers: Mapping[str, str] = _EMPTY,
        body: Source | None = None,
        size: int = 0,
        digest: Digest | None = None,
        grant: bytes | None = None,
    ) -> Exchange:
        """One request as it stands, for a write that was queued, and its signed answer whatever it says.

        ``digest`` is that of the ``size`` bytes of ``body``. Unavailable or TimedOut without a signed answer.
        """
        sent = dict(headers)
        if body is not None and digest is not None:
            sent["content-digest"] = signing.content_digest(digest)
            sent["content-length"] = str(size)
        elif method not in ("GET", "HEAD"):
            sent["content-length"] = "0"  # as in ``_ask``
        content = None if body is None else sent_body(body, size, None)
        response, signature = await self._send(target, method, where, sent, content, grant=grant)
        try:
            data = await self._signed(response, target, signature)
        finally:
            response.close()
        return Exchange(response.status, response.headers, data)

    async def health(self, url: str, *, timeout_s: float = STALL_S) -> m.Health:
        """What ``url`` says of itself, unsigned: only good for finding out who answers there."""
        base = checked_url(url)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._connections.request(
                    base, "GET", routes.HEALTH.path, {"host": base.partition("://")[2]}, again=True, stall_s=timeout_s
                )
                try:
                    data = await small_body(answer)
                finally:
                    answer.close()
        except OSError as error:
            raise_ours(url, error)
        try:
            return m.decode(data, m.Health)
        except errors.BadRequest as error:
            raise errors.Unavailable(f"{url} answers, but not as holdfast does: {error.detail}") from error

    async def close(self) -> None:
        """Ends all connections; what is asked later is Unavailable. May be called twice."""
        self._connections.close()

    async def _send(
        self,
        target: Target,
        method: str,
        where: str,
        headers: dict[str, str],
        body: Body = None,
        *,
        grant: bytes | None = None,
        ask_first: bool = False,
        again: bool = True,
        first_byte_s: float | None = None,
    ) -> tuple[Answer, str]:
        """A signed request: its answer, to be closed, and the signature that the answer answers.

        TimedOut when the head is not there after ``first_byte_s``; without it, when nothing moves for ten seconds.
        """
        base = self._sign(target, method, where, headers, grant)
        try:
            answer = await self._connections.request(
                base, method, where, headers, body,
                ask_first=ask_first, again=again, stall_s=first_byte_s or STALL_S, within_s=first_byte_s,
            )  # fmt: skip
        except OSError as error:
            raise_ours(target.url, error)
        return answer, headers["signature"]

    def _sign(self, target: Target, method: str, where: str, headers: dict[str, str], grant: bytes | None) -> str:
        base = checked_url(target.url)
        headers["host"] = base.partition("://")[2]
        headers["holdfast-to"] = str(target.id)
        if grant is not None:
            headers["holdfast-grant"] = to_text(grant)
        headers.update(signing.sign_request(self.identity, method, base + where, headers, self.time()))
        return base

    async def _told(
        self,
        target: Target,
        method: str,
        where: str,
        headers: dict[str, str],
        body: Body,
        *,
        grant: bytes | None,
        ask_first: bool = False,
        again: bool = True,
        first_byte_s: float | None = None,
    ) -> bytes:
        """The body of the signed 2xx answer; everything else is raised."""
        answer, signature = await self._send(
            target, method, where, headers, body,
            grant=grant, ask_first=ask_first, again=again, first_byte_s=first_byte_s,
        )  # fmt: skip
        try:
            return await self._checked(answer, target, signature)
        finally:
            answer.close()

    async def _checked(self, answer: Answer, target: Target, signature: str) -> bytes:
        """The body of a signed 2xx answer; everything else is raised."""
        body = await self._signed(answer, target, signature)
        return good_body(answer.status, body)

    async def _signed(self, answer: Answer, target: Target, signature: str) -> bytes:
        """The body of a signed answer; Unavailable for any other."""
        try:
            body = await small_body(answer)
        except OSError as error:
            raise_ours(target.url, error)
        self._believe(answer.status, answer.headers, body, target, signature)
        return body

    def _believe(self, status: int, headers: Mapping[str, str], body: bytes, target: Target, signature: str) -> None:
        """Returns if ``target`` has signed this answer to the request with that signature; Unavailable if not."""
        try:
            created = signing.verify_answer(status, headers, signature, target.id)
            if headers.get("content-digest") != signing.body_digest(body):
                raise errors.Unauthorized("the answer's digest is not its body's")
        except errors.Unauthorized as error:
            raise _unsigned(target, status, error) from error
        self._learn(created, headers.get("holdfast-epoch", ""), target.id)

    def _learn(self, created: int, epoch: str, sender: Id) -> None:
        if sender == self._clock_source:
            found = _EPOCH.fullmatch(epoch)
            if found is not None:
                self.epoch = max(self.epoch, (int(found[1]), int(found[2])))
            offset = created - self._clock.now()
            self._clock_offset = offset if abs(offset) > CLOCK_TOLERANCE_S else 0.0


def _unsigned(target: Target, status: int, error: errors.Unauthorized) -> errors.Unavailable:
    return errors.Unavailable(f"{target.url} answered {status}, but not as {target.id.short}: {error.detail}")
