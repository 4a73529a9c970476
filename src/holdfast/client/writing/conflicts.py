"""What a commit's answer means for the names in it: they stand, are tried again, or are somebody else's by now."""

from __future__ import annotations

from holdfast.client.names.drafts import Draft, Group
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.refs import RefKind
from holdfast.errors import Conflict, Exists
from holdfast.wire import messages as m


def stands(draft: Draft, result: m.RefResult) -> bool:
    """Is the name as the draft says? Also by an earlier try whose answer was lost."""
    if result.state == "committed":
        return True
    return result.state == "conflict" and result.record is not None and result.record == draft.record


def rebase(keys: VaultKeys, group: Group, draft: Draft, result: m.RefResult) -> None:
    """Makes ``draft`` a change of what stands there now, if it may replace that; Exists or Conflict if not.

    A directory on the way that somebody else has made meanwhile leaves its group.
    """
    record = result.record
    present = None if record is None else refs.open_record(keys, record, draft.path)
    standing = present is not None and present.clear.kind is not RefKind.TOMBSTONE
    if present is not None and standing:
        if draft.ancestor:
            if present.clear.kind is not RefKind.DIRECTORY:
                raise Conflict(f"{draft.path} is a {present.clear.kind.name.lower()}, not a directory")
            group.drafts.remove(draft)
            return
        if draft.rule == "no-clobber":
            raise Exists(f"{draft.path} exists already and was not replaced")
        if (present.clear.kind is RefKind.DIRECTORY) != (draft.kind is RefKind.DIRECTORY) and (
            draft.kind is not RefKind.TOMBSTONE
        ):
            raise Conflict(f"{draft.path} is a {present.clear.kind.name.lower()}; remove it first")
    if draft.rule == "if-match":
        found = "it is gone" if not standing or present is None else f"its etag is {present.etag}"
        raise Conflict(f"{draft.path} was changed by somebody else: {found}", etag=str(present.etag) if present else "")
    draft.seen_version = result.version if present is None else present.clear.version
    draft.seen_etag = result.etag if present is None else present.etag
