"""A plain HTTP client for servers that are not holdfast: unsigned, bounded, without redirects.

Deadlines are on silence, as in ``wire.http``. Nothing here believes an answer: who asks must check what it got.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from holdfast.blob import PIECE_BYTES_MAX, Buffer
from holdfast.errors import BadRequest, HoldfastError, TimedOut, Unavailable
from holdfast.wire.network import CONNECT_TIMEOUT_S, Network

if TYPE_CHECKING:
    import aiohttp  # see network.py

STALL_S = 10.0
IGNORED_BYTES_MAX = 64 << 10
READ_BUFFER_BYTES = 256 << 10


_PLAIN = re.compile(r"(https?)://([0-9A-Za-z.:-]+)(?:/[!\"$-~]*)?")


def _parts(text: str) -> SplitResult:
    """Scheme and host as ``urlsplit`` finds them, and what else matters here; of a plain URL that costs a tenth."""
    plain = _PLAIN.fullmatch(text)
    return urlsplit(text) if plain is None else SplitResult(plain[1], plain[2], "", "", "")


def checked_target(text: str) -> str:
    """An http or https URL with a host; BadRequest for others, also for one with a password or a fragment in it."""
    try:
        parts = _parts(text)
        right = _right_host(parts.scheme, parts.netloc)
    except ValueError as error:
        raise BadRequest(f"{text!r} is not a URL") from error
    if not right:
        raise BadRequest(f"{text!r}: a URL of the form http://HOST[:PORT]/PATH is needed")
    if "@" in parts.netloc:
        raise BadRequest("a URL must not hold a user or password; use a token file")
    if parts.fragment or " " in text or not (text.isascii() and text.isprintable()):
        raise BadRequest(f"{text!r}: a URL without fragment is needed, its path percent-encoded")
    return text


@lru_cache(256)
def _right_host(scheme: str, netloc: str) -> bool:
    """ValueError for a port that is none."""
    parts = SplitResult(scheme, netloc, "", "", "")
    return scheme in ("http", "https") and parts.port != 0 and bool(parts.hostname)


def origin(url: str) -> str:
    """scheme://host[:port] of a checked URL."""
    parts = _parts(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers (lower-case names) of an answer; ``body`` gives its bytes, once, in pieces of at most 1 MiB.

    A body that is cut off raises Unavailable, one that stalls TimedOut.
    """

    status: int
    headers: Mapping[str, str]
    size: int | None
    body: Callable[[], AsyncIterator[Buffer]]


class ForeignHttp:
    """Use from one event loop; any number of calls at once."""

    def __init__(self, *, network: Network, tls: ssl.SSLContext | None = None, connections_per_host: int = 32) -> None:
        self._network = network
        self._tls = tls
        self._connections_per_host = connections_per_host
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Buffer | Callable[[], AsyncIterator[Buffer]] | None = None,
        size: int = 0,
    ) -> Answer:
        """Sends ``size`` bytes of ``body``; the answer's own body is read up to a bound and forgotten.

        Unavailable or TimedOut when no whole answer came. Errors that ``body`` raises end the request and pass.
        """
        async with self._answer(method, url, headers, body, size) as answer:
            seen = 0
            async for piece in answer.body():
                seen += len(piece)
                if seen > IGNORED_BYTES_MAX:
                    break
            return answer

    def read(self, url: str, headers: Mapping[str, str], method: str = "GET") -> AbstractAsyncContextManager[Answer]:
        """The answer to a GET or HEAD, whose body is read inside of the ``async with``, as far as wanted."""
        return self._answer(method, url, headers, None, 0)

    async def close(self) -> None:
        """Ends all connections. May be called twice."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Buffer | Callable[[], AsyncIterator[Buffer]] | None,
        size: int,
    ) -> AsyncIterator[Answer]:
        loop = asyncio.get_running_loop()
        failed: list[HoldfastError] = []
        sent = {**headers, "accept-encoding": "identity"}
        import yarl

        with _network_errors(url, failed):
            async with asyncio.timeout(STALL_S) as deadline:

                async def slices(source: Callable[[], AsyncIterator[Buffer]]) -> AsyncIterator[Buffer]:
                    try:
                        async for piece in source():
                            deadline.reschedule(loop.time() + STALL_S)
                            yield piece
                    except HoldfastError as error:
                        failed.append(error)
                        raise

                data: aiohttp.BytesPayload | AsyncIterator[Buffer] | None = None
                if body is not None:
                    sent["content-length"] = str(size)
                    data = slices(body) if callable(body) else _once()(bytes(body))
                response = await self._open().request(
                    method, yarl.URL(url, encoded=True), data=data, headers=sent, allow_redirects=False
                )
        try:
            lower = {name.lower(): value for name, value in response.headers.items()}
            yield Answer(response.status, lower, response.content_length, lambda: _body(response, url))
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()  # what is left may be endless

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=self._network.connector(limit_per_host=self._connections_per_host, tls=self._tls),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                skip_auto_headers=("Content-Type", "Accept-Encoding"),
                trust_env=False,
            )
        return self._session


@cache
def _once() -> type[aiohttp.BytesPayload]:
    import aiohttp

    class Once(aiohttp.BytesPayload):
        """Bytes that aiohttp does not send a second time by itself: perhaps they arrived, and somebody must look."""

        @property
        def consumed(self) -> bool:
            return True

    return Once


async def _body(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[Buffer]:
    while not response.content.at_eof():
        with _network_errors(url, []):
            async with asyncio.timeout(STALL_S):
                piece = await response.content.read(PIECE_BYTES_MAX)
        if not piece:
            return
        yield piece


class _network_errors:
    """Raises trouble on the way to a URL as ours; what failed on our own side first is the reason for it."""

    def __init__(self, url: str, failed: list[HoldfastError]) -> None:
        self._url = url
        self._failed = failed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        import aiohttp

        if isinstance(error, TimeoutError) and not isinstance(error, HoldfastError):
            raise TimedOut(f"{origin(self._url)}: no answer in time") from error
        if isinstance(error, aiohttp.ClientError | OSError | ValueError) and not isinstance(error, HoldfastError):
            if self._failed:
                raise self._failed[0] from error
            raise Unavailable(f"{origin(self._url)}: {str(error) or type(error).__name__}") from error
