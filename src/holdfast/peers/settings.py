"""What an operator may set about the exchange between nodes (docs/interfaces.md, Settings). Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersSettings:
    """Frozen: a node keeps the settings it started with. Sizes in bytes, times in seconds."""

    peer: tuple[str, ...] = ()
    """Peers, ``http://HOST:PORT`` or ``ID@http://HOST:PORT``; those of a coordinator are found by themselves."""

    mdns: bool = False
    """Find peers on the local network, and be found there (needs the extra ``mdns``)."""

    follow: tuple[str, ...] = ()
    """Manifests to keep here as they are at the peers, with all their blobs."""

    follow_check_s: float = 300.0
    """How often peers are asked for them without a reason."""

    peer_check_s: float = 30.0
    """How often every peer is checked; after a failure it is checked sooner."""

    peer_timeout_s: float = 10.0
    """A check, or an answer about a manifest, takes at most this long."""

    origin: str = ""
    """The last source: a URL with ``{digest}`` in it, ``s3://`` or ``nats://`` of a store, or ``[ID@]http://HOST:PORT``
    of another holdfast node."""

    origin_token_file: str = ""
    """A file with the value of the Authorization header for the origin; else HOLDFAST_ORIGIN_TOKEN."""

    origin_redirects: bool = False
    """Follow up to three redirects of the origin."""

    origin_private: bool = False
    """Follow them to private, loopback and link-local addresses too."""

    cache_bytes: int | None = None
    """The most that is kept of what others asked for; none: a tenth of the capacity. 0 keeps nothing."""

    build_cache: bool = False
    """Serve Bazel's remote cache over HTTP, at ``/cas`` and ``/ac`` (also for ccache)."""

    build_cache_token_file: str = ""
    """A file with the token that its clients bring; else HOLDFAST_BUILD_CACHE_TOKEN. Without one only on loopback."""

    pull_bytes_max: int = 64 * GIB
    """The largest blob that is pulled or taken for a manifest."""
