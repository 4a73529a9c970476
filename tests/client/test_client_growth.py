"""What a device does costs what it touches, however many files its index knows besides.

Counted are the steps of SQLite's virtual machine, not time: ``bench.growth`` does the same with up to a million files.
"""

from __future__ import annotations

from pathlib import Path

from bench.growth_client import clients

SIZES = (700, 2800)
MORE = 1.5
"""Times as many steps, with four times as many files: trees get a little deeper."""


def test_work_costs_what_it_touches(tmp_path: Path) -> None:
    works = clients(tmp_path, SIZES, rounds=2)
    assert len(works) == 7
    for work in works:
        small, large = work.taken
        assert large.steps <= small.steps * MORE + 100, work.name
