"""Entries of a vault as JSON and as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli.offline import mark_words
from holdfast.cli.words import mode_words, size_words, time_words, visible

if TYPE_CHECKING:
    from holdfast.client.vault import Entry


def entry_document(entry: Entry) -> dict[str, Any]:
    """The fields of ``--json``."""
    found: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:04o}",
        "etag": str(entry.etag),
        "version": entry.version,
        "survive": entry.survive,
    }
    if entry.target is not None:
        found["target"] = entry.target
    if entry.meta:
        found["meta"] = dict(entry.meta)
    if entry.queued:
        found["queued"] = entry.queued
    if entry.conflict:
        found["conflict"] = True
    if entry.seen:
        found["last_seen"] = entry.seen
    return found


def entry_title(entry: Entry, name: str | None = None) -> str:
    """Its name; a directory's ends in ``/``, a link shows where it points; whether it is queued, or seen when."""
    shown = visible(entry.name if name is None else name)
    if entry.kind == "directory":
        shown += "/"
    elif entry.kind == "link":
        shown = f"{shown} -> {visible(entry.target or '')}"
    mark = mark_words(entry)
    return f"{shown}  ({mark})" if mark else shown


def entry_row(entry: Entry, name: str | None = None) -> list[str]:
    """The columns of ``ls -l``."""
    size = "-" if entry.kind == "directory" else size_words(entry.size)
    return [
        mode_words(entry.kind, entry.mode), f"v{entry.version}", size, time_words(entry.mtime_ns / 1e9),
        entry_title(entry, name),
    ]  # fmt: skip
