"""What nodes say when a coordinator has to find out again what there is: positions, inventories, reflog blobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.auth.positions import proven
from holdfast.blob import Digest
from holdfast.codec import reflog as codec
from holdfast.codec.reflog import Reflog
from holdfast.coordinator.loss.reflog import held_reflogs, read_reflog
from holdfast.errors import BadConfig, HoldfastError, Unavailable
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target, checked_url

NODES_AT_ONCE = 8

_log = logs.get_logger(__name__)


@dataclass(slots=True)
class Asked:
    """One node's answers. ``packs``: what it holds for vaults; ``sequence``: its inventory is known up to here;
    ``position``: the highest (epoch, commit) that it has the coordinator's word for."""

    url: str
    overview: m.NodeOverview
    packs: list[m.InventoryEntry] = field(default_factory=list)
    reflogs: dict[Digest, m.InventoryEntry] = field(default_factory=dict)
    sequence: int = 0
    position: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Survey:
    """``silent``: address -> why nothing was learnt there. ``logs``: ascending by epoch and number."""

    nodes: dict[Id, Asked] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    logs: list[Reflog] = field(default_factory=list)

    @property
    def facts(self) -> codec.Facts | None:
        """The newest that are known."""
        return next((log.facts for log in reversed(self.logs) if log.facts is not None), None)

    @property
    def position(self) -> tuple[int, int]:
        """The highest (epoch, commit) that the coordinator is known to have signed."""
        return max(
            [(0, 0), *(node.position for node in self.nodes.values()), *((log.epoch, log.last) for log in self.logs)]
        )

    @property
    def known_to(self) -> int:
        """The commit up to which the blobs tell everything, without a gap."""
        return known_to(self.logs)


def known_to(found: Iterable[Reflog]) -> int:
    """The highest commit of a chain whose blobs are all there."""
    reached: dict[tuple[int, int], int] = {}  # (epoch, number) -> the commit it goes up to
    best = 0
    for log in sorted(found, key=lambda log: (log.epoch, log.number)):
        if log.previous is None or (log.epoch, log.number - 1) in reached:
            reached[log.epoch, log.number] = log.last
            best = log.last
    return best


class Surveyor:
    """Asks with the coordinator's own key."""

    def __init__(self, http: HttpClient, coordinator: Id, pool: Pool) -> None:
        self._http = http
        self._coordinator = coordinator
        self._pool = pool
        self._room = asyncio.Semaphore(NODES_AT_ONCE)

    async def survey(self, urls: Iterable[str], known: Mapping[Id, str]) -> Survey:
        """Asks the nodes at ``urls``, those in ``known`` (id -> address) and those that the reflog then names."""
        found = Survey()
        targets = await asyncio.gather(*(self._target(url, found) for url in dict.fromkeys(map(checked_url, urls))))
        asked = {target.id: target for target in targets if target is not None}
        asked.update({id_: Target(id_, url) for id_, url in known.items() if url and id_ not in asked})
        todo = dict(asked)
        read: set[Digest] = set()
        while todo:
            await asyncio.gather(*(self._ask(target, found) for target in todo.values()))
            await self._read_logs(found, read)
            named = found.facts.nodes if found.facts is not None else ()
            todo = {
                node.id: Target(node.id, node.url)
                for node in named
                if node.id not in asked and node.url and node.word != "removed"
            }
            asked.update(todo)
        return found

    async def _target(self, url: str, found: Survey) -> Target | None:
        try:
            health = await self._http.health(url)
        except HoldfastError as error:
            found.silent[url] = error.detail
            return None
        if health.role != "node":
            raise BadConfig(f"{url} is no node but a {health.role}")
        return Target(health.id, url)

    async def _ask(self, target: Target, found: Survey) -> None:
        async with self._room:
            try:
                found.nodes[target.id] = await self._inventory(target)
            except HoldfastError as error:
                found.silent[target.url] = error.detail
                _log.warning("node_not_surveyed", url=target.url, reason=error.detail)

    async def _inventory(self, target: Target) -> Asked:
        overview = await self._http.call(target, routes.INFO)
        asked = Asked(target.url, overview, position=proven(overview.position, self._coordinator))
        held: dict[Digest, m.InventoryEntry] = {}
        after = 0
        while True:
            page = await self._http.call(target, routes.INVENTORY, m.InventoryQuery(after=after))
            for entry in page.entries:
                held[entry.digest] = entry
            if len(page.entries) < m.PAGE_MAX:
                asked.sequence = page.sequence
                break
            if page.entries[-1].sequence <= after:
                raise Unavailable(f"the inventory of {overview.name} does not ascend")
            after = page.entries[-1].sequence
        asked.packs = [entry for entry in held.values() if entry.here and entry.vault is not None]
        asked.reflogs = await held_reflogs(self._http, target)
        return asked

    async def _read_logs(self, found: Survey, read: set[Digest]) -> None:
        """Reads every blob once, from whichever node gives the right bytes."""
        holders: dict[Digest, list[tuple[Target, int]]] = {}
        for id_, node in found.nodes.items():
            for digest, entry in node.reflogs.items():
                if digest not in read:
                    holders.setdefault(digest, []).append((Target(id_, node.url), entry.size))

        async def one(digest: Digest, on: list[tuple[Target, int]]) -> Reflog | None:
            async with self._room:
                for target, size in on:
                    try:
                        data = await read_reflog(self._http, target, digest, size)
                        return await self._pool.run(codec.decode, data, self._coordinator)
                    except HoldfastError as error:
                        _log.warning("reflog_not_read", digest=str(digest), url=target.url, reason=error.detail)
                return None

        logs = await asyncio.gather(*(one(digest, on) for digest, on in holders.items()))
        read.update(digest for digest, log in zip(holders, logs, strict=True) if log is not None)
        found.logs += [log for log in logs if log is not None]
        found.logs.sort(key=lambda log: (log.epoch, log.number))
