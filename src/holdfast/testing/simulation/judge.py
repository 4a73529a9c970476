"""How the operations of a simulation end: in time, and well or with an error that the faults under way allow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

from holdfast import errors
from holdfast.errors import HoldfastError
from holdfast.testing.loop import VirtualLoop
from holdfast.testing.simulation.faults import Faults
from holdfast.testing.simulation.model import Broken

OPERATION_S_MAX = 15 * 60.0
HELPS_LATER = (errors.Unavailable, errors.NoSpace, errors.PacksGone, errors.PartlyDone)


class Judge:
    """``left``: operations that may still begin, whoever begins them; ``acknowledged``: writes that were."""

    def __init__(self, loop: VirtualLoop, faults: Faults, said: Counter[str], left: int) -> None:
        """``said``: how operations ended is counted there."""
        self.left = left
        self.acknowledged = 0
        self.said = said
        self._loop = loop
        self._faults = faults

    async def hear(self, kind: str, going: Awaitable[None]) -> None:
        """One operation: it ends in time, well or with an error that is allowed."""
        began = self._loop.time()
        try:
            async with asyncio.timeout(OPERATION_S_MAX):
                await going
            said = "ok"
        except TimeoutError as error:
            if isinstance(error, HoldfastError):
                said = self.allowed(kind, error)
            else:
                raise Broken(f"{kind} hangs") from error
        except HoldfastError as error:
            said = self.allowed(kind, error)
        self.said[f"{kind} {said}"] += 1
        self._loop.trace.record("operation", kind, said, f"{self._loop.time() - began:.3f}")

    def allowed(self, kind: str, error: HoldfastError) -> str:
        """The error's name; Broken if there is no excuse for it."""
        if isinstance(error, HELPS_LATER):
            return type(error).__name__
        if isinstance(error, errors.Corrupt) and self._faults.flips and "has seen version" not in error.detail:
            return "Corrupt"
        if isinstance(error, errors.Unauthorized) and self._faults.steps:
            return "Unauthorized"
        raise Broken(f"{kind} ended with {type(error).__name__}: {error.detail}") from error
