"""What the devices of a simulation do, each operation checked against the model."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast import errors
from holdfast.assemble import OpenVault
from holdfast.clock import Randomness
from holdfast.testing.loop import VirtualLoop
from holdfast.testing.simulation.faults import pick
from holdfast.testing.simulation.judge import Judge
from holdfast.testing.simulation.model import Broken, Model, Name

PAUSE_S_MAX = 45.0


@dataclass(slots=True)
class Client:
    """A device. ``home`` is None for the network's first one."""

    host: str
    home: Path | None
    vault: OpenVault
    chance: Randomness


class Operations:
    """Local files lie below ``directory``."""

    def __init__(self, loop: VirtualLoop, model: Model, judge: Judge, directory: Path) -> None:
        self._loop = loop
        self._model = model
        self._judge = judge
        self._directory = directory
        self._moves: list[tuple[Name, Name, bytes, int, int]] = []

    async def use(self, client: Client) -> None:
        """One operation after another, as long as some are left."""
        chance = client.chance
        kinds: list[tuple[int, tuple[str, Callable[[Client], Awaitable[None]]]]] = [
            (20, ("put", self.put)), (8, ("put_again", self.put_again)), (6, ("remove", self.remove)),
            (18, ("read", self.read)), (8, ("read_range", self.read_range)), (5, ("get", self.get)),
            (8, ("list", self.list_)), (5, ("put_tree", self.put_tree)), (2, ("remove_tree", self.remove_tree)),
            (4, ("read_version", self.read_version)), (6, ("move", self.move)), (4, ("restore", self.restore)),
        ]  # fmt: skip
        while self._judge.left > 0:
            self._judge.left -= 1
            kind, operation = pick(kinds, chance)
            await self._judge.hear(kind, operation(client))
            await asyncio.sleep(PAUSE_S_MAX * chance.random())

    def _a_name(self, chance: Randomness) -> Name:
        number = chance.below(24)
        return self._model.name(f"d{number % 3}/f{number}" if number % 4 else f"f{number}")

    def _content(self, chance: Randomness) -> bytes:
        kind = chance.below(20)
        if kind == 0:
            return b""
        if kind < 13:
            return chance.bytes(1 + chance.below(4000))
        return chance.bytes(1 + chance.below(60_000 if kind < 18 else 400_000))

    async def put(self, client: Client, content: bytes | None = None) -> None:
        chance = client.chance
        name = self._a_name(chance)
        data = self._content(chance) if content is None else content
        degraded = chance.below(10) == 0
        async with self._model.alone([name]):
            with name.writing(data):
                if chance.below(4) == 0 and content is None:
                    path = self._local("source")
                    self._write(path, data)
                    entry = await client.vault.put(path, name.path, allow_degraded=degraded)
                else:
                    entry = await client.vault.put(data, name.path, allow_degraded=degraded)
                name.wrote(data, entry.version)
                self._judge.acknowledged += 1

    async def put_again(self, client: Client) -> None:
        """Bytes that the vault has, or had."""
        known = [one for name in self._model.names.values() for one in name.past if one]
        await self.put(client, known[client.chance.below(len(known))] if known else b"the first bytes")

    async def remove(self, client: Client) -> None:
        name = self._a_name(client.chance)
        async with self._model.alone([name]):
            with name.writing(None):
                try:
                    await client.vault.delete(name.path)
                except errors.NotFound:
                    if None not in name.possible():
                        raise Broken(f"{name.path} is not found, so it cannot be deleted") from None
                name.wrote(None)

    async def move(self, client: Client) -> None:
        """Old and new name stand or fall together."""
        old, new = self._a_name(client.chance), self._a_name(client.chance)
        if old is new:
            return
        async with self._model.alone([old, new]):
            content = old.certain
            if old.maybe:
                return  # which of them would move?
            with old.writing(None), new.writing(content):
                if content is None:
                    new.maybe.pop()
                    with contextlib.suppress(errors.NotFound):
                        await client.vault.move(old.path, new.path)
                        raise Broken(f"{old.path} is moved, but it was not there")
                    return
                self._moves.append((old, new, content, old.changes, new.changes))
                moved = await client.vault.move(old.path, new.path)
                self._moves.pop()
                old.wrote(None)
                new.wrote(content, moved.entry.version)
                self._judge.acknowledged += 1

    async def restore(self, client: Client) -> None:
        """An older state becomes the next one, as long as it is kept."""
        name = self._a_name(client.chance)
        async with self._model.alone([name]):
            known = [version for version in sorted(name.versions) if version != name.version or name.certain is None]
            if not known:
                return
            version = known[client.chance.below(len(known))]
            content = name.versions[version]
            with name.writing(content), contextlib.suppress(errors.NotFound):  # history has ended
                await client.vault.restore(name.path, version=version)
                name.wrote(content)
                self._judge.acknowledged += 1

    def check_moves(self) -> None:
        """Of a move whose end nobody has heard, the content is at one of both names."""
        for old, new, content, old_changes, new_changes in self._moves:
            if (old.changes, new.changes) != (old_changes + 1, new_changes + 1):
                continue  # written since
            if old.certain != content and new.certain != content:
                raise Broken(f"{old.path} was moved to {new.path} and is at neither")

    async def read(self, client: Client) -> None:
        name, fresh = self._a_name(client.chance), client.chance.below(3) > 0
        async with self._model.alone([name]):
            try:
                content: bytes | None = await client.vault.read(name.path, fresh=fresh)
            except errors.NotFound:
                content = None
            name.read(content, fresh=fresh)

    async def read_range(self, client: Client) -> None:
        chance, name = client.chance, self._a_name(client.chance)
        async with self._model.alone([name]):
            known = [one for one in name.possible() if one]
            size = len(known[0]) if known else 100
            start = chance.below(size + 1)
            stop = start + chance.below(size + 10)
            try:
                part = await client.vault.read(name.path, start, stop, fresh=True)
            except errors.NotFound:
                name.read(None, fresh=True)
            except errors.RangeInvalid:
                if not any(one is not None and len(one) < start for one in name.possible()):
                    raise
            else:
                name.read_part(part, start, stop, fresh=True)

    async def get(self, client: Client) -> None:
        name = self._a_name(client.chance)
        target = self._local("target")
        async with self._model.alone([name]):
            try:
                await client.vault.get(name.path, target, force=True, fresh=True)
            except errors.NotFound:
                name.read(None, fresh=True)
            else:
                name.read(target.read_bytes(), fresh=True)
                target.unlink()

    async def read_version(self, client: Client) -> None:
        """An older state, as long as it is kept."""
        name = self._a_name(client.chance)
        async with self._model.alone([name]):
            if not name.versions:
                return
            known = sorted(name.versions)
            version = known[client.chance.below(len(known))]
            try:
                content = await client.vault.read(name.path, version=version)
            except errors.NotFound:
                if version == name.present and not name.maybe:
                    raise Broken(f"{name.path}: its present version {version} is not found") from None
                return
            if content != name.versions[version]:
                raise Broken(f"{name.path}: version {version} reads as something else than was acknowledged")

    async def list_(self, client: Client) -> None:
        directory = ("", "d0", "d1", "trees/t0")[client.chance.below(4)]
        before = self._model.before_listing(directory)
        try:
            found = {
                one.name: one.size
                async for one in client.vault.list(directory, recursive=True, fresh=True)
                if one.kind == "file"
            }
        except errors.NotFound:
            found = {}
        self._model.listed(directory, before, found)

    async def put_tree(self, client: Client) -> None:
        chance = client.chance
        number = chance.below(3)
        names = [self._model.name(f"trees/t{number}/{'deep/' if one % 2 else ''}x{one}") for one in range(6)]
        chosen = [name for name in names if chance.below(3)] or names[:1]
        source = self._local("tree")
        async with self._model.alone(chosen):
            with contextlib.ExitStack() as writing:
                contents = {}
                for name in chosen:
                    data = name.certain if chance.below(3) == 0 and name.certain else self._content(chance)
                    contents[name.path] = data
                    writing.enter_context(name.writing(data))
                    self._write(source / name.path.removeprefix(f"trees/t{number}/"), data)
                for directory in [source / "deep", source]:
                    if directory.exists():
                        os.utime(directory, (self._loop.time(), self._loop.time()))
                summary = await client.vault.put_tree([source], f"trees/t{number}", reread=True)
                failed = dict(summary.failed)
                for error in failed.values():
                    self._judge.said[f"put_tree failed {self._judge.allowed('put_tree', error)}"] += 1
                refused = tuple(path + "/" for path in failed if path not in contents)  # directories
                for name in chosen:
                    if name.path not in failed and not name.path.startswith(refused):
                        name.wrote(contents[name.path])
                        self._judge.acknowledged += 1

    async def remove_tree(self, client: Client) -> None:
        directory = f"trees/t{client.chance.below(3)}"
        names = self._model.below(directory)
        async with self._model.alone(names):
            with contextlib.ExitStack() as writing:
                for name in names:
                    writing.enter_context(name.writing(None))
                try:
                    await client.vault.delete(directory, recursive=True)
                except errors.NotFound:
                    kept = [name.path for name in names if None not in name.possible()]
                    if kept:
                        raise Broken(f"{directory} is not found, but {kept[0]} is in it") from None
                for name in names:
                    name.wrote(None)

    def _local(self, name: str) -> Path:
        """A place of its own: operations run side by side."""
        path = self._directory / "local" / f"{name}-{self._loop.next_serial()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """A local file whose stamp does not come from the real clock: records hold it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self._loop.time(), self._loop.time()))
