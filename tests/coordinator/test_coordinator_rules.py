"""The rules of a commit as one table: every state of a pack, every kind of request. Pure, without a database."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from typing import Any

import pytest

from holdfast.blob import Digest
from holdfast.coordinator.commit import Change, NewPack, Pack, Ref, Terms, View, decide
from holdfast.errors import PacksGone
from holdfast.metadata.tables import PackState

PACK = Digest.of(b"pack")
KEEP = Digest.of(PACK)
ALL = range(7)


def terms(*, live: Iterable[int] = ALL, counted: Iterable[int] = ALL, survive: int = 2) -> Terms:
    return Terms(
        slow=1000.0, wall=5000.0, lease_s=100.0, history_s=700.0, survive=survive, floor=2, live=frozenset(live),
        counted=frozenset(counted), stores={number: bytes([number]) for number in ALL}, directory=2,
    )  # fmt: skip


def pack(state: PackState | None, places: Iterable[int] = range(3), **changes: Any) -> Pack | None:
    if state is None:
        return None
    facts: dict[str, Any] = {
        "digest": PACK, "vault": 1, "size": 10, "state": state, "target": 3,
        "lease_until": 1050 if state is PackState.LEASED else None, "places": dict.fromkeys(places, 5), "number": 9,
    }  # fmt: skip
    return Pack(**(facts | changes))


def view(known: Pack | None) -> View:
    counted = known is not None and known.state <= PackState.RELEASED
    return View(
        ChainMap({}, {} if known is None else {PACK: known}), ChainMap({}), ChainMap({}), ChainMap({}),
        ChainMap({}, {1: known.size if known is not None and counted else 0}),
    )  # fmt: skip


def ref(**changes: Any) -> Ref:
    facts: dict[str, Any] = {
        "tag": b"t", "parent": b"p", "kind": 1, "survive": 0, "version": 1, "previous": None, "etag": b"e",
        "record": b"r", "keep": KEEP,
    }  # fmt: skip
    return Ref(**(facts | changes))


def commit(receipts: Iterable[int] | None = None, **changes: Any) -> Change:
    new = [] if receipts is None else [NewPack(PACK, 10, dict.fromkeys(receipts, 7))]
    facts: dict[str, Any] = {"vault": 1, "quota": None, "packs": new, "keeps": {KEEP: (PACK,)}, "groups": [[ref()]]}
    return Change(**(facts | changes))


STATES = [None, *PackState]
LEASED, LIVE, RELEASED = PackState.LEASED, PackState.LIVE, PackState.RELEASED


@pytest.mark.parametrize("state", STATES)
def test_a_ref_to_a_known_pack(state: PackState | None) -> None:
    known = view(pack(state))
    [[result]] = decide(commit(), known, terms())
    if state in (LEASED, LIVE, RELEASED):
        assert result.state == "committed"
        assert (known.packs[PACK].state, known.packs[PACK].lease_until) == (LIVE, None)
    else:
        assert (result.state, result.packs) == ("packs-gone", [PACK])
        assert not known.changed


@pytest.mark.parametrize("state", STATES)
def test_a_ref_to_a_pack_with_receipts(state: PackState | None) -> None:
    known = view(pack(state))
    [[result]] = decide(commit(range(3, 6)), known, terms())
    assert result.state == "committed"
    found = known.packs[PACK]
    assert (found.state, found.target, known.used[1]) == (LIVE, 3, 10)
    old_copies = state in (LEASED, LIVE, RELEASED)  # those in trash may be gone any moment
    assert set(found.places) == (set(range(6)) if old_copies else set(range(3, 6)))


@pytest.mark.parametrize("state", STATES)
def test_a_registration_with_receipts(state: PackState | None) -> None:
    known = view(pack(state))
    decide(commit(range(3), lease=True, groups=[], keeps={}), known, terms())
    found = known.packs[PACK]
    assert found.state is (LIVE if state is LIVE else LEASED)
    assert (found.lease_until, known.used[1]) == (1100, 10)
    assert set(found.places.values()) == {7}


@pytest.mark.parametrize("state", STATES)
def test_a_registration_with_too_few_receipts(state: PackState | None) -> None:
    known = view(pack(state, places=[0]))
    with pytest.raises(PacksGone) as caught:
        decide(commit([1], lease=True, groups=[], keeps={}), known, terms())
    assert caught.value.extra == {"packs": [str(PACK)]}
    assert not known.changed


@pytest.mark.parametrize("state", STATES)
def test_a_pack_said_to_be_known_is_leased_anew(state: PackState | None) -> None:
    known = view(pack(state))
    decide(commit(known=[PACK], groups=[], keeps={}), known, terms())
    if state in (LEASED, RELEASED):
        assert (known.packs[PACK].state, known.packs[PACK].lease_until) == (LEASED, 1100)
    else:
        assert not known.changed


@pytest.mark.parametrize(
    ("places", "live", "counted", "survive", "degraded", "stands"),
    [
        (range(3), ALL, ALL, 0, False, True),
        (range(2), ALL, ALL, 0, False, False),  # one copy too few on record
        (range(2), ALL, ALL, 0, True, True),
        (range(3), [0, 1], ALL, 0, False, True),  # one silent for a moment
        (range(3), [0], ALL, 0, False, False),  # at the floor
        (range(3), [0, 1], [0, 1], 0, False, False),  # one is out
        (range(3), ALL, ALL, 3, False, False),  # the ref asks for more
        (range(4), ALL, ALL, 3, False, True),
        (range(1), ALL, ALL, 0, True, False),
        (range(3), [], ALL, 0, True, False),
    ],
)
def test_how_many_copies_a_known_pack_needs(
    places: Iterable[int], live: Iterable[int], counted: Iterable[int], survive: int, degraded: bool, stands: bool
) -> None:
    known = view(pack(LIVE, places))
    asked = commit(groups=[[ref(survive=survive)]], allow_degraded=degraded)
    [[result]] = decide(asked, known, terms(live=live, counted=counted))
    assert result.state == ("committed" if stands else "packs-gone")
    if stands:
        assert known.packs[PACK].target == max(survive, 2) + 1


def test_with_survive_0_one_copy_is_enough_and_none_is_not() -> None:
    [[result]] = decide(commit([0]), view(None), terms(survive=0))
    assert result.state == "committed"
    [[result]] = decide(commit(), view(pack(LIVE, [0])), terms(survive=0, live=[1]))
    assert result.state == "packs-gone"


def test_copies_on_one_store_are_one_and_the_newest_receipt_says_who_has_it() -> None:
    shared = terms()
    stores = {**shared.stores, 3: shared.stores[2]}
    known = view(None)
    twins = Terms(**{**{name: getattr(shared, name) for name in Terms.__slots__}, "stores": stores})
    [[result]] = decide(commit([0, 2, 3]), known, twins)
    assert result.state == "packs-gone"
    known = view(pack(LIVE, [0, 1, 2]))
    decide(commit([3]), known, twins)
    assert set(known.packs[PACK].places) == {0, 1, 3}


def test_a_write_sequence_never_goes_back() -> None:
    known = view(pack(LIVE, range(3)))
    older = [NewPack(PACK, 10, {0: 3, 1: 9})]
    decide(commit(packs=older), known, terms())
    assert known.packs[PACK].places == {0: 5, 1: 9, 2: 5}


def test_a_group_sees_its_own_changes_and_leaves_none_when_it_falls() -> None:
    first, second = ref(etag=b"1"), ref(etag=b"2", version=2, previous=b"1")
    stale = ref(etag=b"3", version=2, previous=b"1")
    known = view(pack(LIVE))
    results = decide(commit(groups=[[first, second, stale]]), known, terms())
    assert [result.state for result in results[0]] == ["not-done", "not-done", "conflict"]
    assert not known.refs
    assert not known.replaced
    results = decide(commit(groups=[[first, second], [first]]), known, terms())
    assert [[result.state for result in group] for group in results] == [["committed"] * 2, ["committed"]]
    assert known.refs[1, b"t"].etag == b"2"
    assert [replaced.etag for _, replaced in known.replaced] == [b"1"]
