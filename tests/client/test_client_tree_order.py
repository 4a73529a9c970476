"""A name is committed after the directory above it: whatever fails on the way, nothing comes to lie in what is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.assemble import OpenVault
from holdfast.codec import refs
from holdfast.codec.refs import RefKind
from holdfast.errors import Conflict, HoldfastError, NotFound, PacksGone, Unavailable
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.wire import messages as m
from holdfast.wire import routes

FILES = ("x", "deep/y", "deep/deeper/z")
EVERYTHING = ["t", "t/deep", "t/deep/deeper", "t/deep/deeper/z", "t/deep/y", "t/x"]


def story(path: Path, tell: Callable[[Grid, OpenVault, Path], Awaitable[None]]) -> None:
    source = path / "t"
    for name in FILES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())

    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, path / "grid", nodes=2, survive=1) as grid:
            await tell(grid, await grid.vault(), source)

    run(scenario, seed=4)


async def stored(vault: OpenVault) -> list[str]:
    """Every name of the tree that the coordinator has, listed or not."""
    found = []
    for name in EVERYTHING:
        try:
            await vault.stat(name, fresh=True)
        except NotFound:
            continue
        found.append(name)
    return found


def commits(grid: Grid, answer: Callable[[Any, m.CommitRequest], Awaitable[m.Committed]]) -> Callable[[], None]:
    """``answer(commit, request)`` speaks for the coordinator; the returned function undoes it."""
    service: Any = grid.coordinator.running.app.service  # type: ignore[union-attr]
    handler = service._table.find("POST", "/v1/commit")[0].handler
    service.add(routes.COMMIT, lambda call, request: answer(lambda asked: handler(call, asked), request))
    return lambda: service.add(routes.COMMIT, handler)


def test_what_another_device_put_in_a_directorys_place_has_nothing_below_it(tmp_path: Path) -> None:
    async def tell(grid: Grid, vault: OpenVault, source: Path) -> None:
        other = await grid.vault("desk", await grid.add_device("desk"))
        listing = vault._names.clear_listing

        async def slow(directory: str) -> Any:
            found = await listing(directory)
            if directory == "t":
                await other.put(b"a file", "t/deep")
            return found

        vault._names.clear_listing = slow  # type: ignore[method-assign]
        summary = await vault.put_tree([source], "t")
        assert {name for name, _ in summary.failed} == {name for name in EVERYTHING if name.startswith("t/deep")}
        assert all(isinstance(error, Conflict) for _, error in summary.failed)
        assert await stored(vault) == ["t", "t/deep", "t/x"]
        await other.delete("t/deep")
        vault._names.clear_listing = listing  # type: ignore[method-assign]
        assert not (await vault.put_tree([source], "t")).failed
        assert await stored(vault) == EVERYTHING

    story(tmp_path, tell)


@pytest.mark.parametrize(("error", "times"), [(PacksGone, 1), (PacksGone, 100), (Unavailable, 100)])
def test_a_directory_that_is_not_committed_holds_back_what_is_in_it(
    error: type[HoldfastError], times: int, tmp_path: Path
) -> None:
    """Packs that are gone are sent once more; else it is said what is not stored, and the next put completes it."""
    left = times

    async def tell(grid: Grid, vault: OpenVault, source: Path) -> None:
        async def answer(commit: Callable[[m.CommitRequest], Awaitable[m.Committed]], request: m.CommitRequest) -> Any:
            nonlocal left
            kinds = {refs.parse_record(one.record).clear.kind for group in request.groups for one in group}
            if left and RefKind.DIRECTORY in kinds:
                left -= 1
                if error is Unavailable:
                    raise Unavailable("not now")
                gone = m.RefResult(state="packs-gone")
                return m.Committed(groups=[[gone for _ in group] for group in request.groups], epoch=1, commit=1)
            return await commit(request)

        undo = commits(grid, answer)
        summary = await vault.put_tree([source], "t")
        whole = times == 1  # a call that was not answered is asked again, too
        assert await stored(vault) == (EVERYTHING if whole else [])
        assert sorted(name for name, _ in summary.failed) == ([] if whole else EVERYTHING)
        undo()
        assert not (await vault.put_tree([source], "t")).failed
        assert await stored(vault) == EVERYTHING

    story(tmp_path, tell)
