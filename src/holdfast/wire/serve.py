"""The one server skeleton: signature check, limits, deadlines, problem documents, metrics and health for every role.

A handler gets a ``Call`` and a decoded message and returns a message or one of the replies; it raises errors of
``holdfast.errors``, which become signed problem documents (RFC 9457). Nothing else reaches the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any, TypeVar

import holdfast
from holdfast import errors, logs
from holdfast.auth import signing
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.telemetry import Metrics
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.call import Call
from holdfast.wire.channel import Gone
from holdfast.wire.connection import Connection
from holdfast.wire.network import Listener, Network
from holdfast.wire.replies import BytesReply, FileReply, Reply, StreamReply, blob_fields, parse_range
from holdfast.wire.request_head import RequestHead
from holdfast.wire.routes import Route
from holdfast.wire.server import Server
from holdfast.wire.table import Served, Table

__all__ = ["BytesReply", "Call", "FileReply", "Reply", "Service", "StreamReply", "parse_range"]

SHARED_BYTES_PER_S_MIN = 1 << 10
"""Of a blob from a sender with a right to send it: one with a limit sends many at once, and all of them share it."""
MESSAGES_BYTES_MAX = 128 << 20
"""Of all messages that are being read at once."""
DRAIN_S = 30.0
LAST_WRITE_S = 2.0
"""For sending the last answers once their handlers have ended."""

_log = logs.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


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
        self._json_bytes_max = json_bytes_max
        self._table = Table()
        self._unknown = self.metrics.route("unknown")
        self._server: Server | None = None
        self._listener: Listener | None = None
        self._scheme = "http"
        self._own_fields: dict[str, str] = {}
        self._own_second = 0
        self.add(routes.HEALTH, self._answer_health, always=True)

    def add(
        self,
        route: Route[Q, A],
        handler: Callable[[Call, Q], Awaitable[A | Reply | BytesReply | FileReply | StreamReply]],
        *,
        always: bool = False,
    ) -> None:
        """Binds ``handler`` to ``route``; before ``start``."""
        self._table.add(Served(route, handler, always, self.metrics.route(route.label)))

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener:
        """Begins to serve; Unavailable if the address cannot be had."""
        self._scheme = "https" if tls else "http"
        self._server = Server(self._answer)
        self._listener = await self._network.listen(self._server, host, port, tls=tls)
        return self._listener

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Accepts nothing new, lets what is under way finish within ``drain_s``, then closes. May be called twice."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        if self._server is not None:
            server, self._server = self._server, None
            server.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    while self.in_flight:
                        self._quiet.clear()
                        await self._quiet.wait()
            await server.close(min(drain_s, LAST_WRITE_S))

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

    async def _answer(self, connection: Connection, head: RequestHead) -> None:
        began = self._clock.monotonic()
        self.in_flight += 1
        metrics = self._unknown
        try:
            try:
                served, path = self._table.find(head.method, head.path)
                metrics = served.metrics
                reply = await self._run(served, Call(head, connection, path))
                status = await self._send(connection, head, reply)
            except (asyncio.CancelledError, Gone):
                raise
            except Exception as error:
                status = await self._send_problem(connection, head, error)
            metrics.answered(status)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._quiet.set()
            metrics.took(self._clock.monotonic() - began)

    async def _run(self, served: Served, call: Call) -> Any:
        head, headers, route, handler = call.head, call.headers, served.route, served.handler
        if head.coded:
            raise errors.LengthRequired("send a Content-Length; chunked bodies are not taken")
        if route.signed and not (route.open and "signature" not in headers):
            await self._check_signature(call)
        refusal = None if self._refuses is None or served.always else await self._refuses()
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
            message = m.convert(call.query(), route.request)
        elif head.query:
            raise errors.BadRequest("this route takes no query")
        return await handler(call, message)

    async def _check_signature(self, call: Call) -> None:
        target = f"{self._scheme}://{call.headers.get('host', '')}{call.head.target}"
        try:
            call.caller = self._signed_by(call, target)
        except errors.Unauthorized as error:
            if self._ask_time is None or error.extra.get("reason") != "time":
                raise
            await self._ask_time()
            call.caller = self._signed_by(call, target)

    def _signed_by(self, call: Call, target: str) -> Id:
        return signing.verify_request(call.head.method, target, call.headers, self._identity.id, self._time())

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

    async def _send(self, connection: Connection, head: RequestHead, reply: Any) -> int:
        """The status."""
        if isinstance(reply, BytesReply | FileReply | StreamReply):
            return await self._send_blob(connection, head, reply)
        answer = reply if isinstance(reply, Reply) else Reply(reply)
        body = b"" if head.method == "HEAD" or answer.status == 304 else m.encode(answer.message)
        fields = {**answer.headers, "content-type": "application/json"}
        await self._send_signed(connection, head, answer.status, fields, body)
        return answer.status

    async def _send_blob(
        self, connection: Connection, head: RequestHead, reply: BytesReply | FileReply | StreamReply
    ) -> int:
        status, fields = blob_fields(reply)
        fields.update(self._fields())
        try:
            if head.method == "HEAD":
                await connection.send(status, fields)
            elif isinstance(reply, BytesReply):
                await connection.send(status, fields, reply.data)
            elif isinstance(reply, FileReply):
                await connection.send_file(status, fields, reply.file, *(reply.range_ or (0, reply.total)))
            else:
                await connection.send_pieces(status, fields, reply.pieces)
        finally:
            if isinstance(reply, FileReply):
                reply.file.close()
            elif isinstance(reply, StreamReply) and reply.done is not None:
                await reply.done()
        return status

    async def _send_problem(self, connection: Connection, head: RequestHead, error: Exception) -> int:
        """The status; Gone where an answer has begun already."""
        if not isinstance(error, errors.HoldfastError):
            _log.error("request_failed", role=self._role, path=head.path, exc_info=error)
            error = errors.HoldfastError("internal error; the server's log says more")
        if connection.answered:
            _log.warning("stream_broken_off", role=self._role, path=head.path, reason=error.detail)
            raise Gone("the body could not be finished") from error
        meaning = errors.meaning(error)
        title = type(error).__name__
        document = m.Problem(
            type=meaning.type, title=title, status=meaning.status, detail=error.detail, extra=error.extra
        )
        fields = {"content-type": "application/problem+json"}
        if isinstance(error, errors.TooManyRequests):
            fields["retry-after"] = str(int(error.extra.get("retry_after", 1)))
        body = b"" if head.method == "HEAD" else m.encode(document)
        await self._send_signed(connection, head, meaning.status, fields, body)
        return meaning.status

    async def _send_signed(
        self, connection: Connection, head: RequestHead, status: int, fields: dict[str, str], body: bytes
    ) -> None:
        fields.update(self._fields())
        if self._epoch is not None:
            fields["holdfast-epoch"] = "{}.{}".format(*self._epoch())
        if head.method != "HEAD":
            if status != 304:  # RFC 9110, 8.6: there it would be the length of what is not sent
                fields["content-length"] = str(len(body))
            fields["content-digest"] = signing.body_digest(body)
        signature = head.headers.get("signature")
        if signature is not None:
            fields.update(signing.sign_answer(self._identity, status, fields, signature, self._time()))
        await connection.send(status, fields, body)

    def _fields(self) -> Mapping[str, str]:
        """What every answer says; made anew once a second."""
        second = int(self._clock.now())
        if second != self._own_second:
            self._own_second = second
            self._own_fields = {
                "date": formatdate(second, usegmt=True),
                "holdfast-node": self._name,
                "server": "holdfast",
                "x-content-type-options": "nosniff",
            }
        return self._own_fields
