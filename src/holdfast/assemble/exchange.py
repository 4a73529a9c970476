"""A client of the exchange between nodes: who asks, whom, and what it may do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdfast.assemble.homes import home_path
from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.outboxes import outbox_door
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.client.device import home as homes
from holdfast.client.device import keyfile
from holdfast.client.device.local import PartFile
from holdfast.client.exchange.away import AwayWrites
from holdfast.client.exchange.manifests import ManifestWork, finish_part
from holdfast.client.exchange.peers import CheckedBody, NodeCalls
from holdfast.client.exchange.push import Pusher
from holdfast.client.exchange.seen import FILE_NAME as SEEN_FILE
from holdfast.client.exchange.seen import Seen
from holdfast.config import Config
from holdfast.errors import BadConfig, BadRequest, NotFound, Unavailable
from holdfast.node import layout
from holdfast.peers.origin import UrlSource
from holdfast.pool import Pool
from holdfast.wire.foreign import ForeignHttp
from holdfast.wire.http import HttpClient, Target, checked_url

NODE_URL = "http://127.0.0.1:7420"


@dataclass(frozen=True, slots=True)
class ExchangeClient:
    """A node, and work with manifests through it. ``me``: who asks."""

    me: Id
    node: NodeCalls
    pusher: Pusher
    work: ManifestWork


@asynccontextmanager
async def open_exchange(
    home: Path | None = None, *, node: str | None = None, data: Path | None = None, machine: Machine = THIS_MACHINE
) -> AsyncIterator[ExchangeClient]:
    """Talks to one node: ``node`` ([ID@]URL), else HOLDFAST_NODE, else the one on this machine.

    Whoever has the node's directory ``data`` asks as the node itself; else the home's device asks; without a home
    somebody unknown, who gets what a node gives to everybody. Changes for a node that is away are queued by whoever
    has a directory to keep them in. Unavailable if nobody answers there and nobody ever did.
    """
    text = node or os.environ.get("HOLDFAST_NODE") or NODE_URL
    id_text, _, url = text.rpartition("@")
    try:
        id_ = Id.parse(id_text) if id_text else None
    except BadRequest as error:
        raise BadConfig(f"the node {text!r}: {error.detail}") from error
    identity, grant, directory = _who(home_path(home), data, machine)
    async with AsyncExitStack() as opened:
        pool = machine.pool(None, "exchange")
        opened.callback(pool.close)
        http = HttpClient(identity=identity, network=machine.network, clock=machine.clock)
        opened.push_async_callback(http.close)
        url = checked_url(url)
        seen = None if directory is None else Seen(directory / SEEN_FILE, machine.files)
        if id_ is None:
            id_ = await _who_answers(http, url, seen, pool)
        target = Target(id_, url)
        calls = NodeCalls(target, http=http, pool=pool, grant=grant)
        away = None
        if directory is not None and seen is not None:
            door = outbox_door(directory, identity, http, Config.load(home_path(home)), pool, machine)
            opened.push_async_callback(door.close)
            away = AwayWrites(target, door, seen, clock=machine.clock, pool=pool)
        pusher = Pusher(calls, files=machine.files, pool=pool, away=away)
        work = ManifestWork(calls, files=machine.files, pool=pool, randomness=machine.randomness)
        yield ExchangeClient(identity.id, calls, pusher, work)


async def _who_answers(http: HttpClient, url: str, seen: Seen | None, pool: Pool) -> Id:
    """The node at ``url``, or who it was the last time; Unavailable if that is not known either."""
    try:
        found = (await http.health(url)).id
    except Unavailable:
        known = None if seen is None else await pool.run(seen.node, url)
        if known is None:
            raise
        return known
    if seen is not None:
        await pool.run(seen.note_node, url, found)
    return found


async def fetch_url(url: str, digest: Digest, output: str, stdout: BinaryIO, *, machine: Machine = THIS_MACHINE) -> int:
    """Downloads ``url`` and checks it; to a file all or nothing. Redirects are followed as browsers do.

    Corrupt, NotFound, Unavailable.
    """
    async with AsyncExitStack() as opened:
        pool = machine.pool(None, "fetch")
        opened.callback(pool.close)
        foreign = ForeignHttp(network=machine.network)
        opened.push_async_callback(foreign.close)
        source = UrlSource(url, http=foreign, clock=machine.clock)
        body = CheckedBody(await opened.enter_async_context(source.open(digest, 0)), digest, pool)
        if output == "-":
            async for piece in body:
                await pool.run(stdout.write, piece)
            stdout.flush()
            return body.size
        part = await pool.run(PartFile, machine.files, Path(output), 0)
        try:
            at = 0
            async for piece in body:
                await pool.run(part.write, piece, at)
                at += len(piece)
            await pool.run(finish_part, part, at, 0o644)
        finally:
            await pool.run(part.remove)
        return at


def _who(home: Path, data: Path | None, machine: Machine) -> tuple[Identity, bytes | None, Path | None]:
    """Identity, credential, and the directory that keeps what is queued; None for somebody unknown."""
    if data is not None:
        return layout.open_node(data, files=machine.files).identity, None, data
    try:
        device = keyfile.read_device(machine.files, homes.device_key(home))
    except NotFound:
        return Identity.generate(machine.randomness), None, None
    grant = None
    with contextlib.suppress(NotFound):
        grant = homes.read_membership(machine.files, home).certificate
    return device, grant, home
