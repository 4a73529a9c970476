"""What an outbox entry of kind ``ref`` holds: changes of names that stand or fall together (docs/formats.md). Pure.

A change carries its signed record as an online put would commit it. ``chain`` are the states over which it may go out
without asking anybody: what its writer saw, and what earlier waiting changes of the same name were made over. The
fingerprint of a state is what matters of it to a reader: kind, path, attributes and recipe, not its version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from holdfast.auth.documents import canonical
from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.client.names.drafts import Draft
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.ref_fields import sealed_value
from holdfast.codec.refs import Ref, RefKind
from holdfast.errors import BadRequest, Corrupt
from holdfast.outbox.entry import Entry, NewEntry

KIND = "ref"
CHAIN_MAX = 32
DIRECTORY = hashlib.sha256(b"directory").digest()
"""The fingerprint of every directory: whose mode and time they are is no matter of conflict."""
ABSENT = bytes(32)
"""The fingerprint of a name that holds nothing: it never was, or was deleted."""


class NameState(NamedTuple):
    """What a name holds at the coordinator, as the precondition of the next change."""

    version: int
    etag: Digest | None
    fingerprint: bytes

    def encode(self) -> list[Any]:
        return [self.version, None if self.etag is None else bytes(self.etag), self.fingerprint]

    @classmethod
    def decode(cls, value: Sequence[Any]) -> NameState:
        version, etag, fingerprint = value
        return cls(version, None if etag is None else Digest(etag), fingerprint)


NOTHING = NameState(0, None, ABSENT)


@dataclass(frozen=True, slots=True)
class Change:
    """One name. ``packs``: the pack table of its recipe; ``ancestor``: a directory that is made if it is missing.

    ``content`` and ``mark``: what the index keeps of it once it is committed. ``path`` is another than the record's
    when a conflict was resolved by a new name. ``kind``, ``size`` (bytes) and ``mtime_ns`` are the record's, for those
    who look without the vault's keys.
    """

    path: str
    record: bytes
    keep: bytes
    packs: tuple[Digest, ...] = ()
    ancestor: bool = False
    content: bytes = b""
    mark: bytes = b""
    chain: tuple[bytes, ...] = ()
    kind: int = int(RefKind.FILE)
    size: int = 0
    mtime_ns: int = 0

    def packs_kept(self) -> list[Digest]:
        """Every pack that the record needs."""
        return refs.parse_keep_list(self.keep)

    def open(self, keys: VaultKeys) -> Ref:
        """The record, opened, under ``path``. Corrupt."""
        ref = refs.open_record(keys, self.record, None)
        if ref.sealed.path == self.path:
            return ref
        name, parent = refs.tags(keys, self.path)
        clear = msgspec.structs.replace(ref.clear, name_tag=name, parent_tag=parent, version=1, previous=None)
        return Ref(clear, ref.keep, msgspec.structs.replace(ref.sealed, path=self.path), ref.etag)


@dataclass(frozen=True, slots=True)
class RefEntry:
    """The payload. ``copies``: None for as many as the network's policy says."""

    changes: tuple[Change, ...]
    allow_degraded: bool = False
    copies: int | None = None

    def named(self) -> list[Change]:
        """The changes that were asked for: all but directories made on the way."""
        return [change for change in self.changes if not change.ancestor]

    def payload(self) -> dict[str, Any]:
        return {
            "changes": [
                {
                    "path": change.path,
                    "record": change.record,
                    "keep": change.keep,
                    "packs": b"".join(change.packs),
                    "ancestor": change.ancestor,
                    "content": change.content,
                    "mark": change.mark,
                    "chain": list(change.chain),
                    "kind": change.kind,
                    "size": change.size,
                    "mtime_ns": change.mtime_ns,
                }
                for change in self.changes
            ],
            "allow_degraded": self.allow_degraded,
            "copies": self.copies,
        }


def fingerprint(ref: Ref | None) -> bytes:
    """Of a state; equal for a record and the same one over another version."""
    if ref is None or ref.clear.kind is RefKind.TOMBSTONE:
        return ABSENT
    if ref.clear.kind is RefKind.DIRECTORY:
        return DIRECTORY
    return hashlib.sha256(canonical([int(ref.clear.kind), sealed_value(ref.sealed)])).digest()


