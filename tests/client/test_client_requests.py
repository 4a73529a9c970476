"""How often the coordinator is asked: a few times for a directory, whatever lies in it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from holdfast.coordinator.app import Coordinator
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run

DIRECTORIES = 5


def asked(grid: Grid) -> dict[str, float]:
    """Label of a route -> answered requests, as the coordinator counts them."""
    assert grid.coordinator.running is not None
    app = grid.coordinator.running.app
    assert isinstance(app, Coordinator)
    text = app.service.metrics.text().decode()
    found: dict[str, float] = {}
    for label, count in re.findall(r'holdfast_http_requests_total\{code="200",route="([^"]*)"\} (\S+)', text):
        found[label] = found.get(label, 0.0) + float(count)
    return found


def test_a_get_of_a_directory_asks_only_for_its_listings(tmp_path: Path) -> None:
    """Who holds the packs comes with the names: no group of files is asked for by itself."""

    async def main(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path / "grid", nodes=3, survive=1) as grid:
            source = tmp_path / "tree"
            for number in range(DIRECTORIES):
                (source / f"{number}").mkdir(parents=True)
                for file in range(20):
                    (source / f"{number}" / f"{file}").write_bytes(f"{number} {file}".encode())
            vault = await grid.vault()
            summary = await vault.put_tree([source])
            assert (summary.files, summary.failed) == (20 * DIRECTORIES, [])
            before = asked(grid)
            await vault.get("tree", tmp_path / "back")
            more = {label: count - before.get(label, 0.0) for label, count in asked(grid).items()}
            assert (tmp_path / "back" / "3" / "7").read_bytes() == b"3 7"
            assert more["GET /v1/refs/{vault}"] == DIRECTORIES + 1
            assert not more.get("GET /v1/vaults/{vault}/packs")

    run(main, seed=1, start_wall=time.time() + 1000, limit_s=7200)
