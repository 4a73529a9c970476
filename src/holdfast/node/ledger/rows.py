"""One row of the ledger: what it says of a blob, and what a change makes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import apsw

from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest

Kept: TypeAlias = Literal["vault", "manifest", "cache", "reflog", "unknown"]
"""Why a blob is kept. ``unknown``: found in the store without a row and no pack; kept until somebody says why."""

SHARED: frozenset[Kept] = frozenset({"manifest", "cache"})
"""Kept for the exchange between nodes: no vault owns them, so they are in no inventory and under no root."""
UNROOTED: frozenset[Kept] = SHARED | {"reflog"}
"""Not in the inventory of packs and under no root: a coordinator's reflog is listed by itself."""
_WORTH: dict[Kept, int] = {"unknown": 0, "cache": 1, "manifest": 2, "reflog": 3, "vault": 3}
"""A blob that is kept for two reasons is kept for the weightier one."""

COLUMNS = "digest, sequence, size, kept, vault, here, trashed, scrubbed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. ``trashed``, ``scrubbed``: seconds on the slow clock, None if never. ``size``: bytes."""

    digest: Digest
    sequence: int
    size: int
    kept: Kept
    vault: Id | None
    here: bool
    trashed: int | None = None
    scrubbed: int | None = None


class Change(NamedTuple):
    """A row to be; ``here`` None leaves all but ``scrubbed`` as it is."""

    digest: Digest
    size: int
    kept: Kept
    vault: Id | None
    here: bool | None
    moment: int | None
    release: bool = False


def applied(change: Change, before: Entry | None, take_sequence: Callable[[], int]) -> Entry | None:
    """The row after ``change``, None if there is none; a new sequence is taken only if the inventory changes."""
    if change.here is None:
        if before is None or not before.here:
            return before
        return _with(before, scrubbed=change.moment)
    if change.here:
        kept, vault = change.kept, change.vault
        if before is not None and before.here and _WORTH[before.kept] > _WORTH[kept]:
            if not change.release or before.kept != "manifest":
                kept, vault = before.kept, before.vault  # above all, what a vault keeps stays the vault's
        elif change.release:
            return before
        return Entry(change.digest, take_sequence(), change.size, kept, vault, True)
    if before is None:
        return None
    if not before.here and before.trashed == change.moment:
        return before
    return _with(before, sequence=take_sequence(), here=False, trashed=change.moment)


def _with(
    entry: Entry,
    *,
    sequence: int | None = None,
    here: bool | None = None,
    trashed: int | None = None,
    scrubbed: int | None = None,
) -> Entry:
    return Entry(
        entry.digest,
        entry.sequence if sequence is None else sequence,
        entry.size,
        entry.kept,
        entry.vault,
        entry.here if here is None else here,
        trashed,
        entry.scrubbed if scrubbed is None else scrubbed,
    )


def span_of(prefix: bytes) -> tuple[bytes, bytes]:
    """The lowest and the highest digest under ``prefix``."""
    return prefix.ljust(DIGEST_BYTES, b"\0"), prefix.ljust(DIGEST_BYTES, b"\xff")


def bytes_of(value: object) -> bytes:
    assert isinstance(value, bytes), "STRICT tables keep their types"
    return value


def int_of(value: object) -> int:
    assert isinstance(value, int), "STRICT tables keep their types"
    return value


def entry_of(row: tuple[apsw.SQLiteValue, ...]) -> Entry:
    digest, sequence, size, kept, vault, here, trashed, scrubbed = row
    return Entry(
        Digest(bytes_of(digest)),
        int_of(sequence),
        int_of(size),
        kept,  # type: ignore[arg-type]  # only ever written from a Kept
        None if vault is None else Id(bytes_of(vault)),
        here == 1,
        None if trashed is None else int_of(trashed),
        None if scrubbed is None else int_of(scrubbed),
    )


def values(entry: Entry) -> tuple[apsw.SQLiteValue, ...]:
    """In the order of ``COLUMNS``."""
    return (
        entry.digest, entry.sequence, entry.size, entry.kept, entry.vault, int(entry.here), entry.trashed,
        entry.scrubbed,
    )  # fmt: skip
