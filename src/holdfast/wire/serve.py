"""The one server skeleton: signature check, limits, deadlines, problem documents, metrics and health for every role.

A handler gets a ``Call`` and a decoded message and returns a message or one of the replies below; it raises errors of
``holdfast.errors``, which become signed problem documents (RFC 9457). Nothing else reaches the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias, TypeVar

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

import holdfast
from holdfast import errors, logs
from holdfast.auth import signing
from holdfast.auth.documents import from_text
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.clock import Clock
from holdfast.telemetry import Metrics
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.connection import ConnectionFactory
from holdfast.wire.network import Listener, Network
from holdfast.wire.routes import Route

BODY_FREE_S = 10.0
BODY_BYTES_PER_S_MIN = 16 << 10
SHARED_BYTES_PER_S_MIN = 1 << 10
"""Of a blob from a sender with a right to send it: one with a limit sends many at once, and all of them share it."""
BODY_STALL_S = 30.0
MESSAGES_BYTES_MAX = 128 << 20
"""Of all messages that are being read at once."""
FILE_SLICE_BYTES = 1 << 20
DRAIN_S = 30.0
LAST_WRITE_S = 2.0
"""For sending the last answers once their handlers have ended."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_COVERED = frozenset({*signing.REQUEST_HEADERS, "signature", "signature-input", "host"})

_log = logs.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON answer."""

    message: Any = field(default_factory=m.Empty)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BytesReply:
    """A blob of ``total`` bytes, or the ``range_`` (start, stop) of it that ``data`` is."""

    data: Buffer
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileReply:
    """A blob of ``total`` bytes, or a range of it, sent from ``file`` without copying; the service closes it."""

    file: BinaryIO
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A blob of ``total`` bytes, or a range of it, sent as ``pieces`` come. If they fail the connection breaks off."""

    pieces: AsyncIterator[Buffer]
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[], Awaitable[None]] | None = None
    """Called at the end, however it came."""


Handler: TypeAlias = Callable[["Call", Any], Awaitable[Any]]


class Call:
    """One request under way. ``caller`` has signed it for us; on unsigned routes it is None."""

    __slots__ = ("_request", "caller", "grant", "headers", "path", "query", "size")

    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str], path: Mapping[str, str]) -> None:
        self._request = request
        self.headers = headers
        self.path = path
        self.query: dict[str, str] = dict(request.rel_url.query)
        self.caller: Id | None = None
        self.grant: bytes | None = from_text(headers["holdfast-grant"]) if "holdfast-grant" in headers else None
        length = headers.get("content-length")
        self.size: int | None = None
        if length is not None:
            if not (length.isascii() and length.isdigit() and len(length) < 19):
                raise errors.BadRequest("Content-Length: not a number")
            self.size = int(length)

    async def body(self, bytes_per_s_min: float = BODY_BYTES_PER_S_MIN) -> AsyncIterator[Buffer]:
        """Exactly ``size`` bytes as they come, else BadRequest; asks for them if the client waits to be asked.

        A body slower than ``bytes_per_s_min`` after its first 10 seconds, or silent for 30, is TimedOut.
        """
        request = self._request
        if self.headers.get("expect", "").lower() == "100-continue":
            try:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except ConnectionError as error:
                raise errors.BadRequest("the body ended before its length") from error
            request.writer.output_size = 0
        loop = asyncio.get_running_loop()
        began, seen = loop.time(), 0
        content = request.content
        while True:
            try:
                async with asyncio.timeout(BODY_STALL_S):
                    piece = await content.readany()
            except TimeoutError as error:
                raise errors.TimedOut("the body stalled") from error
            except (web.RequestPayloadError, ConnectionError, HttpProcessingError) as error:
                raise errors.BadRequest("the body ended before its length") from error
            except RuntimeError as error:  # so says aiohttp when the connection went before anybody read
                if request.protocol.connected:
                    raise
                raise errors.BadRequest("the body ended before its length") from error
            if not piece:
                break
            seen += len(piece)
            spent = loop.time() - began - BODY_FREE_S
            if spent > 0 and seen < spent * bytes_per_s_min:
                raise errors.TimedOut("the body came too slowly")
            yield piece
        if self.size is not None and seen != self.size:
            raise errors.BadRequest(f"the body has {seen} bytes, Content-Length says {self.size}")


