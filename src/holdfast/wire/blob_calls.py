"""Calls about one blob that are more than a question and its answer: a read to go on with, a put without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from holdfast.auth import signing
from holdfast.blob import Digest
from holdfast.errors import Unavailable
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.address import Target
from holdfast.wire.answer_head import Head, encode_head
from holdfast.wire.bodies import STALL_S, RemoteBody, Span, good_body, remote_body
from holdfast.wire.http1 import Ended
from holdfast.wire.trouble import raise_ours

if TYPE_CHECKING:
    from holdfast.wire.http import HttpClient


def blob_headers(digest: Digest, size: int) -> dict[str, str]:
    return {
        "content-digest": signing.content_digest(digest),
        "content-length": str(size),
        "content-type": "application/octet-stream",
    }


class BlobRead:
    """One read of a blob, for ``async with``: its body. Made by ``HttpClient.get_blob``."""

    __slots__ = ("_answer", "_client", "_digest", "_grant", "_headers", "_range", "_target")

    def __init__(
        self,
        client: HttpClient,
        target: Target,
        digest: Digest,
        range_: Span | None,
        grant: bytes | None,
        headers: dict[str, str],
    ) -> None:
        self._client = client
        self._target = target
        self._digest = digest
        self._range = range_
        self._grant = grant
        self._headers = headers

    async def __aenter__(self) -> RemoteBody:
        self._answer, signature = await self._client._send(
            self._target, "GET", f"/v1/blobs/{self._digest}", self._headers,
            grant=self._grant, first_byte_s=routes.BLOB_GET.first_byte_s,
        )  # fmt: skip
        try:
            if self._answer.status not in (200, 206):
                await self._client._checked(self._answer, self._target, signature)
                raise Unavailable(f"{self._target.url} answered {self._answer.status} to a blob read")
            return remote_body(self._answer, self._range)
        except BaseException:
            self._answer.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()


class SmallPut:
    """One small put under way. Made by ``HttpClient.put_small``."""

    __slots__ = ("_client", "_data", "_digest", "_grant", "_heard", "_signature", "_stop", "_target")

    def __init__(
        self,
        client: HttpClient,
        target: Target,
        digest: Digest,
        data: bytes,
        heard: Callable[[bytes | Exception], None],
        grant: bytes | None,
    ) -> None:
        self._client = client
        self._target = target
        self._digest = digest
        self._data = data
        self._heard = heard
        self._grant = grant
        self._signature = ""
        self._stop: Callable[[], object]
        try:
            self._stop = self._begun() or self._by_task()
        except Exception as error:  # what cannot even be sent is heard of like all else
            self._stop = asyncio.get_running_loop().call_soon(heard, error).cancel

    def end(self) -> None:
        """Ends it; after that nothing is heard. Not after it was heard of."""
        self._stop()

    def _begun(self) -> Callable[[], object] | None:
        """None if no connection is free, or if what is sent is limited."""
        client, where = self._client, f"/v1/blobs/{self._digest}"
        if client._upload is not None:
            return None
        headers = blob_headers(self._digest, len(self._data))
        base = client._sign(self._target, "PUT", where, headers, self._grant)
        self._signature = headers["signature"]
        request = encode_head("PUT", where, headers) + self._data
        return client._connections.tell(base, request, self._answered, stall_s=STALL_S)

    def _by_task(self) -> Callable[[], object]:
        task = asyncio.create_task(
            self._client.put_blob(self._target, self._digest, len(self._data), self._data, grant=self._grant)
        )
        task.add_done_callback(self._settled)
        return task.cancel

    def _settled(self, task: asyncio.Task[bytes]) -> None:
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, Exception)
            self._heard(task.result() if error is None else error)

    def _answered(self, answer: tuple[Head, bytes] | OSError) -> None:
        if isinstance(answer, Ended) and answer.untouched:  # it was being closed: on a new connection
            self._stop = self._by_task()
            return
        try:
            if isinstance(answer, OSError):
                raise_ours(self._target.url, answer)
            (status, headers, _), body = answer
            self._client._believe(status, headers, body, self._target, self._signature)
            found: bytes | Exception = m.decode(good_body(status, body), m.BlobStored).receipt
        except Exception as error:
            found = error
        self._heard(found)
