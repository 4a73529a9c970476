"""The one HTTP client: signed requests, checked answers, no redirects, deadlines on silence and not on size.

An answer counts only if the receiver that was asked for has signed it; blob bodies are the exception, because their
digest checks them. All errors are those of ``holdfast.errors``: network trouble is Unavailable or TimedOut, a problem
document is raised as the class it was made from.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from holdfast import errors
from holdfast.auth import signing
from holdfast.auth.documents import to_text
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.connections import Answer, Connections
from holdfast.wire.http1 import BadAnswer, Body, Ended
from holdfast.wire.network import Network
from holdfast.wire.routes import Route
from holdfast.wire.throttle import Throttle

ANSWER_BYTES_MAX = 32 << 20
STALL_S = 10.0
PIECE_BYTES = 256 << 10
WHOLE_BODY_BYTES_MAX = 64 << 10
EXPECT_BYTES_MIN = 1 << 20
CLOCK_TOLERANCE_S = 2.0

Span: TypeAlias = tuple[int, int | None]
"""(start, stop) of a range; stop None means to the end. ``stores.protocol.Range`` is one."""

Q = TypeVar("Q")
A = TypeVar("A")

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_HOST = re.compile(r"[\w.:%~-]{1,255}")
_EPOCH = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)
_EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and where: ``url`` is ``http(s)://host:port`` without a path."""

    id: Id
    url: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A signed answer, whatever its status. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RemoteBody:
    """A blob's bytes from a node, not hashed. ``size``: bytes of this body; ``total``: bytes of the blob.

    Either iterate, or ``read_into`` once. Unavailable or TimedOut when it breaks off.
    """

    def __init__(self, answer: Answer, total: int) -> None:
        self.size = answer.size
        self.total = total
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        left = self.size
        while left:
            piece = memoryview(bytearray(min(left, PIECE_BYTES)))
            with _network_errors("reading a blob"):
                taken = await self._answer.read(piece, STALL_S)
            left -= taken
            yield piece[:taken]

    async def read_into(self, memory: memoryview) -> None:
        """All ``size`` bytes, straight into ``memory``, which is as long."""
        with _network_errors("reading a blob"):
            await self._answer.read_exactly(memory, STALL_S)


