"""The whole network on virtual time, one seed after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import errors
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run


async def _story(loop: VirtualLoop, directory: Path) -> str:
    """Put, kill four of six, get; start them again; put again."""
    chance = loop.randomness("story")
    contents = {f"files/{number}": chance.bytes(chance.below(200_000)) for number in range(5)}
    async with Grid(loop, directory) as grid:
        vault = await grid.vault()
        for name, data in contents.items():
            await vault.put(data, name)
        for node in grid.nodes[:4]:
            await grid.kill(node)
        for name, data in contents.items():
            assert await vault.read(name) == data
        with pytest.raises(errors.Unavailable):
            await vault.put(b"too few are left", "late")
        for node in grid.nodes[:4]:
            await grid.start(node)
        await grid.until_up(6)
        await vault.put(b"they are back", "late")
        assert await vault.read("late") == b"they are back"
    return loop.trace.digest()


@pytest.mark.parametrize("seed", [1])
def test_one_seed(seed: int, tmp_path: Path) -> None:
    run(lambda loop: _story(loop, tmp_path), seed=seed, limit_s=7200)


def test_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    traces = [run(lambda loop, at=at: _story(loop, tmp_path / at), seed=7, limit_s=7200) for at in ("a", "b")]  # type: ignore[misc]
    assert traces[0] == traces[1]
