"""Nothing acknowledged is ever lost by tidying up: the soak of ``collection``, a short one and the whole."""

from __future__ import annotations

import pytest
from tests.heal.collection import EVENTS_PER_CYCLE, Soak


def soaked(seed: int, events: int) -> dict[str, int]:
    soak = Soak(seed)
    try:
        soak.run(events)
    finally:
        soak.engine.dispose()
    return soak.counts


def test_a_soak_of_collection_loses_nothing() -> None:
    counts = soaked(3, 4000)
    assert all(counts.values()), counts  # all of it happened


@pytest.mark.slow
def test_the_whole_soak_of_collection() -> None:
    """100,000 events, 5,000 cycles of collection."""
    assert EVENTS_PER_CYCLE * 5_000 == 100_000
    counts = soaked(2, 100_000)
    assert all(counts.values()), counts
