"""What ``holdfast demo`` does with files: makes one, compares, and looks at what the nodes keep. All of it blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.cli.local_network import Member
    from holdfast.clock import Randomness

PIECE_BYTES = 1 << 20


def make_file(path: Path, size: int, randomness: Randomness) -> None:
    with path.open("wb") as file:
        for _ in range(size // PIECE_BYTES):
            file.write(randomness.bytes(PIECE_BYTES))


def measure(path: Path) -> tuple[int, str]:
    """Size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def equal(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(PIECE_BYTES):
            if second.read(PIECE_BYTES) != piece:
                return False
        return not second.read(1)


def packs_on(nodes: Sequence[Member]) -> dict[str, dict[str, int]]:
    """Which pack lies on which node, with its size, as their directories say; what nodes keep besides is left out."""
    found: dict[str, dict[str, int]] = {}
    for node in nodes:
        for path in filter(_is_pack, _blobs(node.data)):
            found.setdefault(path.name, {})[node.name] = path.stat().st_size
    return found


def contains(nodes: Sequence[Member], words: bytes) -> tuple[bool, int]:
    """Do ``words`` stand in anything that the nodes keep? And how many different packs were looked through."""
    seen: set[str] = set()
    packs = 0
    for path in (path for node in nodes for path in _blobs(node.data)):
        if path.name in seen:
            continue
        seen.add(path.name)
        packs += _is_pack(path)
        before = b""
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                if words in before + piece:
                    return True, packs
                before = piece[-len(words) :]
    return False, packs


def _blobs(data: Path) -> Iterator[Path]:
    from holdfast.files import OsFiles
    from holdfast.stores.disk.layout import Layout, names

    layout, files = Layout(data), OsFiles()
    for directory in layout.directories():
        for name in names(files, directory):
            yield directory / name


def _is_pack(path: Path) -> bool:
    from holdfast.codec.pack_layout import HEADER_BYTES, pack_vault
    from holdfast.errors import BadRequest

    with path.open("rb") as file:
        try:
            pack_vault(file.read(HEADER_BYTES))
        except BadRequest:
            return False
    return True
