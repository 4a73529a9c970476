"""``holdfast blob``: single blobs of a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from holdfast.cli.exchange import client, through_node
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.output import write_blob
from holdfast.cli.verb import VerbGroup
from holdfast.cli.words import visible
from holdfast.errors import Queued


@click.group("blob", cls=VerbGroup)
def command() -> None:
    """Single blobs of a node, by digest (SHA-256)."""


@command.command("put")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@through_node
@current
def put(invocation: Invocation, path: Path, node: str | None, data: Path | None) -> None:
    """Put a file as one blob and print its digest. It stays in the node's cache until a manifest names it.

    Exit code 75 if the node is away: then it waits in the outbox.
    """
    invocation.run(_put(invocation, path, node, data))


async def _put(invocation: Invocation, path: Path, node: str | None, data: Path | None) -> None:
    async with client(invocation, node, data) as opened:
        done = await opened.pusher.put_file(path)
    if invocation.json:
        invocation.document({"digest": str(done.digest), "size": done.size, "queued": bool(done.away)})
    else:
        invocation.data(str(done.digest))
    if done.away:
        raise Queued(f"{path.name} waits in the outbox and goes out when the node answers: {done.away}")


@command.command("get")
@click.argument("digest")
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to write it [default: stdout].")
@through_node
@current
def get(invocation: Invocation, digest: str, output: str, node: str | None, data: Path | None) -> None:
    """Get a blob from wherever the node finds it, checked."""
    invocation.run(_get(invocation, digest, output, node, data))


async def _get(invocation: Invocation, digest: str, output: str, node: str | None, data: Path | None) -> None:
    from holdfast.blob import Digest

    wanted = Digest.parse(digest)
    stdout: BinaryIO = sys.stdout.buffer
    async with client(invocation, node, data) as opened:
        size = await write_blob(opened, wanted, output, stdout)
    if invocation.json and output != "-":
        invocation.document({"digest": digest, "size": size, "path": output})


@command.command("has")
@click.argument("digests", nargs=-1, required=True)
@click.option("--cluster", is_flag=True, help="On the node or at one of its healthy peers.")
@through_node
@current
def has(invocation: Invocation, digests: tuple[str, ...], cluster: bool, node: str | None, data: Path | None) -> None:
    """Say which of these the node has itself; exit code 4 if one is missing."""
    invocation.run(_has(invocation, digests, cluster, node, data))


async def _has(
    invocation: Invocation, digests: tuple[str, ...], cluster: bool, node: str | None, data: Path | None
) -> None:
    from holdfast.blob import Digest
    from holdfast.errors import NotFound

    wanted = [Digest.parse(text) for text in digests]
    async with client(invocation, node, data) as opened:
        found = await opened.node.has(wanted, cluster=cluster)
    if invocation.json:
        invocation.document({"has": {str(digest): digest in found for digest in wanted}})
    else:
        for digest in wanted:
            invocation.data(f"{digest} {'yes' if digest in found else 'no'}")
    missing = [digest for digest in wanted if digest not in found]
    if missing:
        who = "nobody here has" if cluster else "the node does not have"
        raise NotFound(f"{who} {len(missing)} of {len(wanted)}, the first {missing[0]}")


@command.command("where")
@click.argument("digest")
@through_node
@current
def where(invocation: Invocation, digest: str, node: str | None, data: Path | None) -> None:
    """Say where a blob is: on the node, at which peers, at the origin; exit code 4 if nowhere."""
    invocation.run(_where(invocation, digest, node, data))


async def _where(invocation: Invocation, digest: str, node: str | None, data: Path | None) -> None:
    from holdfast.blob import Digest
    from holdfast.errors import NotFound

    wanted = Digest.parse(digest)
    async with client(invocation, node, data) as opened:
        found = await opened.node.where(wanted)
    if invocation.json:
        peers = [{"id": str(peer.id), "name": peer.name} for peer in found.peers]
        invocation.document({"digest": digest, "local": found.local, "peers": peers, "origin": found.origin})
    else:
        if found.local:
            invocation.data("here")
        for peer in found.peers:
            invocation.data(f"peer {visible(peer.name)} ({peer.id.short})")
        if found.origin:
            invocation.data("origin")
    if not (found.local or found.peers or found.origin):
        raise NotFound(f"{digest} is nowhere that this node can see")
