"""Delivers entries of kind ``http`` to servers that are not holdfast; hands those for nodes to ``http_signed``.

Such a server's word is not believed: a write is delivered only once the target shows it, and a conflict is called only
after its present state was read, from a target that can say "not found" (a captive portal shows every name). Many
servers ignore preconditions (nginx does, on PUT), so the state is looked at before, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.blob import Buffer
from holdfast.clock import Clock, Randomness
from holdfast.errors import BadConfig, Corrupt, HoldfastError, Unavailable
from holdfast.files import Files, read_file
from holdfast.outbox.entry import Entry, OpenBody
from holdfast.outbox.http_entry import delete as delete
from holdfast.outbox.http_entry import put as put
from holdfast.outbox.http_signed import NodeDelivery
from holdfast.outbox.http_state import Present, conditions, matches, present_of, retry_after
from holdfast.outbox.outcomes import (
    ABSENT,
    Conflicted,
    Damaged,
    Deferred,
    Delivered,
    Next,
    Outcome,
    Rejected,
    verdict,
)
from holdfast.pool import Pool
from holdfast.wire.foreign import Answer, ForeignHttp, origin

SHOWN_BYTES_MAX = 1 << 20
"""Up to so many bytes a PUT is shown by reading it back, above by its length and validators."""
TOKEN_BYTES_MAX = 64 << 10
SMALL_BYTES_MAX = 64 << 10
"""Up to so many bytes a body is read first, so that it goes out in one piece with the head of its request."""
_NO_HEAD = frozenset({405, 501})


class _Undecided(Exception):
    """Ends a delivery early."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class HttpDelivery:
    """A delivery function for entries of kind ``http``. Any number at once, in one event loop."""

    def __init__(
        self,
        foreign: ForeignHttp,
        *,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        pool: Pool,
        nodes: NodeDelivery | None = None,
        content_bytes_max: int = 256 << 20,
    ) -> None:
        """``nodes`` delivers to holdfast nodes; without it such entries wait. ``content_bytes_max``: the largest
        content of the other side that is kept with a conflict."""
        self._foreign = foreign
        self._clock = clock
        self._randomness = randomness
        self._files = files
        self._pool = pool
        self._nodes = nodes
        self._content_bytes_max = content_bytes_max

    async def __call__(self, entry: Entry) -> Outcome:
        try:
            if "node" in entry.payload:
                if self._nodes is None:
                    return Deferred("this process has no key to speak to holdfast nodes", reached=False, target=True)
                return await self._nodes(entry)
            return await self._deliver(entry)
        except _Undecided as early:
            return early.outcome
        except Corrupt as error:
            return Damaged(error.detail)
        except HoldfastError as error:
            return Deferred(error.detail, reached=False, target=isinstance(error, Unavailable))

    async def close(self) -> None:
        await self._foreign.close()

    async def _deliver(self, entry: Entry) -> Outcome:
        method, url = entry.payload["method"], entry.payload["url"]
        base: Mapping[str, Any] = entry.payload["base"] if entry.left is None else entry.left
        access = await self._access(entry)
        if base:
            present = await self._present(url, access)
            if not await self._is_base(base, present, url, access):
                return await self._changed(entry, present, access)
        elif method == "PUT" and entry.begun > 1:  # it may have arrived before: then it must not be done again
            present, same = await self._compare(entry, access)
            if same:
                return Delivered(present.base(entry.digest))
        headers = {**entry.payload["headers"], **access, **conditions(base)}
        body: Buffer | OpenBody | None = entry.open if entry.open is not None else b"" if method == "PUT" else None
        if entry.open is not None and entry.size <= SMALL_BYTES_MAX:
            body = b"".join([piece async for piece in entry.open()])
        answer = await self._foreign.send(method, url, headers, body, entry.size)
        found = verdict(
            answer.status, method=method, holdfast=False, retry_after_s=retry_after(answer.headers, self._clock.now())
        )
        if found is Next.SHOW:
            return await self._shown(entry, access)
        if found is Next.COMPARE:
            return await self._refused(entry, base, answer.status, access)
        if isinstance(found, Delivered):
            return Delivered({"absent": True})
        assert not isinstance(found, Next), "both were handled"
        return found

    async def _refused(self, entry: Entry, base: Mapping[str, Any], status: int, access: Mapping[str, str]) -> Outcome:
        """409 or 412: the present state is read first."""
        url = entry.payload["url"]
        present = await self._present(url, access)
        if not base or (status == 409 and await self._is_base(base, present, url, access)):
            # nobody else's change was in the way: we asked for no state, or it is the very state that we asked for
            if entry.payload["method"] == "PUT" and not present.absent:
                present, same = await self._compare(entry, access)
                if same:
                    return Delivered(present.base(entry.digest))
            return Rejected(f"the target answered {status} though nothing changed there: does the directory exist?")
        return await self._changed(entry, present, access)

    # --- what the target shows ----------------------------------------------------------------------------------------

    async def _shown(self, entry: Entry, access: Mapping[str, str]) -> Outcome:
        """After a 2xx: is it there (or gone)?"""
        url = entry.payload["url"]
        if entry.payload["method"] == "DELETE":
            present = await self._present(url, access)
            if present.absent:
                return Delivered(present.base())
            return _not_shown(url, "still there after a DELETE that was answered as done")
        if entry.size <= SHOWN_BYTES_MAX:
            present, same = await self._compare(entry, access)
            if same:
                return Delivered(present.base(entry.digest))
            return _not_shown(url, "does not show the bytes of a PUT that was answered as done")
        present = await self._present(url, access)
        if present.size == entry.size and present.tells:
            return Delivered(present.base(entry.digest))
        return _not_shown(url, "does not show the length of a PUT that was answered as done")

    async def _changed(self, entry: Entry, present: Present, access: Mapping[str, str]) -> Outcome:
        """The target holds something else than the write was made against: perhaps this very write."""
        url = entry.payload["url"]
        if entry.payload["method"] == "DELETE":
            if present.absent:
                return Delivered(present.base())
        elif not present.absent and (present.size is None or present.size == entry.size):
            present, same = await self._compare(entry, access)
            if same:
                return Delivered(present.base(entry.digest))
        if not present.absent:
            await self._honest(url, access)
        reason = "somebody else deleted it" if present.absent else "somebody else changed it"
        if present.absent:
            return Conflicted(reason, {"base": present.base(), **present.facts()}, absent=True)
        facts = {"base": present.base(), **present.facts()}
        if present.size is not None and present.size > self._content_bytes_max:
            return Conflicted(f"{reason}; their {present.size} bytes are too many to keep here", facts)

        async def content() -> AsyncIterator[Buffer]:
            async with self._foreign.read(url, access) as answer:
                again = present_of(answer.headers) if answer.status == 200 else Present(absent=True)
                if (again.etag, again.modified) != (present.etag, present.modified):
                    raise Unavailable(f"{url} changed again while it was read")
                seen = 0
                async for piece in answer.body():
                    seen += len(piece)
                    yield piece
                if again.size is not None and seen != again.size:
                    raise Unavailable(f"{url} was cut off while it was read")

        return Conflicted(reason, facts, content=content)

    async def _present(self, url: str, access: Mapping[str, str]) -> Present:
        """By HEAD, or by GET where that is not known."""
        for method in ("HEAD", "GET"):
            async with self._foreign.read(url, access, method) as answer:
                if method == "HEAD" and answer.status in _NO_HEAD:
                    continue
                return self._state(answer)
        raise AssertionError("unreachable")

    def _state(self, answer: Answer) -> Present:
        if answer.status in ABSENT:
            return Present(absent=True)
        if answer.status == 200:
            return present_of(answer.headers)
        wait = retry_after(answer.headers, self._clock.now())
        found = verdict(answer.status, method="GET", holdfast=False, retry_after_s=wait)
        if isinstance(found, Deferred):
            raise _Undecided(found)
        raise _Undecided(Deferred(f"the target answered {answer.status} when asked for its present state"))

    async def _compare(self, entry: Entry, access: Mapping[str, str]) -> tuple[Present, bool]:
        """The present state, and whether its bytes are those of the entry."""
        async with self._foreign.read(entry.payload["url"], access) as answer:
            present = self._state(answer)
            if present.absent or (present.size is not None and present.size != entry.size):
                return present, False
            state, size = hashlib.sha256(), 0
            async for piece in answer.body():
                size += len(piece)
                if size > entry.size:
                    return present, False
                await self._hash(state, piece)
            return present, size == entry.size and state.digest() == (entry.digest or hashlib.sha256().digest())

    async def _is_base(self, base: Mapping[str, Any], present: Present, url: str, access: Mapping[str, str]) -> bool:
        found = matches(base, present)
        if found is not None:
            return found
        async with self._foreign.read(url, access) as answer:
            if self._state(answer).absent:
                return False
            state, size = hashlib.sha256(), 0
            async for piece in answer.body():
                size += len(piece)
                if size > self._content_bytes_max:
                    return False
                await self._hash(state, piece)
            return bool(state.digest() == base["digest"])

    async def _hash(self, state: hashlib._Hash, piece: Buffer) -> None:
        if len(piece) > 64 << 10:
            await self._pool.run(state.update, piece)
        else:
            state.update(piece)

    async def _honest(self, url: str, access: Mapping[str, str]) -> None:
        """Can the target say "not found"? Something that shows every name shows nothing."""
        directory = urlsplit(url).path.rpartition("/")[0]
        name = f"{origin(url)}{directory}/.holdfast-{self._randomness.bytes(16).hex()}"
        async with self._foreign.read(name, access) as answer:
            if answer.status < 400:
                raise _Undecided(
                    Deferred(
                        f"{origin(url)} shows a name that cannot exist: something else answers for it", target=True
                    )
                )
            if answer.status >= 500:
                raise _Undecided(Deferred(f"the target answered {answer.status}", target=True))

    async def _access(self, entry: Entry) -> dict[str, str]:
        path = entry.payload.get("token_file")
        if path is None:
            return {}
        try:
            data = await self._pool.run(read_file, self._files, Path(path), TOKEN_BYTES_MAX)
        except (OSError, BadConfig) as error:
            raise _Undecided(
                Deferred(f"the token file {path} cannot be read: {error}", reached=False, target=True)
            ) from error
        token = (data or b"").decode("ascii", "replace").strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise _Undecided(Deferred(f"the token file {path} holds no token", reached=False, target=True))
        return {"authorization": f"Bearer {token}"}


def _not_shown(url: str, what: str) -> Deferred:
    return Deferred(f"{origin(url)}: {urlsplit(url).path} {what}", target=True)
