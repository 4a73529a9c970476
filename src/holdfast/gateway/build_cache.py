"""The remote cache protocol of Bazel over HTTP, which ccache, Buck and Gradle's plugins speak too.

``/cas/{digest}`` are blobs as everywhere: pulled from peers and the origin if they are not here, shared with them, and
checked on arrival. ``/ac/{key}`` are plain keys of this node, each pointing at a blob. All that is put is kept in the
node's cache. Clients sign nothing: they bring a token, or the node listens on loopback only (docs/build-caches.md).
"""

from __future__ import annotations

import base64
import hmac
import re
from pathlib import Path

from holdfast.blob import Digest, bounded
from holdfast.clock import Randomness
from holdfast.errors import BadRequest, LengthRequired, NotFound, StorePoisoned, TooLarge, Unauthorized
from holdfast.files import Files
from holdfast.gateway.action_keys import ActionKeys
from holdfast.node.blobs import BlobRoutes
from holdfast.node.exchange.routes import Exchange
from holdfast.node.permits import Reader
from holdfast.pool import Pool
from holdfast.stores.spool import spool
from holdfast.wire import messages as m
from holdfast.wire.routes import Route
from holdfast.wire.serve import BytesReply, Call, FileReply, Reply, Service, StreamReply

VALUE_BYTES_MAX = 256 << 20
"""The largest value of a key: ccache keeps whole results there."""

CAS_GET: Route[None, m.Empty] = Route("GET", "/cas/{digest}", None, m.Empty, signed=False, blob="down")
CAS_HEAD: Route[None, m.Empty] = Route("HEAD", "/cas/{digest}", None, m.Empty, signed=False)
CAS_PUT: Route[None, m.Empty] = Route("PUT", "/cas/{digest}", None, m.Empty, signed=False, blob="foreign")
AC_GET: Route[None, m.Empty] = Route("GET", "/ac/{key}", None, m.Empty, signed=False, blob="down")
AC_HEAD: Route[None, m.Empty] = Route("HEAD", "/ac/{key}", None, m.Empty, signed=False)
AC_PUT: Route[None, m.Empty] = Route("PUT", "/ac/{key}", None, m.Empty, signed=False, blob="foreign")
AC_DELETE: Route[None, m.Empty] = Route("DELETE", "/ac/{key}", None, m.Empty, signed=False)

_KEY = re.compile(r"[0-9A-Za-z._-]{1,128}", re.ASCII)
_EVERYWHERE = Reader(shared=True, pulls="all")
_HERE = Reader(shared=True)


class BuildCache:
    """Handlers for ``wire.serve``; ``add_to`` a node's service before it starts. ``keys`` are the caller's, open."""

    def __init__(
        self,
        exchange: Exchange,
        blobs: BlobRoutes,
        keys: ActionKeys,
        *,
        directory: Path,
        files: Files,
        pool: Pool,
        randomness: Randomness,
        token: str,
        open_read: bool,
        read_only: bool,
    ) -> None:
        """``token``: what clients bring, empty where everybody who reaches the node is trusted; with ``open_read``
        reading needs none. ``directory``: for bodies on their way."""
        self._exchange = exchange
        self._blobs = blobs
        self._keys = keys
        self._directory = directory
        self._files = files
        self._pool = pool
        self._randomness = randomness
        self._token = token
        self._open_read = open_read
        self._read_only = read_only

    def add_to(self, service: Service) -> None:
        service.add(CAS_GET, self.get_blob)
        service.add(CAS_HEAD, self.head_blob)
        service.add(CAS_PUT, self.put_blob)
        service.add(AC_GET, self.get_value)
        service.add(AC_HEAD, self.head_value)
        service.add(AC_PUT, self.put_value)
        service.add(AC_DELETE, self.remove_value)

    # -- blobs

    async def get_blob(self, call: Call, message: None) -> BytesReply | FileReply | StreamReply:
        self._check(call, reading=True)
        return await self._blobs.give(call, Digest.parse(call.path["digest"]), _EVERYWHERE)

    async def head_blob(self, call: Call, message: None) -> Reply:
        """Here: where else it may be is not looked up."""
        self._check(call, reading=True)
        return await self._sized(Digest.parse(call.path["digest"]))

    async def put_blob(self, call: Call, message: None) -> Reply:
        """Keeps a blob in the cache; DigestMismatch if the body is another one."""
        self._check(call, reading=False)
        digest = Digest.parse(call.path["digest"])
        size = self._checked_size(call, self._exchange.settings.pull_bytes_max)
        await self._exchange.take(digest, size, bounded(call.body()))
        return Reply(status=201)

    # -- keys

    async def get_value(self, call: Call, message: None) -> BytesReply | FileReply | StreamReply:
        self._check(call, reading=True)
        key, digest = await self._found(call)
        try:
            return await self._blobs.give(call, digest, _HERE)
        except NotFound:
            await self._keys.remove(key, digest)  # the value had to make room
            raise NotFound(f"nothing is kept for the key {key}") from None

    async def head_value(self, call: Call, message: None) -> Reply:
        self._check(call, reading=True)
        return await self._sized((await self._found(call))[1])

    async def put_value(self, call: Call, message: None) -> Reply:
        """Keeps the body as a blob and points the key at it."""
        self._check(call, reading=False)
        key = _key(call)
        self._checked_size(call, VALUE_BYTES_MAX)
        async with spool(
            call.body(), directory=self._directory, files=self._files, pool=self._pool, randomness=self._randomness,
            size_max=VALUE_BYTES_MAX,
        ) as spooled:  # fmt: skip
            await self._exchange.take(spooled.digest, spooled.size, spooled.open())
            await self._keys.put(key, spooled.digest)
        return Reply(status=201)

    async def remove_value(self, call: Call, message: None) -> m.Empty:
        self._check(call, reading=False)
        key = _key(call)
        if not await self._keys.remove(key):
            raise NotFound(f"nothing is kept for the key {key}")
        return m.Empty()

    # -- inside

    async def _found(self, call: Call) -> tuple[str, Digest]:
        key = _key(call)
        digest = await self._keys.find(key)
        if digest is None:
            raise NotFound(f"nothing is kept for the key {key}")
        return key, digest

    async def _sized(self, digest: Digest) -> Reply:
        entry = await self._exchange.keeper.find(digest)
        if entry is None or not _HERE.allows(entry):
            raise NotFound(f"{digest} is not here")
        return Reply(headers={"content-length": str(entry.size)})

    def _checked_size(self, call: Call, limit: int) -> int:
        if call.size is None:
            raise LengthRequired("send a Content-Length")
        if call.size > limit:
            raise TooLarge(f"at most {limit} bytes are taken here")
        return call.size

    def _check(self, call: Call, *, reading: bool) -> None:
        self._check_token(call, reading)
        if self._read_only and not reading:
            raise StorePoisoned("this node is read-only, as its operator wishes")

    def _check_token(self, call: Call, reading: bool) -> None:
        if not self._token or (reading and self._open_read):
            return
        given = _token(call.headers.get("authorization", ""))
        if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token.encode()):
            raise Unauthorized("this build cache needs its token: Authorization: Bearer TOKEN, or as a password")


def _key(call: Call) -> str:
    key = call.path["key"]
    if _KEY.fullmatch(key) is None:
        raise BadRequest("a key is 1 to 128 letters, digits, '.', '_' or '-'")
    return key


def _token(field: str) -> str:
    """What stands in Authorization: a bearer token, or the password of the basic scheme."""
    scheme, _, rest = field.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode("utf-8", "replace").partition(":")[2]
        except ValueError:
            return ""
    return ""
