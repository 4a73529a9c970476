"""A second reader of packs and refs, written from docs/formats.md alone; it imports nothing of holdfast.

``python decoder.py ROOT_HEX PACK`` lists a pack. Every departure from the page is a ValueError.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path
from typing import Any

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

DATA, RECIPE, REF, INDEX = 1, 2, 3, 4


def need(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


def expand(key: bytes, info: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key)


def derive(root: bytes, purpose: str, generation: int) -> bytes:
    return expand(root, b"holdfast/1/" + purpose.encode() + b"/" + str(generation).encode())


def vault_id(root: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(derive(root, "identity", 0)).public_key().public_bytes_raw()


def chunk_id(root: bytes, generation: int, plaintext: bytes, salt: bytes | None) -> bytes:
    key = derive(root, "id", generation)
    if salt is not None:
        key = blake3(salt, key=key).digest()
    return blake3(plaintext, key=key).digest()


def open_chunk(root: bytes, generation: int, kind: int, id_: bytes, sealed: bytes, salt: bytes | None = None) -> bytes:
    info = b"holdfast/1/chunk" + bytes([1, kind, 0])
    info += (len(sealed) - 16).to_bytes(8, "big") + len(sealed).to_bytes(8, "big") + id_
    try:
        plaintext = AESGCM(expand(derive(root, "chunk", generation), info)).decrypt(bytes(12), sealed, None)
    except InvalidTag as error:
        raise ValueError("chunk does not open") from error
    need(chunk_id(root, generation, plaintext, salt) == id_, "chunk has another id")
    return plaintext


def padded(n: int) -> int:
    if n <= 4096:
        return 4096
    power = 4096
    while power * 2 < n:
        power *= 2
    return next(size for size in (power + step * power // 8 for step in range(1, 9)) if size >= n)


def open_pack(root: bytes, pack: bytes) -> dict[str, Any]:
    """{vault, generation, device, digest, chunks: [{id, kind, offset, length, sealed}]}."""
    need(pack[:8] == b"HFPACK\r\n" and pack[8:12] == b"\x00\x01\x01\x01" and pack[48:64] == bytes(16), "header")
    generation = int.from_bytes(pack[12:16], "big")
    need(pack[16:48] == vault_id(root), "another vault's pack")
    trailer = pack[-176:]
    offset, length = struct.unpack(">II", trailer[:8])
    index_id, merkle, device, signature, magic = struct.unpack("32s32s32s64s8s", trailer[8:])
    need(magic == b"HFPEND\r\n", "trailer")
    try:
        Ed25519PublicKey.from_public_bytes(device).verify(signature, pack[:64] + trailer[:104])
    except InvalidSignature as error:
        raise ValueError("signature") from error
    need(merkle == blake3(pack[:-176]).digest(), "root")
    need(offset + length + 176 == len(pack), "index place")
    index = open_chunk(root, generation, INDEX, index_id, pack[offset : offset + length])
    need(index[:12] == b"HFINDX\r\n\x00\x01\x00\x00", "index header")
    count = int.from_bytes(index[12:16], "big")
    need(len(index) == 16 + 41 * count, "index length")
    chunks = []
    at = 64
    for number in range(count):
        id_, kind, first, size = struct.unpack_from(">32sBII", index, 16 + 41 * number)
        need(kind in (DATA, RECIPE, REF) and first == at + 32 and pack[at:first] == id_, "index entry")
        at = first + size
        chunks.append({"id": id_, "kind": kind, "offset": first, "length": size, "sealed": pack[first:at]})
    need(pack[at:offset] == bytes(offset - at), "padding")
    bare = at + length + 176
    need(len(pack) in (bare, padded(bare)), "size")
    return {
        "vault": pack[16:48],
        "generation": generation,
        "device": device,
        "digest": hashlib.sha256(pack).digest(),
        "chunks": chunks,
    }


def read_recipe(data: bytes) -> dict[str, Any]:
    magic, version, level, flags, generation, size, chunk, packs, count, content, salt = struct.unpack_from(
        ">8sHBBIQIII32s16s", data
    )
    need(magic == b"HFRECP\r\n" and version == 1 and level == 0 and flags in (0, 1), "recipe header")
    need(len(data) == 84 + 32 * packs + 60 * count, "recipe length")
    table = [data[84 + 32 * n : 116 + 32 * n] for n in range(packs)]
    entries = [struct.unpack_from(">32sIII16s", data, 84 + 32 * packs + 60 * n) for n in range(count)]
    need(sum(entry[3] - 16 for entry in entries) == size, "recipe size")
    return {
        "size": size,
        "chunk_bytes": chunk,
        "generation": generation,
        "packs": table,
        "entries": entries,
        "content_id": content,
        "salt": salt if flags else None,
    }


def read_file(root: bytes, packs: dict[bytes, bytes], carrier: bytes, recipe: dict[str, Any]) -> bytes:
    """A file's bytes; ``packs`` by digest, ``carrier`` the digest of the pack that carries the recipe."""
    ids = b"".join(entry[0] for entry in recipe["entries"])
    key = derive(root, "id", recipe["generation"])
    need(blake3(ids, key=key).digest() == recipe["content_id"], "content id")
    parts = []
    for id_, number, offset, length, check in recipe["entries"]:
        pack = packs[carrier if number == 0 else recipe["packs"][number - 1]]
        sealed = pack[offset : offset + length]
        need(blake3(sealed).digest()[:16] == check, "check")
        parts.append(open_chunk(root, recipe["generation"], DATA, id_, sealed, recipe["salt"]))
    return b"".join(parts)


