"""Queued changes of names: their form, their fingerprints, and that making one anew is the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.documents import canonical, uncanonical
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.client.offline.rebase import prepare
from holdfast.client.offline.ref_entry import (
    ABSENT,
    NOTHING,
    Change,
    NameState,
    RefEntry,
    decode,
    fingerprint,
    left_of,
    new_entry,
    state_of,
    states_left,
)
from holdfast.codec import refs
from holdfast.codec.keys import VaultKeys
from holdfast.codec.pack import check_pack
from holdfast.codec.refs import Attributes, RecipePlace, RefClear, RefKind, RefSealed
from holdfast.errors import Corrupt

KEYS = VaultKeys(bytes(range(32)))
DEVICE = Identity(bytes(range(32, 64)))
PACK = Digest.of(b"a pack")


def change(path: str = "d/a", size: int = 5, version: int = 1, kind: RefKind = RefKind.FILE, salt: int = 0) -> Change:
    name, parent = refs.tags(KEYS, path)
    previous = Digest.of(b"before") if version > 1 else None
    clear = RefClear(KEYS.vault, 1, name, parent, kind, 1, version, previous, DEVICE.id)
    place = RecipePlace(PACK, 200, 100, bytes(32)) if kind is RefKind.FILE else None
    sealed = RefSealed(path, Attributes(size if place else 0, 7, 0o644), place, 100 if place else 0)
    keep = refs.keep_for(PACK, sealed)
    record = refs.encode_record(KEYS, bytes([salt] * 16), clear, sealed, Digest.of(keep))
    return Change(path, record, keep, chain=(ABSENT,), kind=int(kind), size=size)


def nonce(record: bytes) -> bytes:
    return refs.parse_record(record).nonce


@given(
    st.lists(
        st.builds(
            change,
            st.sampled_from(["a", "d/a", "ö"]),
            st.integers(0, 9),
            st.integers(1, 3),
            st.sampled_from([RefKind.FILE, RefKind.DIRECTORY, RefKind.TOMBSTONE]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
    st.none() | st.integers(1, 9),
)
def test_a_payload_is_read_back_as_it_was_written(changes: list[Change], degraded: bool, copies: int | None) -> None:
    entry = RefEntry(tuple(changes), degraded, copies)
    assert decode(uncanonical(canonical(entry.payload()), "a payload")) == entry


def test_a_payload_of_a_newer_version_is_damaged_and_not_guessed() -> None:
    with pytest.raises(Corrupt):
        decode({"changes": [{"path": "a"}], "allow_degraded": False, "copies": None})


def test_purposes() -> None:
    def purpose(*changes: Change) -> str:
        kinds = [RefKind(one.kind) for one in changes]
        return new_entry(Id(bytes(32)), RefEntry(changes), kinds, []).purpose

    gone = change("b", kind=RefKind.TOMBSTONE)
    assert purpose(change()) == "create"
    assert purpose(replace(change(), chain=(b"x" * 32,))) == "update"
    assert purpose(gone) == "delete"
    assert purpose(change(), gone) == "move"


def test_a_change_over_the_state_it_was_made_for_stays_as_it_is() -> None:
    one = change()
    made, pack = prepare(KEYS, DEVICE, [one], {"d/a": NOTHING})
    assert (made[0].record, made[0].keep, pack) == (one.record, one.keep, None)


def test_made_anew_it_is_the_same_bytes_each_time_and_a_proper_record() -> None:
    one, other = change(), change("d/b", kind=RefKind.DIRECTORY, salt=1)
    over = {"d/a": NameState(4, Digest.of(b"theirs"), b"f" * 32), "d/b": NameState(2, Digest.of(b"dir"), b"g" * 32)}
    first, pack = prepare(KEYS, DEVICE, [one, other], over)
    again, same = prepare(KEYS, DEVICE, [one, other], over)
    assert [made.record for made in first] == [made.record for made in again]
    assert pack is not None
    assert pack == same
    check_pack(pack.data)
    opened = refs.open_record(KEYS, first[0].record, "d/a")
    assert (opened.clear.version, opened.clear.previous) == (5, Digest.of(b"theirs"))
    assert pack.digest in refs.parse_keep_list(first[0].keep)
    assert fingerprint(opened) == fingerprint(one.open(KEYS)), "what it says to a reader is the same"


def test_no_two_different_records_share_a_nonce() -> None:
    """A nonce makes the key that seals a record: the same one for two plaintexts would open both."""
    seen: dict[bytes, bytes] = {}
    for size in (1, 2):
        for version in (1, 2):
            for path in ("a", "b"):
                over = {path: NameState(version, Digest.of(b"%d" % version), b"f" * 32)}
                made, _ = prepare(KEYS, DEVICE, [change(path, size)], over)
                record = made[0].record
                assert seen.setdefault(nonce(record), record) == record
    pair, _ = prepare(
        KEYS, DEVICE, [change("a"), change("b")], dict.fromkeys("ab", NameState(1, Digest.of(b"x"), b"f" * 32))
    )
    assert len({nonce(one.record) for one in pair}) == 2
    assert len(seen) == 8


def test_what_a_delivery_leaves_is_read_back() -> None:
    left = {"a": state_of(change("a").open(KEYS)), "b": NOTHING}
    assert states_left(uncanonical(canonical(left_of(left)), "left")) == left
    assert states_left(None) == {}


def test_directories_are_alike_and_deletions_are_nothing() -> None:
    one, other = change("d", kind=RefKind.DIRECTORY), change("d", kind=RefKind.DIRECTORY, version=3, salt=2)
    assert fingerprint(one.open(KEYS)) == fingerprint(other.open(KEYS))
    assert fingerprint(change("d", kind=RefKind.TOMBSTONE).open(KEYS)) == fingerprint(None) == ABSENT
    assert fingerprint(change(size=1).open(KEYS)) != fingerprint(change(size=2).open(KEYS))
