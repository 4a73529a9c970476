"""Keeps the manifests that this node follows, with all their blobs: looks at its peers at start, when one of them hints
that something changed, when one comes back, and now and then.

A hint is only a reason to look. What was agreed on lies in ``following.json`` and may be lost: then what is here counts
as this node's own until it is the same as a peer's again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.clock import shuffled
from holdfast.errors import BadConfig, HoldfastError, NoSpace, NotFound
from holdfast.files import Files, read_file, write_file
from holdfast.node.exchange.following import Agree, Conflict, Copy, Known, Take, agreed, decide
from holdfast.node.exchange.manifests import Kept, Manifests, Precondition
from holdfast.node.exchange.routes import Exchange
from holdfast.peers import manifest as manifests
from holdfast.peers.directory import Peer
from holdfast.wire import exchange_messages as x
from holdfast.wire import routes
from holdfast.wire.http import Target
from holdfast.worker import Progress, Worker

RETRY_S = 5.0
"""Seconds before what failed is tried again, or before peers are looked for that have not been met yet."""
FILE_NAME = "following.json"
BYTES_MAX = 16 << 20

_LOCAL = {"cache-control": "only-if-cached"}
_log = logs.get_logger(__name__)


class _Record(msgspec.Struct, frozen=True):
    agreed: str
    taken: bool
    seen: dict[str, str]


class Follower:
    """Use from one event loop. Its worker looks; anybody may hint."""

    def __init__(
        self, names: Iterable[str], kept: Manifests, exchange: Exchange, directory: Path, files: Files
    ) -> None:
        """``directory``: the node's own. BadConfig for a name that no manifest can have."""
        self.names = frozenset(manifests.checked_name(name) for name in names)
        self.conflicts: dict[str, str] = {}
        """Why a name waits for a person."""
        self.taken = 0
        self._kept = kept
        self._exchange = exchange
        self._path = directory / FILE_NAME
        self._files = files
        self._known: dict[str, Known] = {}
        self._due = set(self.names)
        self._looked_at = float("-inf")
        self._met = frozenset[Id]()
        self._worker: Worker | None = None

    def worker(self) -> Worker:
        """Looks when there is a reason to."""
        if self._worker is None:
            self._worker = Worker(
                "follow",
                self.unit,
                clock=self._exchange.clock,
                randomness=self._exchange.randomness,
                interval_s=self._exchange.settings.follow_check_s,
                throttle_s=RETRY_S,
            )
        return self._worker

    async def start(self) -> None:
        """Reads what was agreed on."""
        self._known = await self._exchange.pool.run(self._load)

    def followed(self, kept: Kept) -> bool:
        """Did this very version come by following?"""
        known = self._known.get(kept.name)
        return known is not None and known.taken and known.agreed == kept.etag

    def hinted(self, name: str) -> None:
        """Somebody says that it changed. Names that are not followed are nothing to us."""
        if name in self.names:
            self._due.add(name)
            self._wake()

    def checked(self) -> None:
        """Peers were checked just now; one that came back may have something new."""
        here = frozenset(peer.id for peer in self._usable())
        if here - self._met:
            self._due |= self.names
            self._wake()
        self._met = here

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _usable(self) -> list[Peer]:
        return self._exchange.directory.usable(patient=True)

    async def unit(self) -> Progress:
        """One look at each name for which there is a reason."""
        now = self._exchange.clock.monotonic()
        if now - self._looked_at >= self._exchange.settings.follow_check_s:
            self._looked_at = now
            self._due |= self.names
        due, self._due = sorted(self._due), set()
        for name in due:
            try:
                await self._look(name)
            except HoldfastError as error:
                _log.warning("follow_failed", name=name, reason=error.detail)
                self._due.add(name)
        return Progress.THROTTLED if self._due else Progress.IDLE

    async def _look(self, name: str) -> None:
        copies = await self._copies(name)
        here = self._kept.find(name)
        ours = None if here is None else here.etag
        known = self._known.get(name, Known())
        step = decide(ours, known, copies)
        if isinstance(step, Conflict):
            if self.conflicts.get(name) != step.reason:
                _log.warning("follow_conflict", name=name, reason=step.reason)
            self.conflicts[name] = step.reason
            return
        self.conflicts.pop(name, None)
        if isinstance(step, Take):
            await self._take(name, step.etag, ours, [one.peer for one in copies if one.etag == step.etag])
            self.taken += 1
            await self._remember(name, agreed(known, step.etag, copies, taken=True))
            _log.info("manifest_followed", name=name, etag=str(step.etag))
        elif isinstance(step, Agree) and ours is not None:
            await self._remember(name, agreed(known, ours, copies, taken=False))

    async def _copies(self, name: str) -> list[Copy]:
        peers = self._usable()
        answers = await asyncio.gather(*(self._asked(peer, name) for peer in peers), return_exceptions=True)
        found = []
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, x.ManifestInfo):
                found.append(Copy(peer.id, answer.etag, answer.followed))
            elif isinstance(answer, BaseException) and not isinstance(answer, HoldfastError | TimeoutError):
                raise answer
        return found

    async def _asked(self, peer: Peer, name: str) -> x.ManifestInfo | None:
        async with asyncio.timeout(self._exchange.settings.peer_timeout_s):
            answer = await self._exchange.neighbours.http.call(
                Target(peer.id, peer.url), routes.MANIFESTS, x.ManifestQuery(name=name), headers=_LOCAL
            )
        return next((info for info in answer.manifests if info.name == name), None)

    async def _take(self, name: str, etag: Digest, ours: Digest | None, holders: list[Id]) -> None:
        """All blobs, then the manifest, unless a client was faster here. NotFound, NoSpace, Unavailable, Conflict."""
        data = await self._read(name, etag, holders)
        found = await self._exchange.pool.run(manifests.stored, data, name)
        await self._exchange.hold_all(shuffled(sorted(found.digests()), self._exchange.randomness))
        before = Precondition(none=True) if ours is None else Precondition(match=frozenset({ours}))
        await self._kept.put(name, data, before)

    async def _read(self, name: str, etag: Digest, holders: list[Id]) -> bytes:
        """From any of them; what is not the very bytes is none."""
        error: HoldfastError = NotFound(f"no peer has the manifest {name!r} any more")
        for peer in shuffled([self._exchange.directory.find(id_) for id_ in holders], self._exchange.randomness):
            if peer is None:
                continue
            try:
                raw = await self._exchange.neighbours.http.call(
                    Target(peer.id, peer.url), routes.MANIFEST_GET, path={"ref": name}, headers=_LOCAL
                )
                if await self._exchange.pool.run(manifests.etag, bytes(raw)) == etag:
                    return bytes(raw)
            except HoldfastError as failed:
                error = failed
        raise error

    # -- what was agreed on

    async def _remember(self, name: str, known: Known) -> None:
        if self._known.get(name) != known:
            self._known[name] = known
            await self._exchange.pool.run(self._save, dict(self._known))

    def _save(self, known: Mapping[str, Known]) -> None:
        document = {
            name: _Record(str(one.agreed), one.taken, {str(peer): str(etag) for peer, etag in one.seen.items()})
            for name, one in known.items()
        }
        try:
            write_file(self._files, self._path, msgspec.json.format(msgspec.json.encode(document)))
        except OSError as error:
            raise NoSpace(f"{self._path} cannot be written: {error.strerror or error}") from error

    def _load(self) -> dict[str, Known]:
        try:
            data = read_file(self._files, self._path, BYTES_MAX)
            found = msgspec.json.decode(data or b"{}", type=dict[str, _Record])
            return {
                name: Known(
                    Digest.parse(one.agreed),
                    one.taken,
                    {Id.parse(peer): Digest.parse(etag) for peer, etag in one.seen.items()},
                )
                for name, one in found.items()
            }
        except (OSError, BadConfig, HoldfastError, msgspec.MsgspecError) as error:
            _log.error("following_lost", path=str(self._path), reason=str(error))
            return {}
