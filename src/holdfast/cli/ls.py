"""``holdfast ls``: what lies in a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from holdfast.cli.entries import entry_document, entry_row, entry_title
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import table

if TYPE_CHECKING:
    from holdfast.client.vault import Entry
    from holdfast.sdk import Vault


@click.command("ls", cls=Verb)
@click.argument("name", default="", metavar="[NAME]")
@click.option("-l", "--long", is_flag=True, help="Mode, version, size and time too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
@click.option("--fresh", is_flag=True, help="Ask the coordinator instead of trusting what was seen before.")
@current
def command(invocation: Invocation, name: str, long: bool, recursive: bool, fresh: bool) -> None:
    """List a directory of the vault, or the one file that NAME is."""
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


async def _entries(vault: Vault, name: str, recursive: bool, fresh: bool) -> AsyncIterator[Entry]:
    if name:
        entry = await vault.stat(name, fresh=fresh)
        if entry.kind != "directory":
            yield entry
            return
    async for entry in vault.list(name, recursive=recursive, fresh=fresh):
        yield entry
