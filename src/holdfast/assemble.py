"""Wires processes: the only file that names concrete classes and chooses seams.

Each function makes one thing that a verb or a program needs: a vault, a member's view of the network, a running node, a
running coordinator, or the files that these begin with. What is opened here is closed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import platform
import ssl
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from holdfast.auth import invites
from holdfast.auth.identity import Id
from holdfast.client import home as homes
from holdfast.client import keyfile
from holdfast.client import network as membership
from holdfast.client.coordinators import Coordinators
from holdfast.client.index import Index
from holdfast.client.network import NetworkCalls, Seams
from holdfast.client.settings import ClientSettings
from holdfast.client.vault import Vault
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.codec.keys import VaultKeys
from holdfast.config import Config, default_home
from holdfast.errors import BadConfig, BadRequest, NotFound, Unavailable, WrongPassphrase
from holdfast.files import OsFiles, Space
from holdfast.pool import ThreadPool
from holdfast.telemetry import Metrics
from holdfast.wire.http import HttpClient, checked_url
from holdfast.wire.network import Listener, TcpNetwork

if TYPE_CHECKING:
    from holdfast.coordinator.setup import CoordinatorMade

RESERVE_BYTES_MIN = 1 << 30
RESERVE_PART = 100  # one part in a hundred of the disk
PORT_LOWEST, PORT_HIGHEST = 10_000, 32_000  # below the ports that the system gives to outgoing connections

_files = OsFiles()
_clock = SystemClock()
_randomness = SystemRandomness()


# --- homes ------------------------------------------------------------------------------------------------------------


def home_path(given: Path | None) -> Path:
    """``--home``, HOLDFAST_HOME or the system's place for a user's data."""
    return given or default_home(os.environ)


def has_keys(home: Path) -> bool:
    """Were keys made in this home?"""
    return _files.size(homes.vault_key(home)) is not None


def is_sealed(home: Path) -> bool:
    """Does its key file ask for a passphrase? False without one."""
    return has_keys(home) and keyfile.is_sealed(_files, homes.vault_key(home))


def key_facts(home: Path) -> dict[str, Any]:
    """What may be shown of a home's keys without opening them; NotFound without a key file."""
    facts: dict[str, Any] = {"home": str(home), "sealed": keyfile.is_sealed(_files, homes.vault_key(home))}
    facts["device"] = str(keyfile.read_device(_files, homes.device_key(home)).id)
    with contextlib.suppress(NotFound):
        found = homes.read_membership(_files, home)
        facts |= {"vault": str(found.vault), "coordinator": str(found.coordinator), "urls": " ".join(found.urls)}
    return facts


def _root(home: Path, ask: Callable[[], str | None]) -> bytes:
    return keyfile.read_root(_files, homes.vault_key(home), ask() if is_sealed(home) else None)


def recovery_words(home: Path, ask: Callable[[], str | None]) -> list[str]:
    """The 24 words; ``ask`` is asked for the passphrase of a sealed key file."""
    return keyfile.to_words(_root(home, ask))


def change_passphrase(home: Path, old: str | None, new: str | None) -> None:
    """Seals the key file anew; without ``new`` it is left open. WrongPassphrase."""
    keyfile.change_passphrase(_files, homes.vault_key(home), old, new, _randomness)


def check_key(home: Path, ask: Callable[[], str | None], words: str | None) -> None:
    """WrongPassphrase unless the key file opens and, if given, ``words`` are its own."""
    root = _root(home, ask)
    keyfile.read_device(_files, homes.device_key(home))
    if words is not None and keyfile.from_words(words) != root:
        raise WrongPassphrase("These words belong to another vault than this key file.")


@dataclass(frozen=True, slots=True)
class HomeMade:
    """A home's ids. ``new``: its keys were made now; ``words`` are then those of a new vault."""

    vault: Id
    device: Id
    new: bool
    joined: bool
    words: list[str]