def state_of(ref: Ref | None) -> NameState:
    """Of an opened record, None for a name that never was."""
    return NOTHING if ref is None else NameState(ref.clear.version, ref.etag, fingerprint(ref))


def change_of(draft: Draft, chain: Sequence[bytes]) -> Change:
    """A draft whose record is made."""
    return Change(
        path=draft.path,
        record=draft.record,
        keep=draft.keep,
        packs=() if draft.recipe is None else draft.recipe.packs,
        ancestor=draft.ancestor,
        content=draft.content,
        mark=draft.mark,
        chain=tuple(chain)[-CHAIN_MAX:],
        kind=int(draft.kind),
        size=draft.attributes.size,
        mtime_ns=draft.attributes.mtime_ns,
    )


def decode(payload: Mapping[str, Any]) -> RefEntry:
    """Corrupt for a payload of another form: it was sealed, so a newer version wrote it."""
    try:
        changes = [
            Change(
                found["path"],
                found["record"],
                found["keep"],
                _digests(found["packs"]),
                found["ancestor"],
                found["content"],
                found["mark"],
                tuple(found["chain"]),
                found["kind"],
                found["size"],
                found["mtime_ns"],
            )
            for found in payload["changes"]
        ]
        return RefEntry(tuple(changes), payload["allow_degraded"], payload["copies"])
    except (KeyError, TypeError) as error:
        raise Corrupt(f"an entry of the outbox has fields that this version does not know: {error}") from error


def new_entry(
    coordinator: Id, entry: RefEntry, kinds: Sequence[RefKind], needs: Sequence[Digest], also: Sequence[str] = ()
) -> NewEntry:
    """``kinds``: of ``entry.named()``, in order; ``also``: further names in whose order it stands."""
    named = entry.named()
    gone = [kind is RefKind.TOMBSTONE for kind in kinds]
    if all(gone):
        purpose = "delete"
    elif any(gone):
        purpose = "move"
    else:
        purpose = "create" if all(ABSENT in change.chain for change in named) else "update"
    keys = tuple(dict.fromkeys((*(change.path for change in named), *also)))
    return NewEntry(KIND, purpose, keys, str(coordinator), entry.payload(), tuple(needs))


def elsewhere(entry: Entry, keys: VaultKeys, marked: Mapping[str, str]) -> NewEntry:
    """The same change with other names for those that ``marked`` (old -> new) gives; a deletion of such a one is left
    out, because what is there stays. BadRequest if nothing is left."""
    found = decode(entry.payload)
    changes: list[Change] = []
    kinds: list[RefKind] = []
    for change in found.changes:
        kind = change.open(keys).clear.kind
        if not change.ancestor and change.path in marked:
            if kind is RefKind.TOMBSTONE:
                continue
            change = replace(change, path=marked[change.path], chain=(ABSENT,), mark=b"")
        if not change.ancestor:
            kinds.append(kind)
        changes.append(change)
    if not kinds:
        raise BadRequest("a deletion cannot be kept beside what is there; keep mine or theirs")
    made = new_entry(Id.parse(entry.target), replace(found, changes=tuple(changes)), kinds, entry.needs)
    return replace(made, purpose=entry.purpose)  # whatever it has become, its class stays


def left_of(states: Mapping[str, NameState]) -> dict[str, list[Any]]:
    """What the next entries of these names take as their precondition."""
    return {path: state.encode() for path, state in states.items()}


def states_left(left: Any) -> dict[str, NameState]:
    """The other way round; nothing for what is not of this form."""
    if not isinstance(left, dict):
        return {}
    try:
        return {path: NameState.decode(value) for path, value in left.items()}
    except (TypeError, ValueError, BadRequest):
        return {}


def _digests(joined: bytes) -> tuple[Digest, ...]:
    return tuple(Digest(joined[start : start + DIGEST_BYTES]) for start in range(0, len(joined), DIGEST_BYTES))
