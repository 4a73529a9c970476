"""What an operator may set on a node (docs/interfaces.md, Settings)."""

from __future__ import annotations

from dataclasses import dataclass

NODE_PORT = 7420


@dataclass(frozen=True)
class NodeSettings:
    """One node's settings. Sizes in bytes, durations in seconds."""

    advertise: str = ""
    """Where others reach this node, ``http://HOST:PORT``; empty: where it listens."""
    read_only: bool = False
    """Take no puts."""
    open_read: bool = False
    """Give blobs and manifests that no vault owns to whoever asks, unsigned."""
    blob_bytes_max: int = 64 << 20
    """Largest blob that is taken: as large as a pack may be (``codec.pack_layout.PACK_BYTES_MAX``)."""
    bwlimit_bytes: int | None = None
    """Bytes per second that repair may bring here, and as many that it may take from here; None: no limit."""
    scrub_period_s: float = 30 * 86400.0
    """Everything is read again within this time."""
    trash_s: float = 7 * 86400.0
    """How long deleted blobs can be brought back."""
    clock_save_s: float = 600.0
    """How often the slow clock is written down."""
    reconcile_pause_s: float = 0.004
    """Pause between two pages while store and ledger are compared."""