async def init_home(
    home: Path, *, join: str | None, words: str | None = None, passphrase: str | None = None, again: bool = False
) -> HomeMade:
    """Makes keys in ``home`` and joins the network of the invite, if there is one.

    ``words`` recover a vault. ``again``: a home that has joined already is left as it is, instead of Exists.
    """
    new = not has_keys(home)
    if again and _files.size(homes.network_file(home)) is not None:
        found = homes.load_home(_files, home, passphrase)
        return HomeMade(found.membership.vault, found.device.id, False, True, [])
    if join is None:
        device, root = _make_keys(home, words, passphrase)
        return HomeMade(VaultKeys(root).vault, device, new, False, keyfile.to_words(root) if new else [])
    pool = ThreadPool(2, "init")
    try:
        seams = Seams(_files, _clock, _randomness, pool, TcpNetwork())
        made = await membership.init_home(home, join, seams, words=words, passphrase=passphrase)
        return HomeMade(made.membership.vault, made.device.id, new, True, keyfile.to_words(made.root) if new else [])
    finally:
        pool.close()


def _make_keys(home: Path, words: str | None, passphrase: str | None) -> tuple[Id, bytes]:
    from holdfast.auth.identity import Identity

    _files.make_directory(home)
    root = keyfile.from_words(words) if words is not None else _randomness.bytes(keyfile.ROOT_BYTES)
    keyfile.write_root(_files, homes.vault_key(home), root, passphrase, _randomness)
    try:
        device = keyfile.read_device(_files, homes.device_key(home))
    except NotFound:
        device = Identity.generate(_randomness)
        keyfile.write_device(_files, homes.device_key(home), device)
    return device.id, root


class NetworkView(NetworkCalls):
    """A member's questions to its network. ``async with`` closes it."""

    def __init__(self, coordinators: Coordinators, http: HttpClient, member: homes.Membership) -> None:
        super().__init__(coordinators, _randomness)
        self.http = http
        self.member = member

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()


async def open_network(home: Path | None = None) -> NetworkView:
    """The network of a home, seen with its device key; no passphrase is needed. NotFound without a home."""
    path = home_path(home)
    member = homes.read_membership(_files, path)
    device = keyfile.read_device(_files, homes.device_key(path))
    http = HttpClient(identity=device, network=TcpNetwork(), clock=_clock)
    return NetworkView(Coordinators(http, member.coordinator, _coordinator_urls(member.urls)), http, member)


def _coordinator_urls(urls: Sequence[str]) -> list[str]:
    """HOLDFAST_COORDINATOR is tried before what the home knows."""
    given = os.environ.get("HOLDFAST_COORDINATOR")
    return list(dict.fromkeys([*([checked_url(given)] if given else []), *urls]))


# --- vaults -----------------------------------------------------------------------------------------------------------


class OpenVault(Vault):
    """A vault that also closes the threads that were made for it, whatever happens on the way."""

    _pool: ThreadPool

    async def __aenter__(self) -> Self:
        return self

    async def close(self) -> None:
        """Ends what is under way and writes the index. May be called twice."""
        try:
            await super().close()
        finally:
            await self._http.close()
            self._pool.close()


V = TypeVar("V", bound=OpenVault)


async def open_vault(
    home: Path | None = None,
    *,
    kind: type[V],
    ask: Callable[[], str | None] = lambda: None,
    coordinator: str | None = None,
    config: Config | None = None,
) -> V:
    """The vault of a home; ``ask`` is asked for the passphrase of a sealed key file. Nothing is sent yet.

    ``coordinator``: an address that is tried first. NotFound without a home, WrongPassphrase, BadConfig.
    """
    path = home_path(home)
    settings = (config or Config.load(path)).section(ClientSettings)
    passphrase = ask() if is_sealed(path) else None
    pool = ThreadPool(name="vault")
    try:
        found = await pool.run(homes.load_home, _files, path, passphrase)
        await pool.run(_files.make_directory, found.index_path.parent)
    except BaseException:
        pool.close()
        raise
    http = HttpClient(identity=found.device, network=TcpNetwork(), clock=_clock)
    member = found.membership
    urls = _coordinator_urls([*([checked_url(coordinator)] if coordinator else []), *member.urls])
    return kind(
        keys=VaultKeys(found.root),
        device=found.device,
        certificate=member.certificate,
        http=http,
        coordinators=Coordinators(http, member.coordinator, urls, timeout_s=settings.coordinator_s),
        index=Index(found.index_path, _files, ThreadPool(1, "index")),
        pool=pool,
        clock=_clock,
        randomness=_randomness,
        files=_files,
        settings=settings,
    )


