"""The last source: a CDN or any HTTP server by a URL template, or another holdfast node.

Nothing is believed: what comes is hashed by whoever pulls. The address that the operator wrote is asked as it is;
redirects are followed only when allowed, and to private addresses only when that is allowed too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeAlias
from urllib.parse import urljoin, urlsplit

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock
from holdfast.errors import BadConfig, BadRequest, HoldfastError, NotFound, TooManyRequests, Unavailable
from holdfast.peers.race import ORIGIN, PATIENCE_S_MAX, Entrant
from holdfast.peers.sources import Source
from holdfast.stores.protocol import Body, Range
from holdfast.wire.foreign import Answer, ForeignHttp, checked_target, origin
from holdfast.wire.http import HttpClient, Target, checked_url

REDIRECTS_MAX = 3
FIRST_BYTE_S = 10.0
UNSIZED_BYTES_MAX = 1 << 20
"""The largest body that is taken without a Content-Length."""
REST_S_MIN, REST_S_MAX = 0.5, 30.0
TOKEN_BYTES_MAX = 8192

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name, as text; OSError if there are none."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})

_log = logs.get_logger(__name__)


class Counters:
    """How an origin was used: what the stats show."""

    def __init__(self) -> None:
        self.requests = 0
        self.blobs = 0
        self.bytes = 0
        self.reason = ""
        """Why it is not asked now, empty while it is."""


class Resting:
    """What all origins have in common: after a failure they are left alone for a moment."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.counters = Counters()
        self._clock = clock
        self._failures = 0
        self._rest_until = 0.0

    @property
    def entrant(self) -> Entrant:
        return Entrant(self.name, ORIGIN, PATIENCE_S_MAX)

    def late(self, seconds: float) -> None:
        """Nothing: an origin may take its time."""

    def served(self, size: int) -> None:
        self.counters.blobs += 1
        self.counters.bytes += size
        self._failures, self.counters.reason = 0, ""

    def failed(self, error: HoldfastError) -> None:
        if isinstance(error, NotFound):
            self._failures, self.counters.reason = 0, ""
            return
        rest = min(REST_S_MIN * 2.0**self._failures, REST_S_MAX)
        self._failures = min(self._failures + 1, 16)
        self._rest_until = self._clock.monotonic() + rest
        if self.counters.reason != error.detail:
            _log.warning("origin_rests", origin=self.name, reason=error.detail, seconds=rest)
        self.counters.reason = error.detail

    def lied(self, digest: Digest) -> None:
        """One bad blob is no reason to leave the others."""
        _log.error("origin_lied", origin=self.name, digest=str(digest))

    def _check_rest(self) -> None:
        if self._clock.monotonic() < self._rest_until:
            raise Unavailable(f"{self.counters.reason} (not asked again for a moment)")
        self.counters.requests += 1


class _Sized:
    """A body whose length is known."""

    def __init__(self, pieces: AsyncIterator[Buffer], size: int, total: int) -> None:
        self.size = size
        self.total = total
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        seen = 0
        if not self.size:
            return
        async for piece in self._pieces:
            if not piece:
                continue
            seen += len(piece)
            if seen > self.size:
                raise Unavailable("the origin sends more than it announced")
            yield piece
            if seen == self.size:
                return
        raise Unavailable(f"the origin's body ended after {seen} of {self.size} bytes")


