"""The bytes of a pack: header, index and trailer, read strictly (docs/formats.md, Pack).

    header 64 | (id 32, sealed chunk)... | zero padding | sealed index | trailer 176

Reading functions raise Corrupt; only ``pack_vault``, which looks at what a stranger sent, raises BadRequest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from holdfast.auth.identity import Id, Identity, verify
from holdfast.blob import Buffer
from holdfast.codec.keys import GenerationKeys, VaultKeys
from holdfast.codec.sealer import CHUNK_BYTES_MAX, CHUNK_ID_BYTES, SEAL_OVERHEAD, SUITE, Kind, open_chunk
from holdfast.errors import BadRequest, Corrupt

PACK_BYTES = 16 << 20
"""The default target: no chunk is added to a pack that has reached it."""
PACK_TARGET_BYTES_MAX = 32 << 20
PACK_BYTES_MAX = 64 << 20
"""No pack is longer: the largest target, the largest chunk, the largest index and padding fit in."""
ENTRIES_MAX = 65_536
HEADER_BYTES = 64
TRAILER_BYTES = 176
INDEX_HEADER_BYTES = 16
INDEX_ENTRY_BYTES = 41
PADDED_BYTES_MIN = 4096
PADDING_STEPS = 8  # for each power of two

VERSION = 1
SCHEME = 1
_HEADER_MAGIC = b"HFPACK\r\n"
_TRAILER_MAGIC = b"HFPEND\r\n"
_INDEX_MAGIC = b"HFINDX\r\n"

_HEADER = struct.Struct(">8sHBBI32s16x")
_TRAILER = struct.Struct(">II32s32s32s64s8s")
_TRAILER_SIGNED = TRAILER_BYTES - 64 - 8  # the bytes before the signature
_INDEX = struct.Struct(">8sHHI")
_ENTRY = struct.Struct(">32sBII")

assert _HEADER.size == HEADER_BYTES
assert _TRAILER.size == TRAILER_BYTES
assert _INDEX.size == INDEX_HEADER_BYTES
assert _ENTRY.size == INDEX_ENTRY_BYTES


class Place(NamedTuple):
    """Where a sealed chunk lies in its pack: its first byte (the id is the 32 bytes before it) and its length."""

    offset: int
    length: int


class IndexEntry(NamedTuple):
    """One chunk of a pack; ``offset`` and ``length`` as in ``Place``."""

    id: bytes
    kind: Kind
    offset: int
    length: int


class PackHeader(NamedTuple):
    """The first 64 bytes."""

    generation: int
    vault: Id


class Trailer(NamedTuple):
    """The last 176 bytes, the device's signature over header and trailer verified. ``size``: of the whole pack."""

    index_offset: int
    index_length: int
    index_id: bytes
    root: bytes
    device: Id
    size: int


