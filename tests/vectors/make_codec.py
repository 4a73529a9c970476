"""Writes the codec's golden vectors. Run it only to add a new version beside the old: old vectors are kept for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.codec import paths, recipe, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.pack import PackBuilder, padded_size
from holdfast.codec.sealer import Kind, check16, chunk_id, seal_into

HERE = Path(__file__).parent
ROOT = bytes(range(32))
DEVICE = Identity(bytes(range(100, 132)))
SALT = bytes(range(200, 216))
FILE = bytes(n * 7 % 251 for n in range(2500))
CHUNK = 1000


def place(builder: PackBuilder, kind: Kind, id_: bytes, plaintext: bytes) -> recipe.RecipeEntry:
    found = builder.add(kind, id_, plaintext)
    sealed = builder._view[found.offset : found.offset + found.length]
    return recipe.RecipeEntry(id_, 0, found.offset, found.length, check16(sealed))


def vectors() -> tuple[dict[str, Any], dict[str, bytes]]:
    keys = VaultKeys(ROOT)
    first, second = keys.generation(1), keys.generation(7)
    chunks = []
    for generation, kind, plaintext, salt in (
        (first, Kind.DATA, b"x", None),
        (first, Kind.RECIPE, b"x", None),
        (second, Kind.DATA, b"x", None),
        (first, Kind.DATA, b"hold fast", SALT),
        (first, Kind.REF, bytes(100), None),
    ):
        id_ = chunk_id(generation, plaintext, salt)
        out = bytearray(len(plaintext) + 16)
        seal_into(generation, kind, id_, plaintext, memoryview(out))
        chunks.append(
            {
                "generation": generation.generation,
                "kind": int(kind),
                "plaintext": plaintext.hex(),
                "salt": None if salt is None else salt.hex(),
                "id": id_.hex(),
                "sealed": out.hex(),
                "check": check16(out).hex(),
            }
        )

    # Pack one: two chunks of a salted file. Pack two: its last chunk, its recipe and refs of all kinds.
    cut = [FILE[start : start + CHUNK] for start in range(0, len(FILE), CHUNK)]
    one = PackBuilder(first, keys.vault)
    entries = [place(one, Kind.DATA, chunk_id(first, part, SALT), part) for part in cut[:2]]
    digest_one, data = one.finish(DEVICE, pad=False)
    pack_one = bytes(data)
    two = PackBuilder(first, keys.vault)
    last = place(two, Kind.DATA, chunk_id(first, cut[2], SALT), cut[2])
    whole = recipe.Recipe(
        size=len(FILE),
        chunk_bytes=CHUNK,
        generation=1,
        packs=(digest_one,),
        entries=[*(entry._replace(pack=1) for entry in entries), last],
        content_id=recipe.content_id(first, [*(entry.id for entry in entries), last.id]),
        salt=SALT,
    )
    encoded = recipe.encode(whole)
    placed = place(two, Kind.RECIPE, chunk_id(first, encoded), encoded)
    recipe_place = refs.RecipePlace(None, placed.offset, placed.length, placed.id)
    when = 1_700_000_000_123_456_789
    sealed = [
        (refs.RefKind.DIRECTORY, refs.RefSealed("Größe", refs.Attributes(0, when, 0o755))),
        (
            refs.RefKind.FILE,
            refs.RefSealed(
                "Größe/a file",
                refs.Attributes(len(FILE), when, 0o640, meta={"colour": "blue"}, extra={"later": [1, b"2"]}),
                recipe_place,
                last.offset,
            ),
        ),
        (refs.RefKind.LINK, refs.RefSealed("link", refs.Attributes(0, -1, 0o777, target="../x"))),
        (refs.RefKind.TOMBSTONE, refs.RefSealed("gone", refs.Attributes())),
    ]
    written = []
    for number, (what, fields) in enumerate(sealed, 1):
        name, parent = refs.tags(keys, fields.path)
        previous = Digest.of(b"before") if what is refs.RefKind.TOMBSTONE else None
        clear = refs.RefClear(keys.vault, 1, name, parent, what, 4, 1 if previous is None else 9, previous, DEVICE.id)
        nonce = bytes([number]) * 16
        chunk = refs.encode_ref_chunk(nonce, clear, fields)
        written.append((chunk, place(two, Kind.REF, chunk_id(first, chunk), chunk), fields))
    digest_two, data = two.finish(DEVICE, pad=True)
    pack_two = bytes(data)
    records = []
    for chunk, at, fields in written:
        record, keep = refs.rebuild_record(keys, chunk, digest_two, whole.packs if fields.recipe else ())
        records.append(
            {
                "path": fields.path,
                "chunk_id": at.id.hex(),
                "chunk": chunk.hex(),
                "record": record.hex(),
                "etag": str(refs.etag(record)),
                "keep": keep.hex(),
            }
        )
    document = {
        "root": ROOT.hex(),
        "vault": bytes(keys.vault).hex(),
        "name_key": keys.name.hex(),
        "generations": [
            {"generation": found.generation, "chunk": found.chunk.hex(), "id": found.id.hex(), "meta": found.meta.hex()}
            for found in (first, second)
        ],
        "chunks": chunks,
        "paths": [
            {
                "path": path,
                "name_tag": paths.name_tag(keys.name, path).hex(),
                "parent_tag": paths.parent_tag(keys.name, path).hex(),
            }
            for path in ("", "a", "a/b", "Größe/日本")
        ],
        "padded": [[n, padded_size(n)] for n in (1, 4096, 4097, 5000, 8192, 8193, 1 << 20, (1 << 20) + 1, 17_000_000)],
        "device": bytes(DEVICE.id).hex(),
        "packs": {"codec-1-data.pack": str(digest_one), "codec-1-refs.pack": str(digest_two)},
        "file": FILE.hex(),
        "recipe": encoded.hex(),
        "records": records,
    }
    return document, {"codec-1-data.pack": pack_one, "codec-1-refs.pack": pack_two}


if __name__ == "__main__":
    document, packs = vectors()
    (HERE / "codec-1.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, data in packs.items():
        (HERE / name).write_bytes(data)
