"""Placement is pure: distinct nodes, stores and domains, by free space."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.clock import SeededRandomness
from holdfast.coordinator import placement
from holdfast.coordinator.placement import Site, Sites, choose

SITES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 1 << 40)), min_size=0, max_size=12).map(
    lambda rows: [
        Site(number, bytes([store]) * 16, f"domain-{domain}", free) for number, (store, domain, free) in enumerate(rows)
    ]
)


def anywhere(site: Site) -> bool:
    return True


@pytest.fixture(params=["ordered", "drawn", "drawn-once"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many sites are many, so that both ways to the same order are gone."""
    if request.param != "ordered":
        monkeypatch.setattr(placement, "FEW", 0)
        monkeypatch.setattr(placement, "DRAWS_MAX", 8 if request.param == "drawn" else 1)


@pytest.mark.usefixtures("few")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SITES, st.integers(1, 1 << 30), st.integers(1, 6), st.integers(0, 3), st.integers(), st.sets(st.integers(0, 11)))
def test_what_is_chosen_is_distinct_has_room_and_is_as_many_as_can_be(
    sites: list[Site], size: int, copies: int, more: int, seed: int, last: set[int]
) -> None:
    chosen = choose(
        Sites(sites),
        copies,
        more,
        SeededRandomness(seed),
        lambda site: site.free >= size,
        lambda site: site.number in last,
    )
    roomy = [site for site in sites if site.free >= size]
    stores = {site.store for site in roomy}
    assert all(site in roomy for site in chosen)
    assert len({site.number for site in chosen}) == len(chosen)
    assert len({site.store for site in chosen}) == len(chosen) == min(len(stores), copies + more)
    failed = [site.number in last for site in chosen]
    assert failed == sorted(failed)


@pytest.mark.usefixtures("few")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5), st.integers())
def test_domains_are_distinct_where_there_are_enough(domains: int, per_domain: int, copies: int, seed: int) -> None:
    sites = [
        Site(number, bytes([number]) * 16, f"domain-{number % domains}", 1000) for number in range(domains * per_domain)
    ]
    chosen = choose(Sites(sites), copies, 2, SeededRandomness(seed), anywhere)
    first = chosen[: min(copies, len(sites))]
    assert len({site.domain for site in first}) == min(domains, len(first))


@pytest.mark.usefixtures("few")
def test_more_free_space_takes_more_packs() -> None:
    sites = [Site(number, bytes([number]) * 16, f"domain-{number}", 1000 * (number + 1)) for number in range(4)]
    randomness, weighted = SeededRandomness(3), Sites(sites)
    firsts = Counter(choose(weighted, 1, 0, randomness, anywhere)[0].number for _ in range(10_000))
    for number in range(4):
        expected = 10_000 * (number + 1) / 10
        assert abs(firsts[number] - expected) < expected * 0.15


def test_among_very_many_nodes_few_are_looked_at() -> None:
    sites = Sites([Site(number, number.to_bytes(16, "big"), f"rack-{number % 100}", 1 << 40) for number in range(5000)])
    looked: list[int] = []

    def fits(site: Site) -> bool:
        looked.append(site.number)
        return True

    randomness = SeededRandomness(5)
    for _ in range(100):
        assert len({site.domain for site in choose(sites, 5, 2, randomness, fits)}) == 7
    assert len(looked) < 100 * 10


def test_the_same_seed_places_alike() -> None:
    sites = [Site(number, bytes([number]) * 16, "", 1000) for number in range(9)]
    assert len({tuple(choose(Sites(sites), 5, 2, SeededRandomness(1), anywhere)) for _ in range(2)}) == 1
