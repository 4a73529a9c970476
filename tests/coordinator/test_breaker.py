"""The breaker: opens when much vanishes at once, closes when it is back, by a word, or after the hold."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from holdfast.coordinator.repair.breaker import Breaker, Member, dismiss, step

HOUR = 3600.0


def members(count: int, silent: Mapping[int, float]) -> list[Member]:
    return [Member(number, 100, silent.get(number)) for number in range(count)]


def at(breaker: Breaker, now: float, count: int, silent: Mapping[int, float], survive: int = 4) -> Breaker:
    return step(breaker, members(count, silent), now, window=4 * HOUR, hold=24 * HOUR, survive=survive)


def test_few_nodes_or_little_capacity_do_not_open_it() -> None:
    assert at(Breaker(), 0, 20, dict.fromkeys(range(4), 100.0)).state == "closed", "no more than survive"
    assert at(Breaker(), 0, 40, dict.fromkeys(range(6), 100.0)).state == "closed", "less than a quarter"


def test_it_opens_and_closes_when_they_are_back() -> None:
    breaker = at(Breaker(), 0, 20, dict.fromkeys(range(10), 100.0))
    assert breaker.state == "open"
    breaker = at(breaker, 600, 20, dict.fromkeys(range(6), 700.0))
    assert breaker.state == "open"
    breaker = at(breaker, 700, 20, dict.fromkeys(range(4), 800.0))
    assert breaker.state == "closed"


def test_it_stays_open_though_the_window_passes() -> None:
    breaker = at(Breaker(), 0, 20, dict.fromkeys(range(10), 100.0))
    assert at(breaker, 5 * HOUR, 20, dict.fromkeys(range(10), 5 * HOUR)).state == "open"


def test_after_the_hold_it_is_limited_and_opens_only_for_others() -> None:
    silent = dict.fromkeys(range(10), 100.0)
    breaker = at(Breaker(), 0, 20, silent)
    breaker = at(breaker, 24 * HOUR, 20, dict.fromkeys(range(10), 24 * HOUR))
    assert breaker.state == "limited"
    assert at(breaker, 24 * HOUR + 60, 20, dict.fromkeys(range(10), 24 * HOUR)).state == "limited"
    more = {**dict.fromkeys(range(10), 24 * HOUR), **dict.fromkeys(range(10, 15), 10.0)}
    assert at(breaker, 24 * HOUR + 120, 20, more).state == "open"
    assert at(breaker, 24 * HOUR + 120, 20, {}) == Breaker()


def test_an_operators_word_holds_for_those_who_are_silent() -> None:
    silent = dict.fromkeys(range(10), 100.0)
    breaker = dismiss(at(Breaker(), 0, 20, silent), members(20, silent))
    assert at(breaker, 60, 20, silent).state == "closed"
    back = at(breaker, 120, 20, {})
    assert at(back, 180, 20, silent).state == "open", "who came back and vanished again counts anew"


def test_nodes_that_die_one_by_one_over_days_do_not_open_it() -> None:
    breaker = Breaker()
    for day in range(10):
        silent = {number: (day - number) * 24 * HOUR + 100 for number in range(day + 1)}
        breaker = at(breaker, day * 24 * HOUR, 20, silent)
        assert breaker.state == "closed"


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.none() | st.floats(0, 10 * HOUR)), max_size=30),
    st.integers(0, 6),
)
def test_it_opens_exactly_by_the_rule(facts: list[tuple[int, float | None]], survive: int) -> None:
    people = [Member(number, capacity, silence) for number, (capacity, silence) in enumerate(facts)]
    fresh = [one for one in people if one.silence is not None and one.silence <= 4 * HOUR]
    whole = sum(one.capacity for one in people if one.silence is None or one.silence <= 4 * HOUR)
    wanted = len(fresh) > survive and 4 * sum(one.capacity for one in fresh) > whole
    found = step(Breaker(), people, 0.0, window=4 * HOUR, hold=24 * HOUR, survive=survive)
    assert (found.state == "open") == wanted