# --- servers ----------------------------------------------------------------------------------------------------------


class App(Protocol):
    """What nodes and coordinators have in common."""

    id: Id
    name: str
    url: str

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Listener: ...

    async def stop(self) -> None: ...


class Running:
    """A node or a coordinator with everything that was opened for it."""

    def __init__(
        self, app: App, metrics: Metrics, listen: tuple[str, int], tls: ssl.SSLContext | None, opened: AsyncExitStack
    ) -> None:
        self.app = app
        self.id = app.id
        self.name = app.name
        self.secure = tls is not None
        self._metrics = metrics
        self._listen = listen
        self._tls = tls
        self._opened = opened

    @property
    def url(self) -> str:
        """Where others reach it; known once it has started."""
        return self.app.url

    async def start(self) -> Listener:
        """Serves; Unavailable if the address cannot be had."""
        host, port = self._listen
        return await self.app.start(host, port, tls=self._tls)

    async def start_metrics(self, port: int) -> Listener:
        """Serves /metrics on loopback, without a signature: what is counted is no secret on this machine."""
        from aiohttp import web

        async def answer(request: web.BaseRequest) -> web.Response:
            if request.path != "/metrics":
                return web.Response(status=404)
            return web.Response(body=self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4"})

        server = web.Server(answer)
        listener = await TcpNetwork().listen(server, "127.0.0.1", port, tls=None)
        self._opened.push_async_callback(server.shutdown, 1.0)
        self._opened.push_async_callback(listener.close)
        return listener

    async def stop(self) -> None:
        """Finishes what is under way, says goodbye, closes everything. May be called twice."""
        await self.app.stop()
        await self._opened.aclose()


def _host_name(given: str | None) -> str:
    return (given or platform.node() or "nameless")[:128]


def host_domain() -> str:
    """Nodes on one host fail together: an id of the host that gives away neither its name nor its machine id."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            found = Path(path).read_text().strip()
            if found:
                return "host-" + hashlib.sha256(b"holdfast/1/domain\0" + found.encode()).hexdigest()[:12]
    return "host-" + _host_name(None)


@dataclass(frozen=True, slots=True)
class NodeMade:
    """A node that was made and has joined. ``store``: its id, 32 hex digits."""

    id: Id
    name: str
    store: str
    domain: str
    coordinator: Id


async def init_node(
    data: Path,
    *,
    join: str,
    name: str | None = None,
    capacity: int | None = None,
    domain: str | None = None,
    always_on: bool = False,
    again: bool = False,
) -> NodeMade:
    """Makes store, keys and membership of a node in ``data``. Continues what was cut short before the join.

    ``again``: a node that has joined already is left as it is, instead of BadConfig.
    """
    from holdfast.node import agent, layout
    from holdfast.node.membership import Membership
    from holdfast.stores import disk_layout
    from holdfast.stores.disk import DiskStore

    invite = invites.from_line(join)
    if invite.role != "node":
        raise BadRequest(f"this invite is for a {invite.role}; a node needs one made by: holdfast invite node")
    pool = ThreadPool(2, "init")
    try:
        try:
            directory = layout.open_node(data, files=_files)
        except BadConfig:
            if _files.size(data / "node.json") is not None:
                raise
            if _files.size(data / "layout.json") is None:
                store_id = await DiskStore.init(data, files=_files, pool=pool, randomness=_randomness)
            else:
                store_id = disk_layout.load(_files, data, None)
            directory = layout.init_node(
                data,
                files=_files,
                randomness=_randomness,
                name=_host_name(name),
                domain=domain or host_domain(),
                store_id=store_id,
                capacity=capacity,
                always_on=always_on,
            )
        record = directory.record
        if _files.size(data / "network.json") is not None:
            if not again:
                raise BadConfig(f"{data} holds a node that has joined already; run it, or name another directory")
            joined = Membership.load(data, files=_files)
            return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)
        http = HttpClient(identity=directory.identity, network=TcpNetwork(), clock=_clock)
        try:
            joined, _ = await agent.join(directory, invite, http=http, pool=pool)
        finally:
            await http.close()
        return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)
    finally:
        pool.close()


async def make_node(
    data: Path, config: Config, *, listen: tuple[str, int], tls: ssl.SSLContext | None = None
) -> Running:
    """Opens the node in ``data``; it serves once started. BadConfig when directory, store or membership do not fit."""
    from holdfast.node import layout
    from holdfast.node.app import Node
    from holdfast.node.ledger import Ledger
    from holdfast.node.membership import Membership
    from holdfast.node.settings import NodeSettings
    from holdfast.stores.disk import DiskStore

    settings = config.section(NodeSettings)
    directory = layout.open_node(data, files=_files)
    member = Membership.load(data, files=_files)
    if settings.advertise:
        settings = replace(settings, advertise=checked_url(settings.advertise))
    elif listen[0] in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        settings = replace(settings, advertise=await _outward_url(member.urls[0], listen[1], tls))
    async with AsyncExitStack() as opened:
        opened.enter_context(directory.lock())
        slow_clock = directory.load_clock()
        slow_clock.start(_clock)
        pool, sync_pool = ThreadPool(name="node"), ThreadPool(4, "sync")
        writer, reader = ThreadPool(1, "ledger"), ThreadPool(1, "ledger-read")
        for made in (pool, sync_pool, writer, reader):
            opened.callback(made.close)
        store = await DiskStore.open(
            data,
            files=_files,
            pool=pool,
            sync_pool=sync_pool,
            clock=_clock,
            expected_id=directory.record.store_id,
            capacity_bytes=directory.record.capacity,
            reserve_bytes=reserve_bytes(_files.space(data).total),
            trash_clock=lambda: slow_clock.read(_clock),
        )
        opened.push_async_callback(store.close)
        ledger = await Ledger.open(data, files=_files, writer=writer, reader=reader)
        opened.push_async_callback(ledger.close, clean=False)
        http = HttpClient(identity=directory.identity, network=TcpNetwork(), clock=_clock)
        opened.push_async_callback(http.close)
        node = Node(
            directory,
            store=store,
            ledger=ledger,
            membership=member,
            http=http,
            network=TcpNetwork(),
            settings=settings,
            clock=_clock,
            slow_clock=slow_clock,
            randomness=_randomness,
            pool=pool,
        )
        kept = opened.pop_all()
    return Running(node, node.service.metrics, listen, tls, kept)


async def init_coordinator(
    data: Path,
    *,
    advertise: str,
    survive: int | None = None,
    name: str | None = None,
    node_uses: int | None = None,
    again: bool = False,
) -> CoordinatorMade:
    """Makes a coordinator in ``data``, and the invites to begin with. BadConfig if there is one, unless ``again``."""
    from holdfast.coordinator import setup

    pool = ThreadPool(1, "database")
    try:
        return await setup.init_coordinator(
            data,
            name=_host_name(name),
            advertise=[advertise],
            files=_files,
            clock=_clock,
            randomness=_randomness,
            pool=pool,
            survive=setup.SURVIVE_DEFAULT if survive is None else survive,
            node_uses=setup.NODE_USES if node_uses is None else node_uses,
            again=again,
        )
    finally:
        pool.close()


async def make_coordinator(
    data: Path,
    config: Config,
    *,
    listen: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    survive: int | None = None,
) -> Running:
    """Opens the coordinator in ``data``; it serves once started. BadConfig when there is none, or it is in use.

    ``survive`` changes the policy first.
    """
    from holdfast.coordinator import setup
    from holdfast.coordinator.app import Coordinator
    from holdfast.coordinator.settings import CoordinatorSettings
    from holdfast.metadata.database import Database

    settings = config.section(CoordinatorSettings)
    identity = setup.load_identity(data, _files)
    async with AsyncExitStack() as opened:
        opened.enter_context(setup.lock(data, _files))
        pool, database_pool = ThreadPool(name="coordinator"), ThreadPool(1, "database")
        opened.callback(pool.close)
        opened.callback(database_pool.close)
        database = await Database.open(setup.database_path(data), database_pool)
        opened.push_async_callback(database.close)
        if survive is not None:
            await database.run(_set_survive, survive)
        http = HttpClient(identity=identity, network=TcpNetwork(), clock=_clock)
        opened.push_async_callback(http.close)
        coordinator = await Coordinator.open(
            identity=identity,
            database=database,
            http=http,
            network=TcpNetwork(),
            settings=settings,
            clock=_clock,
            randomness=_randomness,
            pool=pool,
        )
        kept = opened.pop_all()
    return Running(coordinator, coordinator.service.metrics, listen, tls, kept)


def _set_survive(connection: Any, survive: int) -> None:
    from holdfast.metadata import queries_members

    facts = queries_members.network_facts(connection)
    if facts is not None and facts.survive != survive:
        queries_members.change_network(connection, survive=survive, policy_version=facts.policy_version + 1)


def reserve_bytes(total: int) -> int:
    """What a node leaves to others of a disk of ``total`` bytes: 1 %, at least 1 GiB."""
    return max(total // RESERVE_PART, RESERVE_BYTES_MIN)


async def _outward_url(coordinator: str, port: int, tls: ssl.SSLContext | None) -> str:
    """This host's address on the way to the coordinator; no packet is sent to find it."""
    if port == 0:
        raise BadConfig("--listen with port 0 on all addresses needs --advertise URL")
    parts = urlsplit(coordinator)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(parts.hostname or "", parts.port or 80)
        )
    except OSError as error:
        raise BadConfig(f"this host's address towards {coordinator} is unknown ({error}); use --advertise") from error
    try:
        host = str(transport.get_extra_info("sockname")[0])
    finally:
        transport.close()
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{host}:{port}"


