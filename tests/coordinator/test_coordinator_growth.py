"""What a coordinator does costs what it touches, however many packs and names there are besides.

Counted are the steps of SQLite's virtual machine, not time: ``bench.growth`` does the same with up to a million packs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.growth import coordinators

from holdfast.coordinator import every_pack
from holdfast.coordinator.inventory import sync as inventory_sync

SIZES = (700, 2800)
MORE = 1.5
"""Times as many steps, with four times as many packs: trees get a little deeper."""


def test_work_costs_what_it_touches_and_nothing_waits_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_sync, "BELIEVED_MAX", 200)
    monkeypatch.setattr(every_pack, "PORTION", 200)
    works = coordinators(tmp_path, SIZES, rounds=2)
    assert len(works) == 16
    for work in works:
        small, large = work.taken
        if not work.grows:
            assert large.steps <= small.steps * MORE + 1000, work.name
        assert large.longest <= small.longest * MORE + 1000, work.name
