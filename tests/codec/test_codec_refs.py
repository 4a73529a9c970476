"""Refs: sealed to their clear fields, rebuilt byte for byte, refused when anything of them was changed."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.documents import canonical
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.paths import normalise
from holdfast.codec.ref_fields import encode_clear, sealed_value
from holdfast.codec.refs import (
    Attributes,
    RecipePlace,
    RefClear,
    RefKind,
    RefSealed,
    decode_ref_chunk,
    encode_record,
    encode_ref_chunk,
    keep_for,
    keep_list,
    open_record,
    parse_keep_list,
    parse_record,
    rebuild_record,
    tags,
)
from holdfast.errors import BadRequest, Corrupt, TooLarge

VAULT = VaultKeys(b"R" * 32)
DEVICE = Identity(b"d" * 32)
PACK = Digest(b"\x11" * 32)
OTHER = Digest(b"\x22" * 32)
NONCE = bytes(range(16))
PLACE = RecipePlace(None, 1000, 200, b"i" * 32)


def clear_for(sealed: RefSealed, kind: RefKind, vault: VaultKeys = VAULT, **fields: Any) -> RefClear:
    name, parent = tags(vault, sealed.path)
    clear = RefClear(vault.vault, 1, name, parent, kind, 4, 1, None, DEVICE.id)
    return msgspec.structs.replace(clear, **fields)


FILE = RefSealed("dir/file", Attributes(5, 123, 0o644), PLACE, 64)
LINK = RefSealed("dir/link", Attributes(0, 1, 0o777, target="file"))
DIRECTORY = RefSealed("dir", Attributes(0, 1, 0o755))
KEEP = Digest.of(keep_for(PACK, FILE))


def record_of(
    sealed: RefSealed = FILE, kind: RefKind = RefKind.FILE, nonce: bytes = NONCE, keep: Digest = KEEP, **fields: Any
) -> bytes:
    return encode_record(VAULT, nonce, clear_for(sealed, kind, **fields), sealed.in_pack(PACK), keep)


RECORD = record_of()

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=20
)
good_paths = (
    st.lists(names.filter(lambda part: part not in (".", "..")), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda path: all(0 < len(part.encode()) <= 255 for part in path.split("/")))
    .map(normalise)
)
digests = st.binary(min_size=32, max_size=32).map(Digest)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
times = st.integers(-(1 << 62), 1 << 62)
extras = st.dictionaries(
    st.text(max_size=9).filter(lambda name: name not in ("size", "mode", "mtime", "target", "meta")),
    st.integers(0, 1 << 70) | st.binary(max_size=9) | st.text(st.characters(codec="utf-8"), max_size=9) | st.booleans(),
    max_size=3,
)


@st.composite
def written(draw: st.DrawFn) -> tuple[RefClear, RefSealed]:
    kind = draw(st.sampled_from(RefKind))
    attributes = Attributes(
        draw(st.integers(0, (1 << 63) - 1)),
        draw(times),
        draw(st.integers(0, 0o7777)),
        draw(texts.filter(lambda text: text and "\0" not in text)) if kind is RefKind.LINK else None,
        draw(st.dictionaries(texts, texts, max_size=4)),
        draw(extras),
    )
    place, run_start = None, 0
    if kind is RefKind.FILE:
        offset = draw(st.integers(96, 1 << 24))
        place = RecipePlace(
            draw(st.none() | digests), offset, draw(st.integers(17, 1 << 22)), draw(st.binary(min_size=32, max_size=32))
        )
        run_start = draw(st.integers(64, offset))
    sealed = RefSealed(draw(good_paths), attributes, place, run_start)
    version = draw(st.integers(1, (1 << 63) - 1))
    previous = draw(st.none() | digests) if version > 1 else None
    generation = draw(st.integers(0, (1 << 32) - 1))
    survive = draw(st.integers(0, 255))
    return clear_for(sealed, kind, version=version, previous=previous, generation=generation, survive=survive), sealed


@given(written(), st.binary(min_size=16, max_size=16), st.lists(digests, max_size=4))
def test_a_record_is_rebuilt_byte_for_byte(
    fields: tuple[RefClear, RefSealed], nonce: bytes, table: list[Digest]
) -> None:
    clear, sealed = fields
    keep = keep_for(PACK, sealed, table)
    record = encode_record(VAULT, nonce, clear, sealed.in_pack(PACK), Digest.of(keep))
    chunk = encode_ref_chunk(nonce, clear, sealed)
    assert decode_ref_chunk(chunk) == (nonce, clear, sealed)
    assert rebuild_record(VAULT, chunk, PACK, table) == (record, keep)
    parsed = parse_record(record)
    assert (parsed.clear, parsed.keep, parsed.nonce) == (clear, Digest.of(keep), nonce)
    ref = open_record(VAULT, record, sealed.path)
    assert (ref.clear, ref.sealed, ref.keep) == (clear, sealed.in_pack(PACK), Digest.of(keep))
    assert ref.etag == refs.etag(record) == Digest.of(record)
    assert open_record(VAULT, record, None) == ref
    assert len(record) <= refs.RECORD_BYTES_MAX


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(len(RECORD) * 8):
        changed = bytearray(RECORD)
        changed[bit // 8] ^= 1 << bit % 8
        for path in ("dir/file", None):
            with pytest.raises(Corrupt):
                open_record(VAULT, bytes(changed), path)


def test_every_other_length_is_refused() -> None:
    for length in range(len(RECORD)):
        with pytest.raises(Corrupt):
            open_record(VAULT, RECORD[:length], None)
        if length < 316 or (length - 316) % 64:
            with pytest.raises(BadRequest):
                parse_record(RECORD[:length])
    for extra in (b"\0", bytes(64), RECORD):
        with pytest.raises(Corrupt):
            open_record(VAULT, RECORD + extra, None)
    with pytest.raises(BadRequest):
        parse_record(bytes(refs.RECORD_BYTES_MAX + 64))


def test_parts_of_two_records_do_not_mix() -> None:
    """Clear fields, keep list, nonce or sealed part of another version of the same name."""
    other = record_of(nonce=bytes(16), keep=OTHER, version=2, previous=OTHER)
    for start, stop in ((0, 188), (188, 220), (220, 236), (236, len(RECORD))):
        with pytest.raises(Corrupt):
            open_record(VAULT, RECORD[:start] + other[start:stop] + RECORD[stop:], None)


def test_another_name_is_refused() -> None:
    for path in ("dir/other", "dir", "file", "dir/file/", ""):
        with pytest.raises(Corrupt, match="another name"):
            open_record(VAULT, RECORD, path)


def test_another_vault_is_refused() -> None:
    other = VaultKeys(b"S" * 32)
    with pytest.raises(Corrupt):
        open_record(other, RECORD, None)
    with pytest.raises(BadRequest):
        encode_record(other, NONCE, clear_for(FILE, RefKind.FILE), FILE.in_pack(PACK), KEEP)


def forged(sealed: RefSealed | bytes, clear: RefClear) -> bytes:
    """A record whose seal is right and whose fields were not checked: what a faulty device could write."""
    data = sealed if isinstance(sealed, bytes) else canonical(sealed_value(sealed))
    head = encode_clear(clear) + KEEP
    return head + NONCE + AESGCM(refs._key(VAULT, clear.generation, NONCE)).encrypt(bytes(12), refs._padded(data), head)


@pytest.mark.parametrize(
    "fields",
    [
        {"name_tag": tags(VAULT, "dir/other")[0]},
        {"parent_tag": tags(VAULT, "other/file")[1]},
        {"kind": RefKind.DIRECTORY},
        {"kind": RefKind.LINK},
        {"kind": RefKind.TOMBSTONE},
        {"vault": DEVICE.id},
    ],
)
def test_clear_fields_that_do_not_fit_the_sealed_ones_are_refused(fields: dict[str, Any]) -> None:
    clear = clear_for(FILE, RefKind.FILE)
    assert open_record(VAULT, forged(FILE.in_pack(PACK), clear), "dir/file")
    for path in (None, "dir/file"):
        with pytest.raises(Corrupt):
            open_record(VAULT, forged(FILE.in_pack(PACK), msgspec.structs.replace(clear, **fields)), path)


BAD_FIELDS = [
    (RefKind.FILE, {"recipe": None, "run_start": 0}),
    (RefKind.FILE, {"run_start": 63}),
    (RefKind.FILE, {"run_start": 1001}),
    (RefKind.FILE, {"run_start": True}),
    (RefKind.FILE, {"run_start": "64"}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, offset=95), "run_start": 64}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, offset=64 << 20)}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, length=16)}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, length=(16 << 20) + 17)}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, id=b"i" * 31)}),
    (RefKind.FILE, {"recipe": PLACE._replace(pack=PACK, length=True)}),
    (RefKind.FILE, {"attributes": Attributes(-1, 0, 0)}),
    (RefKind.FILE, {"attributes": Attributes(1 << 63, 0, 0)}),
    (RefKind.FILE, {"attributes": Attributes(1, 1 << 64, 0)}),
    (RefKind.FILE, {"attributes": Attributes(1, 0, 0o10000)}),
    (RefKind.FILE, {"attributes": Attributes(1.5, 0, 0)}),  # type: ignore[arg-type]
    (RefKind.FILE, {"attributes": Attributes(1, 0, 0, target="x")}),
    (RefKind.FILE, {"attributes": Attributes(1, 0, 0, meta={"a": 1})}),  # type: ignore[dict-item]
    (RefKind.FILE, {"attributes": Attributes(1, 0, 0, meta={"a": "x" * 8192})}),
    (RefKind.FILE, {"path": "dir//file"}),
    (RefKind.FILE, {"path": "dir/../file"}),
    (RefKind.FILE, {"path": "o\u0308"}),
    (RefKind.FILE, {"path": ""}),
]


@pytest.mark.parametrize(("kind", "fields"), BAD_FIELDS)
def test_fields_out_of_bounds_are_neither_written_nor_read(kind: RefKind, fields: dict[str, Any]) -> None:
    sealed = msgspec.structs.replace(FILE.in_pack(PACK), **fields)
    clear = clear_for(sealed, kind)
    with pytest.raises(BadRequest):
        encode_record(VAULT, NONCE, clear, sealed, KEEP)
    with pytest.raises(BadRequest):
        encode_ref_chunk(NONCE, clear, sealed)
    with pytest.raises(Corrupt):
        open_record(VAULT, forged(sealed, clear), None)


@pytest.mark.parametrize(
    ("sealed", "kind"),
    [
        (DIRECTORY, RefKind.FILE),
        (DIRECTORY, RefKind.LINK),
        (LINK, RefKind.DIRECTORY),
        (FILE, RefKind.DIRECTORY),
        (msgspec.structs.replace(DIRECTORY, run_start=64), RefKind.DIRECTORY),
        (msgspec.structs.replace(LINK, attributes=Attributes(target="")), RefKind.LINK),
        (msgspec.structs.replace(LINK, attributes=Attributes(target="a\0b")), RefKind.LINK),
        (msgspec.structs.replace(LINK, attributes=Attributes(target="x" * 4096)), RefKind.LINK),
        (msgspec.structs.replace(LINK, attributes=Attributes(target="\ud800")), RefKind.LINK),
    ],
)
def test_kinds_have_their_fields(sealed: RefSealed, kind: RefKind) -> None:
    with pytest.raises(BadRequest):
        record_of(sealed, kind)


def test_a_record_names_its_recipe_s_pack() -> None:
    with pytest.raises(BadRequest):
        encode_record(VAULT, NONCE, clear_for(FILE, RefKind.FILE), FILE, KEEP)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["dir/file", {}, None, 0],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0, "meta": {}}, None, 0],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0, "target": None}, None, 0],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0, 5: 1}, None, 0],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0}, [None, 1, 2], 0],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0}, ["x", 1000, 200, b"i" * 32], 64],
        ["dir/file", {"size": 1, "mode": 0, "mtime": 0}, [b"x", 1000, 200, b"i" * 32], 64],
        [b"dir/file", {"size": 1, "mode": 0, "mtime": 0}, [None, 1000, 200, b"i" * 32], 64],
    ],
)
def test_sealed_fields_of_another_form_are_refused(value: Any) -> None:
    with pytest.raises(Corrupt):
        open_record(VAULT, forged(cbor2.dumps(value, canonical=True), clear_for(FILE, RefKind.FILE)), None)


def test_sealed_fields_that_are_not_canonical_are_refused() -> None:
    data = canonical(sealed_value(FILE.in_pack(PACK)))
    clear = clear_for(FILE, RefKind.FILE)
    assert open_record(VAULT, forged(data, clear), None)
    loose = cbor2.dumps(cbor2.loads(data), indefinite_containers=True)
    for other in (data + b"\0", loose, data[:-1], b""):
        with pytest.raises(Corrupt):
            open_record(VAULT, forged(other, clear), None)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 1),
        (9, 2),
        (10, 2),
        (11, 0),
        (11, 5),
        (113, 1),
        (113, 2),
        (113, 3),
        (114, 1),
        (115, 1),
        (123, 0),
        (116, 128),
        (124, 1),
    ],
)
def test_the_clear_part_is_read_strictly_without_keys(place: int, value: int) -> None:
    changed = bytearray(RECORD)
    assert changed[place] != value
    changed[place] = value
    with pytest.raises(BadRequest):
        parse_record(bytes(changed))


def test_sealed_padding_has_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    clear = clear_for(FILE, RefKind.FILE)
    right = refs._padded(canonical(sealed_value(FILE.in_pack(PACK))))
    longer = (int.from_bytes(right[:2], "big") + 1).to_bytes(2, "big") + right[2:]
    for plaintext in (right[:-1] + b"\1", right + bytes(64), longer, b"\xff\xff" + right[2:]):
        monkeypatch.setattr(refs, "_padded", lambda data, plaintext=plaintext: plaintext)
        record = forged(FILE.in_pack(PACK), clear)
        monkeypatch.undo()
        with pytest.raises(Corrupt):
            open_record(VAULT, record, None)


def test_lengths_of_paths_show_only_roughly() -> None:
    sizes = {len(record_of(RefSealed("p" * n, Attributes()), RefKind.TOMBSTONE)) for n in range(1, 200)}
    assert len(sizes) <= 5


def test_limits_of_attributes() -> None:
    fits = msgspec.structs.replace(FILE, attributes=Attributes(1, 0, 0, meta={"": "x" * 8192}))
    assert open_record(VAULT, record_of(fits), "dir/file").sealed.attributes.meta == {"": "x" * 8192}
    huge = msgspec.structs.replace(FILE, attributes=Attributes(1, 0, 0, extra={"later": bytes(24 << 10)}))
    with pytest.raises(TooLarge):
        record_of(huge)
    with pytest.raises(TooLarge):
        encode_ref_chunk(NONCE, clear_for(FILE, RefKind.FILE), huge)
    with pytest.raises(BadRequest):
        record_of(msgspec.structs.replace(FILE, attributes=Attributes(extra={"size": 7})))


def test_what_a_chunk_holds_always_fits_a_record() -> None:
    room = refs.REF_CHUNK_BYTES_MAX - len(encode_ref_chunk(NONCE, clear_for(FILE, RefKind.FILE), FILE))
    full = msgspec.structs.replace(FILE, attributes=Attributes(5, 123, 0o644, extra={"x": bytes(room - 6)}))
    chunk = encode_ref_chunk(NONCE, clear_for(full, RefKind.FILE), full)
    assert len(chunk) >= refs.REF_CHUNK_BYTES_MAX - 4
    assert parse_record(rebuild_record(VAULT, chunk, PACK)[0])


def test_ref_chunks_are_read_strictly() -> None:
    clear = clear_for(FILE, RefKind.FILE)
    chunk = encode_ref_chunk(NONCE, clear, FILE)
    label, version, nonce, head, value = cbor2.loads(chunk)
    bad: Any
    for bad in (
        ["other", version, nonce, head, value],
        [label, 2, nonce, head, value],
        [label, version, nonce[:-1], head, value],
        [label, version, nonce, head[:-1], value],
        [label, version, nonce, head + bytes(32), value],
        [label, version, "n" * 16, head, value],
        [label, version, nonce, head, value, 0],
        [label, version, nonce, head],
        {},
    ):
        with pytest.raises(Corrupt):
            decode_ref_chunk(cbor2.dumps(bad, canonical=True))
    for data in (chunk[:-1], chunk + b"\0", b"", bytes(refs.REF_CHUNK_BYTES_MAX + 1), RECORD):
        with pytest.raises(Corrupt):
            decode_ref_chunk(data)


def test_a_ref_chunk_of_another_vault_or_name_is_not_rebuilt() -> None:
    for clear in (
        clear_for(FILE, RefKind.FILE, vault=VaultKeys(b"S" * 32)),
        clear_for(FILE, RefKind.FILE, name_tag=bytes(32)),
    ):
        with pytest.raises(Corrupt):
            rebuild_record(VAULT, encode_ref_chunk(NONCE, clear, FILE), PACK)


@given(st.binary(max_size=700))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_ref_chunk(data)
    with pytest.raises(BadRequest):
        parse_record(data)
    with pytest.raises(Corrupt):
        open_record(VAULT, RECORD[:8] + data, None)


@pytest.mark.parametrize(
    "fields", [{"version": 0}, {"version": 1 << 63}, {"previous": OTHER}, {"survive": 256}, {"survive": -1}]
)
def test_clear_fields_out_of_bounds(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        record_of(**fields)
    with pytest.raises(BadRequest):
        record_of(generation=1 << 32)


@given(st.lists(digests, min_size=1, max_size=9))
def test_keep_lists(found: list[Digest]) -> None:
    data = keep_list(found + found)
    assert parse_keep_list(data) == sorted(set(found))
    assert keep_list(reversed(found)) == data


@pytest.mark.parametrize("data", [b"", b"x", PACK + b"x", PACK + PACK, OTHER + PACK])
def test_keep_lists_have_one_form(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_keep_list(data)


def test_a_keep_list_holds_all_that_a_ref_needs() -> None:
    third = Digest(b"\x33" * 32)
    assert parse_keep_list(keep_for(PACK, DIRECTORY)) == [PACK]
    assert parse_keep_list(keep_for(PACK, FILE)) == [PACK]
    elsewhere = msgspec.structs.replace(FILE, recipe=PLACE._replace(pack=third))
    assert parse_keep_list(keep_for(PACK, elsewhere, [OTHER])) == [PACK, OTHER, third]


def test_another_nonce_is_another_key() -> None:
    keys = {refs._key(VAULT, generation, bytes([n]) * 16) for generation in (1, 2) for n in range(9)}
    assert len(keys) == 18
    with pytest.raises(BadRequest):
        record_of(nonce=bytes(15))
