"""Parsers of what nodes and coordinators hand back: packs, recipes, records, reflog blobs, paths."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.fuzz.target import Target

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec import pack_layout, paths, recipe, ref_fields, reflog, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.sealer import Kind
from holdfast.errors import BadRequest, Corrupt, TooLarge

VECTORS = Path(__file__).parent.parent / "vectors"
DOCUMENT: dict[str, Any] = json.loads((VECTORS / "codec-1.json").read_text(encoding="utf-8"))
KEYS = VaultKeys(bytes.fromhex(DOCUMENT["root"]))
DEVICE = Identity(bytes(range(100, 132)))
COORDINATOR = Identity(bytes(range(50, 82)))
PACKS = [(VECTORS / name).read_bytes() for name in DOCUMENT["packs"]]
RECORDS = [bytes.fromhex(row["record"]) for row in DOCUMENT["records"]]
REF_CHUNKS = [bytes.fromhex(row["chunk"]) for row in DOCUMENT["records"]]
KEEPS = [bytes.fromhex(row["keep"]) for row in DOCUMENT["records"]]
RECIPE = bytes.fromhex(DOCUMENT["recipe"])
PACK = Digest.of(PACKS[1])


def _pack(data: bytes) -> bytes | None:
    for entry in pack_layout.open_pack(KEYS, data):
        if entry.kind != Kind.DATA:  # those of the vectors are salted
            pack_layout.open_entry(KEYS.generation(1), data, entry)
    return None


def _signed_pack(data: bytes) -> bytes | None:
    """As if a device of the vault itself had written it: root and signature fit whatever was changed."""
    if len(data) >= pack_layout.HEADER_BYTES + pack_layout.TRAILER_BYTES:
        body, tail = data[: -pack_layout.TRAILER_BYTES], data[-pack_layout.TRAILER_BYTES :]
        signed = tail[:40] + blake3(body).digest() + bytes(DEVICE.id)
        data = body + signed + DEVICE.sign(data[: pack_layout.HEADER_BYTES] + signed) + tail[-8:]
    return _pack(data)


def _index(data: bytes) -> bytes:
    return pack_layout.encode_index(pack_layout._parse_index(data))


def _header(data: bytes) -> bytes:
    pack_layout.pack_vault(data)
    return pack_layout.encode_header(*pack_layout.parse_header(data)) + data[pack_layout.HEADER_BYTES :]


def _recipe(data: bytes) -> bytes:
    found = recipe.decode(data)
    if isinstance(found, recipe.Recipe):
        for start, stop in ((0, found.size), (found.size // 2, found.size // 2)):
            for _, _piece in zip(range(10), recipe.pieces(found, start, stop), strict=False):
                pass
        return recipe.encode(found)
    return recipe._encode(found, recipe._LIST, found.parts)


def _list_seed() -> tuple[recipe.RecipeList, bytes]:
    whole = recipe.decode(RECIPE)
    assert isinstance(whole, recipe.Recipe)
    entries = [entry._replace(pack=1, offset=200 + 2000 * number) for number, entry in enumerate(whole.entries)]
    part = recipe._PART.pack(recipe._PART_MAGIC, recipe.VERSION, 0, len(entries)) + recipe._table(entries)
    place = recipe.RecipeEntry(bytes(32), 1, 20_000, len(part) + 16, bytes(16))
    listed = recipe.RecipeList(
        size=whole.size,
        chunk_bytes=whole.chunk_bytes,
        generation=1,
        packs=whole.packs,
        parts=[place],
        content_id=whole.content_id,
        salt=whole.salt,
    )
    assert len(recipe.join(listed, [part]).entries) == len(entries)
    return listed, part


LISTED, PART = _list_seed()


def _part(data: bytes) -> bytes:
    entries = recipe.join(LISTED, [data]).entries
    return recipe._PART.pack(recipe._PART_MAGIC, recipe.VERSION, 0, len(entries)) + recipe._table(entries)


def _record(data: bytes) -> bytes:
    parsed = refs.parse_record(data)
    made = ref_fields.encode_clear(parsed.clear) + parsed.keep + parsed.nonce + parsed.sealed
    with contextlib.suppress(Corrupt):
        refs.open_record(KEYS, data, None)
    return made


def _sealed_fields(data: bytes) -> bytes:
    """``data`` is what the record seals: the clear fields fit its kind as far as that can be."""
    plaintext = data + bytes(-len(data) % refs.SEALED_STEP_BYTES)
    for record in RECORDS:
        head, nonce = record[: refs.CLEAR_BYTES + 32], record[refs.CLEAR_BYTES + 32 :][: refs.NONCE_BYTES]
        sealed = AESGCM(refs._key(KEYS, 1, nonce)).encrypt(bytes(12), plaintext, head)
        try:
            found = refs.open_record(KEYS, head + nonce + sealed, None)
        except Corrupt:
            continue
        again = refs.encode_record(KEYS, nonce, found.clear, found.sealed, found.keep)
        assert again == head + nonce + sealed, "a record opens that is not in its one form"
    return data


def _plaintexts() -> list[bytes]:
    found = []
    for record in RECORDS:
        head, nonce = record[: refs.CLEAR_BYTES + 32], record[refs.CLEAR_BYTES + 32 :][: refs.NONCE_BYTES]
        cipher = AESGCM(refs._key(KEYS, 1, nonce))
        found.append(cipher.decrypt(bytes(12), record[refs.CLEAR_BYTES + 32 + refs.NONCE_BYTES :], head))
    return found


def _ref_chunk(data: bytes) -> bytes:
    found = refs.decode_ref_chunk(data)
    made = refs.encode_ref_chunk(found.nonce, found.clear, found.sealed)
    with contextlib.suppress(Corrupt, TooLarge):
        refs.rebuild_record(KEYS, data, PACK, ())
    return made


def _keep_list(data: bytes) -> bytes:
    return refs.keep_list(refs.parse_keep_list(data))


def _reflog_seeds() -> list[bytes]:
    node = reflog.NodeFacts(DEVICE.id, "one", "http://a:1", bytes(16), "home", 1 << 40, True, "")
    facts = reflog.Facts(
        "net",
        ("http://c:7430",),
        4,
        1,
        2,
        (node,),
        (reflog.VaultFacts(KEYS.vault, None),),
        (reflog.DeviceFacts(b"x" * 40, True, None),),
    )
    seeds = []
    for number, (previous, told) in enumerate(((None, facts), (Digest.of(b"before"), None)), 1):
        log = reflog.Reflog(
            coordinator=COORDINATOR.id,
            epoch=1,
            number=number,
            first=0,
            last=9,
            previous=previous,
            facts=told,
            keeps=tuple(sorted(set(KEEPS))),
            refs=tuple(reflog.LoggedRef(record, 1) for record in RECORDS),
            ended=(reflog.EndedName(KEYS.vault, bytes(32), 3, Digest.of(b"e")),) if previous is None else (),
        )
        seeds.append(reflog.encode(log, COORDINATOR))
    return seeds


def _reflog(data: bytes) -> bytes:
    reflog.reflog_coordinator(data)
    return reflog.encode(reflog.decode(data, COORDINATOR.id), COORDINATOR)


def _signed_reflog(data: bytes) -> bytes:
    return _reflog(data + COORDINATOR.sign(data))[:-64]


def _path(data: bytes) -> bytes:
    made = b""
    for handling in ("surrogateescape", "surrogatepass", "replace"):
        try:
            found = paths.normalise(data.decode("utf-8", handling))
        except (BadRequest, UnicodeDecodeError):
            continue
        made = found.encode("utf-8")
        assert len(made) <= paths.PATH_BYTES_MAX
        for part in found.split("/"):
            assert part not in ("", ".", "..")
            assert all(character >= " " and not "\x7f" <= character <= "\x9f" for character in part)
    return made or data


TARGETS = (
    Target("pack", PACKS, _pack, (Corrupt,), words=(b"HFPACK\r\n", b"HFPEND\r\n"), bytes_max=16384),
    Target("pack-signed", PACKS, _signed_pack, (Corrupt,), words=(b"HFPACK\r\n",), bytes_max=16384),
    Target(
        "pack-index",
        [pack_layout.encode_index(pack_layout.open_pack(KEYS, data)) for data in PACKS],
        _index,
        (Corrupt,),
        canonical=True,
        words=(b"HFINDX\r\n",),
    ),
    Target("pack-header", [data[:64] for data in PACKS], _header, (Corrupt, BadRequest), canonical=True),
    Target("recipe", [RECIPE, recipe._encode(LISTED, 1, LISTED.parts)], _recipe, (Corrupt,), canonical=True),
    Target("recipe-part", [PART], _part, (Corrupt,), canonical=True, words=(b"HFRPRT\r\n",)),
    Target("record", RECORDS, _record, (BadRequest,), canonical=True, words=(b"HFREFR\r\n",)),
    Target("record-sealed", _plaintexts(), _sealed_fields, words=(b"dsize", b"emtime", b"dmeta", b"ftarget")),
    Target("ref-chunk", REF_CHUNKS, _ref_chunk, (Corrupt,), canonical=True, words=(b"lholdfast/ref", b"\xf6")),
    Target("keep-list", KEEPS, _keep_list, (BadRequest,), canonical=True),
    Target("reflog", _reflog_seeds(), _reflog, (Corrupt, BadRequest), canonical=True),
    Target(
        "reflog-signed", [data[:-64] for data in _reflog_seeds()], _signed_reflog, (Corrupt, BadRequest), canonical=True
    ),
    Target(
        "path",
        [row["path"].encode() for row in DOCUMENT["paths"]] + [b"Gr\xc3\xb6\xc3\x9fe/a file", b"a/b/c" * 20],
        _path,
    ),
)
