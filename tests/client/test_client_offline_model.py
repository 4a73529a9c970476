"""Two devices write the same names while links fail, answers get lost and processes end: a model follows every write.

In the end each accepted content stands in the history of its name exactly once, or is kept beside what another device
has put there meanwhile; each device's writes of a name stand in the order in which they were made.
HOLDFAST_OFFLINE_SEEDS asks for more runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast import errors
from holdfast.assemble import OpenVault
from holdfast.clock import Randomness
from holdfast.outbox import State
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.wire import routes

SEEDS = int(os.environ.get("HOLDFAST_OFFLINE_SEEDS", "4"))
STEPS = 40
NAMES = ("a", "b", "dir/c")


@dataclass
class Device:
    """One device: its home and the program that runs on it. ``written``: name -> its contents in their order."""

    host: str
    home: Path | None
    vault: OpenVault
    cut: bool = False
    written: dict[str, list[bytes]] = field(default_factory=dict)


class Story:
    """One run."""

    def __init__(self, loop: VirtualLoop, path: Path, devices: int) -> None:
        self.loop = loop
        self.chance: Randomness = loop.randomness("story")
        self.path = path
        self.count = devices
        self.number = 0
        self.lost = 0
        self.events: list[str] = []

    async def tell(self) -> None:
        async with Grid(self.loop, self.path / "grid", nodes=3, survive=1, settings={"peer_check": 3600.0}) as grid:
            self.grid = grid
            self.devices = [Device("laptop", None, await self.open("laptop", None))]
            for number in range(1, self.count):
                host = f"device-{number}"
                home = await grid.add_device(host)
                self.devices.append(Device(host, home, await self.open(host, home)))
            for step in range(STEPS):
                await self.step()
                if step % 7 == 0:
                    await asyncio.sleep(self.chance.below(120))
            await self.quiet()
            await self.check()

    async def open(self, host: str, home: Path | None) -> OpenVault:
        vault = await self.grid.vault(host, home, outbox=True)
        ask = vault.coordinators.ask

        async def losing(route: Any, *rest: Any, **words: Any) -> Any:
            answer = await ask(route, *rest, **words)
            if route is routes.COMMIT and self.chance.below(4) == 0 and self.lost < 10:
                self.lost += 1
                raise errors.Unavailable("the answer was lost")
            return answer

        vault.coordinators.ask = losing  # type: ignore[method-assign]
        return vault

    async def step(self) -> None:
        device = self.devices[self.chance.below(len(self.devices))]
        name = NAMES[self.chance.below(len(NAMES))]
        dice = self.chance.below(20)
        self.events.append(f"{device.host} {name} {dice}")
        if dice < 10:
            await self.write(device, name)
        elif dice < 12:
            device.cut = not device.cut
            (self.grid.network.isolate if device.cut else self.grid.network.heal)(device.host)
        elif dice < 13:
            await device.vault.close()
            device.vault = await self.open(device.host, device.home)
        elif dice < 14:
            if self.grid.coordinator.alive:
                await self.grid.kill(self.grid.coordinator)
            else:
                await self.grid.start(self.grid.coordinator)
        elif dice < 17:
            await device.vault.flush()
        else:
            read = await self.look(device, name)
            mine = device.written.get(name)
            if mine and device.cut and read is not None and not (await device.vault.stat(name)).conflict:
                assert read == mine[-1] or read not in mine, f"{name}: an older write of this device is shown"

    async def write(self, device: Device, name: str) -> None:
        self.number += 1
        content = f"{device.host} {self.number} ".encode() * (1 + self.chance.below(2000))
        offline = True if self.chance.below(3) == 0 else None
        entry = await device.vault.put(content, name, offline=offline)
        device.written.setdefault(name, []).append(content)
        waiting = await device.vault._queued.newest(name)
        if entry.queued and waiting is not None and not waiting.conflict:
            assert await device.vault.read(name) == content, "what was queued is read back at once"

    async def look(self, device: Device, name: str) -> bytes | None:
        try:
            return await device.vault.read(name)
        except (errors.NotFound, errors.Unavailable):
            return None

    async def quiet(self) -> None:
        """All is well again; everything that can be delivered is."""
        self.lost = 1000
        for device in self.devices:
            self.grid.network.heal(device.host)
        if not self.grid.coordinator.alive:
            await self.grid.start(self.grid.coordinator)
        await self.grid.until_up(3)
        for _ in range(5):
            for device in self.devices:
                await device.vault.flush()
            await asyncio.sleep(60)

    async def check(self) -> None:
        for device in self.devices:
            outbox = await device.vault.outbox()
            states = [] if outbox is None else [entry async for entry in outbox.entries()]
            conflicts = {entry.keys[0] for entry in states if entry.state is State.CONFLICT}
            for entry in states:
                assert entry.state is State.CONFLICT or entry.keys[0] in conflicts, f"{entry.keys} {entry.reason}"
                if entry.state is State.CONFLICT:
                    assert entry.theirs is not None
                    assert entry.theirs.facts["author"] != str(device.vault._device.id), "nobody else was first"
            if self.count == 1:
                assert not states, "one device alone has no conflicts"
            for name, contents in device.written.items():
                kept = [data for entry in states if name in entry.keys for data in await self.mine(device, entry)]
                stands = [data for data in await self.history(name) if data in contents]
                assert len(stands) == len(set(stands)), f"{name}: an effect is there twice"
                assert not set(stands) & set(kept), f"{name}: delivered and still queued"
                assert [data for data in contents if data in stands] == stands, f"{name}: reordered"
                assert set(stands) | set(kept) == set(contents), f"{name}: lost"

    async def mine(self, device: Device, entry: Any) -> list[bytes]:
        directory = self.path / "sides"
        resolver = await device.vault.resolver()
        saved = await resolver.save(entry.sequence, directory)
        found = [path.read_bytes() for path in saved if path.name.startswith("mine-")]
        if entry.state is State.CONFLICT:
            (theirs,) = [path.read_bytes() for path in saved if path.name.startswith("theirs-")]
            assert theirs in await self.history(entry.keys[0]), "both contents are kept"
        shutil.rmtree(directory)
        return found

    async def history(self, name: str) -> list[bytes]:
        """All contents of a name, the first one first."""
        vault = self.devices[0].vault
        try:
            versions = await vault.log(name)
        except errors.NotFound:
            return []
        return [await vault.read(name, version=version.version) for version in reversed(versions) if version.kind]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_every_write_has_its_effect_once_or_is_kept(tmp_path: Path, seed: int, devices: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        story = Story(loop, tmp_path, devices)
        try:
            await story.tell()
        except BaseException:
            print("\n".join(story.events))
            raise

    run(main, seed=seed, limit_s=36_000)
