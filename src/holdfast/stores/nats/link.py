"""One connection to a NATS cluster: requests to JetStream, publishes with acknowledgements, and translated errors.

The client library keeps the connection and finds another server when one dies. Its own JetStream calls are not used:
they neither wait for a new leader nor bound what is under way. Everything here may be called at once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, Denied, HoldfastError, NoSpace, TimedOut, Unavailable
from holdfast.stores.nats.access import NatsAccess

T = TypeVar("T")

CONNECT_S = 5.0
REQUEST_S = 4.0
"""One try of a request; a new leader is elected within about ten seconds."""
PATIENCE_S = 20.0
"""How long a cluster that lost a server may need before a call gives up."""
RETRY_S_MAX = 1.0
IN_FLIGHT_MAX = 64
"""Chunks of all puts together that wait for their acknowledgement; far below what a server buffers before 429."""
PENDING_BYTES_MAX = 4 << 20

# JetStream error codes (nats-server, errors.json)
NO_MESSAGE = 10037
NO_STREAM = 10059
WRONG_SEQUENCE = 10071
_NO_LEADER = frozenset({10006, 10009, 10041})  # they come with the code 500, as do lasting ones
_FULL = frozenset({10002, 10023, 10028, 10047})
_FULL_WORDS = ("maximum bytes", "maximum messages", "resource limits", "insufficient", "storage exceeded")


class Refused(Exception):
    """JetStream's answer to a request that it will not do; stays inside of the nats modules."""

    def __init__(self, code: int, error_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.error_code = error_code
        self.description = description

    @property
    def passes(self) -> bool:
        """May the same request succeed soon: no leader yet, too many requests, a server going down?"""
        return (self.code in (408, 429, 503) or self.error_code in _NO_LEADER) and not self.full

    @property
    def full(self) -> bool:
        return self.error_code in _FULL or any(word in self.description for word in _FULL_WORDS)

    def translated(self, what: str) -> HoldfastError:
        """The error that may leave the room."""
        if self.full:
            return NoSpace(f"{what}: the bucket or its servers are full ({self.description})")
        if self.code in (401, 403):
            return Denied(f"{what}: {self.description}")
        return Unavailable(f"{what}: {self.description}")


class StoredMessage(NamedTuple):
    """A message as the stream's leader keeps it."""

    sequence: int
    headers: Mapping[str, str]
    data: bytes
    time: float = 0.0  # seconds since 1970, by the server's clock; 0 where it was not asked for


class _Client(Client):
    """Refuses to speak in the clear where TLS was asked for: the library itself would go on without."""

    tls_wanted = False

    def _connect_command(self) -> bytes:
        if self.tls_wanted and not self._server_info.get("tls_required"):
            raise nats_errors.Error("the server offers no TLS")
        return super()._connect_command()


class _Complaints:
    """What servers say outside of any answer."""

    def __init__(self) -> None:
        self.last = ""
        self.final = asyncio.Event()  # trying again will not help
        self.forbidden: Callable[[str], None] = lambda complaint: None

    async def take(self, error: Exception) -> None:
        self.last = str(error) or type(error).__name__
        text = self.last.lower()
        if "permissions violation" in text:
            self.forbidden(text)
        elif any(word in text for word in ("authorization", "no tls", "certificate verify failed")):
            self.final.set()


class NatsLink:
    """Made by ``connect``; ``close`` it."""

    def __init__(self, client: Client, clock: Clock, randomness: Randomness, complaints: _Complaints) -> None:
        """For ``connect`` only."""
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._complaints = complaints
        complaints.forbidden = self._forbidden
        self._acks: dict[str, tuple[str, asyncio.Future[int]]] = {}  # by token: subject, future
        self._ack_inbox = client.new_inbox()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._number = 0

    @classmethod
    async def connect(
        cls, servers: list[str], access: NatsAccess, *, tls: bool, clock: Clock, randomness: Randomness
    ) -> NatsLink:
        """``servers``: host or host:port. Denied for wrong credentials, Unavailable if none answers in 5 s."""
        client, complaints = _Client(), _Complaints()
        client.tls_wanted = tls
        options: dict[str, Any] = {
            "servers": [f"{'tls' if tls else 'nats'}://{server}" for server in servers],
            "name": "holdfast",
            "error_cb": complaints.take,
            "connect_timeout": 2,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.2,
            "ping_interval": 5,  # a server that went without a word is noticed in 15 s; reads notice it earlier
            "max_outstanding_pings": 2,
            "pending_size": PENDING_BYTES_MAX,
        }
        options |= access.options(tls=tls)
        dialling = asyncio.ensure_future(client.connect(**options))
        waiting = asyncio.ensure_future(complaints.final.wait())
        try:
            await asyncio.wait([dialling, waiting], timeout=CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if not dialling.done() or dialling.exception() is not None:
                raise _no_connection(", ".join(servers), complaints.last, dialling)
        except BaseException:
            dialling.cancel()
            await asyncio.gather(dialling, return_exceptions=True)
            await client.close()
            raise
        finally:
            waiting.cancel()
        link = cls(client, clock, randomness, complaints)
        try:
            await client.subscribe(f"{link._ack_inbox}.*", cb=link._acknowledged)
        except nats_errors.Error as error:
            await client.close()
            raise Denied(f"the server does not let us listen for answers: {error}") from error
        return link

    @property
    def payload_max(self) -> int:
        """Bytes in the largest message that this server takes."""
        return int(self._client.max_payload)

    @property
    def version(self) -> tuple[int, int]:
        """Of the server that we are connected to."""
        version = self._client.connected_server_version
        return version.major, version.minor

    # -- requests

    async def ask(self, verb: str, body: Mapping[str, Any] | None = None, *, again: bool = True) -> dict[str, Any]:
        """One request to ``$JS.API.<verb>``; only for what may be done twice.

        With ``again`` it is repeated while the cluster elects a leader, up to ``PATIENCE_S``. Refused for an answer
        that will not change; Unavailable or TimedOut when there is none.
        """
        data = b"" if body is None else json.dumps(body).encode()

        async def once() -> dict[str, Any]:
            try:
                answer = await self._client.request(f"$JS.API.{verb}", data, timeout=REQUEST_S)
            except nats_errors.NoRespondersError as error:
                raise Refused(503, 0, "JetStream has no leader now, or is not enabled for this account") from error
            found: dict[str, Any] = json.loads(answer.data)
            if "error" in found:
                raise _refused(found["error"])
            return found

        return await self.patiently(once, verb.split(".OBJ_")[0], patience_s=PATIENCE_S if again else 0)

    async def patiently(self, once: Callable[[], Awaitable[T]], what: str, *, patience_s: float = PATIENCE_S) -> T:
        """``once()``, again with growing pauses while its failure may pass."""
        deadline = self._clock.monotonic() + patience_s
        pause = 0.05
        while True:
            try:
                return await once()
            except HoldfastError:
                raise
            except Refused as error:
                if not error.passes:
                    raise
                trouble: Exception = error
            except (nats_errors.Error, OSError) as error:
                trouble = error
            self.check_denied(what)
            if self._client.is_closed:
                raise Unavailable("the connection to NATS is closed") from trouble
            if self._clock.monotonic() + pause > deadline:
                raise translated(trouble, what) from trouble
            await self._clock.sleep(pause * (0.5 + self._randomness.random() / 2))
            pause = min(2 * pause, RETRY_S_MAX)

    def check_denied(self, what: str) -> None:
        """Denied if the server said that this account may not do what was just tried: it gives no other answer."""
        if "permissions violation" in self._complaints.last.lower():
            complaint, self._complaints.last = self._complaints.last, ""
            raise Denied(f"{what}: the NATS account may not do this ({complaint})")

    async def stored(self, stream: str, selection: Mapping[str, Any]) -> StoredMessage | None:
        """A message as the leader keeps it: ``last_by_subj``, or ``seq`` with ``next_by_subj``; None if none."""
        try:
            found = await self.ask(f"STREAM.MSG.GET.{stream}", selection)
        except Refused as error:
            if error.error_code == NO_MESSAGE:
                return None
            raise error.translated("reading from the bucket") from error
        message = found["message"]
        return StoredMessage(
            int(message["seq"]),
            _headers(base64.b64decode(message.get("hdrs") or "")),
            base64.b64decode(message.get("data") or ""),
            _seconds(message["time"]),
        )

    # -- publishing

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> asyncio.Future[int]:
        """Sends; the future gives the message's sequence, or Refused. Waits while too much is under way.

        It may never be done when the connection breaks: wait for it with a deadline.
        """
        await self._in_flight.acquire()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._number += 1
        token = str(self._number)
        self._acks[token] = subject, future

        def settled(done: asyncio.Future[int]) -> None:
            del self._acks[token]
            self._in_flight.release()
            if not done.cancelled():
                done.exception()  # who still waits sees it; nobody has to

        future.add_done_callback(settled)
        try:
            await self._client.publish(subject, data, reply=f"{self._ack_inbox}.{token}", headers=dict(headers))
        except BaseException:
            future.cancel()
            raise
        return future

    async def _acknowledged(self, message: Msg) -> None:
        _, future = self._acks.get(message.subject.rpartition(".")[2], ("", None))
        if future is None or future.done():
            return
        if (message.headers or {}).get("Status") == "503":
            future.set_exception(Refused(503, 0, "the stream has no leader now"))
            return
        answer = json.loads(message.data)
        if "error" in answer:
            future.set_exception(_refused(answer["error"]))
        else:
            future.set_result(int(answer["seq"]))

    def _forbidden(self, complaint: str) -> None:
        """No answer will come to what this account may not send."""
        for subject, future in list(self._acks.values()):
            if f'"{subject.lower()}"' in complaint and not future.done():
                future.set_exception(Refused(403, 0, f"the NATS account may not do this ({complaint})"))

    # -- answers of many messages

    @asynccontextmanager
    async def answers(self, take: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[str]:
        """An address for answers, each given to ``take`` in order."""
        inbox = self._client.new_inbox()
        try:
            subscription = await self._client.subscribe(inbox, cb=take)
        except (nats_errors.Error, OSError) as error:
            raise translated(error, "reading from the bucket") from error
        try:
            yield inbox
        finally:
            with contextlib.suppress(nats_errors.Error, OSError):  # the connection is gone, and it with it
                await subscription.unsubscribe()

    async def send(self, verb: str, body: Mapping[str, Any], answers: str) -> None:
        """A request whose answers go to that address."""
        try:
            await self._client.publish(f"$JS.API.{verb}", json.dumps(body).encode(), reply=answers)
        except (nats_errors.Error, OSError) as error:
            raise translated(error, "asking NATS") from error

    async def close(self) -> None:
        """May be called twice."""
        with contextlib.suppress(nats_errors.Error, OSError):
            await self._client.close()


def translated(error: BaseException, what: str) -> HoldfastError:
    """A library's exception as one of ours."""
    if isinstance(error, HoldfastError):
        return error
    if isinstance(error, Refused):
        return error.translated(what)
    if isinstance(error, TimeoutError | nats_errors.TimeoutError):
        return TimedOut(f"{what}: NATS did not answer in time")
    return Unavailable(f"{what}: {error or type(error).__name__}")


def _no_connection(servers: str, complaint: str, dialling: asyncio.Future[None]) -> HoldfastError:
    if not complaint and dialling.done() and (error := dialling.exception()) is not None:
        complaint = str(error) or type(error).__name__
    if "no TLS" in complaint:
        return BadConfig(f"{servers} offers no TLS, which the URL asks for")
    if "certificate" in complaint:
        return BadConfig(f"the certificate of {servers} is not signed by whom NATS_CA names ({complaint})")
    if "authorization" in complaint.lower():
        return Denied(
            f"{servers} refuses these credentials: set NATS_CREDS, NATS_NKEY or NATS_TOKEN_FILE to the right file"
        )
    return Unavailable(f"no NATS server answers at {servers}" + (f" ({complaint})" if complaint else ""))


def _refused(error: Mapping[str, Any]) -> Refused:
    return Refused(int(error.get("code", 500)), int(error.get("err_code", 0)), str(error.get("description", "")))


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def _seconds(moment: str) -> float:
    """RFC 3339 with up to nine digits of a second; Python reads six."""
    whole, _, rest = moment.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{rest or 0}")
