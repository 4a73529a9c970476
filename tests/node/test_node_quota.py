"""Budgets of put grants, and the pace at which blobs may go to trash."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Denied, TooManyRequests
from holdfast.node import quota
from holdfast.node.quota import HOUR_S, TRASH_BYTES_MIN, TRASH_SHARE, PutBudgets, TrashPace


@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=20))
def test_a_budget_is_never_overrun(budget: int, puts: list[tuple[int, bool]]) -> None:
    budgets, spent = PutBudgets(), 0
    for size, succeeds in puts:
        with contextlib.suppress(Denied), budgets.reserved(b"grant", budget, 100, size, 0.0) as hold:
            hold.spent = succeeds
            spent += size if succeeds else 0
    assert spent <= budget
    assert budgets.left(b"grant", budget) == budget - spent


def test_bytes_under_way_count() -> None:
    budgets = PutBudgets()
    with budgets.reserved(b"grant", 10, 100, 6, 0.0), pytest.raises(Denied), budgets.reserved(b"grant", 10, 100, 5, 0):
        pass
    assert budgets.left(b"grant", 10) == 10


def test_expired_budgets_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "BUDGETS_MAX", 3)
    budgets = PutBudgets()
    for number in range(3):
        with budgets.reserved(bytes([number]), 10, 100, 1, 0.0):
            pass
    with pytest.raises(TooManyRequests), budgets.reserved(b"new", 10, 100, 1, 50.0):
        pass
    with budgets.reserved(b"new", 10, 200, 1, 101.0):
        pass
    assert len(budgets) == 1


@given(
    st.integers(0, 400 << 30),
    st.lists(st.tuples(st.integers(1, 300 << 20), st.floats(0, 600)), min_size=1, max_size=60),
)
def test_no_hour_takes_more_than_its_share(held: int, deletes: list[tuple[int, float]]) -> None:
    pace, now, taken = TrashPace(), 1000.0, list[tuple[float, int]]()
    limit = max(held * TRASH_SHARE, TRASH_BYTES_MIN)
    for size, pause in deletes:
        now += pause
        with contextlib.suppress(TooManyRequests):
            pace.take(size, held, now)
            taken.append((now, size))
    for start, _ in taken:
        window = sum(size for at, size in taken if start <= at < start + HOUR_S)
        assert window <= limit


def test_waiting_as_told_is_enough() -> None:
    pace, now = TrashPace(), 0.0
    pace.take(TRASH_BYTES_MIN, 0, now)
    with pytest.raises(TooManyRequests) as caught:
        pace.take(100 << 20, 0, now)
    pace.take(100 << 20, 0, now + caught.value.extra["retry_after"])


def test_a_blob_larger_than_the_pace_goes_alone() -> None:
    pace = TrashPace()
    pace.take(TRASH_BYTES_MIN - 10, 0, -7200.0)
    with pytest.raises(TooManyRequests):
        pace.take(11, 0, -7200.0)  # it would go beyond
    pace.take(5 << 30, 0, 0.0)
    with pytest.raises(TooManyRequests):
        pace.take(1, 0, 1.0)
