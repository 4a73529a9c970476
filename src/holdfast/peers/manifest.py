"""Manifests: plain, named lists path -> blob, in the one form in which they are stored and compared.

``{"name":…,"objects":{PATH:{"digest":…,"mode":…,"size":…}},"version":1}``: keys sorted, no spaces, UTF-8. The ETag is
the SHA-256 of exactly these bytes, so equal manifests have one ETag on all nodes (docs/formats.md, Manifest). Pure and
blocking: large ones belong in a pool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.blob import Digest
from holdfast.codec.paths import normalise
from holdfast.errors import BadRequest, TooLarge

VERSION = 1
ENTRIES_MAX = 100_000
BYTES_MAX = 32 << 20
MODE_DEFAULT = 0o644
MODE_MAX = 0o7777
SIZE_MAX = (1 << 63) - 1

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
_FIELDS = {"version", "name", "objects"}
_ENTRY_FIELDS = {"digest", "size", "mode"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. ``size``: bytes; None in a manifest that names digests only and was not completed yet."""

    digest: Digest
    size: int | None
    mode: int = MODE_DEFAULT


@dataclass(frozen=True, slots=True)
class Manifest:
    """``objects`` by path, ascending."""

    name: str
    objects: Mapping[str, Entry]

    def digests(self) -> set[Digest]:
        return {entry.digest for entry in self.objects.values()}

    def size(self) -> int:
        """Bytes of its distinct blobs."""
        return sum({entry.digest: entry.size or 0 for entry in self.objects.values()}.values())

    def completed(self, sizes: Mapping[Digest, int]) -> Manifest:
        """With the sizes that it left out; BadRequest if a size it names is wrong."""
        objects = {}
        for path, entry in self.objects.items():
            size = sizes[entry.digest]
            if entry.size is not None and entry.size != size:
                raise BadRequest(f"{path!r}: {entry.digest} has {size} bytes, the manifest says {entry.size}")
            objects[path] = Entry(entry.digest, size, entry.mode)
        return Manifest(self.name, objects)


def checked_name(text: str) -> str:
    """A manifest's name; BadRequest for anything else."""
    if _NAME.fullmatch(text) is None:
        raise BadRequest(
            f"{text[:140]!r} is no manifest's name: 1 to 128 of a-z, 0-9, '.', '_', '-', the first a letter or digit"
        )
    return text


def make(name: str, objects: Iterable[tuple[str, Entry]]) -> Manifest:
    """BadRequest for a wrong name or path, a path twice, or one that is also a directory of others; TooLarge."""
    found: dict[str, Entry] = {}
    for path, entry in objects:
        if path in found:
            raise BadRequest(f"the path {path!r} stands twice in the manifest")
        found[checked_path(path)] = entry
        if len(found) > ENTRIES_MAX:
            raise TooLarge(f"a manifest has at most {ENTRIES_MAX} entries")
    for path in found:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in found:
                raise BadRequest(f"{parent!r} is a file in the manifest, so {path!r} cannot lie in it")
    return Manifest(checked_name(name), dict(sorted(found.items())))


def checked_path(path: str) -> str:
    """A path as docs/formats.md, Paths, has it, already in that form; BadRequest."""
    if normalise(path) != path or not path:
        raise BadRequest(f"the path {path!r} is empty or not in composed form (NFC)")
    return path


def encode(manifest: Manifest) -> bytes:
    """The stored form; all sizes must be known. TooLarge."""
    objects = {}
    for path, entry in manifest.objects.items():
        assert entry.size is not None, "a stored manifest knows all sizes"
        objects[path] = {"digest": str(entry.digest), "mode": entry.mode, "size": entry.size}
    document = {"name": manifest.name, "objects": objects, "version": VERSION}
    data = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    if len(data) > BYTES_MAX:
        raise TooLarge(f"a manifest has at most {BYTES_MAX} bytes, this one {len(data)}")
    return data


def decode(data: bytes, name: str | None = None) -> Manifest:
    """Any JSON of the right shape, also with plain digests as values; BadRequest, TooLarge. ``name``: must be its."""
    if len(data) > BYTES_MAX:
        raise TooLarge(f"a manifest has at most {BYTES_MAX} bytes, this one {len(data)}")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the manifest is no JSON: {error}") from error
    if not isinstance(document, dict) or set(document) != _FIELDS:
        raise BadRequest("a manifest has exactly the fields version, name and objects")
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise BadRequest(f"a manifest of version {VERSION} is understood, not {document['version']!r}"[:200])
    if not isinstance(document["name"], str) or not isinstance(document["objects"], dict):
        raise BadRequest("a manifest's name is text and its objects are an object")
    if name is not None and document["name"] != name:
        raise BadRequest(f"this manifest is called {document['name'][:140]!r}, not {name!r}")
    if len(document["objects"]) > ENTRIES_MAX:
        raise TooLarge(f"a manifest has at most {ENTRIES_MAX} entries, this one {len(document['objects'])}")
    return make(document["name"], ((path, _entry(path, value)) for path, value in document["objects"].items()))


def stored(data: bytes, name: str) -> Manifest:
    """As ``decode``; BadRequest too for what is not in the stored form, byte by byte."""
    found = decode(data, name)
    if any(entry.size is None for entry in found.objects.values()) or encode(found) != data:
        raise BadRequest(f"the manifest {name!r} is not in its stored form")
    return found


def etag(data: bytes) -> Digest:
    """Of a manifest in its stored form."""
    return Digest.of(data)


def etag_field(tag: Digest) -> str:
    """As it stands in ETag and If-Match."""
    return f'"{tag}"'


def _entry(path: str, value: Any) -> Entry:
    try:
        if isinstance(value, str):
            return Entry(Digest.parse(value), None)
        if not isinstance(value, dict) or not {"digest", "size"} <= set(value) <= _ENTRY_FIELDS:
            raise BadRequest("a digest, or an object of digest, size and mode, is needed")
        mode = _number(value.get("mode", MODE_DEFAULT), MODE_MAX, "mode")
        return Entry(Digest.parse(value["digest"]), _number(value["size"], SIZE_MAX, "size"), mode)
    except BadRequest as error:
        raise BadRequest(f"{path[:200]!r}: {error.detail}") from error


def _number(value: Any, limit: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise BadRequest(f"{what}: a whole number from 0 to {limit} is needed")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
