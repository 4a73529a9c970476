"""``holdfast manifest``: plain, named lists of files that nodes keep for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.exchange import client, through_node
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import DURATION, VerbGroup
from holdfast.cli.words import count_words, size_words, table, visible
from holdfast.errors import Queued

if TYPE_CHECKING:
    from holdfast.client.exchange.manifests import Synced


@click.group("manifest", cls=VerbGroup)
def command() -> None:
    """Named lists of files, kept by nodes and shared among them. Not encrypted: for artefacts, not for secrets."""


@command.command("push")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--as", "name", required=True, metavar="NAME", help="a-z, 0-9, '.', '_', '-'; at most 128.")
@through_node
@current
def push(invocation: Invocation, directory: Path, name: str, node: str | None, data: Path | None) -> None:
    """Put the files of a directory as blobs, then the manifest that names them.

    Exit code 75 if the node is away: then they wait in the outbox.
    """
    invocation.run(_push(invocation, directory, name, node, data))


async def _push(invocation: Invocation, directory: Path, name: str, node: str | None, data: Path | None) -> None:
    async with client(invocation, node, data) as opened:
        done = await opened.pusher.push(directory, name, _progress(invocation, "pushed"))
    if invocation.json:
        invocation.document(
            {"name": name, "etag": str(done.etag), "new": done.new, "entries": done.entries, "blobs": done.blobs,
             "sent": done.sent, "stored": done.stored, "queued": bool(done.away)}
        )  # fmt: skip
    else:
        invocation.data(str(done.etag))
    if done.away:
        raise Queued(f"{name} waits in the outbox and goes out when the node answers: {done.away}")
    if not invocation.json:
        invocation.note(
            f"{name}: {count_words(done.entries, 'file')}, {size_words(done.stored)}; "
            f"{count_words(done.sent, 'blob')} had to be sent."
        )


@command.command("ls")
@click.option("--local", is_flag=True, help="Only the node's own.")
@through_node
@current
def ls(invocation: Invocation, local: bool, node: str | None, data: Path | None) -> None:
    """List the manifests of the cluster, each with the nodes that keep it."""
    invocation.run(_ls(invocation, local, node, data))


async def _ls(invocation: Invocation, local: bool, node: str | None, data: Path | None) -> None:
    async with client(invocation, node, data) as opened:
        found = await opened.node.manifests(cluster=not local)
    if invocation.json:
        from msgspec import to_builtins

        rows = [to_builtins(info, enc_hook=str) | {"holders": _holders(info)} for info in found.manifests]
        invocation.document({"manifests": rows, "silent": [holder.name for holder in found.silent]})
        return
    lines = [["NAME", "ETAG", "FILES", "BLOBS", "SIZE", "NODES"]]
    for info in found.manifests:
        names = ", ".join(visible(holder.name) for holder in info.holders)
        lines.append(
            [info.name, str(info.etag)[:12], f"{info.entries:,}", f"{info.blobs:,}", size_words(info.stored), names]
        )
    for line in table(lines, right=[2, 3, 4]):
        invocation.data(line)
    if found.silent:
        invocation.note("Not answering: " + ", ".join(visible(holder.name) for holder in found.silent))


def _holders(info: Any) -> list[dict[str, str]]:
    return [{"id": str(holder.id), "name": holder.name} for holder in info.holders]


@command.command("show")
@click.argument("name")
@click.option("--from", "source", metavar="NODE", help="The one that this node keeps: its name, or its id's digits.")
@through_node
@current
def show(invocation: Invocation, name: str, source: str | None, node: str | None, data: Path | None) -> None:
    """Print a manifest in its stored form."""
    invocation.run(_show(invocation, name, source, node, data))


async def _show(invocation: Invocation, name: str, source: str | None, node: str | None, data: Path | None) -> None:
    from holdfast.client.exchange.peers import choose

    async with client(invocation, node, data) as opened:
        info, holder = choose((await opened.node.manifests(cluster=True)).manifests, name, source)
        found = await opened.node.manifest(name, holder.id, etag=info.etag)
    click.echo(found)


@command.command("rm")
@click.argument("name")
@click.option("--if-match", metavar="ETAG", help="Only if it is this one.")
@through_node
@current
def rm(invocation: Invocation, name: str, if_match: str | None, node: str | None, data: Path | None) -> None:
    """Remove the node's manifest; its blobs stay in the cache until their room is needed.

    Exit code 75 if the node is away: then the removal waits in the outbox.
    """
    invocation.run(_rm(invocation, name, if_match, node, data))


async def _rm(invocation: Invocation, name: str, if_match: str | None, node: str | None, data: Path | None) -> None:
    from holdfast.blob import Digest

    async with client(invocation, node, data) as opened:
        away = await opened.pusher.remove(name, before=None if if_match is None else Digest.parse(if_match))
    if invocation.json:
        invocation.document({"removed": name, "queued": bool(away)})
    if away:
        raise Queued(f"the removal of {name} waits in the outbox and goes out when the node answers: {away}")


@command.command("sync")
@click.argument("name")
@click.option("--from", "source", metavar="NODE", help="Where nodes keep different ones: take this node's.")
@click.option("--to", "directory", type=click.Path(path_type=Path, file_okay=False), help="Write the files there.")
@click.option("--watch", is_flag=True, help="Go on, and sync again whenever the manifest changes.")
@click.option("--every", type=DURATION, default=30.0, show_default="30s", help="How often --watch looks.")
@through_node
@current
def sync(
    invocation: Invocation,
    name: str,
    source: str | None,
    directory: Path | None,
    watch: bool,
    every: float,
    node: str | None,
    data: Path | None,
) -> None:
    """Bring a manifest and all its blobs to the node, or its files to a directory: only what is missing.

    Exit code 8 if nodes keep different manifests of this name, until --from chooses.
    """
    invocation.run(_sync(invocation, name, source, directory, every if watch else None, node, data))


async def _sync(
    invocation: Invocation,
    name: str,
    source: str | None,
    directory: Path | None,
    every: float | None,
    node: str | None,
    data: Path | None,
) -> None:
    from holdfast.errors import Conflict, NotFound, Unavailable

    last = None
    while True:
        try:
            async with client(invocation, node, data) as opened:
                done = await opened.work.sync(
                    name, source=source, directory=directory, progress=_progress(invocation, "here")
                )
            if last is None or done.etag != last.etag or done.brought:
                _told(invocation, done)
            last = done
        except (Unavailable, NotFound, Conflict) as error:
            if every is None:
                raise
            invocation.note(f"{name}: {error.detail}; trying again in {every:g} s")
        if every is None:
            return
        await asyncio.sleep(every)


def _told(invocation: Invocation, done: Synced) -> None:
    if invocation.json:
        invocation.document(
            {"name": done.name, "etag": str(done.etag), "entries": done.entries, "blobs": done.blobs,
             "brought": done.brought, "stored": done.stored, "from": done.holder}
        )  # fmt: skip
        return
    invocation.data(str(done.etag))
    invocation.note(
        f"{done.name}: {count_words(done.entries, 'file')}, {size_words(done.stored)}; {done.brought:,} were missing."
    )


def _progress(invocation: Invocation, word: str) -> Callable[[int, int], None] | None:
    if not invocation.watched:
        return None

    def show(done: int, total: int) -> None:
        click.echo(f"\r{done:,} of {total:,} {word}" + ("\n" if done == total else ""), err=True, nl=False)

    return show