async def free_ports(count: int) -> list[int]:
    """Ports on loopback, one after the other, that nobody uses and the system gives to no outgoing connection."""
    for _ in range(100):
        first = PORT_LOWEST + _randomness.below(PORT_HIGHEST - PORT_LOWEST - count)
        held: list[Listener] = []
        try:
            for port in range(first, first + count):
                held.append(await TcpNetwork().listen(asyncio.Protocol, "127.0.0.1", port, tls=None))
        except Unavailable:
            continue
        finally:
            for listener in held:
                await listener.close()
        return list(range(first, first + count))
    raise Unavailable(f"no {count} free ports were found on this machine")


# --- what doctor looks at ---------------------------------------------------------------------------------------------


def space(path: Path) -> Space:
    """Bytes of the file system that holds ``path``."""
    return _files.space(path)


def node_facts(data: Path) -> NodeMade:
    """The node in ``data``, its store checked against the one it served last; BadConfig."""
    from holdfast.node import layout
    from holdfast.node.membership import Membership
    from holdfast.stores import disk_layout

    directory = layout.open_node(data, files=_files)
    directory.check_store(disk_layout.load(_files, data, None))
    record = directory.record
    joined = Membership.load(data, files=_files)
    return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)


def time_syncs(directory: Path, rounds: int) -> float:
    """Seconds that writing and syncing 4 KiB takes there: the median of ``rounds``. Blocks."""
    path = directory / f".doctor-{_randomness.bytes(8).hex()}"
    descriptor = _files.create(path)
    spent = []
    try:
        for _ in range(rounds):
            _files.write(descriptor, bytes(4096))
            began = _clock.monotonic()
            _files.sync(descriptor)
            spent.append(_clock.monotonic() - began)
    finally:
        _files.close(descriptor)
        _files.unlink(path)
    return sorted(spent)[rounds // 2]