def parse_range(value: str | None, total: int) -> tuple[int, int] | None:
    """(start, stop) of the one byte range in a Range field (RFC 9110, 14), None without one; RangeInvalid."""
    if value is None:
        return None
    found = _RANGE.fullmatch(value)
    if found is None or not (found[1] or found[2]):
        raise errors.RangeInvalid("Range: one range of the form bytes=FIRST-LAST is understood")
    if not found[1]:
        start, stop = max(total - int(found[2]), 0), total
    else:
        start = int(found[1])
        stop = min(int(found[2]) + 1, total) if found[2] else total
    if start >= stop:
        raise errors.RangeInvalid(f"Range: nothing there in a blob of {total} bytes")
    return start, stop


class _Table:
    """Routes by method and path shape; ``{name}`` matches one segment that is not empty."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, tuple[Route[Any, Any], Handler]]] = {}
        self._shaped: list[tuple[tuple[str, ...], dict[str, tuple[Route[Any, Any], Handler]]]] = []

    def add(self, route: Route[Any, Any], handler: Handler) -> None:
        if "{" not in route.path:
            self._exact.setdefault(route.path, {})[route.method] = (route, handler)
            return
        parts = tuple(route.path.split("/"))
        for shape, methods in self._shaped:
            if shape == parts:
                methods[route.method] = (route, handler)
                return
        self._shaped.append((parts, {route.method: (route, handler)}))

    def find(self, method: str, path: str) -> tuple[Route[Any, Any], Handler, dict[str, str]]:
        """NotFound for an unknown path, BadRequest for a method that it has not."""
        methods, found = self._exact.get(path), {}
        if methods is None:
            given = path.split("/")
            for shape, candidates in self._shaped:
                if len(shape) == len(given) and all(
                    part == want or (want[:1] == "{" and part) for want, part in zip(shape, given, strict=True)
                ):
                    methods = candidates
                    found = {want[1:-1]: part for want, part in zip(shape, given, strict=True) if want[:1] == "{"}
                    break
        if methods is None:
            raise errors.NotFound(f"no route {path[:200]!r}")
        if method not in methods:
            raise errors.BadRequest(f"{method[:16]} is not a method of this route")
        route, handler = methods[method]
        return route, handler, found


class Service:
    """An HTTP server of one identity. Add routes, then start; stop drains. One per listener."""

    def __init__(
        self,
        *,
        identity: Identity,
        role: str,
        name: str,
        clock: Clock,
        network: Network,
        epoch: Callable[[], tuple[int, int]] | None = None,
        time: Callable[[], float] | None = None,
        ask_time: Callable[[], Awaitable[None]] | None = None,
        health: Callable[[], str] | None = None,
        refuses: Callable[[], Awaitable[errors.HoldfastError | None]] | None = None,
        json_bytes_max: int = m.JSON_BYTES_MAX,
    ) -> None:
        """``ask_time`` sets ``time`` right, if it can: awaited before a request is refused for its time alone.

        ``refuses``: why nothing may be answered now but health and routes added as ``always``.
        """
        self.metrics = Metrics(role)
        self.in_flight = 0
        self._reading_bytes = 0
        self._quiet = asyncio.Event()
        self._identity = identity
        self._role = role
        self._name = name
        self._clock = clock
        self._network = network
        self._epoch = epoch
        self._time = time or clock.now
        self._ask_time = ask_time
        self._health = health or (lambda: "ok")
        self._refuses = refuses
        self._always: set[Route[Any, Any]] = set()
        self._json_bytes_max = json_bytes_max
        self._table = _Table()
        self._factory: ConnectionFactory | None = None
        self._listener: Listener | None = None
        self._scheme = "http"
        self.add(routes.HEALTH, self._answer_health, always=True)

    def add(
        self,
        route: Route[Q, A],
        handler: Callable[[Call, Q], Awaitable[A | Reply | BytesReply | FileReply | StreamReply]],
        *,
        always: bool = False,
    ) -> None:
        """Binds ``handler`` to ``route``; before ``start``."""
        self._table.add(route, handler)
        if always:
            self._always.add(route)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        """Begins to serve; Unavailable if the address cannot be had."""
        self._scheme = "https" if tls else "http"
        self._factory = ConnectionFactory(self._serve)
        self._listener = await self._network.listen(self._factory, host, port, tls=tls)
        return self._listener

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Accepts nothing new, lets what is under way finish within ``drain_s``, then closes. May be called twice."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        if self._factory is not None:
            factory, self._factory = self._factory, None
            factory.close_idle()
            # aiohttp's own shutdown stops reading at once, so a body under way would never end: wait before it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    while self.in_flight:
                        self._quiet.clear()
                        await self._quiet.wait()
            factory.pre_shutdown()
            await factory.shutdown(min(drain_s, LAST_WRITE_S))

    async def _answer_health(self, call: Call, message: None) -> Reply:
        status = self._health()
        answer = m.Health(
            status=status,
            role=self._role,
            id=self._identity.id,
            name=self._name,
            time=self._time(),
            version=holdfast.__version__,
        )
        return Reply(answer, 200 if status == "ok" else 503)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        began = self._clock.monotonic()
        self.in_flight += 1
        label, signature = "unknown", None
        try:
            try:
                if request._message.version not in (HttpVersion10, HttpVersion11):
                    request._version = HttpVersion11  # that of the answer
                    raise errors.BadRequest("HTTP/1.1 is spoken here")
                headers = _single_headers(request)
                signature = headers.get("signature")
                route, handler, path = self._table.find(request.method, request.rel_url.raw_path)
                label = route.label
                call = Call(request, headers, path)
                reply = await self._run(route, handler, call)
                response = await self._respond(request, route, reply, signature)
            except (asyncio.CancelledError, HTTPException, ConnectionResetError):
                raise
            except Exception as error:
                response = self._problem(error, signature, request)
            self.metrics.requests.labels(label, response.status).inc()
            if self._factory is None:
                response.force_close()
            return response
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._quiet.set()
            self.metrics.seconds.labels(label).observe(self._clock.monotonic() - began)

    async def _run(self, route: Route[Any, Any], handler: Handler, call: Call) -> Any:
        headers = call.headers
        if "transfer-encoding" in headers:
            raise errors.LengthRequired("send a Content-Length; chunked bodies are not taken")
        if route.signed and not (route.open and "signature" not in headers):
            target = f"{self._scheme}://{headers.get('host', '')}{call._request._message.path}"
            try:
                call.caller = self._signed_by(call, target)
            except errors.Unauthorized as error:
                if self._ask_time is None or error.extra.get("reason") != "time":
                    raise
                await self._ask_time()
                call.caller = self._signed_by(call, target)
        refusal = None if self._refuses is None or route in self._always else await self._refuses()
        if refusal is not None:
            raise refusal
        if route.blob == "up":
            if call.size is None:
                raise errors.LengthRequired("send a Content-Length")
            if signing.digest_of_field(headers.get("content-digest", "")) != Digest.parse(call.path["digest"]):
                raise errors.BadRequest("Content-Digest is not the blob's name")
            return await handler(call, None)
        if route.blob == "foreign":
            return await handler(call, None)
        message = None
        if route.request is not None and route.method in ("POST", "PUT"):
            message = m.decode(await self._read_json(call, route), route.request)
        elif call.size:
            raise errors.BadRequest("this route takes no body")
        elif route.request is not None:
            message = m.convert(call.query, route.request)
        elif call.query:
            raise errors.BadRequest("this route takes no query")
        return await handler(call, message)

    def _signed_by(self, call: Call, target: str) -> Id:
        return signing.verify_request(call._request.method, target, call.headers, self._identity.id, self._time())

    async def _read_json(self, call: Call, route: Route[Any, Any]) -> bytes:
        if call.size is None:
            raise errors.LengthRequired("send a Content-Length")
        limit = self._json_bytes_max if route.bytes_max == m.JSON_BYTES_MAX else route.bytes_max
        if call.size > limit:
            raise errors.TooLarge(f"a message has at most {limit} bytes")
        data = await self._read_whole(call)
        if route.signed and call.headers.get("content-digest") != signing.body_digest(data):
            raise errors.Unauthorized("Content-Digest is missing or is not the body's")
        return data

    async def _read_whole(self, call: Call) -> bytes:
        body = bytearray()
        try:
            async for piece in call.body():
                body += piece
                self._reading_bytes += len(piece)
                if self._reading_bytes > MESSAGES_BYTES_MAX:
                    raise errors.TooManyRequests("too many large messages come at once", retry_after=1)
            return bytes(body)
        finally:
            self._reading_bytes -= len(body)

    async def _respond(
        self, request: web.BaseRequest, route: Route[Any, Any], reply: Any, signature: str | None
    ) -> web.StreamResponse:
        if isinstance(reply, FileReply):
            return await self._send_file(request, reply)
        if isinstance(reply, StreamReply):
            return await self._send_stream(request, reply)
        if isinstance(reply, BytesReply):
            status, headers = _blob_headers(reply)
            response = web.Response(body=bytes(reply.data), status=status, headers=self._named(headers))
            await response.prepare(request)
            return response
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        body = b"" if request.method == "HEAD" or reply.status == 304 else m.encode(reply.message)
        return self._signed(
            reply.status, {**reply.headers, "content-type": "application/json"}, body, signature, request
        )

    async def _send_file(self, request: web.BaseRequest, reply: FileReply) -> web.StreamResponse:
        with reply.file:
            status, headers = _blob_headers(reply)
            response = web.StreamResponse(status=status, headers=self._named(headers))
            writer = await response.prepare(request)
            if writer is None or request.method == "HEAD":
                return response
            writer.send_headers()
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client went away")
            start, stop = reply.range_ or (0, reply.total)
            await _send_slices(transport, reply.file, start, stop)
            await response.write_eof()
            return response

    async def _send_stream(self, request: web.BaseRequest, reply: StreamReply) -> web.StreamResponse:
        try:
            status, headers = _blob_headers(reply)
            response = web.StreamResponse(status=status, headers=self._named(headers))
            await response.prepare(request)
            try:
                async for piece in reply.pieces:
                    try:
                        await response.write(piece)
                    except ConnectionError as error:
                        raise ConnectionResetError("the client went away") from error
            except errors.HoldfastError as error:
                _log.warning("stream_broken_off", role=self._role, path=request.path, reason=error.detail)
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the body could not be finished") from error
            await response.write_eof()
            return response
        finally:
            if reply.done is not None:
                await reply.done()

    def _problem(self, error: Exception, signature: str | None, request: web.BaseRequest) -> web.StreamResponse:
        if not isinstance(error, errors.HoldfastError):
            _log.error("request_failed", role=self._role, path=request.path, exc_info=error)
            error = errors.HoldfastError("internal error; the server's log says more")
        meaning = errors.meaning(error)
        title = type(error).__name__
        document = m.Problem(
            type=meaning.type, title=title, status=meaning.status, detail=error.detail, extra=error.extra
        )
        headers = {"content-type": "application/problem+json"}
        if isinstance(error, errors.TooManyRequests):
            headers["retry-after"] = str(int(error.extra.get("retry_after", 1)))
        body = b"" if request.method == "HEAD" else m.encode(document)
        response = self._signed(meaning.status, headers, body, signature, request)
        if not request.content.is_eof():
            response.force_close()
        return response

    def _signed(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        signature: str | None,
        request: web.BaseRequest,
    ) -> web.Response:
        fields = self._named(headers)
        if self._epoch is not None:
            fields["holdfast-epoch"] = "{}.{}".format(*self._epoch())
        if request.method != "HEAD":
            if status != 304:  # RFC 9110, 8.6: there it would be the length of what is not sent
                fields["content-length"] = str(len(body))
            fields["content-digest"] = signing.body_digest(body)
        if signature is not None:
            fields.update(signing.sign_answer(self._identity, status, fields, signature, self._time()))
        return web.Response(body=body, status=status, headers=fields)

    def _named(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "holdfast-node": self._name, "server": "holdfast", "x-content-type-options": "nosniff"}


async def _send_slices(transport: asyncio.BaseTransport, file: BinaryIO, start: int, stop: int) -> None:
    """Sends a part of a file; a reader that takes it more slowly than bodies may come is cut off."""
    assert isinstance(transport, asyncio.WriteTransport)
    loop = asyncio.get_running_loop()
    for at in range(start, stop, FILE_SLICE_BYTES):
        count = min(FILE_SLICE_BYTES, stop - at)
        if transport.is_closing():
            raise ConnectionResetError("the client went away")
        try:
            async with asyncio.timeout(BODY_STALL_S + count / BODY_BYTES_PER_S_MIN):
                await loop.sendfile(transport, file, at, count)
        except TimeoutError as error:
            transport.abort()
            raise ConnectionResetError("the client reads too slowly") from error
        except ConnectionError as error:  # asyncio says it in several ways
            raise ConnectionResetError("the client went away") from error


def _single_headers(request: web.BaseRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in headers and lower in _COVERED:
            raise errors.BadRequest(f"{lower}: sent twice")
        if lower in _COVERED and not value.isascii():
            raise errors.BadRequest(f"{lower}: only ASCII is understood")
        headers[lower] = value
    return headers


def _blob_headers(reply: BytesReply | FileReply | StreamReply) -> tuple[int, dict[str, str]]:
    headers = {**reply.headers, "content-type": "application/octet-stream", "accept-ranges": "bytes"}
    if reply.range_ is None:
        headers["content-length"] = str(reply.total)
        return 200, headers
    start, stop = reply.range_
    headers["content-length"] = str(stop - start)
    headers["content-range"] = f"bytes {start}-{stop - 1}/{reply.total}"
    return 206, headers
