"""Whole networks under faults, seed by seed, checked against a model (``make sim`` runs hundreds)."""

from __future__ import annotations

import pytest
from tests.sim.run import kept, run_all

SECONDS = 60.0
JOBS = 2
SEEDS_LEAST = 2
"""On a machine that is busy with other things; a free one with two cores has time for thirty and more."""


@pytest.mark.timeout(400)
def test_seeds_for_a_minute() -> None:
    """The seeds that failed once come first."""
    outcomes = list(run_all([*kept(), *range(1, 1000)], jobs=JOBS, seconds=SECONDS))
    assert not [(one["seed"], one["broken"], one["lines"]) for one in outcomes if one["broken"]]
    assert len(outcomes) >= SEEDS_LEAST
    assert all(one["operations"] >= 200 and one["faults"] >= 20 for one in outcomes)


@pytest.mark.timeout(400)
def test_the_same_seed_gives_the_same_trace() -> None:
    """Also in another process, and after other seeds."""
    elsewhere = next(run_all([9], jobs=1, operations=40))
    assert not elsewhere["broken"]
    again = [one for one in run_all([2, 9], jobs=1, operations=40) if one["seed"] == 9]
    assert [one["trace"] for one in again] == [elsewhere["trace"]]
