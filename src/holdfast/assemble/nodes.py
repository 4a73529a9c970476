"""Nodes: made, opened, looked at."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.node_stores import (
    STORE_ORIGINS,
    checked_store_url,
    disk_root,
    make_store,
    open_store_of,
    store_origin,
)
from holdfast.assemble.outboxes import outbox_door
from holdfast.assemble.servers import Running, host_name, outward_url
from holdfast.auth import invites
from holdfast.auth.identity import Id
from holdfast.config import Config, is_loopback
from holdfast.errors import BadConfig, BadRequest
from holdfast.files import read_file
from holdfast.gateway.action_keys import ActionKeys
from holdfast.gateway.build_cache import BuildCache
from holdfast.node import agent, layout
from holdfast.node.app import Node
from holdfast.node.exchange.setup import PULLS
from holdfast.node.exchange.trust import AuthorizedKeys
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.membership import Membership
from holdfast.node.settings import NodeSettings
from holdfast.peers.origin import TOKEN_BYTES_MAX, Origin, make_origin
from holdfast.peers.settings import PeersSettings
from holdfast.pool import Pool
from holdfast.stores.ballast import BALLAST_BYTES
from holdfast.stores.disk import layout as disk_layout
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient, checked_url

ANYWHERE = "http://192.0.2.1"
"""An address that nobody has (RFC 5737): the way there leads over this host's usual interface."""


