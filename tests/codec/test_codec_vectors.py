"""Golden vectors: this version writes them byte for byte, and a reader that shares no code opens them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.blob import Digest
from holdfast.codec import paths, recipe, refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.pack import open_entry, open_pack, padded_size
from holdfast.codec.sealer import Kind, check16, chunk_id, open_chunk, seal_into

VECTORS = Path(__file__).parent.parent / "vectors"
DOCUMENT: dict[str, Any] = json.loads((VECTORS / "codec-1.json").read_text(encoding="utf-8"))
ROOT = bytes.fromhex(DOCUMENT["root"])
PACKS = {Digest.parse(text): (VECTORS / name).read_bytes() for name, text in DOCUMENT["packs"].items()}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vectors_{name}", VECTORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


decoder = load("decoder")


def test_this_version_writes_the_vectors_byte_for_byte() -> None:
    document, packs = load("make_codec").vectors()
    assert json.loads(json.dumps(document)) == DOCUMENT
    assert {Digest.of(data): data for data in packs.values()} == PACKS


def test_the_decoder_imports_nothing_of_holdfast() -> None:
    assert "import holdfast" not in (VECTORS / "decoder.py").read_text(encoding="utf-8")
    assert "from holdfast" not in (VECTORS / "decoder.py").read_text(encoding="utf-8")
    probe = (
        "import sys, runpy; runpy.run_path(sys.argv[1]); sys.exit(any(n.startswith('holdfast') for n in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", probe, str(VECTORS / "decoder.py")], check=True, timeout=30)


def test_keys() -> None:
    keys = VaultKeys(ROOT)
    assert keys.vault.hex() == DOCUMENT["vault"] == decoder.vault_id(ROOT).hex()
    assert keys.name.hex() == DOCUMENT["name_key"] == decoder.derive(ROOT, "name", 0).hex()
    for row in DOCUMENT["generations"]:
        found = keys.generation(row["generation"])
        for purpose in ("chunk", "id", "meta"):
            assert getattr(found, purpose).hex() == row[purpose]
            assert decoder.derive(ROOT, purpose, row["generation"]).hex() == row[purpose]


@pytest.mark.parametrize("row", DOCUMENT["chunks"])
def test_chunks(row: dict[str, Any]) -> None:
    keys = VaultKeys(ROOT).generation(row["generation"])
    kind, plaintext, sealed = Kind(row["kind"]), bytes.fromhex(row["plaintext"]), bytes.fromhex(row["sealed"])
    salt = None if row["salt"] is None else bytes.fromhex(row["salt"])
    id_ = chunk_id(keys, plaintext, salt)
    out = bytearray(len(sealed))
    seal_into(keys, kind, id_, plaintext, memoryview(out))
    assert (id_.hex(), bytes(out), check16(sealed).hex()) == (row["id"], sealed, row["check"])
    assert open_chunk(keys, kind, id_, sealed, salt) == plaintext
    assert decoder.open_chunk(ROOT, row["generation"], int(kind), id_, sealed, salt) == plaintext


def test_paths_and_padding() -> None:
    keys = VaultKeys(ROOT)
    for row in DOCUMENT["paths"]:
        assert paths.name_tag(keys.name, row["path"]).hex() == row["name_tag"]
        assert paths.parent_tag(keys.name, row["path"]).hex() == row["parent_tag"]
        assert decoder.name_tag(ROOT, row["path"]).hex() == row["name_tag"]
        assert decoder.parent_tag(ROOT, row["path"]).hex() == row["parent_tag"]
    for n, size in DOCUMENT["padded"]:
        assert padded_size(n) == size == decoder.padded(n)


def test_the_decoder_reads_a_file_from_the_root_key_alone() -> None:
    plain = {bytes(digest): data for digest, data in PACKS.items()}
    carrier = next(digest for digest, data in plain.items() if decoder.open_pack(ROOT, data)["chunks"][1]["kind"] == 2)
    chunk = decoder.open_pack(ROOT, plain[carrier])["chunks"][1]
    encoded = decoder.open_chunk(ROOT, 1, 2, chunk["id"], chunk["sealed"])
    assert encoded.hex() == DOCUMENT["recipe"]
    assert decoder.read_file(ROOT, plain, carrier, decoder.read_recipe(encoded)).hex() == DOCUMENT["file"]


def test_this_version_reads_the_vectors() -> None:
    keys = VaultKeys(ROOT)
    found = recipe.decode(bytes.fromhex(DOCUMENT["recipe"]))
    assert isinstance(found, recipe.Recipe)
    recipe.check_content(keys.generation(1), found)
    carrier = Digest.parse(DOCUMENT["packs"]["codec-1-refs.pack"])
    opened = {digest: {entry.id: entry for entry in open_pack(keys, data)} for digest, data in PACKS.items()}
    read = b""
    for entry in found.entries:
        digest = found.pack_digest(entry, carrier)
        assert opened[digest][entry.id][2:] == (entry.offset, entry.length)
        read += open_entry(keys.generation(1), PACKS[digest], opened[digest][entry.id], found.salt)
    assert read.hex() == DOCUMENT["file"]


@pytest.mark.parametrize("row", DOCUMENT["records"], ids=[row["path"] for row in DOCUMENT["records"]])
def test_records_are_rebuilt_by_both_readers(row: dict[str, Any]) -> None:
    keys = VaultKeys(ROOT)
    carrier = Digest.parse(DOCUMENT["packs"]["codec-1-refs.pack"])
    entry = next(entry for entry in open_pack(keys, PACKS[carrier]) if entry.id.hex() == row["chunk_id"])
    chunk = open_entry(keys.generation(1), PACKS[carrier], entry)
    assert chunk.hex() == row["chunk"]
    _, clear, sealed = refs.decode_ref_chunk(chunk)
    parsed = recipe.decode(bytes.fromhex(DOCUMENT["recipe"]))
    table = parsed.packs if sealed.recipe is not None else ()
    record, keep = refs.rebuild_record(keys, chunk, carrier, table)
    assert (record.hex(), keep.hex(), str(refs.etag(record))) == (row["record"], row["keep"], row["etag"])
    assert decoder.rebuild_record(ROOT, chunk, carrier, list(table)) == (record, keep)
    opened = refs.open_record(keys, record, row["path"])
    assert opened.clear == clear == refs.parse_record(record).clear
    assert (opened.keep, opened.sealed) == (Digest.of(keep), sealed.in_pack(carrier))
    second = decoder.open_record(ROOT, record)
    assert (second["path"], second["etag"].hex(), second["kind"]) == (row["path"], row["etag"], int(clear.kind))
    assert second["attributes"]["size"] == sealed.attributes.size
