"""What this side has last seen of nodes and their manifests: a cache, for writes made while a node is away.

``seen.json``: {"version": 1, "nodes": {URL: id}, "manifests": {id: {NAME: etag in hex, null for none}}}. Lost or
damaged, it begins anew. All of it blocks.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.errors import HoldfastError
from holdfast.files import Files, read_file, write_file

FILE_NAME = "seen.json"
VERSION = 1
NODES_MAX = 1000
MANIFESTS_MAX = 1000
"""Of each node; the ones that were noted first go first."""
_BYTES_MAX = 64 << 20


@dataclass(slots=True)
class _Noted:
    nodes: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, dict[str, str | None]] = field(default_factory=dict)


class Seen:
    """One file. Use from one thread at a time; of two processes that write at once, one wins."""

    def __init__(self, path: Path, files: Files) -> None:
        self._path = path
        self._files = files

    def node(self, url: str) -> Id | None:
        """Who answered at ``url``; None if nobody ever did."""
        text = self._read().nodes.get(url)
        with contextlib.suppress(HoldfastError):
            return None if text is None else Id.parse(text)
        return None

    def note_node(self, url: str, id_: Id) -> None:
        noted = self._read()
        if noted.nodes.get(url) != str(id_):
            noted.nodes[url] = str(id_)
            self._write(noted)

    def manifest(self, node: Id, name: str) -> tuple[bool, Digest | None]:
        """(was it ever looked for, its etag or None for none)."""
        known = self._read().manifests.get(str(node), {})
        text = known.get(name)
        with contextlib.suppress(HoldfastError):
            return name in known, None if text is None else Digest.parse(text)
        return False, None

    def note_manifest(self, node: Id, name: str, etag: Digest | None) -> None:
        noted = self._read()
        known = noted.manifests.setdefault(str(node), {})
        text = None if etag is None else str(etag)
        if name not in known or known[name] != text:
            known[name] = text
            self._write(noted)

    def _read(self) -> _Noted:
        noted = _Noted()
        try:
            found = json.loads(read_file(self._files, self._path, _BYTES_MAX) or b"{}")
            if found.get("version") == VERSION:
                noted.nodes.update(found["nodes"])
                noted.manifests.update({id_: dict(known) for id_, known in found["manifests"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, HoldfastError):
            return _Noted()
        return noted

    def _write(self, noted: _Noted) -> None:
        nodes = dict(list(noted.nodes.items())[-NODES_MAX:])
        manifests = {
            id_: dict(list(known.items())[-MANIFESTS_MAX:]) for id_, known in list(noted.manifests.items())[-NODES_MAX:]
        }
        document = {"version": VERSION, "nodes": nodes, "manifests": manifests}
        with contextlib.suppress(OSError):
            self._files.make_directory(self._path.parent)
            write_file(self._files, self._path, json.dumps(document).encode())
