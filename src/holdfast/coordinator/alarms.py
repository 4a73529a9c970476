"""Tells somebody when a person should look: by a command or a webhook, once when it begins and once when it is over."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable

from holdfast import logs
from holdfast.blob import Buffer
from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.wire import messages as m
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.network import Network
from holdfast.worker import Progress

COMMAND_S_MAX = 30.0
HOLD_S = 60.0
"""An alarm is told once it has lasted so long, and ended once it has been over so long: figures flicker."""

_log = logs.get_logger(__name__)


class Alarms:
    """``unit`` is a worker's unit. ``found`` gives kind -> sentence of what is wrong now."""

    def __init__(
        self, found: Callable[[], dict[str, str]], *, name: str, on_alarm: str, clock: Clock, network: Network
    ) -> None:
        """``on_alarm``: a command line that gets JSON on its stdin, an http(s) address that gets it by POST, or ''."""
        self.told: dict[str, str] = {}
        self._found = found
        self._name = name
        self._on_alarm = on_alarm
        self._clock = clock
        self._network = network
        self._since: dict[str, float] = {}

    async def unit(self) -> Progress:
        """Tells what is new and what is over."""
        now, found = self._clock.monotonic(), self._found()
        changed = {kind for kind in found.keys() | self.told.keys() if (kind in found) != (kind in self.told)}
        self._since = {kind: self._since.get(kind, now) for kind in changed}
        for kind in sorted(changed):
            if now - self._since[kind] < HOLD_S:
                continue
            begins = kind in found
            sentence = found[kind] if begins else self.told[kind]
            _log.warning("alarm" if begins else "alarm_over", kind=kind, text=sentence)
            if begins:
                self.told[kind] = sentence
            else:
                del self.told[kind]
            await self._tell(m.Alarm(kind=kind, state="begins" if begins else "over", text=sentence, name=self._name))
        return Progress.IDLE

    async def _tell(self, alarm: m.Alarm) -> None:
        data = m.encode(alarm) + b"\n"
        try:
            if self._on_alarm.startswith(("http://", "https://")):
                await self._post(data)
            elif self._on_alarm:
                await self._run(data)
        except (HoldfastError, OSError, ValueError, TimeoutError) as error:
            _log.error("alarm_unheard", on_alarm=self._on_alarm, reason=str(error))

    async def _post(self, data: bytes) -> None:
        http = ForeignHttp(network=self._network)

        async def body() -> AsyncIterator[Buffer]:
            yield data

        try:
            answer = await http.send("POST", self._on_alarm, {"content-type": "application/json"}, body, len(data))
            if answer.status >= 300:
                raise ValueError(f"it answered {answer.status}")
        finally:
            await http.close()

    async def _run(self, data: bytes) -> None:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(self._on_alarm), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                await process.communicate(data)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise ValueError(f"it ended with {process.returncode}")