@functools.lru_cache(maxsize=1024)
def checked_url(text: str) -> str:
    """A server's address in the one form used for signing; BadConfig if it is none, or holds a password or a path."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise errors.BadConfig(f"{text!r} is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or _HOST.fullmatch(parts.hostname) is None:
        raise errors.BadConfig(f"{text!r}: a URL of the form http://HOST:PORT is needed")
    if parts.username or parts.password:
        raise errors.BadConfig("a URL must not hold a user or password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise errors.BadConfig(f"{text!r}: only http://HOST:PORT, no path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


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
        where = _filled(route.path, path)
        body: bytes | None = None
        if message is not None and route.method in ("POST", "PUT"):
            body = m.encode(message)
            if len(body) > route.bytes_max:
                raise errors.TooLarge(f"a message has at most {route.bytes_max} bytes, this one {len(body)}")
        elif message is not None:
            query = urlencode(_query(message))
            where += f"?{query}" if query else ""  # a bare "?" would be signed, but not sent
        elif route.method in ("POST", "PUT") and route.request is not None:
            raise AssertionError(f"{route.label} needs a message")
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
            headers["content-length"] = "0"  # as aiohttp sends it, so it is signed, too
        first_byte_s = first_byte_s or route.first_byte_s
        async with self._request(
            target, route.method, where, headers, body, grant=grant, again=route.idempotent, first_byte_s=first_byte_s
        ) as (answer, signature):
            return await self._checked(answer, target, signature)

    @asynccontextmanager
    async def get_blob(
        self,
        target: Target,
        digest: Digest,
        range_: Span | None = None,
        *,
        grant: bytes | None = None,
        headers: Mapping[str, str] = _EMPTY,
    ) -> AsyncIterator[RemoteBody]:
        """A blob or a range of it; nothing is hashed here. NotFound, Denied and the like on entering."""
        headers = dict(headers)
        if range_ is not None:
            start, stop = range_
            headers["range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        async with self._request(
            target, "GET", f"/v1/blobs/{digest}", headers, grant=grant, first_byte_s=routes.BLOB_GET.first_byte_s
        ) as (answer, signature):
            if answer.status not in (200, 206):
                await self._checked(answer, target, signature)
                raise errors.Unavailable(f"{target.url} answered {answer.status} to a blob read")
            yield _remote_body(answer, range_)

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
        async with self._request(
            target, "HEAD", f"/v1/blobs/{digest}", {}, grant=grant, first_byte_s=routes.BLOB_HEAD.first_byte_s
        ) as (response, signature):
            answer = response.headers
        try:
            created = signing.verify_answer(response.status, answer, signature, target.id)
        except errors.Unauthorized as error:
            raise errors.Unavailable(
                f"{target.url} answered {response.status}, but not as {target.id.short}: {error.detail}"
            ) from error
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
        body: Buffer | Callable[[], AsyncIterable[Buffer]],
        *,
        grant: bytes | None = None,
    ) -> bytes:
        """Sends a blob; returns the envelope of the receipt. ``body`` is not hashed: the name signs it.

        A node that takes nothing for ten seconds is TimedOut.
        """
        headers = {
            "content-digest": signing.content_digest(digest),
            "content-length": str(size),
            "content-type": "application/octet-stream",
        }
        content: Body
        if self._upload is not None:
            content = self._throttled(body, self._upload)
        elif size <= WHOLE_BODY_BYTES_MAX and not callable(body):
            content = bytes(body)
        else:
            content = functools.partial(_sliced, body)
        async with self._request(
            target, "PUT", f"/v1/blobs/{digest}", headers, content, grant=grant, ask_first=size >= EXPECT_BYTES_MIN
        ) as (answer, signature):
            data = await self._checked(answer, target, signature)
        return m.decode(data, m.BlobStored).receipt

    async def exchange(
        self,
        target: Target,
        method: str,
        where: str,
        *,
        headers: Mapping[str, str] = _EMPTY,
        body: Callable[[], AsyncIterable[Buffer]] | None = None,
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
            sent["content-length"] = "0"  # aiohttp sends it, so it must be signed
        async with self._request(target, method, where, sent, body, grant=grant) as (response, signature):
            data, answer = await self._signed(response, target, signature)
        return Exchange(response.status, answer, data)

    async def health(self, url: str, *, timeout_s: float = STALL_S) -> m.Health:
        """What ``url`` says of itself, unsigned: only good for finding out who answers there."""
        base = checked_url(url)
        with _network_errors(url):
            async with asyncio.timeout(timeout_s):
                answer = await self._connections.request(
                    base, "GET", routes.HEALTH.path, {"host": base.partition("://")[2]}, again=True, stall_s=timeout_s
                )
                try:
                    data = await _limited(answer)
                finally:
                    answer.close()
        try:
            return m.decode(data, m.Health)
        except errors.BadRequest as error:
            raise errors.Unavailable(f"{url} answers, but not as holdfast does: {error.detail}") from error

    async def close(self) -> None:
        """Ends all connections; what is asked later is Unavailable. May be called twice."""
        self._connections.close()

    @asynccontextmanager
    async def _request(
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
    ) -> AsyncIterator[tuple[Answer, str]]:
        """A signed request: its answer, and the signature that the answer answers.

        TimedOut when the head is not there after ``first_byte_s``; without it, when nothing moves for ten seconds.
        """
        url = self._sign(target, method, where, headers, grant)
        with _network_errors(target.url):
            async with asyncio.timeout(first_byte_s):
                answer = await self._connections.request(
                    url, method, where, headers, body, ask_first=ask_first, again=again, stall_s=first_byte_s or STALL_S
                )
        try:
            yield answer, headers["signature"]
        finally:
            answer.close()

    def _throttled(self, body: Buffer | Callable[[], AsyncIterable[Buffer]], upload: Throttle) -> Body:
        async def pieces() -> AsyncIterator[Buffer]:
            async for piece in _sliced(body, upload.slice_bytes):
                await upload.take(len(piece))
                yield piece

        return pieces

    def _sign(self, target: Target, method: str, where: str, headers: dict[str, str], grant: bytes | None) -> str:
        base = checked_url(target.url)
        headers["host"] = base.partition("://")[2]
        headers["holdfast-to"] = str(target.id)
        if grant is not None:
            headers["holdfast-grant"] = to_text(grant)
        headers.update(signing.sign_request(self.identity, method, base + where, headers, self.time()))
        return base

    async def _checked(self, response: Answer, target: Target, signature: str) -> bytes:
        """The body of a signed 2xx answer; everything else is raised."""
        body, _ = await self._signed(response, target, signature)
        if 200 <= response.status < 300:
            return body
        problem = m.decode(body, m.Problem)
        raise errors.from_problem(response.status, problem.type, problem.detail, problem.extra)

    async def _signed(self, response: Answer, target: Target, signature: str) -> tuple[bytes, Mapping[str, str]]:
        """The body and headers of a signed answer; Unavailable for any other."""
        with _network_errors(target.url):
            body = await _limited(response)
        headers = response.headers
        try:
            created = signing.verify_answer(response.status, headers, signature, target.id)
            if headers.get("content-digest") != signing.body_digest(body):
                raise errors.Unauthorized("the answer's digest is not its body's")
        except errors.Unauthorized as error:
            raise errors.Unavailable(
                f"{target.url} answered {response.status}, but not as {target.id.short}: {error.detail}"
            ) from error
        self._learn(created, headers.get("holdfast-epoch", ""), target.id)
        return body, headers

    def _learn(self, created: int, epoch: str, sender: Id) -> None:
        if sender == self._clock_source:
            found = _EPOCH.fullmatch(epoch)
            if found is not None:
                self.epoch = max(self.epoch, (int(found[1]), int(found[2])))
            offset = created - self._clock.now()
            self._clock_offset = offset if abs(offset) > CLOCK_TOLERANCE_S else 0.0


def _filled(path: str, parts: Mapping[str, str]) -> str:
    return path.format_map({name: quote(value, safe="") for name, value in parts.items()}) if parts else path


def _query(message: Any) -> dict[str, str]:
    fields = msgspec.to_builtins(message, enc_hook=str)
    return {name: str(value) for name, value in fields.items() if value is not None}


async def _limited(answer: Answer) -> bytes:
    if answer.size > ANSWER_BYTES_MAX:
        raise errors.Unavailable(f"an answer of {answer.size} bytes is more than this client takes")
    async with asyncio.timeout(STALL_S):  # for all of it, or a byte now and then would hold us for ever
        return await answer.whole(STALL_S)


async def _sliced(
    body: Buffer | Callable[[], AsyncIterable[Buffer]], slice_bytes: int = PIECE_BYTES
) -> AsyncIterator[Buffer]:
    if callable(body):
        async for piece in body():
            yield piece
        return
    view = memoryview(body)
    for start in range(0, len(view), slice_bytes):
        yield view[start : start + slice_bytes]


def _remote_body(response: Answer, range_: Span | None) -> RemoteBody:
    size = response.size
    if response.status == 200:
        if range_ is not None and range_ != (0, None) and range_ != (0, size):
            raise errors.Unavailable("a range was asked for and a whole blob came")
        return RemoteBody(response, size)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None or range_ is None:
        raise errors.Unavailable("a part of a blob came that was not asked for")
    first, last, total = int(found[1]), int(found[2]), int(found[3])
    start, stop = range_
    if first != start or last + 1 != (total if stop is None else min(stop, total)) or size != last + 1 - first:
        raise errors.Unavailable("another range came than was asked for")
    return RemoteBody(response, total)


@contextmanager
def _network_errors(where: str) -> Iterator[None]:
    """Raises trouble on the way to ``where`` as ours; our own errors pass (some are OSErrors too)."""
    try:
        yield
    except errors.HoldfastError:
        raise
    except TimeoutError as error:
        raise errors.TimedOut(f"{where}: no answer in time") from error
    except OSError as error:
        raise errors.Unavailable(f"{where}: {_trouble(error)}") from error


def _trouble(error: OSError) -> str:
    """In a few words of ours: what the libraries say is long, and repeats the address."""
    if isinstance(error, socket.gaierror):
        return "no machine of this name is known"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection could be made (is the certificate trusted here?)"
    if isinstance(error, Ended):
        return "the connection was closed without an answer" if error.untouched else "the answer broke off"
    if isinstance(error, BadAnswer):
        return f"what answers there does not speak HTTP as holdfast does ({error})"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "the connection failed"
