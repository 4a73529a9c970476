"""Packs: what comes back is what went in; every other pack is refused, also one that a stranger signed again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec import pack_layout
from holdfast.codec.keys import GenerationKeys, VaultKeys
from holdfast.codec.pack import (
    CHUNK_ID_BYTES,
    HEADER_BYTES,
    PACK_BYTES_MAX,
    TRAILER_BYTES,
    IndexEntry,
    PackBuilder,
    Place,
    check_pack,
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
from holdfast.codec.sealer import SEAL_OVERHEAD, Kind, chunk_id, seal_into
from holdfast.errors import BadRequest, Corrupt, HoldfastError

VAULT = VaultKeys(b"R" * 32)
KEYS = VAULT.generation(1)
DEVICE = Identity(b"d" * 32)
STRANGER = Identity(b"s" * 32)
CHUNKS = [(Kind.DATA, b"first"), (Kind.DATA, b"other"), (Kind.RECIPE, b"third"), (Kind.REF, b"a longer one")]


def build(chunks: list[tuple[Kind, bytes]], *, pad: bool = False, builder: PackBuilder | None = None) -> bytes:
    builder = builder or PackBuilder(KEYS, VAULT.vault)
    for kind, plaintext in chunks:
        builder.add(kind, chunk_id(KEYS, plaintext), plaintext)
    digest, data = builder.finish(DEVICE, pad=pad)
    assert Digest.of(data) == digest
    assert data.readonly
    return bytes(data)


def signed_again(pack: bytes, device: Identity = STRANGER) -> bytes:
    """``pack`` with a root and signature that fit its bytes: what a holder without the vault's keys can make."""
    trailer = pack[-TRAILER_BYTES:]
    place = Place(int.from_bytes(trailer[:4], "big"), int.from_bytes(trailer[4:8], "big"))
    root = blake3(pack[:-TRAILER_BYTES]).digest()
    made = pack_layout.encode_trailer(pack[:HEADER_BYTES], place, trailer[8:40], root, device)
    return pack[:-TRAILER_BYTES] + made


def with_index(
    body: bytes, entries: list[IndexEntry], *, index: bytes | None = None, id_: bytes | None = None
) -> bytes:
    """A pack whose owner wrote ``entries`` over ``body``: what a faulty writer can make."""
    plaintext = pack_layout.encode_index(entries) if index is None else index
    id_ = chunk_id(KEYS, plaintext) if id_ is None else id_
    sealed = bytearray(len(plaintext) + SEAL_OVERHEAD)
    seal_into(KEYS, Kind.INDEX, id_, plaintext, memoryview(sealed))
    before = body + sealed
    place = Place(len(body), len(sealed))
    return before + pack_layout.encode_trailer(body[:HEADER_BYTES], place, id_, blake3(before).digest(), DEVICE)


def read_all(pack: bytes) -> list[tuple[Kind, bytes]]:
    return [(entry.kind, open_entry(KEYS, pack, entry)) for entry in open_pack(VAULT, pack)]


def refused(pack: bytes) -> None:
    """The pack is refused as a whole, or some chunk of it is; none ever yields other bytes."""
    try:
        entries = open_pack(VAULT, pack)
    except Corrupt:
        return
    found = 0
    for entry in entries:
        try:
            plaintext = open_entry(KEYS, pack, entry)
        except Corrupt:
            found += 1
        else:
            assert (entry.kind, plaintext) in CHUNKS
    assert found, "nothing was refused"


PACK = build(CHUNKS)
ENTRIES = open_pack(VAULT, PACK)
BODY_END = ENTRIES[-1].offset + ENTRIES[-1].length


@given(
    st.lists(
        st.tuples(st.sampled_from([Kind.DATA, Kind.RECIPE, Kind.REF]), st.binary(min_size=1, max_size=99)), min_size=1
    ),
    st.booleans(),
)
def test_round_trip(chunks: list[tuple[Kind, bytes]], pad: bool) -> None:
    pack = build(chunks, pad=pad)
    assert read_all(pack) == chunks
    needed = unpadded_size(open_pack(VAULT, pack))
    assert len(pack) == (padded_size(needed) if pad else needed)
    assert pack_vault(pack[:HEADER_BYTES]) == VAULT.vault
    assert build(chunks, pad=pad) == pack, "the same chunks make the same pack"


def test_a_reader_needs_only_head_tail_and_index() -> None:
    header = parse_header(PACK[:64])
    trailer = parse_trailer(PACK[-TRAILER_BYTES - 9 :], header, len(PACK))
    start, stop = index_range(trailer)
    assert trailer.device == DEVICE.id
    assert open_index(VAULT, header, trailer, PACK[start:stop]) == ENTRIES


def test_the_id_lies_before_each_chunk() -> None:
    for entry in ENTRIES:
        assert PACK[entry.offset - CHUNK_ID_BYTES : entry.offset] == entry.id


def test_every_flipped_bit_is_refused_by_its_signature() -> None:
    for place in range(len(PACK)):
        changed = bytearray(PACK)
        changed[place] ^= 1 << place % 8
        with pytest.raises(Corrupt):
            check_pack(changed)


