"""What a client can be told (docs/interfaces.md, Settings); every figure with its unit, nothing heavy imported."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Frozen: a vault keeps the settings it was opened with. Sizes in bytes, times in seconds."""

    chunk_bytes: int = 4 * MIB
    """Files are cut every so many bytes; 64 KiB to 16 MiB."""

    pack_bytes: int = 16 * MIB
    """A pack is closed when it holds this much; it may grow past it by one chunk."""

    pack_buffers: int = 3
    """Packs that are being filled or sent; times (pack + chunk) bytes, this bounds the memory of a put."""

    linger_s: float = 0.002
    """How long a small put waits for others to share its pack, when others are under way."""

    rebuild_wait_s: float = 5.0
    """A large put on a device without an index waits so long for what the vault holds already to be found."""

    hedge_s_min: float = 0.02
    """A read is asked of a second holder after this, or three times the node's usual time if that is longer."""

    progress_s: float = 10.0
    """A node that makes no progress for so long is replaced by the next candidate."""

    coordinator_s: float = 14.0
    """All tries to reach a coordinator together take at most this long."""

    read_window_bytes: int = 16 * MIB
    """Bytes of a read that are asked for ahead of the reader."""

    read_span_bytes: int = 4 * MIB
    """The longest range asked of a node in one request; a chunk is never divided."""

    bwlimit_bytes: int | None = None
    """Bytes of packs sent per second, all copies together; None for no limit."""

    commit_bytes: int = 640 * KIB
    """Records, keep lists and receipts of one commit, before base64; JSON messages end at 1 MiB."""

    excludes: tuple[str, ...] = ()
    """Patterns of names that a directory put leaves out."""
