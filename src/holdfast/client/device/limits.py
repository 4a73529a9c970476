"""How large one file may be: a ref's keep list names every pack of it, and must fit in one request.

With chunks of 4 MiB in packs of 16 MiB that is 360 GiB. Said before anything is sent, where the size is known.
"""

from __future__ import annotations

from holdfast.blob import DIGEST_BYTES
from holdfast.codec.pack import CHUNK_ID_BYTES, ENTRIES_MAX, HEADER_BYTES, PACK_TARGET_BYTES_MAX
from holdfast.codec.recipe import ENTRY_BYTES
from holdfast.codec.sealer import SEAL_OVERHEAD
from holdfast.errors import TooLarge
from holdfast.wire.messages import JSON_BYTES_MAX

BESIDE_BYTES = 64 << 10
"""Of a commit's JSON, for all but the keep list."""
KEEP_BYTES_MAX = (JSON_BYTES_MAX - BESIDE_BYTES) // 4 * 3
"""Of one keep list, before base64."""
KEEP_PACKS_MAX = KEEP_BYTES_MAX // DIGEST_BYTES


def packs_needed(size: int, chunk_bytes: int, pack_bytes: int) -> int:
    """Packs of a new file of ``size`` bytes, at most: its chunks, its recipe and its name."""
    chunks = -(-size // chunk_bytes)
    return -(-chunks // _chunks_in(chunk_bytes, pack_bytes)) + -(-chunks * ENTRY_BYTES // pack_bytes) + 2


def file_bytes_max(chunk_bytes: int, pack_bytes: int) -> int:
    """Every file up to this fits; close to the largest that does."""
    whole = _chunks_in(chunk_bytes, pack_bytes) * chunk_bytes
    low, high = 0, KEEP_PACKS_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if packs_needed(middle * whole, chunk_bytes, pack_bytes) <= KEEP_PACKS_MAX:
            low = middle
        else:
            high = middle - 1
    return low * whole


def check_size(name: str, size: int, chunk_bytes: int, pack_bytes: int) -> None:
    """TooLarge, with what helps, for a file that no keep list can hold."""
    if packs_needed(size, chunk_bytes, pack_bytes) > KEEP_PACKS_MAX:
        raise too_large(name, chunk_bytes, pack_bytes)


def too_large(name: str, chunk_bytes: int, pack_bytes: int) -> TooLarge:
    """The error, for when it shows only on the way."""
    largest = file_bytes_max(chunk_bytes, pack_bytes)
    cure = "split it"
    if pack_bytes < PACK_TARGET_BYTES_MAX:
        size = f"{PACK_TARGET_BYTES_MAX >> 20}MiB"
        cure = (
            f'set pack_size = "{size}" in the [client] table of config.toml (or HOLDFAST_PACK_SIZE={size}), or {cure}'
        )
    return TooLarge(
        f"{name} is too large for one file: with packs of {_size(pack_bytes)} and chunks of {_size(chunk_bytes)} "
        f"(--chunk-size) a file has at most {_size(largest)}; {cure}",
        largest=largest,
    )


def _chunks_in(chunk_bytes: int, pack_bytes: int) -> int:
    """Whole chunks until a pack has reached its target."""
    each = CHUNK_ID_BYTES + chunk_bytes + SEAL_OVERHEAD
    return min(max(-(-(pack_bytes - HEADER_BYTES) // each), 1), ENTRIES_MAX)


def _size(size: int) -> str:
    for power, prefix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size >= 1024**power:
            return f"{size / 1024**power:.4g} {prefix}B"
    return f"{size} bytes"