def name_tag(root: bytes, path: str) -> bytes:
    return hmac.new(derive(root, "name", 0), b"name\x00" + path.encode(), "sha256").digest()


def parent_tag(root: bytes, directory: str) -> bytes:
    return hmac.new(derive(root, "name", 0), b"dir\x00" + directory.encode(), "sha256").digest()


def read_clear(data: bytes) -> dict[str, Any]:
    fields = struct.unpack(">8sHBBI32s32s32sBBHQ32s32s", data)
    names = "magic format suite kind generation vault name_tag parent_tag survive flags zero version previous author"
    clear = dict(zip(names.split(), fields, strict=True))
    need(clear["magic"] == b"HFREFR\r\n" and clear["format"] == 1 and clear["suite"] == 1, "record header")
    need(clear["kind"] in (1, 2, 3, 4) and clear["flags"] in (0, 1) and clear["zero"] == 0, "record flags")
    return clear


def open_record(root: bytes, record: bytes) -> dict[str, Any]:
    """The clear fields with ``keep``, ``etag``, ``path``, ``attributes``, ``recipe`` and ``run_start``."""
    clear = read_clear(record[:188])
    nonce = record[220:236]
    key = expand(derive(root, "meta", clear["generation"]), b"holdfast/1/ref" + nonce)
    try:
        plaintext = AESGCM(key).decrypt(bytes(12), record[236:], record[:220])
    except InvalidTag as error:
        raise ValueError("record does not open") from error
    length = int.from_bytes(plaintext[:2], "big")
    data = plaintext[2 : 2 + length]
    zeros = -(2 + length) % 64
    need(plaintext == plaintext[:2] + data + bytes(zeros), "record padding")
    path, attributes, recipe, run_start = cbor2.loads(data)
    need(cbor2.dumps([path, attributes, recipe, run_start], canonical=True) == data, "record not canonical")
    need(clear["name_tag"] == name_tag(root, path), "name tag")
    need(clear["parent_tag"] == parent_tag(root, path.rpartition("/")[0]), "parent tag")
    need(clear["vault"] == vault_id(root), "record of another vault")
    clear.update(path=path, attributes=attributes, recipe=recipe, run_start=run_start)
    clear.update(keep=record[188:220], etag=hashlib.sha256(record).digest())
    return clear


def rebuild_record(root: bytes, ref_chunk: bytes, pack: bytes, table: list[bytes]) -> tuple[bytes, bytes]:
    """(record, keep list) from the plaintext of a ref chunk and the digest of its pack."""
    label, version, nonce, clear, (path, attributes, recipe, run_start) = cbor2.loads(ref_chunk)
    need(label == "holdfast/ref" and version == 1, "ref chunk")
    keep = {pack, *table}
    if recipe is not None:
        recipe = [recipe[0] or pack, *recipe[1:]]
        keep.add(recipe[0])
    keep_list = b"".join(sorted(keep))
    data = cbor2.dumps([path, attributes, recipe, run_start], canonical=True)
    plaintext = len(data).to_bytes(2, "big") + data + bytes(-(2 + len(data)) % 64)
    head = clear + hashlib.sha256(keep_list).digest()
    key = expand(derive(root, "meta", read_clear(clear)["generation"]), b"holdfast/1/ref" + nonce)
    return head + nonce + AESGCM(key).encrypt(bytes(12), plaintext, head), keep_list


def open_reflog(coordinator: bytes, data: bytes) -> dict[str, Any]:
    """The header's fields with ``facts``, ``keeps`` and ``refs``."""
    try:
        Ed25519PublicKey.from_public_bytes(coordinator).verify(data[-64:], data[:-64])
    except InvalidSignature as error:
        raise ValueError("reflog signature") from error
    names = "magic version flags reserved coordinator epoch number first last previous"
    fields = struct.unpack(">8sBB6s32sQQQQ32s", data[:112])
    found: dict[str, Any] = dict(zip(names.split(), fields, strict=True))
    need(found["magic"] == b"HFREFL\r\n" and found["version"] == 1 and found["reserved"] == bytes(6), "reflog header")
    need(found["flags"] in (0, 1) and found["coordinator"] == coordinator, "another coordinator's reflog")
    found["previous"] = None if found["flags"] else found["previous"]
    body = cbor2.loads(data[112:-64])
    need(cbor2.dumps(body, canonical=True) == data[112:-64], "reflog not canonical")
    found["facts"], found["keeps"], found["refs"], found["ended"] = body
    lists = {hashlib.sha256(keep).digest() for keep in found["keeps"]}
    need(all(record[188:220] in lists for record, _ in found["refs"]), "a keep list is missing")
    return found


if __name__ == "__main__":
    found = open_pack(bytes.fromhex(sys.argv[1]), Path(sys.argv[2]).read_bytes())
    for chunk in found["chunks"]:
        del chunk["sealed"]
    print(json.dumps(found, default=bytes.hex, indent=1))
