"""The routes of manifests: preconditions as RFC 9110 has them, and what peers keep beside what is here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime

import msgspec

from holdfast.blob import Digest
from holdfast.errors import BadRequest, HoldfastError, NotFound, Unavailable
from holdfast.node.exchange.follower import Follower
from holdfast.node.exchange.manifests import Kept, Manifests, Precondition
from holdfast.node.exchange.routes import Exchange
from holdfast.peers import manifest as manifests
from holdfast.peers.directory import Peer
from holdfast.pool import Pool
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import Target
from holdfast.wire.serve import Call, Reply

PEER_PAGES_MAX = 10

_ETAGS = re.compile(r'"([0-9a-f]{64})"(?:\s*,\s*"([0-9a-f]{64})")*', re.ASCII)
_ETAG = re.compile(r'"([0-9a-f]{64})"', re.ASCII)
_LOCAL = {"cache-control": "only-if-cached"}


class ManifestRoutes:
    """Handlers for ``wire.serve``."""

    def __init__(self, kept: Manifests, exchange: Exchange, follower: Follower, *, pool: Pool) -> None:
        self._kept = kept
        self._follower = follower
        self._exchange = exchange
        self._pool = pool

    async def listing(self, call: Call, message: x.ManifestQuery) -> x.ManifestList:
        """Here, or with ``cluster`` here and at all healthy peers, unique by name and etag."""
        self._exchange.trust.require_shared(call)
        if message.cluster:
            return await self._cluster(message)
        if message.name:
            one = self._kept.find(message.name)
            return x.ManifestList(manifests=[] if one is None else [self._info(one)])
        rows = self._kept.all(message.after, message.limit + 1)
        more = rows[message.limit - 1].name if len(rows) > message.limit else None
        return x.ManifestList(manifests=[self._info(kept) for kept in rows[: message.limit]], after=more)

    async def get(self, call: Call, message: x.ManifestFrom) -> Reply:
        """The stored form, this node's or a peer's."""
        self._exchange.trust.require_shared(call)
        name = manifests.checked_name(call.path["ref"])
        if message.node is None or message.node == self._exchange.me:
            kept, data = await self._kept.read(name)
            if _is_known(call, kept):
                return Reply(status=304, headers=_headers(kept))
            return Reply(msgspec.Raw(data), headers=_headers(kept))
        peer = self._exchange.directory.find(message.node)
        if peer is None:
            raise NotFound(f"no peer {message.node.short} is known here")
        raw = bytes(await self._ask(peer, name))
        try:
            await self._pool.run(manifests.stored, raw, name)
        except BadRequest as error:
            raise Unavailable(f"{peer.name or peer.url} sent no manifest in its stored form") from error
        return Reply(msgspec.Raw(raw), headers={"etag": manifests.etag_field(manifests.etag(raw))})

    async def head(self, call: Call, message: None) -> Reply:
        """ETag and Last-Modified."""
        self._exchange.trust.require_shared(call)
        name = manifests.checked_name(call.path["ref"])
        kept = self._kept.find(name)
        if kept is None:
            raise NotFound(f"no manifest {name!r} is here")
        return Reply(status=304 if _is_known(call, kept) else 200, headers=_headers(kept))

    async def put(self, call: Call, message: msgspec.Raw) -> Reply:
        """Keeps it if all its blobs are here (else 424) and the preconditions hold (else 412)."""
        self._exchange.trust.require_write(call)
        kept, new = await self._kept.put(call.path["ref"], bytes(message), precondition(call.headers))
        return Reply(x.ManifestSaved(etag=kept.etag, new=new), 201 if new else 200, _headers(kept))

    async def delete(self, call: Call, message: None) -> m.Empty:
        """Its blobs become a part of the cache, unless something else keeps them."""
        self._exchange.trust.require_delete(call)
        await self._kept.delete(call.path["ref"], precondition(call.headers))
        return m.Empty()

    async def hint(self, call: Call, message: x.Hint) -> m.Empty:
        """A peer has another version now; whoever follows that name looks. Only peers are listened to."""
        self._exchange.trust.require_peer(call)
        self._follower.hinted(manifests.checked_name(call.path["ref"]))
        return m.Empty()

    async def stats(self, call: Call, message: None) -> x.ExchangeStats:
        """All figures of the exchange; manifests are counted over the cluster."""
        self._exchange.trust.require_shared(call)
        if "cache-control" in call.headers:
            here = len(self._kept)
            return self._stats(x.Tally(total=here, unique=here))
        found = await self._cluster(x.ManifestQuery(cluster=True, limit=m.PAGE_MAX))
        total = sum(len(info.holders) for info in found.manifests)
        return self._stats(x.Tally(total=total, unique=len(found.manifests)))

    def _stats(self, tally: x.Tally) -> x.ExchangeStats:
        return msgspec.structs.replace(
            self._exchange.stats(tally),
            follows=len(self._follower.names),
            followed=self._follower.taken,
            follow_conflicts=sorted(self._follower.conflicts),
        )

    async def _cluster(self, message: x.ManifestQuery) -> x.ManifestList:
        me = self._exchange.holder()
        found: dict[tuple[str, Digest], x.ManifestInfo] = {}
        holders: dict[tuple[str, Digest], list[x.Holder]] = {}
        for kept in self._kept.all(message.after):
            key = (kept.name, kept.etag)
            found[key], holders[key] = self._info(kept), [me]
        peers = self._exchange.directory.usable(patient=True)
        answers = await asyncio.gather(*(self._listed(peer, message.after) for peer in peers), return_exceptions=True)
        silent = [self._exchange.holder(peer) for peer in self._exchange.directory.all() if peer not in peers]
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, HoldfastError | TimeoutError):
                    raise answer
                silent.append(self._exchange.holder(peer))
                continue
            for info in answer:
                key = (info.name, info.etag)
                found.setdefault(key, info)
                holders.setdefault(key, []).append(self._exchange.holder(peer))
        rows = sorted(found)
        names = sorted({name for name, _ in rows})
        after = None
        if len(names) > message.limit:
            after = names[message.limit - 1]
            rows = [key for key in rows if key[0] <= after]
        return x.ManifestList(
            manifests=[msgspec.structs.replace(found[key], holders=holders[key]) for key in rows],
            after=after,
            silent=silent,
        )

    async def _listed(self, peer: Peer, after: str) -> list[x.ManifestInfo]:
        rows: list[x.ManifestInfo] = []
        async with asyncio.timeout(self._exchange.settings.peer_timeout_s):
            for _ in range(PEER_PAGES_MAX):
                page = await self._exchange.neighbours.http.call(
                    Target(peer.id, peer.url), routes.MANIFESTS, x.ManifestQuery(after=after), headers=_LOCAL
                )
                rows += page.manifests
                if page.after is None:
                    break
                after = page.after
        return rows

    async def _ask(self, peer: Peer, name: str) -> msgspec.Raw:
        return await self._exchange.neighbours.http.call(
            Target(peer.id, peer.url), routes.MANIFEST_GET, path={"ref": name}, headers=_LOCAL
        )

    def _info(self, kept: Kept) -> x.ManifestInfo:
        return x.ManifestInfo(
            name=kept.name, etag=kept.etag, entries=kept.entries, blobs=kept.blobs, stored=kept.stored,
            modified=kept.modified, followed=self._follower.followed(kept),
        )  # fmt: skip


def precondition(headers: Mapping[str, str]) -> Precondition:
    """From If-Match, If-None-Match and If-Unmodified-Since; BadRequest for one that cannot be understood."""
    match = headers.get("if-match")
    none = headers.get("if-none-match")
    since = headers.get("if-unmodified-since")
    moment: float | None = None
    if since is not None:
        try:
            moment = parsedate_to_datetime(since).timestamp() + 1  # a date has whole seconds only
        except (ValueError, OverflowError) as error:
            raise BadRequest("If-Unmodified-Since: not a date") from error
    return Precondition(
        match=None if match is None else frozenset() if match.strip() == "*" else _etags(match, "If-Match"),
        none=False if none is None else True if none.strip() == "*" else _etags(none, "If-None-Match"),
        unmodified_since=moment,
    )


def _is_known(call: Call, kept: Kept) -> bool:
    """Does the reader hold exactly this one (If-None-Match; RFC 9110, 13.1.2)? BadRequest for no etags."""
    field = call.headers.get("if-none-match")
    return field is not None and (field.strip() == "*" or kept.etag in _etags(field, "If-None-Match"))


def _etags(text: str, field: str) -> frozenset[Digest]:
    if _ETAGS.fullmatch(text.strip()) is None:
        raise BadRequest(f"{field}: '*', or etags of 64 hex digits in double quotes")
    return frozenset(Digest.parse(found) for found in _ETAG.findall(text))


def _headers(kept: Kept) -> dict[str, str]:
    return {"etag": manifests.etag_field(kept.etag), "last-modified": formatdate(kept.modified, usegmt=True)}
