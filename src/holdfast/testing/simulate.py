"""One seed, one run of a whole network: operations of all kinds while all kinds of things go wrong, then quiet.

Every acknowledgement and every answer is checked against a model, the disks are looked at behind everybody's back, and
what is logged must be foreseen. When the faults have stopped the network must be whole within 30 virtual minutes, and
every acknowledged byte readable. The same seed gives the same trace (docs/design.md, 10). The shape is TigerBeetle's:
first nothing wrong may ever be returned, then no excuse is accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from holdfast import errors, logs
from holdfast.assemble import NetworkView, OpenVault
from holdfast.auth.identity import Id
from holdfast.clock import Randomness
from holdfast.coordinator.app import Coordinator
from holdfast.errors import HoldfastError
from holdfast.metadata import queries_status
from holdfast.testing.grid import Grid
from holdfast.testing.loop import VirtualLoop, run
from holdfast.testing.simulate_faults import Disks, Faults, pick
from holdfast.testing.simulate_model import Broken, Model, Name

T = TypeVar("T")

MINUTE_S = 60.0
WHOLE_S_MAX = 30 * MINUTE_S
OPERATION_S_MAX = 15 * MINUTE_S
LIMIT_S = 12 * 3600.0
PAUSE_S_MAX = 45.0
FAULT_S_MAX = 50.0
OPERATIONS = 200
FAULTS = 20

SETTINGS: dict[str, Any] = {
    "out_after": 10 * MINUTE_S,
    "surplus_after": 5 * MINUTE_S,
    "breaker_hold": 20 * MINUTE_S,
    "repair_interval": 15.0,
    "history": 10 * MINUTE_S,
    "lease": 30 * MINUTE_S,
    "trash": 10 * MINUTE_S,
    "scrub_period": 8 * MINUTE_S,
    "adopt_after": 10 * MINUTE_S,
    "adopt_lease": 15 * MINUTE_S,
    "chunk_size": 64 << 10,
    "pack_size": 256 << 10,
    "peer_check": 10 * MINUTE_S,  # nodes that ask each other how they are would be most of what happens
}
"""Days become minutes, so that history ends, trash is emptied and surplus copies go within one run."""

LOGGED = ("name", "node", "worker", "digest", "state", "kind", "packs")
HELPS_LATER = (errors.Unavailable, errors.NoSpace, errors.PacksGone, errors.PartlyDone)


@dataclass(slots=True)
class Outcome:
    """What a seed came to. ``trace``: equal for equal runs. ``broken``: None, or the promise that was."""

    seed: int
    nodes: int
    survive: int
    operations: int = 0
    acknowledged: int = 0
    faults: int = 0
    virtual_s: float = 0.0
    whole_s: float = 0.0
    trace: str = ""
    broken: str | None = None
    said: Counter[str] = field(default_factory=Counter)
    """How operations and faults ended, counted."""
    lines: list[str] = field(default_factory=list)


def simulate(
    seed: int,
    directory: Path,
    *,
    operations: int = OPERATIONS,
    faults: int = FAULTS,
    sink: Callable[[str], object] | None = None,
    database: str = "",
) -> Outcome:
    """Runs one seed in ``directory``, which must be empty; never raises for a promise that was broken.

    ``database``: the URL of an empty PostgreSQL database for the coordinator, instead of SQLite.
    """
    shape = VirtualLoop(seed).randomness("shape")
    survive = 1 + shape.below(4)
    nodes = min(9, max(5, survive + 2 + shape.below(4)))
    outcome = Outcome(seed, nodes, survive)

    async def main(loop: VirtualLoop) -> None:
        loop.trace.sink = sink
        try:
            await _Run(loop, directory, outcome, clients=1 + shape.below(2), database=database).run(operations, faults)
        finally:
            outcome.virtual_s, outcome.trace, outcome.lines = loop.time(), loop.trace.digest(), list(loop.trace.lines)

    try:
        run(main, seed=seed, limit_s=LIMIT_S)
    except Exception as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        outcome.broken = "".join(traceback.format_exception(first))
    return outcome


@dataclass(slots=True)
class _Client:
    host: str
    home: Path | None
    vault: OpenVault
    chance: Randomness


class _Run:
    def __init__(self, loop: VirtualLoop, directory: Path, outcome: Outcome, clients: int, database: str) -> None:
        self.loop = loop
        self.model = Model()
        self.outcome = outcome
        self._directory = directory
        self._database = database
        self._chance = loop.randomness("simulate")
        self._client_count = clients
        self._left = 0
        self._unforeseen: list[str] = []
        self._emptied: str | None = None
        self._paused = False
        self._moves: list[tuple[Name, Name, bytes, int, int]] = []

    async def run(self, operations: int, faults: int) -> None:
        shape = self.outcome
        with logs.read_by(self._heard):
            async with Grid(
                self.loop,
                self._directory,
                nodes=shape.nodes,
                survive=shape.survive,
                settings=SETTINGS,
                database=self._database,
            ) as self.grid:
                self.disks = Disks(self.grid)
                hosts = ["laptop", "desk"][: self._client_count]
                self.faults = Faults(self.grid, self.disks, self.loop.randomness("faults"), hosts)
                try:
                    await self._trouble(hosts, operations, faults)
                    self.faults.doom(shape.survive, shape.nodes)
                finally:
                    await self.faults.calm()
                await self._quiet()
        if self.loop.unhandled:
            raise Broken(f"an exception that nobody awaited: {self.loop.unhandled[0]}")

    def _heard(self, level: str, fields: Mapping[str, Any]) -> None:
        """An exception that is neither ours nor the system's is a bug wherever it was caught."""
        error = fields.get("exc_info")
        if error is True:
            error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, HoldfastError | OSError):
            self._unforeseen.append(f"{fields.get('event')}: {''.join(traceback.format_exception(error))}")
        said = (f"{key}={fields[key]}" for key in LOGGED if key in fields)  # reasons may name paths of this machine
        self.loop.trace.record("log", level, fields.get("event"), *said)

    # --- trouble ---

    async def _trouble(self, hosts: list[str], operations: int, faults: int) -> None:
        clients = []
        for number, host in enumerate(hosts):
            home = None if number == 0 else await self.grid.add_device(host)
            vault = await self.grid.vault(host, home)
            clients.append(_Client(host, home, vault, self.loop.randomness(f"client {host}")))
        self._clients = clients
        self._left = operations
        async with asyncio.TaskGroup() as group:
            for client in clients:
                for _ in range(2):
                    group.create_task(self._use(client))
            group.create_task(self._operate())
            group.create_task(self._break(faults))
        self.outcome.operations = operations - self._left

    async def _break(self, faults: int) -> None:
        """Faults until there were enough of them, and as long as there are operations."""
        done = 0
        while done < faults or self._left > 0:
            await asyncio.sleep(FAULT_S_MAX * self._chance.random())
            self.faults.begin()
            done += 1
            self._check_all()
        self.outcome.faults = done

    def _check_all(self) -> None:
        self.disks.check()
        if self.faults.broken:
            raise self.faults.broken[0]
        if self._unforeseen:
            raise Broken(f"an exception that nobody foresaw: {self._unforeseen[0]}")

    async def _use(self, client: _Client) -> None:
        chance = client.chance
        kinds: list[tuple[int, Callable[[_Client], Awaitable[None]]]] = [
            (20, self._put), (8, self._put_again), (6, self._remove), (18, self._read), (8, self._read_range),
            (5, self._get), (8, self._list), (5, self._put_tree), (2, self._remove_tree), (4, self._read_version),
            (6, self._move), (4, self._restore),
        ]  # fmt: skip
        while self._left > 0:
            self._left -= 1
            operation = pick(kinds, chance)
            await self._one(operation.__name__.lstrip("_"), operation(client))
            await asyncio.sleep(PAUSE_S_MAX * chance.random())

    async def _one(self, kind: str, going: Awaitable[None]) -> None:
        """One operation: it ends in time, well or with an error that is allowed."""
        began = self.loop.time()
        try:
            async with asyncio.timeout(OPERATION_S_MAX):
                await going
            said = "ok"
        except TimeoutError as error:
            if isinstance(error, HoldfastError):
                said = self._allowed(kind, error)
            else:
                raise Broken(f"{kind} hangs") from error
        except HoldfastError as error:
            said = self._allowed(kind, error)
        self.outcome.said[f"{kind} {said}"] += 1
        self.loop.trace.record("operation", kind, said, f"{self.loop.time() - began:.3f}")

    def _allowed(self, kind: str, error: HoldfastError) -> str:
        if isinstance(error, HELPS_LATER):
            return type(error).__name__
        if isinstance(error, errors.Corrupt) and self.faults.flips and "has seen version" not in error.detail:
            return "Corrupt"
        if isinstance(error, errors.Unauthorized) and self.faults.steps:
            return "Unauthorized"
        raise Broken(f"{kind} ended with {type(error).__name__}: {error.detail}") from error

    # --- operations ---

    def _a_name(self, chance: Randomness) -> Name:
        number = chance.below(24)
        return self.model.name(f"d{number % 3}/f{number}" if number % 4 else f"f{number}")

    def _content(self, chance: Randomness) -> bytes:
        kind = chance.below(20)
        if kind == 0:
            return b""
        if kind < 13:
            return chance.bytes(1 + chance.below(4000))
        return chance.bytes(1 + chance.below(60_000 if kind < 18 else 400_000))

    async def _put(self, client: _Client, content: bytes | None = None) -> None:
        chance = client.chance
        name = self._a_name(chance)
        data = self._content(chance) if content is None else content
        degraded = chance.below(10) == 0
        async with self.model.alone([name]):
            with name.writing(data):
                if chance.below(4) == 0 and content is None:
                    path = self._local("source")
                    self._write(path, data)
                    entry = await client.vault.put(path, name.path, allow_degraded=degraded)
                else:
                    entry = await client.vault.put(data, name.path, allow_degraded=degraded)
                name.wrote(data, entry.version)
                self.outcome.acknowledged += 1

    async def _put_again(self, client: _Client) -> None:
        """Bytes that the vault has, or had."""
        known = [one for name in self.model.names.values() for one in name.past if one]
        await self._put(client, known[client.chance.below(len(known))] if known else b"the first bytes")

    async def _remove(self, client: _Client) -> None:
        name = self._a_name(client.chance)
        async with self.model.alone([name]):
            with name.writing(None):
                try:
                    await client.vault.delete(name.path)
                except errors.NotFound:
                    if None not in name.possible():
                        raise Broken(f"{name.path} is not found, so it cannot be deleted") from None
                name.wrote(None)

    async def _move(self, client: _Client) -> None:
        """Old and new name stand or fall together."""
        old, new = self._a_name(client.chance), self._a_name(client.chance)
        if old is new:
            return
        async with self.model.alone([old, new]):
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
                self.outcome.acknowledged += 1

    async def _restore(self, client: _Client) -> None:
        """An older state becomes the next one, as long as it is kept."""
        name = self._a_name(client.chance)
        async with self.model.alone([name]):
            known = [version for version in sorted(name.versions) if version != name.version or name.certain is None]
            if not known:
                return
            version = known[client.chance.below(len(known))]
            content = name.versions[version]
            with name.writing(content), contextlib.suppress(errors.NotFound):  # history has ended
                await client.vault.restore(name.path, version=version)
                name.wrote(content)
                self.outcome.acknowledged += 1

    def _check_moves(self) -> None:
        """Of a move whose end nobody has heard, the content is at one of both names."""
        for old, new, content, old_changes, new_changes in self._moves:
            if (old.changes, new.changes) != (old_changes + 1, new_changes + 1):
                continue  # written since
            if old.certain != content and new.certain != content:
                raise Broken(f"{old.path} was moved to {new.path} and is at neither")

    async def _read(self, client: _Client) -> None:
        name, fresh = self._a_name(client.chance), client.chance.below(3) > 0
        async with self.model.alone([name]):
            try:
                content: bytes | None = await client.vault.read(name.path, fresh=fresh)
            except errors.NotFound:
                content = None
            name.read(content, fresh=fresh)

    async def _read_range(self, client: _Client) -> None:
        chance, name = client.chance, self._a_name(client.chance)
        async with self.model.alone([name]):
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

    async def _get(self, client: _Client) -> None:
        name = self._a_name(client.chance)
        target = self._local("target")
        async with self.model.alone([name]):
            try:
                await client.vault.get(name.path, target, force=True, fresh=True)
            except errors.NotFound:
                name.read(None, fresh=True)
            else:
                name.read(target.read_bytes(), fresh=True)
                target.unlink()

    async def _read_version(self, client: _Client) -> None:
        """An older state, as long as it is kept."""
        name = self._a_name(client.chance)
        async with self.model.alone([name]):
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

    async def _list(self, client: _Client) -> None:
        directory = ("", "d0", "d1", "trees/t0")[client.chance.below(4)]
        before = self.model.before_listing(directory)
        try:
            found = {
                one.name: one.size
                async for one in client.vault.list(directory, recursive=True, fresh=True)
                if one.kind == "file"
            }
        except errors.NotFound:
            found = {}
        self.model.listed(directory, before, found)

    async def _put_tree(self, client: _Client) -> None:
        chance = client.chance
        number = chance.below(3)
        names = [self.model.name(f"trees/t{number}/{'deep/' if one % 2 else ''}x{one}") for one in range(6)]
        chosen = [name for name in names if chance.below(3)] or names[:1]
        source = self._local("tree")
        async with self.model.alone(chosen):
            with contextlib.ExitStack() as writing:
                contents = {}
                for name in chosen:
                    data = name.certain if chance.below(3) == 0 and name.certain else self._content(chance)
                    contents[name.path] = data
                    writing.enter_context(name.writing(data))
                    self._write(source / name.path.removeprefix(f"trees/t{number}/"), data)
                for directory in [source / "deep", source]:
                    if directory.exists():
                        os.utime(directory, (self.loop.time(), self.loop.time()))
                summary = await client.vault.put_tree([source], f"trees/t{number}", reread=True)
                failed = dict(summary.failed)
                for error in failed.values():
                    self.outcome.said[f"put_tree failed {self._allowed('put_tree', error)}"] += 1
                refused = tuple(path + "/" for path in failed if path not in contents)  # directories
                for name in chosen:
                    if name.path not in failed and not name.path.startswith(refused):
                        name.wrote(contents[name.path])
                        self.outcome.acknowledged += 1

    async def _remove_tree(self, client: _Client) -> None:
        directory = f"trees/t{client.chance.below(3)}"
        names = self.model.below(directory)
        async with self.model.alone(names):
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
        path = self._directory / "local" / f"{name}-{self.loop.next_serial()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """A local file whose stamp does not come from the real clock: records hold it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (self.loop.time(), self.loop.time()))

    # --- the operator ---

    async def _operate(self) -> None:
        """Orders now and then. At most one node is emptied at a time, so that there is always room for all copies."""
        chance = self.loop.randomness("operator")
        orders = [self._drain, self._maintain, self._policy, self._repair_now, self._pause_or_resume]
        while self._left > 0:
            await asyncio.sleep(60.0 + 240.0 * chance.random())
            self._left -= 1
            order = orders[chance.below(len(orders))]
            async with await self.grid.view() as view:
                await self._one(order.__name__.lstrip("_"), order(view, chance))

    async def _id(self, view: NetworkView, name: str) -> Id:
        return next(node.id for node in await view.nodes() if node.name == name)

    async def _drain(self, view: NetworkView, chance: Randomness) -> None:
        if self._emptied is None:
            self._emptied = self.grid.nodes[chance.below(len(self.grid.nodes))].name
            await view.drain_node(await self._id(view, self._emptied))
        else:
            await view.drain_node(await self._id(view, self._emptied), drain=False)
            self._emptied = None

    async def _maintain(self, view: NetworkView, chance: Randomness) -> None:
        name = self.grid.nodes[chance.below(len(self.grid.nodes))].name
        if name != self._emptied:  # one word replaces the other
            await view.maintain_node(await self._id(view, name), 600.0 * chance.random())

    async def _policy(self, view: NetworkView, chance: Randomness) -> None:
        with contextlib.suppress(errors.Conflict):  # its own first try, whose answer was lost
            await view.set_policy(1 + chance.below(min(4, self.outcome.nodes - 3)))

    async def _repair_now(self, view: NetworkView, chance: Randomness) -> None:
        await view.order_repair("now")

    async def _pause_or_resume(self, view: NetworkView, chance: Randomness) -> None:
        self._paused = not self._paused
        await view.order_repair("pause" if self._paused else "resume")

    # --- quiet ---

    async def _quiet(self) -> None:
        """No more faults: whole in time, and everything that was acknowledged is there."""
        began = self.loop.time()
        self.loop.trace.record("quiet")
        self._check_all()
        async with await self.grid.view() as view:
            await self._insist(lambda: view.order_repair("resume"))
            if self._emptied is not None:
                emptied = self._emptied
                node = await self._insist(lambda: self._id(view, emptied))
                await self._insist(lambda: view.drain_node(node, drain=False))
        while missing := await self._missing():
            if self.loop.time() - began > WHOLE_S_MAX:
                raise Broken(f"not whole after {WHOLE_S_MAX / MINUTE_S:.0f} virtual minutes: {'; '.join(missing[:5])}")
            await asyncio.sleep(10.0)
        self.outcome.whole_s = self.loop.time() - began
        self._check_all()
        for client in self._clients:
            await self._read_all(client.vault)
            self._check_moves()
            await client.vault.close()
            await self._read_all(await self.grid.vault(client.host, client.home))
        self._check_all()

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """An order is given until it is taken: a node that has just started needs a moment."""
        for _ in range(20):
            with contextlib.suppress(errors.Unavailable):
                return await ask()
            await asyncio.sleep(5.0)
        return await ask()

    async def _missing(self) -> list[str]:
        """What is not whole yet: nodes, what is on record, and what is on the disks."""
        running = self.grid.coordinator.running
        assert running is not None
        app = running.app
        assert isinstance(app, Coordinator)
        registry = app.state.registry
        gone = {node.name for node in self.faults.doomed}
        silent = [node for node in registry.all() if not registry.is_live(node) and node.name not in gone]
        found = [f"{node.name} is {registry.hearing(node)}" for node in silent]
        if not found and app.repair.breaker.state != "closed":
            found.append(f"the breaker is {app.repair.breaker.state}")
        if not found:
            absent = sorted(registry.absent())
            for row in await app.state.database.run(queries_status.packs_by_copies, absent):
                if row.live < row.target:
                    found.append(f"{row.packs} packs have {row.live} copies of {row.target} on record")
        return found or self.disks.short([node for node in self.grid.nodes if node.alive])

    async def _read_all(self, vault: OpenVault) -> None:
        for name in list(self.model.names.values()):
            try:
                content: bytes | None = await vault.read(name.path, fresh=True)
            except errors.NotFound:
                content = None
            except HoldfastError as error:
                raise Broken(f"{name.path} cannot be read when all is quiet: {error.detail}") from error
            name.read(content, fresh=True)
        found = {one.name: one.size async for one in vault.list("", recursive=True, fresh=True) if one.kind == "file"}
        self.model.listed("", self.model.before_listing(""), found)
