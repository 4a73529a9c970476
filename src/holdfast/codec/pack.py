"""Building packs: sealed chunks and their sealed index in one blob (docs/formats.md, Pack)."""

from __future__ import annotations

import mmap

from blake3 import blake3

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Buffer, Digest
from holdfast.codec.keys import GenerationKeys
from holdfast.codec.pack_layout import (
    ENTRIES_MAX,
    HEADER_BYTES,
    INDEX_ENTRY_BYTES,
    INDEX_HEADER_BYTES,
    PACK_BYTES,
    PACK_BYTES_MAX,
    PACK_TARGET_BYTES_MAX,
    TRAILER_BYTES,
    IndexEntry,
    PackHeader,
    Place,
    Trailer,
    check_pack,
    encode_header,
    encode_index,
    encode_trailer,
    index_range,
    open_entry,
    open_index,
    open_pack,
    pack_vault,
    padded_size,
    parse_header,
    parse_trailer,
    unpadded_size,
)
from holdfast.codec.sealer import (
    CHUNK_BYTES_MAX,
    CHUNK_ID_BYTES,
    SEAL_OVERHEAD,
    Kind,
    check16,
    chunk_id,
    seal_into,
)
from holdfast.errors import BadRequest

__all__ = [
    "CHUNK_ID_BYTES",
    "ENTRIES_MAX",
    "HEADER_BYTES",
    "PACK_BYTES",
    "PACK_BYTES_MAX",
    "PACK_TARGET_BYTES_MAX",
    "TRAILER_BYTES",
    "IndexEntry",
    "PackBuilder",
    "PackHeader",
    "Place",
    "Trailer",
    "check_pack",
    "index_range",
    "open_entry",
    "open_index",
    "open_pack",
    "pack_vault",
    "padded_size",
    "parse_header",
    "parse_trailer",
    "unpadded_size",
]


class PackBuilder:
    """One pack under way in a buffer that is reused: ``add``..., ``finish``, use the bytes, ``reset``.

    ``reserve`` may be called while other chunks are being filled in other threads: each fills its own bytes. All else
    is for one thread at a time. ``pack_bytes``: the target, up to ``PACK_TARGET_BYTES_MAX``. The buffer is large enough
    for the worst case; what is never written costs no memory.
    """

    def __init__(
        self,
        keys: GenerationKeys,
        vault: Id,
        *,
        pack_bytes: int = PACK_BYTES,
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
    ) -> None:
        if not 1 <= pack_bytes <= PACK_TARGET_BYTES_MAX:
            raise BadRequest(f"packs have a target of 1 to {PACK_TARGET_BYTES_MAX} bytes, not {pack_bytes}")
        self._keys = keys
        self._pack_bytes = pack_bytes
        self._chunk_bytes_max = chunk_bytes_max
        largest = (
            HEADER_BYTES
            + max(pack_bytes, HEADER_BYTES)
            + CHUNK_ID_BYTES
            + chunk_bytes_max
            + SEAL_OVERHEAD
            + INDEX_HEADER_BYTES
            + INDEX_ENTRY_BYTES * ENTRIES_MAX
            + SEAL_OVERHEAD
            + TRAILER_BYTES
        )
        # Anonymous memory, because its pages come into being when they are written; a bytearray would touch them all.
        self._view = memoryview(mmap.mmap(-1, padded_size(largest), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._header = encode_header(keys.generation, vault)
        self._view[:HEADER_BYTES] = self._header
        self.entries: list[IndexEntry] = []
        self.length = HEADER_BYTES
        """Bytes used so far, without index and trailer."""

    def room_for(self, plaintext_len: int) -> bool:
        """May a chunk of that length be added? Always, while the target is not reached."""
        assert plaintext_len <= self._chunk_bytes_max, "chunks are bounded"
        return (self.length < self._pack_bytes or not self.entries) and len(self.entries) < ENTRIES_MAX

    def reserve(self, kind: Kind, plaintext_len: int) -> int:
        """Sets bytes aside for a chunk; returns its number, for ``fill``, which must follow before ``finish``."""
        assert self.room_for(plaintext_len), "ask room_for first"
        offset = self.length + CHUNK_ID_BYTES
        length = plaintext_len + SEAL_OVERHEAD
        self.entries.append(IndexEntry(b"", kind, offset, length))
        self.length = offset + length
        return len(self.entries) - 1

    def fill(
        self, number: int, plaintext: Buffer, id: bytes | None = None, salt: bytes | None = None
    ) -> tuple[bytes, bytes]:
        """Seals a reserved chunk in its place; (id, ``check16``). ``id``: if the caller has computed it already."""
        _, kind, offset, length = self.entries[number]
        assert len(plaintext) + SEAL_OVERHEAD == length, "reserved for another length"
        if id is None:
            id = chunk_id(self._keys, plaintext, salt)
        sealed = self._view[offset : offset + length]
        seal_into(self._keys, kind, id, plaintext, sealed)
        self._view[offset - CHUNK_ID_BYTES : offset] = id
        self.entries[number] = IndexEntry(id, kind, offset, length)
        return id, check16(sealed)

    def add(self, kind: Kind, id: bytes, plaintext: Buffer) -> Place:
        """``reserve`` and ``fill`` in one."""
        number = self.reserve(kind, len(plaintext))
        self.fill(number, plaintext, id)
        return Place(self.entries[number].offset, self.entries[number].length)

    def finish(self, device: Identity, *, pad: bool) -> tuple[Digest, memoryview]:
        """Index, root, signature and digest; the whole pack, valid until ``reset``. Blocks about 1 ms per MiB.

        ``pad``: to the next size step, so that the last pack of a put does not tell the size of a file.
        """
        assert self.entries, "an empty pack is never made"
        assert all(entry.id for entry in self.entries), "a reserved chunk was never filled"
        index = encode_index(self.entries)
        size = unpadded_size(self.entries)
        if pad:
            size = padded_size(size)
        place = Place(size - TRAILER_BYTES - len(index) - SEAL_OVERHEAD, len(index) + SEAL_OVERHEAD)
        view = self._view
        view[self.length : place.offset] = bytes(place.offset - self.length)
        index_id = chunk_id(self._keys, index)
        seal_into(self._keys, Kind.INDEX, index_id, index, view[place.offset : size - TRAILER_BYTES])
        root = blake3(view[: size - TRAILER_BYTES]).digest()
        view[size - TRAILER_BYTES : size] = encode_trailer(self._header, place, index_id, root, device)
        whole = view[:size]
        return Digest.of(whole), whole.toreadonly()

    def reset(self) -> None:
        """Empty again. Bytes that ``finish`` returned are no longer valid; entries that were handed out stay."""
        self.entries = []
        self.length = HEADER_BYTES
