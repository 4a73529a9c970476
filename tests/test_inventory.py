"""Roots say whether two sets are the same, in whatever order they came to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Digest
from holdfast.errors import BadRequest
from holdfast.inventory import ROOT_BYTES, ROOTS_BYTES, Roots, differing

digests = st.binary(max_size=8).map(Digest.of)
sets = st.sets(digests, max_size=40)


def root_of(some: set[Digest]) -> bytes:
    """As the module's head says it."""
    return (sum(int.from_bytes(one[-16:], "big") for one in some) % 2**128).to_bytes(16, "big")


@given(st.lists(st.tuples(digests, st.booleans()), max_size=60))
def test_any_history_ends_in_the_root_of_the_set_it_leaves(history: list[tuple[Digest, bool]]) -> None:
    roots, model = Roots(), set[Digest]()
    for digest, add in history:
        if add and digest not in model:
            roots.add(digest)
            model.add(digest)
        elif not add and digest in model:
            roots.remove(digest)
            model.remove(digest)
    assert roots.root == root_of(model)
    assert roots.count == len(model)
    assert roots.prefixes() == Roots(sorted(model)).prefixes()
    for prefix in {digest[0] for digest, _ in history}:
        inside = {digest for digest in model if digest[0] == prefix}
        at = prefix * ROOT_BYTES
        assert roots.prefixes()[at : at + ROOT_BYTES] == root_of(inside)
        assert roots.prefix_count(prefix) == len(inside)


@given(sets, sets)
def test_prefixes_differ_exactly_where_the_sets_do(ours: set[Digest], theirs: set[Digest]) -> None:
    found = differing(Roots(ours).prefixes(), Roots(theirs).prefixes())
    assert found == sorted({digest[0] for digest in ours ^ theirs})
    assert (Roots(ours).root == Roots(theirs).root) == (ours == theirs)


def test_an_empty_set_has_the_empty_root() -> None:
    assert Roots().root == bytes(ROOT_BYTES)
    assert Roots().prefixes() == bytes(ROOTS_BYTES)


def test_counting_a_digest_twice_does_not_cancel() -> None:
    digest = Digest.of(b"x")
    assert Roots([digest, digest]).root not in (bytes(ROOT_BYTES), Roots([digest]).root)


def test_roots_of_another_length_are_refused() -> None:
    with pytest.raises(BadRequest):
        differing(bytes(ROOTS_BYTES), bytes(ROOTS_BYTES - 1))
