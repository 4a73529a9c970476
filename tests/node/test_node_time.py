"""A node asks its coordinator what time it is before it refuses a caller for the time alone, and not too often."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import HoldfastError
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.virtual import VirtualClock


def test_strangers_with_a_wrong_clock_cost_a_heartbeat_now_and_then(tmp_path: Path) -> None:
    async def tell(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=1, survive=0) as grid:
            vault = await grid.vault()
            await vault.put(b"here", "name")
            assert await vault.read("name") == b"here"
            await grid.kill(grid.coordinator)
            heart, beats = grid.nodes[0].running.app.heart, 0  # type: ignore[union-attr]
            unit = heart.unit

            async def counted() -> object:
                nonlocal beats
                beats += 1
                return await unit()

            heart.unit = counted
            clock = vault._clock
            assert isinstance(clock, VirtualClock)
            clock.step(-3600)
            began = loop.time()
            for _ in range(5):
                with pytest.raises(HoldfastError):
                    await vault.read("name")
            assert beats == 1
            assert loop.time() - began < 3
            clock.step(3600)
            assert await vault.read("name") == b"here"

    run(tell, seed=1, limit_s=3600)
