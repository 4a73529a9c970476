"""What a node does costs what it touches, however many blobs there are besides.

Counted are the steps of SQLite's virtual machine, not time: ``bench.growth`` does the same with up to a million blobs.
"""

from __future__ import annotations

from pathlib import Path

from bench.growth_node import nodes

SIZES = (2800, 11200)
MORE = 1.5
"""Times as many steps, with four times as many blobs: trees get a little deeper."""


def test_work_costs_what_it_touches(tmp_path: Path) -> None:
    works = nodes(tmp_path, SIZES, rounds=2)
    assert len(works) == 14
    for work in works:
        small, large = work.taken
        if not work.grows:
            assert large.steps <= small.steps * MORE + 100, work.name
