"""Very many queued names: what is waiting is found and listed with little in memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from tests.client.offline_stories import grid_story, outbox_of

from holdfast import errors
from holdfast.client.offline.names_here import HELD_MAX
from holdfast.client.offline.queued_places import Places, Role
from holdfast.client.offline.ref_entry import KIND, RefEntry, decode
from holdfast.outbox.entry import NewEntry
from holdfast.testing.grid import Grid

FILES = 1300


def test_places_are_ranges() -> None:
    places = Places()
    for sequence in (*range(1, 100), 500, 501, 501, 499):
        places.add(Role.IN, "d", sequence)
    assert places.ranges(Role.IN, "d") == [(1, 99), (500, 501)]
    assert places.newest(Role.IN, "d") == 501
    assert places.ranges(Role.BELOW, "d") == []
    assert places.newest(Role.IN, "e") is None


def test_memory_goes_by_directories_and_not_by_names() -> None:
    tracemalloc.start()
    try:
        places = Places()
        for sequence in range(30_000):
            directory = f"photos/{sequence // 1000}"
            places.add(Role.IN, directory, sequence)
            places.add(Role.MADE, directory, sequence)
            places.add(Role.BELOW, "photos", sequence)
            places.add(Role.BELOW, directory, sequence)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * 400, "for each directory, nothing for each name"


@pytest.mark.slow
def test_very_many_queued_files_are_listed_page_by_page(tmp_path: Path) -> None:
    async def story(grid: Grid, path: Path) -> None:
        vault = await grid.vault(outbox=True)
        await vault.put(b"stored", "d/0000")
        await vault.put(b"stored", "d/stored")
        await vault.put(b"x", "d/0000", offline=True)
        box = await outbox_of(vault)
        (entry,) = [one async for one in box.entries()]
        (change,) = [one for one in decode(entry.payload).changes if not one.ancestor]
        for number in range(1, FILES):  # the same change under other names: only where they lie matters here
            name = f"d/{number:04}"
            made = RefEntry((replace(change, path=name),), True, None)
            await box.enqueue(NewEntry(KIND, "update", (name,), entry.target, made.payload(), entry.needs))
        tracemalloc.start()
        seen = 0
        async for marked in vault._here.marked("d"):
            seen += len(marked)
            assert len(marked) <= HELD_MAX
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen == FILES + 1, "each name once"
        assert peak < HELD_MAX * 12_000, "what is held does not grow with them"
        assert await vault._queued.any_below("d")
        with pytest.raises(errors.Unavailable, match="writes or more below d wait"):
            await vault._queued.below("d")

    grid_story(story, tmp_path)
