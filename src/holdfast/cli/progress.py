"""Progress on a terminal: bytes, rate and the time that is left. Nothing at all when nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.cli.invocation import Invocation
from holdfast.cli.words import visible

if TYPE_CHECKING:
    from holdfast.client.vault import Progress

NAME_DIGITS = 32


@contextmanager
def progress(
    invocation: Invocation, what: str, *, total: int | None = None
) -> Iterator[Callable[[Progress], None] | None]:
    """A function that a vault calls with its progress, or None when there is no terminal to draw on.

    ``total``: how many bytes there will be, as far as the caller knows better.
    """
    if not invocation.watched:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[files]}", style="dim", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        task = bars.add_task(what, total=None, files="")

        def show(seen: Progress) -> None:
            name = visible(seen.name)
            name = name if len(name) <= NAME_DIGITS else "…" + name[1 - NAME_DIGITS :]
            of = "" if seen.files_total is None else f"/{seen.files_total:,}"
            files = name if seen.files_total == 1 or seen.files < 2 else f"{seen.files:,}{of} files  {name}"
            bytes_total = seen.bytes_total if seen.bytes_total is not None else total
            bars.update(task, completed=seen.bytes, total=bytes_total, files=files)

        yield show
