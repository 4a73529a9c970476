"""The peers of a node: who they are, how they are, and whom to ask first. Plain state; others do the talking.

A peer that failed rests, and is asked again once a check after its rest finds it healthy. One that sent wrong bytes
rests for much longer, whatever it says. All times are monotonic seconds, unless said otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.peers.race import HEDGE_S, PATIENCE_S_MAX

Finder: TypeAlias = Literal["list", "registry", "mdns"]
"""How a peer was found."""

PEERS_MAX = 4096
LIKELY_ASKED_MIN, LIKELY_SENDING_MAX = 4, 2
ASKED_MAX = 16
"""Peers that are asked for one blob."""
OWNERS_ASKED = 4
"""Of these, the ones at which the blob would be if its owner had pulled it."""
REST_S_MIN, REST_S_MAX = 1.0, 60.0
LIE_REST_S, LIE_REST_S_MAX = 3600.0, 24 * 3600.0
WEIGHT = 0.2
"""Of the newest figure in a moving average."""

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is. Without ``id``: whoever answers there."""

    url: str
    id: Id | None = None
    name: str = ""


@dataclass(eq=False, slots=True)
class Peer:
    """One peer and what is known of it. ``since``: wall-clock seconds since when it is as ``healthy`` says.

    ``sending``: bodies that are asked of it now.
    """

    id: Id
    url: str
    name: str
    found: set[Finder]
    healthy: bool = False
    since: float = 0.0
    reason: str = "not checked yet"
    latency_s: float | None = None
    asked: int = 0
    hits: int = 0
    served_bytes: int = 0
    sending: int = 0
    lies: int = 0
    failures: int = 0
    rest_until: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Of all it was asked for, the part that it had: 0 to 1."""
        return self.hits / self.asked if self.asked else 0.0

    @property
    def likely(self) -> bool:
        """Is it worth a try without asking first? Not for many at once: who has the same shares the work."""
        quick = self.latency_s is not None and self.latency_s <= HEDGE_S
        return quick and self.asked >= LIKELY_ASKED_MIN and self.hit_rate >= 0.5 and self.sending < LIKELY_SENDING_MAX

    @property
    def slow(self) -> bool:
        """Does it answer later than a race waits for anybody? Nothing then depends on it, but it may help."""
        return (self.latency_s or 0.0) > PATIENCE_S_MAX

    def took(self, seconds: float) -> None:
        """A first byte came after ``seconds``."""
        self.latency_s = seconds if self.latency_s is None else self.latency_s + WEIGHT * (seconds - self.latency_s)


class Directory:
    """All peers of one node. Use from one event loop."""

    def __init__(self, me: Id, *, clock: Clock, troubled: Callable[[], None] = lambda: None) -> None:
        """``troubled`` is called when a peer failed, so that it is checked soon."""
        self.me = me
        self.unknown: dict[str, Address] = {}
        """Addresses whose peer nobody has met yet, by URL."""
        self._peers: dict[Id, Peer] = {}
        self._clock = clock
        self.troubled = troubled

    # -- who

    def learn(self, found: Finder, addresses: Iterable[Address]) -> None:
        """All that one way of finding knows now; whom no way knows any more is forgotten."""
        seen: set[Id] = set()
        for address in addresses:
            if address.id is None:
                if all(peer.url != address.url for peer in self._peers.values()):
                    self.unknown.setdefault(address.url, address)
                else:
                    seen |= {peer.id for peer in self._peers.values() if peer.url == address.url}
            elif address.id != self.me:
                self.meet(found, address.id, address.url, address.name)
                seen.add(address.id)
        for peer in list(self._peers.values()):
            if found in peer.found and peer.id not in seen:
                peer.found.discard(found)
                if not peer.found:
                    del self._peers[peer.id]

    def meet(self, found: Finder, id_: Id, url: str, name: str = "") -> Peer | None:
        """A peer with this id is at ``url``; None for this node itself, or when there are too many."""
        self.unknown.pop(url, None)
        if id_ == self.me:
            return None
        peer = self._peers.get(id_)
        if peer is None:
            if len(self._peers) >= PEERS_MAX:
                return None
            peer = self._peers[id_] = Peer(id_, url, name, set(), since=self._clock.now())
        elif peer.url != url:
            peer.url, peer.healthy, peer.rest_until, peer.reason = url, False, 0.0, "moved; not checked yet"
        peer.found.add(found)
        peer.name = name or peer.name
        return peer

    def all(self) -> list[Peer]:
        """Everyone, by name, then id."""
        return sorted(self._peers.values(), key=lambda peer: (peer.name, peer.id))

    def find(self, id_: Id) -> Peer | None:
        return self._peers.get(id_)

    # -- whom to ask

    def usable(self, *, patient: bool = False) -> list[Peer]:
        """Healthy, not resting and, unless ``patient``, answering within the time that a race waits; unordered."""
        now = self._clock.monotonic()
        return [
            peer
            for peer in self._peers.values()
            if peer.healthy and now >= peer.rest_until and (patient or not peer.slow)
        ]

    def to_ask(self, digest: Digest) -> list[Peer]:
        """The peers to ask for a blob, likeliest and fastest first, at most ``ASKED_MAX``."""
        peers = sorted(
            self.usable(patient=True),
            key=lambda peer: (peer.hit_rate + 0.05) / (0.001 + (peer.latency_s or 0.0)),
            reverse=True,
        )
        if len(peers) <= ASKED_MAX:
            return peers
        nearest = sorted(peers, key=lambda peer: rendezvous(peer.id, digest), reverse=True)[:OWNERS_ASKED]
        return [*nearest, *[peer for peer in peers if peer not in nearest][: ASKED_MAX - OWNERS_ASKED]]

    def owner(self, digest: Digest) -> Peer | None:
        """Whose part it is to ask the origin for a blob: the first by rendezvous order; None if that is this node."""
        best = max(self.usable(), key=lambda peer: rendezvous(peer.id, digest), default=None)
        if best is None or rendezvous(best.id, digest) < rendezvous(self.me, digest):
            return None
        return best

    # -- how they are

    def checked(self, peer: Peer, seconds: float) -> None:
        """A health check was answered after ``seconds``; a peer that rests stays at rest."""
        if seconds > PATIENCE_S_MAX:
            peer.latency_s = max(seconds, peer.latency_s or 0.0)
        elif peer.latency_s is None or peer.asked == 0 or seconds < peer.latency_s:
            peer.took(seconds)
        if self._clock.monotonic() < peer.rest_until:
            return
        if not peer.healthy:
            peer.healthy, peer.since, peer.reason = True, self._clock.now(), ""
            _log.info("peer_healthy", peer=peer.name, id=peer.id.short)

    def answered(self, peer: Peer, seconds: float, *, hit: bool) -> None:
        """It said whether it has a blob."""
        peer.took(seconds)
        peer.asked += 1
        peer.hits += hit
        peer.failures = 0

    def slow(self, peer: Peer, seconds: float) -> None:
        """It had not answered after ``seconds``, when somebody else was quicker."""
        if seconds > (peer.latency_s or 0.0):
            peer.took(seconds)

    def failed(self, peer: Peer, reason: str) -> None:
        """It did not answer, or not usefully: it rests until a later check."""
        rest = min(REST_S_MIN * 2.0**peer.failures, REST_S_MAX)
        peer.failures = min(peer.failures + 1, 16)
        self._rest(peer, rest, reason)
        self.troubled()

    def lied(self, peer: Peer, digest: Digest) -> None:
        """It sent bytes that are not the blob's."""
        rest = min(LIE_REST_S * 2.0**peer.lies, LIE_REST_S_MAX)
        peer.lies += 1
        self._rest(peer, rest, f"sent wrong bytes for {digest}")
        _log.error("peer_lied", peer=peer.name, id=str(peer.id), url=peer.url, digest=str(digest), lies=peer.lies)

    def _rest(self, peer: Peer, seconds: float, reason: str) -> None:
        if peer.healthy:
            _log.warning("peer_rests", peer=peer.name, id=peer.id.short, reason=reason, seconds=seconds)
            peer.since = self._clock.now()
        peer.healthy, peer.reason = False, reason
        peer.rest_until = max(peer.rest_until, self._clock.monotonic() + seconds)


def rendezvous(id_: Id, digest: Digest) -> bytes:
    """A node's weight for a blob: the highest is its owner. All nodes agree, and only its blobs move when one goes."""
    return hashlib.blake2b(id_ + digest, digest_size=8).digest()