class HttpOrigin(Resting):
    """Any HTTP server, by a template such as ``https://cdn.example/blobs/{digest}``."""

    def __init__(
        self,
        template: str,
        *,
        http: ForeignHttp,
        clock: Clock,
        token: str = "",
        redirects: bool = False,
        private: bool = False,
        resolve: Resolve | None = None,
    ) -> None:
        """``token``: the value of Authorization, sent to the template's own host only. BadConfig for a bad template."""
        if template.count("{digest}") != 1 or "{" in template.replace("{digest}", ""):
            raise BadConfig(f"the origin {template!r} must hold {{digest}} once, and no other braces")
        try:
            self._home = origin(checked_target(template.replace("{digest}", "0" * 64)))
        except BadRequest as error:
            raise BadConfig(f"the origin: {error.detail}") from error
        super().__init__(self._home, clock)
        self._template = template
        self._http = http
        self._token = token
        self._redirects = redirects
        self._private = private
        self._resolve = resolve or system_resolve

    @asynccontextmanager
    async def open(self, digest: Digest, start: int) -> AsyncIterator[Body]:
        self._check_rest()
        async with AsyncExitStack() as stack:
            answer = await self._ask(stack, self._where(digest), start)
            yield await self._body(answer, start)

    def _where(self, digest: Digest) -> str:
        return self._template.replace("{digest}", str(digest))

    async def _ask(self, stack: AsyncExitStack, url: str, start: int) -> Answer:
        for left in range(REDIRECTS_MAX, -1, -1):
            headers: dict[str, str] = {"accept": "application/octet-stream, */*;q=0.5"}
            if start:
                headers["range"] = f"bytes={start}-"
            if self._token and origin(url) == self._home:
                headers["authorization"] = self._token
            hop = AsyncExitStack()
            try:
                async with asyncio.timeout(FIRST_BYTE_S):
                    answer = await hop.enter_async_context(self._http.read(url, headers))
            except TimeoutError as error:
                await hop.aclose()
                raise Unavailable(f"{origin(url)}: no answer in time") from error
            except BaseException:
                await hop.aclose()
                raise
            if answer.status not in _REDIRECTS:
                stack.push_async_exit(hop)
                return answer
            await hop.aclose()
            if not self._redirects:
                raise Unavailable(f"{origin(url)} redirects, which is not allowed (origin_redirects)")
            if left:
                url = await self._next(url, answer.headers)
        raise Unavailable(f"{self._home} redirects more than {REDIRECTS_MAX} times")

    async def _next(self, url: str, headers: Mapping[str, str]) -> str:
        try:
            found = checked_target(urljoin(url, headers.get("location", "")))
        except (BadRequest, ValueError) as error:
            raise Unavailable(f"{origin(url)} redirects to something that is no address") from error
        if url.startswith("https:") and not found.startswith("https:"):
            raise Unavailable(f"{origin(url)} redirects from https to http")
        if origin(found) != self._home and not self._private:
            host = urlsplit(found).hostname or ""
            try:
                addresses = [host] if _is_address(host) else list(await self._resolve(host))
            except OSError as error:
                raise Unavailable(f"{origin(url)} redirects to {host}, which has no address") from error
            if not addresses or not all(_is_public(address) for address in addresses):
                raise Unavailable(f"{origin(url)} redirects to a private address, which is not allowed")
        return found

    async def _body(self, answer: Answer, start: int) -> Body:
        status = answer.status
        if status in _GONE:
            raise NotFound(f"{self.name} does not have it")
        if status == 403:  # so S3 says that there is no such object to those who may not list
            raise NotFound(f"{self.name} does not give it (403)")
        if status == 401:
            raise Unavailable(f"{self.name} refuses: is its token right?")
        if status == 429:
            raise TooManyRequests(f"{self.name} asks for patience")
        if status == 206 and start:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if found is None or int(found[1]) != start or int(found[2]) + 1 != int(found[3]):
                raise Unavailable(f"{self.name} sent another range than was asked for")
            total = int(found[3])
            return _Sized(answer.body(), total - start, total)
        if status != 200:
            raise Unavailable(f"{self.name} answered {status}")
        pieces, size = answer.body(), answer.size
        if size is None:
            data = await _whole(pieces, self.name)
            pieces, size = _one(data), len(data)
        if start:  # it knows no ranges: what we have already passes unread
            if start >= size:
                raise Unavailable(f"{self.name} has a shorter blob")
            pieces = _skip(pieces, start)
        return _Sized(pieces, size - start, size)

    async def close(self) -> None:
        await self._http.close()


class UrlSource(HttpOrigin):
    """One address whose digest a person knows: redirects are followed as for any download."""

    def __init__(self, url: str, *, http: ForeignHttp, clock: Clock) -> None:
        try:
            checked_target(url)
        except BadRequest as error:
            raise BadRequest(f"the URL: {error.detail}") from error
        super().__init__("http://nobody.invalid/{digest}", http=http, clock=clock, redirects=True, private=True)
        self.name = self._home = origin(url)
        self._url = url

    def _where(self, digest: Digest) -> str:
        return self._url


class HoldfastOrigin(Resting):
    """Another holdfast node, which pulls for us as for any of its clients."""

    def __init__(self, url: str, id_: Id | None, *, http: HttpClient, clock: Clock) -> None:
        """``id_`` None: whoever answers there; bytes are checked either way. ``http`` stays the caller's."""
        self._url = checked_url(url)
        super().__init__(self._url, clock)
        self._id = id_
        self._http = http

    @asynccontextmanager
    async def open(self, digest: Digest, start: int) -> AsyncIterator[Body]:
        self._check_rest()
        if self._id is None:
            self._id = (await self._http.health(self._url)).id
        range_ = Range(start, None) if start else None
        async with self._http.get_blob(Target(self._id, self._url), digest, range_) as body:
            yield body

    async def close(self) -> None:
        """Nothing of its own is open."""


class Origin(Source, Protocol):
    """The last source. Asked as any source is; closed with the node."""

    name: str
    counters: Counters

    async def close(self) -> None: ...


def make_origin(
    text: str,
    *,
    http: HttpClient,
    foreign: ForeignHttp,
    clock: Clock,
    token: str = "",
    redirects: bool = False,
    private: bool = False,
) -> Origin:
    """The origin that a setting names; BadConfig for text that names none."""
    if "{" in text:
        return HttpOrigin(text, http=foreign, clock=clock, token=token, redirects=redirects, private=private)
    id_text, _, url = text.rpartition("@")
    try:
        id_ = Id.parse(id_text) if id_text else None
    except BadRequest as error:
        raise BadConfig(f"the origin {text!r}: write a URL with {{digest}} in it, or [ID@]http://HOST:PORT") from error
    return HoldfastOrigin(url, id_, http=http, clock=clock)


async def system_resolve(host: str) -> list[str]:
    """Asks the system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(row[4][0]).partition("%")[0] for row in found]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(text: str) -> bool:
    """Is it an address of the Internet at large, and the one that it holds inside, if it is of a passage to IPv4?"""
    address = ipaddress.ip_address(text)
    inner: ipaddress.IPv4Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and (inner is None or inner.is_global)


async def _whole(pieces: AsyncIterator[Buffer], name: str) -> bytes:
    data = bytearray()
    async for piece in pieces:
        data += piece
        if len(data) > UNSIZED_BYTES_MAX:
            raise Unavailable(f"{name} does not say how long a blob is (no Content-Length)")
    return bytes(data)


async def _one(data: bytes) -> AsyncIterator[Buffer]:
    if data:
        yield data


async def _skip(pieces: AsyncIterator[Buffer], count: int) -> AsyncIterator[Buffer]:
    async for piece in pieces:
        if count >= len(piece):
            count -= len(piece)
            continue
        yield memoryview(piece)[count:]
        count = 0