def host_domain() -> str:
    """Nodes on one host fail together: an id of the host that gives away neither its name nor its machine id."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            found = Path(path).read_text().strip()
            if found:
                return "host-" + hashlib.sha256(b"holdfast/1/domain\0" + found.encode()).hexdigest()[:12]
    return "host-" + host_name(None)


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
    join: str | None,
    store: str | None = None,
    name: str | None = None,
    capacity: int | None = None,
    domain: str | None = None,
    always_on: bool = False,
    again: bool = False,
    machine: Machine = THIS_MACHINE,
) -> NodeMade:
    """Makes store, keys and membership of a node in ``data``. Continues what was cut short before the join.

    ``join`` None: a node without a coordinator, with an empty ``authorized_keys``. ``store``: the URL of a store that
    is not to lie in ``data``; it is made if there is none. ``again``: a node that has joined already is left as it is,
    instead of BadConfig.
    """
    invite = None if join is None else invites.from_line(join)
    if invite is not None and invite.role != "node":
        raise BadRequest(f"this invite is for a {invite.role}; a node needs one made by: holdfast invite node")
    url = None if store is None else checked_store_url(store, capacity, joining=join is not None)
    pool = machine.pool(2, "init")
    try:
        try:
            directory = layout.open_node(data, files=machine.files)
        except BadConfig:
            if machine.files.size(data / "node.json") is not None:
                raise
            store_id = await make_store(data, url, joining=join is not None, pool=pool, machine=machine)
            directory = layout.init_node(
                data,
                files=machine.files,
                randomness=machine.randomness,
                name=host_name(name),
                domain=domain or host_domain(),
                store_id=store_id,
                store="" if url is None else str(url),
                capacity=capacity,
                always_on=always_on,
            )
        record = directory.record
        if machine.files.size(data / "network.json") is not None:
            if not again:
                raise BadConfig(f"{data} holds a node that has joined already; run it, or name another directory")
            joined = Membership.load(data, files=machine.files)
            return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)
        if invite is None:
            AuthorizedKeys(data, files=machine.files).create()
            return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, directory.identity.id)
        http = HttpClient(identity=directory.identity, network=machine.network, clock=machine.clock)
        try:
            joined, _ = await agent.join(directory, invite, http=http, pool=pool)
        finally:
            await http.close()
        return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)
    finally:
        pool.close()


async def make_node(
    data: Path,
    config: Config,
    *,
    listen: tuple[str, int],
    tls: ssl.SSLContext | None = None,
    machine: Machine = THIS_MACHINE,
) -> Running:
    """Opens the node in ``data``; it serves once started. BadConfig when directory, store or membership do not fit."""
    settings = config.section(NodeSettings)
    peers = config.section(PeersSettings)
    directory = layout.open_node(data, files=machine.files)
    member = _membership(directory, machine)
    if settings.advertise:
        settings = replace(settings, advertise=checked_url(settings.advertise))
    elif listen[0] in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        settings = replace(settings, advertise=await outward_url((member.urls or [ANYWHERE])[0], listen[1], tls))
    async with AsyncExitStack() as opened:
        opened.enter_context(directory.lock())
        slow_clock = directory.load_clock()
        slow_clock.start(machine.clock)
        pool = machine.pool(None, "node")
        writer, reader = machine.pool(1, "ledger"), machine.pool(1, "ledger-read")
        for made in (pool, writer, reader):
            opened.callback(made.close)
        ledger = Ledger(
            data / "ledger.db", files=machine.files, writer=writer, reader=reader, ballast_bytes=BALLAST_BYTES
        )
        store = await open_store_of(
            data,
            directory.record,
            directory.identity.id,
            joined=not member.is_alone,
            pool=pool,
            machine=machine,
            slow_time=lambda: slow_clock.read(machine.clock),
            used=lambda: ledger.held_bytes,
            opened=opened,
        )
        await ledger.start()
        opened.push_async_callback(ledger.close, clean=False)
        http = HttpClient(identity=directory.identity, network=machine.network, clock=machine.clock)
        opened.push_async_callback(http.close)
        foreign = ForeignHttp(network=machine.network)
        opened.push_async_callback(foreign.close)
        origin: Origin | None = None
        if peers.origin.startswith(STORE_ORIGINS):
            origin = store_origin(peers.origin, pool, machine)
        elif peers.origin:
            origin = make_origin(
                peers.origin,
                http=http,
                foreign=foreign,
                clock=machine.clock,
                token=_token(peers.origin_token_file, "HOLDFAST_ORIGIN_TOKEN", machine),
                redirects=peers.origin_redirects,
                private=peers.origin_private,
            )
        node = Node(
            directory,
            store=store,
            ledger=ledger,
            membership=member,
            http=http,
            network=machine.network,
            settings=settings,
            clock=machine.clock,
            slow_clock=slow_clock,
            randomness=machine.randomness,
            pool=pool,
            peers=peers,
            origin=origin,
            outbox=outbox_door(data, directory.identity, http, config, pool, machine),
        )
        if peers.build_cache:
            await _add_build_cache(node, data, listen[0], settings, peers, opened, machine, pool)
        kept = opened.pop_all()
    return Running(node, node.service.metrics, listen, tls, kept, machine)


async def _add_build_cache(
    node: Node,
    data: Path,
    host: str,
    settings: NodeSettings,
    peers: PeersSettings,
    opened: AsyncExitStack,
    machine: Machine,
    pool: Pool,
) -> None:
    """BadConfig where clients would be believed without a token."""
    token = _token(peers.build_cache_token_file, "HOLDFAST_BUILD_CACHE_TOKEN", machine)
    if not token and not is_loopback(host):
        raise BadConfig(
            "a build cache that others reach needs a token: build_cache_token_file, or HOLDFAST_BUILD_CACHE_TOKEN"
        )
    thread = machine.pool(1, "build-keys")
    opened.callback(thread.close)
    keys = ActionKeys(data, files=machine.files, pool=thread)
    await keys.open()
    opened.push_async_callback(keys.close)
    BuildCache(
        node.exchange.exchange,
        node.blobs,
        keys,
        directory=data / PULLS,
        files=machine.files,
        pool=pool,
        randomness=machine.randomness,
        token=token,
        open_read=settings.open_read,
        read_only=settings.read_only,
    ).add_to(node.service)


def _membership(directory: layout.NodeDirectory, machine: Machine) -> Membership:
    """A node that has joined nothing but has authorized_keys belongs to itself."""
    joined = machine.files.size(directory.path / "network.json") is not None
    if not joined and AuthorizedKeys(directory.path, files=machine.files).exists:
        return Membership.alone(directory.path, files=machine.files, me=directory.identity.id)
    return Membership.load(directory.path, files=machine.files)


def _token(path: str, variable: str, machine: Machine) -> str:
    """From the file, else from the environment; BadConfig if the file is not there."""
    if not path:
        return os.environ.get(variable, "").strip()
    try:
        data = read_file(machine.files, Path(path), TOKEN_BYTES_MAX)
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error
    if data is None:
        raise BadConfig(f"{path}, which should hold a token, is not there")
    token = data.decode("latin-1").strip()
    if not token.isprintable():
        raise BadConfig(f"{path}: a token is one line of text")
    return token


def node_facts(data: Path, machine: Machine = THIS_MACHINE) -> NodeMade:
    """The node in ``data``, its store checked against the one it served last; BadConfig."""
    directory = layout.open_node(data, files=machine.files)
    record = directory.record
    root = disk_root(data, record)
    if root is not None:
        directory.check_store(disk_layout.load(machine.files, root, None))
    joined = _membership(directory, machine)
    return NodeMade(directory.identity.id, record.name, record.store_id, record.domain, joined.coordinator)


def node_disks(data: Path, machine: Machine = THIS_MACHINE) -> list[Path]:
    """The directories whose disks the node in ``data`` needs: its own and, if it lies in another one, its store's."""
    root = disk_root(data, layout.open_node(data, files=machine.files).record)
    return [data] if root in (None, data) else [data, Path(str(root))]
