"""What the SDK gives back: entries, progress, summaries, versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from holdfast.blob import Digest
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import HoldfastError

EntryKind: TypeAlias = Literal["file", "directory", "link"]

_KINDS: dict[RefKind, EntryKind] = {RefKind.FILE: "file", RefKind.DIRECTORY: "directory", RefKind.LINK: "link"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in the vault. ``size`` in bytes; ``mtime_ns`` since 1970; ``mode``: permission bits; ``target`` of a link.

    ``survive``: how many nodes may be lost, as the ref asks; ``etag`` and ``version`` identify this state of the name.
    ``queued``: its sequence in the outbox, while it waits there, 0 else; ``conflict``: the network has something else
    by now. ``seen``: when this device saw it last (seconds since 1970), if the coordinator did not answer, 0 else.
    """

    name: str
    kind: EntryKind
    size: int
    mtime_ns: int
    mode: int
    etag: Digest
    version: int
    target: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    survive: int = 0
    queued: int = 0
    conflict: bool = False
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a put or get is, cumulative; totals are None while they are not known. ``name``: the one under way."""

    files: int
    files_total: int | None
    bytes: int
    bytes_total: int | None
    name: str


@dataclass(slots=True)
class PutSummary:
    """What a put did. ``bytes`` were read, ``new_bytes`` sealed and sent (counted once, not for each copy).

    ``unchanged`` names were found as they are; ``queued`` (of files, directories and links) went to the outbox;
    ``failed``: (name, why) for each that was not stored.
    """

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    new_bytes: int = 0
    unchanged: int = 0
    queued: int = 0
    failed: list[tuple[str, HoldfastError]] = field(default_factory=list)
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class MoveSummary:
    """``names`` have a new name; ``entry`` is the one that was asked for, as it is now."""

    names: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class RestoreSummary:
    """``names`` are back; ``entry`` is the one that was asked for, as it is now."""

    names: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """A deleted name: ``entry`` is its newest version that is kept. ``deleted``: seconds since 1970.

    ``until_s``: seconds left in which it can be restored.
    """

    entry: Entry
    deleted: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Version:
    """One state in a name's history, newest first. ``kind`` None: the name was deleted here.

    ``committed``: seconds since 1970; ``until_s``: seconds left before it goes, None for the present one.
    """

    version: int
    kind: EntryKind | None
    size: int
    mtime_ns: int
    etag: Digest
    committed: float
    until_s: float | None


def kind_of(kind: RefKind) -> EntryKind | None:
    """None for a tombstone."""
    return _KINDS.get(kind)


def entry_of(ref: Ref, *, queued: int = 0, conflict: bool = False, seen: float = 0.0) -> Entry:
    """An opened record that is no tombstone, as the SDK shows it, with the marks of ``Entry``."""
    said = ref.sealed.attributes
    return Entry(
        name=ref.sealed.path,
        kind=_KINDS[ref.clear.kind],
        size=said.size,
        mtime_ns=said.mtime_ns,
        mode=said.mode,
        etag=ref.etag,
        version=ref.clear.version,
        target=said.target,
        meta=dict(said.meta),
        survive=ref.clear.survive,
        queued=queued,
        conflict=conflict,
        seen=seen,
    )
