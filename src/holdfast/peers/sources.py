"""Where a blob may come from: what pull-through asks of a source, and a peer as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from holdfast.blob import Digest
from holdfast.errors import Denied, HoldfastError, NotFound, TimedOut, Unauthorized, Unavailable
from holdfast.peers.ask import Asking
from holdfast.peers.directory import Directory, Peer
from holdfast.peers.race import OWNER, PEER, Entrant, Tier, peer_patience
from holdfast.stores.protocol import Body, Range
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target

ONLY_IF_CACHED = {"cache-control": "only-if-cached"}
"""Answer from your own store (RFC 9111, 5.2.1.7): what nodes say to each other."""
NO_PEERS = {"cache-control": "no-peers"}
"""Answer from your own store or the origin: what a node says to a blob's owner. One hop, so no loops."""
OWNER_WAIT_S = 0.2
"""How long the others wait for the first byte of an owner that lives before they ask the origin themselves."""
ASK_S = 2.0


class Source(Protocol):
    """Somebody who may have a blob. Told afterwards how it went."""

    @property
    def entrant(self) -> Entrant:
        """Its place in a race."""
        ...

    def open(self, digest: Digest, start: int) -> AbstractAsyncContextManager[Body]:
        """The blob from byte ``start`` on; ``total`` of the body says how long the whole is. NotFound, Unavailable."""
        ...

    def late(self, seconds: float) -> None:
        """It was cancelled after so long without a first byte, because another one was quicker."""
        ...

    def served(self, size: int) -> None:
        """It sent ``size`` bytes of a blob that was right."""
        ...

    def failed(self, error: HoldfastError) -> None:
        """It could not be asked, or its body broke off or stalled."""
        ...

    def lied(self, digest: Digest) -> None:
        """It alone sent a body, and the body was wrong."""
        ...


class Askable(Source, Protocol):
    """A source that says beforehand whether it has a blob."""

    @property
    def taken(self) -> tuple[int, int]:
        """(bodies that come from it now, bytes that came): the smaller, the sooner it is its turn."""
        ...

    @property
    def likely(self) -> bool:
        """Has it mostly what it is asked for, and soon? Then it is read without asking first."""
        ...

    def tried(self, seconds: float, *, hit: bool) -> None:
        """It was read without having been asked; after so long it sent a first byte, or said that it has it not."""
        ...

    @property
    def slow(self) -> bool:
        """Does it usually answer so late that nobody is held up for it?"""
        ...

    async def has(self, digest: Digest) -> bool: ...


class PeerSource:
    """A peer, asked for what lies in its own store."""

    tier: Tier = PEER
    headers = ONLY_IF_CACHED

    def __init__(self, peer: Peer, *, http: HttpClient, directory: Directory) -> None:
        self.peer = peer
        self._http = http
        self._directory = directory
        self._asking = Asking(self._ask)
        self.answered_at = float("-inf")
        """When it last said what it has, on the loop's clock."""

    @property
    def entrant(self) -> Entrant:
        return Entrant(self.peer.name or self.peer.id.short, self.tier, peer_patience(self.peer.latency_s))

    @property
    def likely(self) -> bool:
        return self.peer.likely

    @property
    def slow(self) -> bool:
        return self.peer.slow

    @property
    def taken(self) -> tuple[int, int]:
        return self.peer.sending, self.peer.served_bytes

    @property
    def target(self) -> Target:
        return Target(self.peer.id, self.peer.url)

    async def has(self, digest: Digest) -> bool:
        """What the peer says of its own store; the errors are told to the directory already."""
        return await self._asking.has(digest)

    async def has_all(self, digests: Sequence[Digest]) -> list[bool]:
        """As ``has``, of up to 4,096 in one message."""
        return await self._ask(digests)

    async def _ask(self, digests: Sequence[Digest]) -> list[bool]:
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._http.call(
                self.target, routes.HAS, m.HasRequest(digests=list(digests)), first_byte_s=ASK_S, tries=1
            )
            bits = m.bits_of(answer.bitmap, len(digests))
        except HoldfastError as error:
            if isinstance(error, TimedOut):
                self.late(asyncio.get_running_loop().time() - began)
            self.failed(error)
            kind = Denied if isinstance(error, Denied | Unauthorized) else Unavailable  # a refusal stays one
            raise kind(f"{self.peer.url}: {error.detail}") from error
        self.answered_at = asyncio.get_running_loop().time()
        seconds = self.answered_at - began
        for bit in bits:
            self._directory.answered(self.peer, seconds, hit=bit)
        return bits

    @asynccontextmanager
    async def open(self, digest: Digest, start: int) -> AsyncIterator[Body]:
        range_ = Range(start, None) if start else None
        self.peer.sending += 1
        try:
            async with self._http.get_blob(self.target, digest, range_, headers=self.headers) as body:
                yield body
        finally:
            self.peer.sending -= 1

    def tried(self, seconds: float, *, hit: bool) -> None:
        self.answered_at = asyncio.get_running_loop().time()
        self._directory.answered(self.peer, seconds, hit=hit)

    def late(self, seconds: float) -> None:
        self._directory.slow(self.peer, seconds)

    def served(self, size: int) -> None:
        self.peer.served_bytes += size

    def failed(self, error: HoldfastError) -> None:
        if isinstance(error, NotFound):
            return
        refused = isinstance(error, Denied | Unauthorized)
        self._directory.failed(self.peer, f"does not serve us: {error.detail}" if refused else error.detail)

    def lied(self, digest: Digest) -> None:
        self._directory.lied(self.peer, digest)

    async def close(self) -> None:
        await self._asking.close()


class OwnerSource(PeerSource):
    """The peer whose part it is to ask the origin for a blob.

    All peers have just been asked what they have: an owner that has not answered that is not waited for.
    """

    tier: Tier = OWNER
    headers = NO_PEERS

    def __init__(self, asked: PeerSource, *, http: HttpClient, directory: Directory) -> None:
        """``asked``: the same peer, as it is asked what it has."""
        super().__init__(asked.peer, http=http, directory=directory)
        self._asked = asked
        self._since = asyncio.get_running_loop().time()

    @property
    def entrant(self) -> Entrant:
        lives = self._asked.answered_at >= self._since
        return Entrant(f"owner {self.peer.name or self.peer.id.short}", self.tier, OWNER_WAIT_S if lives else 0.0)

    def late(self, seconds: float) -> None:
        """Nothing: it waits for the origin."""

    def failed(self, error: HoldfastError) -> None:
        """Perhaps only its origin failed, so it does not rest; but it is checked soon."""
        if not isinstance(error, NotFound):
            self._directory.troubled()
