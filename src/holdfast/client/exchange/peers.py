"""One node of the exchange as its client sees it: blobs, manifests, peers, figures.

The node does the work among its neighbours; this side signs, checks what it gets, and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from holdfast.auth.identity import Id
from holdfast.blob import Buffer, Digest
from holdfast.errors import BadRequest, Conflict, Corrupt, NotFound
from holdfast.peers import manifest as manifests
from holdfast.pool import Pool
from holdfast.stores.protocol import Body
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target

INLINE_BYTES_MAX = 64 << 10


class CheckedBody:
    """A blob's bytes; its last piece comes only if the whole is right, else Corrupt."""

    def __init__(self, inner: Body, digest: Digest, pool: Pool) -> None:
        self.size = inner.size
        self.total = inner.total
        self._inner = inner
        self._digest = digest
        self._pool = pool

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        state, held = hashlib.sha256(), b""
        async for piece in self._inner:
            if held:
                yield held
            held = bytes(piece)
            if len(held) > INLINE_BYTES_MAX:
                await self._pool.run(state.update, held)
            else:
                state.update(held)
        if Digest(state.digest()) != self._digest:
            raise Corrupt(f"what came for {self._digest} is another blob")
        if held:
            yield held


class NodeCalls:
    """Questions to one node. ``grant``: a credential to show, such as a device's certificate."""

    def __init__(self, target: Target, *, http: HttpClient, pool: Pool, grant: bytes | None = None) -> None:
        self.target = target
        self.http = http
        self.pool = pool
        self._grant = grant

    async def peers(self) -> x.PeerList:
        return await self.http.call(self.target, routes.PEERS, grant=self._grant)

    async def stats(self) -> x.ExchangeStats:
        return await self.http.call(self.target, routes.STATS, grant=self._grant)

    async def where(self, digest: Digest) -> x.BlobPlaces:
        return await self.http.call(self.target, routes.WHERE, path={"digest": str(digest)}, grant=self._grant)

    async def has(self, digests: Sequence[Digest], *, cluster: bool = False) -> set[Digest]:
        """Those that the node has itself, or with ``cluster`` one of its healthy peers."""
        found: set[Digest] = set()
        for start in range(0, len(digests), m.HAS_DIGESTS_MAX):
            page = list(digests[start : start + m.HAS_DIGESTS_MAX])
            message = m.HasRequest(digests=page, cluster=cluster)
            answer = await self.http.call(self.target, routes.HAS, message, grant=self._grant)
            found |= {digest for digest, bit in zip(page, m.bits_of(answer.bitmap, len(page)), strict=True) if bit}
        return found

    async def pull(self, digests: Sequence[Digest], *, hold: bool, wait_s: float) -> tuple[set[Digest], x.PullAnswer]:
        """Has up to 4,096 blobs brought to the node; those that are there now, and what it says."""
        answer = await self.http.call(
            self.target, routes.PULL, x.PullRequest(digests=list(digests), hold=hold, wait=wait_s), grant=self._grant
        )
        bits = m.bits_of(answer.bitmap, len(digests))
        return {digest for digest, bit in zip(digests, bits, strict=True) if bit}, answer

    @asynccontextmanager
    async def read(self, digest: Digest) -> AsyncIterator[CheckedBody]:
        """A blob, from wherever the node gets it; checked."""
        async with self.http.get_blob(self.target, digest, grant=self._grant) as body:
            yield CheckedBody(body, digest, self.pool)

    async def manifests(self, *, cluster: bool) -> x.ManifestList:
        """All of them, by name."""
        rows: list[x.ManifestInfo] = []
        after = ""
        while True:
            query = x.ManifestQuery(cluster=cluster, after=after)
            page = await self.http.call(self.target, routes.MANIFESTS, query, grant=self._grant)
            rows += page.manifests
            if page.after is None:
                return x.ManifestList(manifests=rows, silent=page.silent)
            after = page.after

    async def manifest(self, name: str, node: Id | None = None, *, etag: Digest | None = None) -> bytes:
        """In its stored form, the node's own or that of a peer; Conflict if it has not the etag ``etag`` any more."""
        found = await self.http.call(
            self.target, routes.MANIFEST_GET, x.ManifestFrom(node=node), path={"ref": manifests.checked_name(name)},
            grant=self._grant,
        )  # fmt: skip
        data = bytes(found)
        if etag is not None and await self.pool.run(manifests.etag, data) != etag:
            raise Conflict(f"the manifest {name!r} was changed meanwhile; try again")
        return data

    async def put_manifest(self, name: str, data: bytes, *, before: Digest | None) -> x.ManifestSaved:
        """Replaces the one with the etag ``before``, or None for one that is new; Conflict, PacksGone."""
        headers = {"if-none-match": "*"} if before is None else {"if-match": manifests.etag_field(before)}
        return await self.http.call(
            self.target, routes.MANIFEST_PUT, msgspec.Raw(data), path={"ref": name}, headers=headers, grant=self._grant
        )

    async def remove_manifest(self, name: str, *, before: Digest | None = None) -> None:
        """NotFound; Conflict unless it has the etag ``before``."""
        headers = {} if before is None else {"if-match": manifests.etag_field(before)}
        path = {"ref": manifests.checked_name(name)}
        await self.http.call(self.target, routes.MANIFEST_DELETE, path=path, headers=headers, grant=self._grant)


def choose(rows: Sequence[x.ManifestInfo], name: str, source: str | None) -> tuple[x.ManifestInfo, x.Holder]:
    """The manifest called ``name`` and a node that keeps it; ``source``: a node's name, or its id's first digits.

    NotFound; Conflict if nodes keep different ones and no source was named.
    """
    found = [info for info in rows if info.name == name]
    if not found:
        raise NotFound(f"no node that answers keeps a manifest {name!r}")
    if source is not None:
        matching = [
            (info, holder)
            for info in found
            for holder in info.holders
            if holder.name == source or str(holder.id).startswith(source.lower())
        ]
        if not matching:
            raise NotFound(f"{source!r} keeps no manifest {name!r}")
        if len({holder.id for _, holder in matching}) > 1:
            raise BadRequest(f"{source!r} names more than one node; use more digits of its id")
        return matching[0]
    if len(found) > 1:
        shown = "; ".join(
            f"{str(info.etag)[:12]} on {', '.join(holder.name for holder in info.holders)}" for info in found
        )
        raise Conflict(
            f"nodes keep different manifests {name!r}: {shown}. Choose one with --from NODE",
            etags=[str(info.etag) for info in found],
        )
    return found[0], found[0].holders[0]