def padded_size(n: int) -> int:
    """The next of eight steps per power of two that is at least ``n``, and at least 4 KiB."""
    if n <= PADDED_BYTES_MIN:
        return PADDED_BYTES_MIN
    step = (1 << (n - 1).bit_length()) // (2 * PADDING_STEPS)
    return -(-n // step) * step


def encode_header(generation: int, vault: Id) -> bytes:
    return _HEADER.pack(_HEADER_MAGIC, VERSION, SUITE, SCHEME, generation, vault)


def parse_header(first: Buffer) -> PackHeader:
    """The header at the start of ``first``, which may be longer."""
    data = bytes(first[:HEADER_BYTES])
    if len(data) < HEADER_BYTES or not data.startswith(_HEADER_MAGIC):
        raise Corrupt("no pack: it does not begin with a pack's header")
    _, version, suite, scheme, generation, vault = _HEADER.unpack(data)
    if (version, suite, scheme) != (VERSION, SUITE, SCHEME):
        raise Corrupt(f"a pack of version {version}, suite {suite}, scheme {scheme}, which this version cannot read")
    if encode_header(generation, vault) != data:
        raise Corrupt("a pack's header has bytes set that are reserved")
    return PackHeader(generation, Id(vault))


def pack_vault(first_bytes: Buffer) -> Id:
    """The vault that a pack says it belongs to, from its first 64 bytes or more; BadRequest if they are no pack's.

    For nodes, which compare it with the grant's; nothing but the header is looked at.
    """
    try:
        return parse_header(first_bytes).vault
    except Corrupt as error:
        raise BadRequest(error.detail) from error


def encode_trailer(header: bytes, index: Place, index_id: bytes, root: bytes, device: Identity) -> bytes:
    """The trailer, signed by ``device``."""
    signed = _TRAILER.pack(index.offset, index.length, index_id, root, device.id, b"", b"")[:_TRAILER_SIGNED]
    return signed + device.sign(header + signed) + _TRAILER_MAGIC


def parse_trailer(tail: Buffer, header: PackHeader, size: int) -> Trailer:
    """The trailer at the end of ``tail``, the last 176 bytes or more of a pack of ``size`` bytes.

    Whether ``device`` may write to the vault is for the caller to know.
    """
    if not HEADER_BYTES + TRAILER_BYTES < size <= PACK_BYTES_MAX or len(tail) < TRAILER_BYTES:
        raise Corrupt(f"{size} bytes is no length of a pack")
    data = bytes(tail[-TRAILER_BYTES:])
    offset, length, index_id, root, device, signature, magic = _TRAILER.unpack(data)
    if magic != _TRAILER_MAGIC:
        raise Corrupt("a pack does not end with a trailer: it is cut off")
    if not verify(Id(device), signature, encode_header(*header) + data[:_TRAILER_SIGNED]):
        raise Corrupt("a pack's trailer is not signed by the device it names")
    if offset < HEADER_BYTES or length <= SEAL_OVERHEAD or offset + length + TRAILER_BYTES != size:
        raise Corrupt("a pack's trailer places the index outside of the pack")
    return Trailer(offset, length, index_id, root, Id(device), size)


def index_range(trailer: Trailer) -> tuple[int, int]:
    """(start, stop) of the sealed index in the pack."""
    return trailer.index_offset, trailer.index_offset + trailer.index_length


def encode_index(entries: Sequence[IndexEntry]) -> bytes:
    """The plaintext of the index chunk."""
    return _INDEX.pack(_INDEX_MAGIC, VERSION, 0, len(entries)) + b"".join([_ENTRY.pack(*entry) for entry in entries])


def unpadded_size(entries: Sequence[IndexEntry]) -> int:
    """Bytes of a pack with these chunks and no padding."""
    body = sum(CHUNK_ID_BYTES + entry.length for entry in entries)
    index = INDEX_HEADER_BYTES + INDEX_ENTRY_BYTES * len(entries) + SEAL_OVERHEAD
    return HEADER_BYTES + body + index + TRAILER_BYTES


def open_index(keys: VaultKeys, header: PackHeader, trailer: Trailer, sealed: Buffer) -> list[IndexEntry]:
    """The pack's chunks in order; ``sealed`` are the bytes of ``index_range``.

    The chunks follow one another from the header on without a gap; the pack has the size they need, padded or not.
    """
    if header.vault != keys.vault:
        raise Corrupt(f"the pack belongs to vault {header.vault.short}, not to {keys.vault.short}")
    if len(sealed) != trailer.index_length:
        raise Corrupt("a pack's index is not as long as its trailer says")
    plaintext = open_chunk(keys.generation(header.generation), Kind.INDEX, trailer.index_id, sealed)
    entries = _parse_index(plaintext)
    needed = unpadded_size(entries)
    if trailer.size not in (needed, padded_size(needed)):
        raise Corrupt("a pack's size is not what its chunks need")
    return entries


def _parse_index(plaintext: bytes) -> list[IndexEntry]:
    if len(plaintext) < INDEX_HEADER_BYTES:
        raise Corrupt("a pack's index is cut off")
    magic, version, reserved, count = _INDEX.unpack_from(plaintext)
    if (magic, version, reserved) != (_INDEX_MAGIC, VERSION, 0):
        raise Corrupt("a pack's index has another format or version")
    if not 1 <= count <= ENTRIES_MAX or len(plaintext) != INDEX_HEADER_BYTES + count * INDEX_ENTRY_BYTES:
        raise Corrupt("a pack's index is not as long as its entries")
    entries = []
    expected = HEADER_BYTES + CHUNK_ID_BYTES
    for id_, kind, offset, length in _ENTRY.iter_unpack(plaintext[INDEX_HEADER_BYTES:]):
        if kind not in _KINDS:
            raise Corrupt(f"a pack's index has a chunk of unknown kind {kind}")
        if offset != expected or not SEAL_OVERHEAD < length <= CHUNK_BYTES_MAX + SEAL_OVERHEAD:
            raise Corrupt("a pack's index has chunks that overlap, leave a gap or have no possible length")
        entries.append(IndexEntry(id_, _KINDS[kind], offset, length))
        expected = offset + length + CHUNK_ID_BYTES
    return entries


_KINDS = {int(kind): kind for kind in Kind if kind is not Kind.INDEX}


def check_pack(data: Buffer) -> tuple[PackHeader, Trailer]:
    """Header and trailer of a whole pack, its BLAKE3 root compared too; needs no keys. Blocks about 0.3 ms per MiB."""
    header = parse_header(data)
    trailer = parse_trailer(data, header, len(data))
    if blake3(memoryview(data)[: len(data) - TRAILER_BYTES]).digest() != trailer.root:
        raise Corrupt("a pack's bytes are not those that its device signed")
    return header, trailer


def open_pack(keys: VaultKeys, data: Buffer) -> list[IndexEntry]:
    """The chunks of a whole pack in order: root, signature, index and the id before each chunk agree.

    The chunks themselves are checked by opening them (``open_entry``).
    """
    header, trailer = check_pack(data)
    view = memoryview(data)
    start, stop = index_range(trailer)
    entries = open_index(keys, header, trailer, view[start:stop])
    for entry in entries:
        if view[entry.offset - CHUNK_ID_BYTES : entry.offset] != entry.id:
            raise Corrupt("a pack's index names another chunk than the pack holds there")
    end = entries[-1].offset + entries[-1].length
    if bytes(view[end:start]).count(0) != start - end:
        raise Corrupt("a pack's padding is not zero")
    return entries


def open_entry(keys: GenerationKeys, data: Buffer, entry: IndexEntry, salt: bytes | None = None) -> bytes:
    """The plaintext of one chunk of a whole pack; Corrupt if it does not open as the index says."""
    sealed = memoryview(data)[entry.offset : entry.offset + entry.length]
    return open_chunk(keys, entry.kind, entry.id, sealed, salt)