def test_every_flipped_byte_is_refused_though_signed_again() -> None:
    checked = 0
    for place in range(len(PACK) - TRAILER_BYTES + 40):
        changed = bytearray(PACK)
        changed[place] ^= 0x10
        refused(signed_again(bytes(changed)))
        checked += 1
    assert checked > 500


def test_every_truncation_is_refused() -> None:
    for length in range(0, len(PACK), 7):
        with pytest.raises(Corrupt):
            open_pack(VAULT, PACK[:length])
    for extra in (b"\0", bytes(64), PACK):
        with pytest.raises(Corrupt):
            open_pack(VAULT, PACK + extra)


def part(entry: IndexEntry) -> bytes:
    return PACK[entry.offset - CHUNK_ID_BYTES : entry.offset + entry.length]


PARTS = [part(entry) for entry in ENTRIES]


@pytest.mark.parametrize(
    "order",
    [
        [1, 0, 2, 3],
        [2, 1, 0, 3],
        [0, 2, 1, 3],
        [0, 0, 2, 3],
        [0, 1, 1, 3],
        [0, 1, 2],
        [1, 2, 3],
        [0, 1, 2, 3, 3],
        [3, 2, 1, 0],
    ],
)
@pytest.mark.parametrize("device", [STRANGER, DEVICE])
def test_chunks_swapped_dropped_or_repeated_are_refused(order: list[int], device: Identity) -> None:
    changed = PACK[:HEADER_BYTES] + b"".join(PARTS[number] for number in order) + PACK[BODY_END:]
    shift = len(changed) - len(PACK)
    trailer = bytearray(changed[-TRAILER_BYTES:])
    trailer[:4] = (int.from_bytes(trailer[:4], "big") + shift).to_bytes(4, "big")
    changed = signed_again(changed[:-TRAILER_BYTES] + trailer, device)
    check_pack(changed)  # a good pack to everybody without keys
    with pytest.raises(Corrupt):
        open_pack(VAULT, changed)


def test_sealed_bytes_swapped_under_their_ids_are_refused() -> None:
    one, other = ENTRIES[:2]
    assert one.length == other.length
    changed = bytearray(PACK)
    changed[one.offset : one.offset + one.length] = PACK[other.offset : other.offset + other.length]
    pack = signed_again(bytes(changed))
    entries = open_pack(VAULT, pack)
    with pytest.raises(Corrupt):
        open_entry(KEYS, pack, entries[0])
    assert open_entry(KEYS, pack, entries[1]) == b"other"


def test_the_index_of_another_pack_is_refused() -> None:
    other = build([(Kind.DATA, b"f1rst"), *CHUNKS[1:]])
    trailer = parse_trailer(other, parse_header(other), len(other))
    start, stop = index_range(trailer)
    with pytest.raises(Corrupt):
        open_pack(VAULT, signed_again(PACK[:BODY_END] + other[start:stop] + other[-TRAILER_BYTES:]))


def test_a_data_chunk_is_no_index() -> None:
    """A file may hold the very bytes of an index; sealed as data it is none."""
    plaintext = pack_layout.encode_index(ENTRIES)
    id_ = chunk_id(KEYS, plaintext)
    sealed = bytearray(len(plaintext) + SEAL_OVERHEAD)
    seal_into(KEYS, Kind.DATA, id_, plaintext, memoryview(sealed))
    body = PACK[:BODY_END] + sealed
    place = Place(BODY_END, len(sealed))
    pack = body + pack_layout.encode_trailer(PACK[:64], place, id_, blake3(body).digest(), DEVICE)
    check_pack(pack)
    with pytest.raises(Corrupt, match="does not open"):
        open_pack(VAULT, pack)


def test_the_index_id_is_recomputed() -> None:
    with pytest.raises(Corrupt, match="another id"):
        open_pack(VAULT, with_index(PACK[:BODY_END], ENTRIES, id_=bytes(32)))


def changed_entry(number: int, **fields: object) -> list[IndexEntry]:
    entries = list(ENTRIES)
    entries[number] = entries[number]._replace(**fields)  # type: ignore[arg-type]
    return entries


@pytest.mark.parametrize(
    "entries",
    [
        [],
        ENTRIES[:-1],
        ENTRIES[1:],
        [*ENTRIES, ENTRIES[-1]],
        [ENTRIES[1], ENTRIES[0], *ENTRIES[2:]],
        changed_entry(0, offset=ENTRIES[0].offset + 1),
        changed_entry(1, length=ENTRIES[1].length - 1),
        changed_entry(3, length=ENTRIES[3].length + 1),
        changed_entry(1, length=0),
        changed_entry(1, length=SEAL_OVERHEAD),
        changed_entry(0, id=ENTRIES[1].id),
        changed_entry(0, kind=Kind.INDEX),
        changed_entry(0, kind=0),
        changed_entry(0, kind=9),
    ],
)
def test_an_index_that_does_not_fit_its_pack_is_refused(entries: list[IndexEntry]) -> None:
    with pytest.raises(Corrupt):
        open_pack(VAULT, with_index(PACK[:BODY_END], entries))


