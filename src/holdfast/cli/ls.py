"""``holdfast ls``: what lies in a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from holdfast.cli.entries import entry_document, entry_row, entry_title
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.offline import note_waiting
from holdfast.cli.verb import Verb
from holdfast.cli.words import size_words, span_words, table, time_words

if TYPE_CHECKING:
    from holdfast.client.vault import Entry, TrashEntry
    from holdfast.sdk import Vault


@click.command("ls", cls=Verb)
@click.argument("name", default="", metavar="[NAME]")
@click.option("-l", "--long", is_flag=True, help="Mode, version, size and time too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
@click.option("--trash", is_flag=True, help="What was deleted there and can be restored.")
@click.option("--fresh", is_flag=True, help="Ask the coordinator instead of trusting what was seen before.")
@current
def command(invocation: Invocation, name: str, long: bool, recursive: bool, trash: bool, fresh: bool) -> None:
    """List a directory of the vault, or the one file that NAME is."""
    if trash:
        invocation.run(_trash(invocation, name.strip("/"), recursive))
        return
    invocation.run(_run(invocation, name.strip("/"), long, recursive, fresh))


async def _run(invocation: Invocation, name: str, long: bool, recursive: bool, fresh: bool) -> None:
    found: list[Entry] = []
    count = 0
    async with await invocation.vault() as vault:
        async for entry in _entries(vault, name, recursive, fresh):
            count += 1
            if invocation.json:
                invocation.document({"event": "entry", **entry_document(entry)})
            else:
                found.append(entry)
        await note_waiting(invocation, vault)
    if invocation.json:
        invocation.document({"event": "summary", "entries": count})
        return
    found.sort(key=lambda entry: entry.name)
    shown = [entry.name.removeprefix(f"{name}/") if name else entry.name for entry in found]
    if long:
        rows = [entry_row(entry, text) for entry, text in zip(found, shown, strict=True)]
    else:
        rows = [[entry_title(entry, text)] for entry, text in zip(found, shown, strict=True)]
    for line in table(rows, right=[1, 2]):
        invocation.data(line)


async def _trash(invocation: Invocation, name: str, recursive: bool) -> None:
    found: list[TrashEntry] = []
    async with await invocation.vault() as vault:
        async for thrown in vault.trash(name, recursive=recursive):
            if invocation.json:
                times = {"deleted": thrown.deleted, "until_s": thrown.until_s}
                invocation.document({"event": "entry", **entry_document(thrown.entry), **times})
            found.append(thrown)
    if invocation.json:
        invocation.document({"event": "summary", "entries": len(found)})
        return
    found.sort(key=lambda thrown: thrown.entry.name)
    rows = [
        [
            f"deleted {time_words(thrown.deleted)}",
            f"kept for {span_words(thrown.until_s)}",
            "-" if thrown.entry.kind == "directory" else size_words(thrown.entry.size),
            entry_title(thrown.entry, thrown.entry.name.removeprefix(f"{name}/") if name else None),
        ]
        for thrown in found
    ]
    for line in table(rows, right=[2]):
        invocation.data(line)


async def _entries(vault: Vault, name: str, recursive: bool, fresh: bool) -> AsyncIterator[Entry]:
    if name:
        entry = await vault.stat(name, fresh=fresh)
        if entry.kind != "directory":
            yield entry
            return
    async for entry in vault.list(name, recursive=recursive, fresh=fresh):
        yield entry
