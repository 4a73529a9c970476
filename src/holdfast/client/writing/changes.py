"""Changes of names on their way through one uploader: so many at once, counted, and what failed kept with its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from holdfast.client.names.drafts import Draft, Group
from holdfast.client.writing.uploader import Uploader
from holdfast.errors import HoldfastError, PartlyDone

GROUPS_MAX = 4000


class Changes:
    """``done``: groups that stand; ``failed``: (name, why) of those that do not. One task adds and settles."""

    def __init__(self, uploader: Uploader, settled: Callable[[str], None] = lambda _: None) -> None:
        """``settled`` hears the name of each group that stands."""
        self.done = 0
        self.failed: list[tuple[str, HoldfastError]] = []
        self._uploader = uploader
        self._settled = settled
        self._outstanding = 0
        self._changed = asyncio.Event()

    async def add(self, name: str, drafts: Sequence[Draft]) -> None:
        """Sends ``drafts`` as one group that stands or falls together; waits when too many are under way."""

        def settled(group: Group, error: HoldfastError | None) -> None:
            self._outstanding -= 1
            if error is None:
                self.done += 1
                self._settled(name)
            else:
                self.failed.append((name, error))
            self._changed.set()

        self._outstanding += 1
        await self._uploader.submit(Group(list(drafts), settled))
        if self._outstanding >= GROUPS_MAX:
            await self.settle()

    async def settle(self) -> None:
        """Returns when every group added so far stands or has failed."""
        self._uploader.finish()
        while self._outstanding:
            self._changed.clear()
            await self._changed.wait()

    def check(self, did: str) -> None:
        """Raises what failed: a single failure as it is, else PartlyDone; ``did`` as in "3 names were ``did``"."""
        if not self.failed:
            return
        name, error = self.failed[0]
        if len(self.failed) == 1 and self.done == 0:
            raise error
        raise PartlyDone(
            f"{self.done} names were {did}, {len(self.failed)} were not; the first: {name}: {error.detail}"
        ) from error