@pytest.mark.parametrize("kind", [Kind.RECIPE, Kind.REF])
def test_a_chunk_of_another_kind_than_the_index_says_is_refused(kind: Kind) -> None:
    pack = with_index(PACK[:BODY_END], changed_entry(0, kind=kind))
    with pytest.raises(Corrupt, match="does not open"):
        open_entry(KEYS, pack, open_pack(VAULT, pack)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index[:8],
        lambda index: index + b"\0",
        lambda index: b"x" + index[1:],
        lambda index: index[:9] + b"\2" + index[10:],
    ],
)
def test_a_misshapen_index_is_refused(change: Callable[[bytes], bytes]) -> None:
    index = change(pack_layout.encode_index(ENTRIES))
    with pytest.raises(Corrupt):
        open_pack(VAULT, with_index(PACK[:BODY_END], ENTRIES, index=index))


def test_padding_is_zero_and_of_one_length() -> None:
    padded = build(CHUNKS, pad=True)
    changed = bytearray(padded)
    changed[BODY_END + 5] = 1
    with pytest.raises(Corrupt, match="padding"):
        open_pack(VAULT, signed_again(bytes(changed)))
    with pytest.raises(Corrupt, match="size"):
        open_pack(VAULT, with_index(PACK[:BODY_END] + bytes(100), ENTRIES))


def test_another_vault_or_generation_cannot_open_it() -> None:
    with pytest.raises(Corrupt):
        open_pack(VaultKeys(b"S" * 32), PACK)
    other = pack_layout.encode_header(2, VAULT.vault)
    with pytest.raises(Corrupt):
        open_pack(VAULT, signed_again(other + PACK[64:], DEVICE))
    other = pack_layout.encode_header(1, VaultKeys(b"S" * 32).vault)  # by a device of ours, under our keys
    with pytest.raises(Corrupt, match="belongs to vault"):
        open_pack(VAULT, signed_again(other + PACK[64:], DEVICE))


@pytest.mark.parametrize("place", [0, 8, 9, 10, 11, 48, 63])
def test_unknown_headers_are_refused(place: int) -> None:
    changed = bytearray(PACK[:64])
    changed[place] ^= 0x40
    with pytest.raises(Corrupt):
        parse_header(changed)
    with pytest.raises(BadRequest):
        pack_vault(changed)


@given(st.binary(max_size=300))
def test_a_stranger_s_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(BadRequest):
        pack_vault(data)
    for prefix in (b"", PACK[:64]):
        with pytest.raises(Corrupt):
            check_pack(prefix + data)


@given(st.binary(max_size=200))
def test_an_owner_s_odd_index_raises_only_our_errors(data: bytes) -> None:
    for index in (data + b"\0", pack_layout.encode_index(ENTRIES)[:12] + data):
        with pytest.raises(HoldfastError):
            open_pack(VAULT, with_index(PACK[:BODY_END], ENTRIES, index=index))


@given(st.integers(1, 1 << 26))
def test_padded_sizes(n: int) -> None:
    size = padded_size(n)
    assert size >= n
    assert padded_size(size) == size
    assert size == 4096 or size <= n * 1.125 + 1
    assert bin(size).strip("0b").__len__() <= 4, "eight steps for each power of two"


def test_a_buffer_is_reused_without_a_trace() -> None:
    builder = PackBuilder(KEYS, VAULT.vault)
    build([(Kind.DATA, b"\xff" * 20_000)], builder=builder)
    builder.reset()
    assert builder.entries == []
    assert build(CHUNKS, pad=True, builder=builder) == build(CHUNKS, pad=True)


def test_room_ends_at_the_target() -> None:
    builder = PackBuilder(KEYS, VAULT.vault, pack_bytes=1000)
    while builder.room_for(400):
        builder.add(Kind.DATA, chunk_id(KEYS, bytes(400)), bytes(400))
    assert len(builder.entries) == 3, "the target, and at most one chunk more"
    for pack_bytes in (0, (32 << 20) + 1):
        with pytest.raises(BadRequest):
            PackBuilder(KEYS, VAULT.vault, pack_bytes=pack_bytes)


def test_the_largest_pack_keeps_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    real = padded_size

    def noted(n: int) -> int:
        nonlocal largest
        largest = real(n)
        return real(n)

    monkeypatch.setattr("holdfast.codec.pack.padded_size", noted)
    PackBuilder(KEYS, VAULT.vault, pack_bytes=32 << 20)
    assert 48 << 20 < largest <= PACK_BYTES_MAX


def test_the_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch, keys: GenerationKeys) -> None:
    monkeypatch.setattr("holdfast.codec.pack.ENTRIES_MAX", 2)
    builder = PackBuilder(keys, VAULT.vault)
    for text in (b"a", b"b"):
        assert builder.room_for(1)
        builder.add(Kind.DATA, chunk_id(keys, text), text)
    assert not builder.room_for(1)
