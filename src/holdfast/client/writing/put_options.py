"""How a put is meant, and what it may replace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.blob import Digest
from holdfast.client.names.drafts import Draft, Present, Rule
from holdfast.client.names.index_file import SeenRef
from holdfast.codec import refs
from holdfast.codec.chunker import check_chunk_bytes
from holdfast.codec.refs import Attributes, RefKind
from holdfast.errors import Conflict, Exists

DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """How a put is meant. ``if_match``: only over this version; ``dedup`` False: this content is linked to no other."""

    survive: int
    asked_survive: int | None = None
    rule: Rule = "replace"
    if_match: Digest | None = None
    meta: Mapping[str, str] | None = None
    dedup: bool = True
    reread: bool = False
    chunk_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        check_chunk_bytes(self.chunk_bytes)


def directory_draft(path: str, survive: int, mtime_ns: int) -> Draft:
    """A directory that is made on the way if it is missing."""
    return Draft(path, RefKind.DIRECTORY, Attributes(0, mtime_ns, DIRECTORY_MODE), survive, ancestor=True)


def prepare(draft: Draft, seen: SeenRef | None, options: PutOptions) -> None:
    """Sets what the draft replaces; Exists or Conflict if that may not be, as far as this device knows."""
    present = None
    if seen is not None and seen.version:  # else what stands there is not known
        present = Present(seen.version, seen.etag, refs.parse_record(seen.record).clear.kind)
    prepare_over(draft, present, options)


def prepare_over(draft: Draft, present: Present | None, options: PutOptions) -> None:
    """As ``prepare``, over what the coordinator says is there."""
    if present is None:
        if options.if_match is not None:
            raise Conflict(f"{draft.path}: there is no version {str(options.if_match)[:12]} to replace")
        return
    draft.seen_version, draft.seen_etag = present.version, present.etag
    if present.kind is RefKind.TOMBSTONE:
        if options.if_match is not None:
            raise Conflict(f"{draft.path} was deleted; there is no version to replace")
        return
    if options.rule == "no-clobber":
        raise Exists(f"{draft.path} exists already and was not replaced")
    if options.if_match is not None and options.if_match != present.etag:
        raise Conflict(f"{draft.path} was changed: its etag is {present.etag}", etag=str(present.etag))
    if (present.kind is RefKind.DIRECTORY) != (draft.kind is RefKind.DIRECTORY):
        raise Conflict(f"{draft.path} is a {present.kind.name.lower()}; remove it first")
