"""A node's own files, beside those of its store (docs/formats.md, Files on disk).

``identity.key`` is the node; ``node.json`` remembers which store it served last, so that a foreign or unmounted disk is
noticed before anything is promised; ``clock.json`` keeps the slow clock. Every function blocks: call it at start or in
a pool.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast.auth.identity import SEED_BYTES, Identity
from holdfast.clock import Randomness, SlowClock
from holdfast.errors import BadConfig
from holdfast.files import Files, read_file, write_file

NODE_VERSION = 1
_BYTES_MAX = 16 << 10
_STORE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

T = TypeVar("T", bound=msgspec.Struct)


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``node.json``. ``store``: the store's URL, empty for the node's own directory; ``store_id``: 32 hex digits.

    ``capacity``: bytes, None for as much as the disk gives.
    """

    version: int = NODE_VERSION
    name: str
    domain: str
    store: str = ""
    store_id: str
    capacity: int | None = None
    always_on: bool = False


class _SavedClock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``clock.json``."""

    elapsed: float
    wall: float


@dataclass(frozen=True)
class NodeDirectory:
    """The node's directory and who it is."""

    path: Path
    identity: Identity
    record: NodeRecord
    files: Files

    def lock(self) -> AbstractContextManager[None]:
        """One process at a time; BadConfig if another one has the directory. Beside the store's own lock."""
        return self.files.lock(self.path / "node.lock")

    def check_store(self, found: str) -> None:
        """BadConfig if ``found`` is not the id of the store this node served last time."""
        if found != self.record.store_id:
            raise BadConfig(
                f"the store has id {found}, but this node served {self.record.store_id} last time. "
                "Is the right disk mounted?"
            )

    def load_clock(self) -> SlowClock:
        """As last saved; a new one if there is none. Not started yet."""
        path = self.path / "clock.json"
        data = _read(self.files, path)
        saved = _SavedClock(0.0, 0.0) if data is None else _decoded(data, _SavedClock, path)
        return SlowClock(saved.elapsed, saved.wall)

    def save_clock(self, clock: SlowClock) -> None:
        _write(self.files, self.path / "clock.json", _SavedClock(clock.elapsed, clock.wall))


def init_node(
    directory: Path,
    *,
    files: Files,
    randomness: Randomness,
    name: str,
    domain: str,
    store_id: str,
    store: str = "",
    capacity: int | None = None,
    always_on: bool = False,
) -> NodeDirectory:
    """Makes a node in ``directory``; its store with ``store_id`` must exist. BadConfig if a node is there already.

    ``node.json`` is written last, so a call that was cut short may be made again; the identity then stays.
    """
    if _STORE_ID.fullmatch(store_id) is None:
        raise BadConfig(f"a store id has 32 hex digits: {store_id!r}")
    record = NodeRecord(
        name=name, domain=domain, store=store, store_id=store_id, capacity=capacity, always_on=always_on
    )
    try:
        if files.size(directory / "node.json") is not None:
            raise BadConfig(f"{directory} holds a node already; run it, or name another directory")
        files.make_directory(directory)
        if files.size(directory / "identity.key") is None:
            write_file(files, directory / "identity.key", randomness.bytes(SEED_BYTES).hex().encode() + b"\n")
        identity = _identity(files, directory)
    except OSError as error:
        raise BadConfig(f"no node can be made in {directory}: {error.strerror or error}") from error
    _write(files, directory / "node.json", record)
    return NodeDirectory(directory, identity, record, files)


def open_node(directory: Path, *, files: Files) -> NodeDirectory:
    """The node in ``directory``; BadConfig if there is none. Opens neither store nor ledger and takes no lock."""
    path = directory / "node.json"
    data = _read(files, path)
    if data is None:
        raise BadConfig(
            f"there is no node in {directory} (no node.json). Is the disk mounted? "
            "Otherwise make one with: holdfast node init"
        )
    record = _decoded(data, NodeRecord, path)
    if record.version != NODE_VERSION:
        raise BadConfig(f"{path} has version {record.version}, this holdfast reads {NODE_VERSION}")
    if _STORE_ID.fullmatch(record.store_id) is None:
        raise BadConfig(f"{path} is damaged: the store id is not 32 hex digits")
    return NodeDirectory(directory, _identity(files, directory), record, files)


def _identity(files: Files, directory: Path) -> Identity:
    data = _read(files, directory / "identity.key")
    if data is None:
        raise BadConfig(f"{directory} has no identity.key. Is the disk mounted?")
    try:
        seed = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise BadConfig(f"{directory}/identity.key is damaged: {SEED_BYTES} bytes in hex belong there")
    return Identity(seed)


def _read(files: Files, path: Path) -> bytes | None:
    try:
        return read_file(files, path, _BYTES_MAX)
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error


def _write(files: Files, path: Path, content: msgspec.Struct) -> None:
    try:
        write_file(files, path, msgspec.json.encode(content) + b"\n")
    except OSError as error:
        raise BadConfig(f"{path} cannot be written: {error.strerror or error}") from error


def _decoded(data: bytes, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is damaged: {error}") from error
