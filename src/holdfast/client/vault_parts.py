"""What an open vault is made of, and what its verbs share: wiring, options, uploaders, what was asked lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.drafts import Rule
from holdfast.client.names.index import Index
from holdfast.client.names.index_file import SeenRef
from holdfast.client.names.names import Found, Names
from holdfast.client.offline.content_here import ContentHere
from holdfast.client.offline.deliver import RefDelivery
from holdfast.client.offline.fallback import Fallback
from holdfast.client.offline.names_here import NamesHere
from holdfast.client.offline.outbox_door import OutboxDoor
from holdfast.client.offline.queued_names import QueuedNames
from holdfast.client.offline.queueing import QueueingUploader, UnsentIndex
from holdfast.client.offline.writes import OfflineWrites
from holdfast.client.reading.ahead import ReadAhead
from holdfast.client.reading.content import ContentReader
from holdfast.client.reading.fetch import PackReader
from holdfast.client.reading.index_rebuild import IndexRebuild
from holdfast.client.reading.latency import Latency
from holdfast.client.writing.plans import Plans
from holdfast.client.writing.put_options import PutOptions
from holdfast.client.writing.recommit import Recommit
from holdfast.client.writing.shards import ShardSender
from holdfast.client.writing.uploader import Uploader
from holdfast.clock import Clock, Randomness
from holdfast.codec import paths
from holdfast.codec.keys import VaultKeys
from holdfast.codec.pack import PACK_BYTES_MAX, padded_size
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Unavailable
from holdfast.files import Files
from holdfast.outbox.outbox import Outbox
from holdfast.pool import Pool
from holdfast.wire import routes
from holdfast.wire.http import HttpClient

POLICY_S = 60.0
DIRECTORIES_KNOWN_MAX = 10_000
DIRECTORIES_KNOWN_S = 60.0
UPLOADERS_MAX = 4


class VaultParts:
    """For ``Vault`` only."""

    def __init__(
        self,
        *,
        keys: VaultKeys,
        device: Identity,
        certificate: bytes,
        http: HttpClient,
        coordinators: Coordinators,
        index: Index,
        pool: Pool,
        clock: Clock,
        randomness: Randomness,
        files: Files,
        settings: ClientSettings | None = None,
        outbox: OutboxDoor | None = None,
    ) -> None:
        """``certificate``: the device's, countersigned. ``outbox``: where writes go that the network does not take;
        without it they are errors. It is closed with the vault, and so are ``http``, ``index`` and ``pool``.
        """
        self.id = keys.vault
        self.settings = settings or ClientSettings()
        self.coordinators = coordinators
        self._keys = keys
        self._device = device
        self._certificate = certificate
        self._http = http
        self._index = index
        self._pool = pool
        self._clock = clock
        self._randomness = randomness
        self._files = files
        self._latency = Latency()
        self._sender = ShardSender(http, self._latency, clock)
        self._names = Names(keys, coordinators, index, pool)
        self._reader = PackReader(
            http, self._latency, clock, certificate, self._names.places_of, hedge_s_min=self.settings.hedge_s_min
        )
        self._content = ContentReader(keys, self._reader, self._names, pool, self.settings)
        self._rebuild = IndexRebuild(keys, self._names, self._reader, index, pool, clock)
        self._queued = QueuedNames(keys, outbox)
        self._here = NamesHere(keys, coordinators, index, pool, self._queued)
        self._content_here = ContentHere(keys, self._reader, self._here, pool, self.settings, self._queued)
        self._fallback = Fallback(outbox, self._queued, None if outbox is None else self._wired(outbox))
        self._plans: dict[tuple[int | None, bool], Plans] = {}
        self._recommit = Recommit(
            keys, device, coordinators, self._names, self._reader, self._content, pool, clock, lambda: http.epoch
        )
        coordinators.catch_up = self._recommit.catch_up
        self._uploaders: dict[tuple[int | None, bool, int], Uploader] = {}
        self._policy: tuple[float, int] | None = None
        self._directories: dict[str, float] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way and writes the index. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._fallback.door is not None:
            await self._fallback.door.close()
        for uploader in self._uploaders.values():
            await uploader.close()
        for plans in self._plans.values():
            await plans.close()
        await self._rebuild.close()
        await self._recommit.close()
        await self._reader.close()
        await self._index.close()
        await self._http.close()
        self._pool.close()

    def _wired(self, door: OutboxDoor) -> OfflineWrites:
        """The outbox delivers refs with the parts of this vault."""
        delivery = RefDelivery(
            keys=self._keys,
            device=self._device,
            coordinators=self.coordinators,
            names=self._names,
            content=self._content,
            sender=self._sender,
            plans=self._plans_for,
            index=self._index,
            pool=self._pool,
            heard=self._heard,
            door=door,
            content_bytes_max=door.body_bytes_max,
            commit_s=self.settings.coordinator_s,
        )
        door.deliver("ref", delivery)

        async def make(
            outbox: Outbox, index: UnsentIndex, options: PutOptions, allow_degraded: bool
        ) -> QueueingUploader:
            copies = None if options.asked_survive is None else options.asked_survive + 1
            return QueueingUploader(
                outbox, names, **self._uploader_words(copies, allow_degraded, options.chunk_bytes) | {"index": index}
            )

        names = NamesHere(self._keys, self.coordinators, self._index, self._pool, self._queued, offline=True)
        return OfflineWrites(
            keys=self._keys,
            door=door,
            names=names,
            content=self._content_here,
            index=self._index,
            make=make,
            files=self._files,
            pool=self._pool,
            clock=self._clock,
            randomness=self._randomness,
        )

    def _plans_for(self, copies: int | None, allow_degraded: bool) -> Plans:
        """Places for packs of the outbox."""
        found = self._plans.get((copies, allow_degraded))
        if found is None:
            found = self._plans[copies, allow_degraded] = self._make_plans(copies, allow_degraded, PACK_BYTES_MAX)
        return found

    async def _find(self, name: str, version: int | None, fresh: bool) -> Found:
        path = paths.normalise(name)
        if version is not None:
            return await self._names.at_version(path, version)
        return await (self._names if fresh else self._here).find(path, fresh=fresh)

    def _ahead(self, name: str, start: int, stop: int | None, version: int | None) -> ReadAhead:
        path = paths.normalise(name) if version is None else None
        return ReadAhead(self._names, self._content, path, start, stop)

    async def _find_file(self, name: str, version: int | None, fresh: bool) -> Found:
        found = await self._find(name, version, fresh)
        if found.ref.clear.kind is not RefKind.FILE:
            raise BadRequest(f"{name!r} is a {found.ref.clear.kind.name.lower()}, not a file")
        return found

    async def _seen(self, path: str) -> SeenRef | None:
        """The present record of a name as the coordinator has it, None if there never was one."""
        found = await self._names.find_any(path, fresh=True)
        return (
            None if found is None else SeenRef(found.ref.clear.version, found.ref.etag, found.record, found.keep, b"")
        )

    async def _options(
        self,
        *,
        survive: int | None = None,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        meta: Mapping[str, str] | None = None,
        dedup: bool = True,
        reread: bool = False,
        chunk_bytes: int | None = None,
        ask: bool = True,
    ) -> PutOptions:
        rule: Rule = "if-match" if if_match is not None else "no-clobber" if no_clobber else "replace"
        if no_clobber and if_match is not None:
            raise BadRequest("no_clobber and if_match exclude each other")
        if survive is not None and not 0 <= survive <= 64:
            raise BadRequest(f"survive is a number from 0 to 64, not {survive}")
        return PutOptions(
            survive=survive if survive is not None else await self._policy_survive(ask),
            asked_survive=survive,
            rule=rule,
            if_match=if_match,
            meta=meta,
            dedup=dedup,
            reread=reread,
            chunk_bytes=chunk_bytes or self.settings.chunk_bytes,
        )

    async def _policy_survive(self, ask: bool) -> int:
        """The network's ``survive``; asked once a minute at most, or what was heard last (0: the network decides)."""
        if not ask:
            return await self._index.run(lambda file: file.survive()) or 0
        now = self._clock.monotonic()
        if self._policy is None or now - self._policy[0] > POLICY_S:
            survive = (await self.coordinators.ask(routes.POLICY)).survive
            if self._policy is None or self._policy[1] != survive:
                await self._index.run(lambda file: file.set_survive(survive))
            self._policy = (now, survive)
        return self._policy[1]

    async def _uploader(self, survive: int | None, allow_degraded: bool, chunk_bytes: int) -> Uploader:
        if self._closed:
            raise Unavailable("the vault is closed")
        copies = None if survive is None else survive + 1
        key = (copies, allow_degraded, max(chunk_bytes, self.settings.chunk_bytes))
        found = self._uploaders.get(key)
        if found is not None and not found.broken:
            return found
        idle = [other for other, uploader in self._uploaders.items() if not uploader.active]
        for other in idle if len(self._uploaders) >= UPLOADERS_MAX or found is not None else ():
            if other == key or len(self._uploaders) >= UPLOADERS_MAX:
                await self._uploaders.pop(other).close()
        made = self._uploaders[key] = Uploader(**self._uploader_words(copies, allow_degraded, key[2]))
        return made

    def _uploader_words(self, copies: int | None, allow_degraded: bool, chunk_bytes: int) -> dict[str, Any]:
        """What every uploader of this vault is made of."""
        chunk_bytes = max(chunk_bytes, self.settings.chunk_bytes)
        size_max = min(padded_size(self.settings.pack_bytes + chunk_bytes + (4 << 20)), PACK_BYTES_MAX)
        return {
            "keys": self._keys,
            "device": self._device,
            "coordinators": self.coordinators,
            "sender": self._sender,
            "plans": self._make_plans(copies, allow_degraded, size_max),
            "index": self._index,
            "pool": self._pool,
            "clock": self._clock,
            "randomness": self._randomness,
            "settings": self.settings,
            "allow_degraded": allow_degraded,
            "copies": copies,
            "heard": self._heard,
            "chunk_bytes_max": chunk_bytes,
        }

    def _make_plans(self, copies: int | None, allow_degraded: bool, size_max: int) -> Plans:
        return Plans(
            self.coordinators,
            self._keys.vault,
            self._http.time,
            size_max=size_max,
            copies=copies,
            allow_degraded=allow_degraded,
            heard=self._heard,
        )

    async def _index_rebuilt(self, *, large: bool) -> None:
        """A device without an index reads it back behind its first put; a large put waits for it for a moment."""
        self._rebuild.begin()
        if large:
            await self._rebuild.wait(self.settings.rebuild_wait_s)

    def _heard(self) -> tuple[int, int]:
        return self._http.epoch

    def _missing_directories(self, path: str) -> Sequence[str]:
        """The directories above a name that this process has not made or seen within the last minute."""
        now = self._clock.monotonic()
        return [
            directory
            for directory in paths.ancestors(path)
            if now - self._directories.get(directory, -1e9) > DIRECTORIES_KNOWN_S
        ]

    def _know_directories(self, directories: Sequence[str]) -> None:
        if len(self._directories) > DIRECTORIES_KNOWN_MAX:
            self._directories.clear()
        now = self._clock.monotonic()
        self._directories.update(dict.fromkeys(directories, now))
