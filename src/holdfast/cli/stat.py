"""``holdfast stat``: what is known of a name."""

from __future__ import annotations

import click

from holdfast.cli.entries import entry_document, entry_title
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import mode_words, size_words, table, time_words, visible


@click.command("stat", cls=Verb)
@click.argument("name")
@click.option("--version", "version", type=click.IntRange(1), help="This version instead of the present one.")
@click.option("--fresh", is_flag=True, help="Ask the coordinator instead of trusting what was seen before.")
@current
def command(invocation: Invocation, name: str, version: int | None, fresh: bool) -> None:
    """Show what is known of NAME; its etag is what --if-match takes."""
    invocation.run(_run(invocation, name, version, fresh))


async def _run(invocation: Invocation, name: str, version: int | None, fresh: bool) -> None:
    async with await invocation.vault() as vault:
        entry = await vault.stat(name, version=version, fresh=fresh)
    if invocation.json:
        invocation.document(entry_document(entry))
        return
    rows = [
        ["name", entry_title(entry)],
        ["kind", entry.kind],
        ["size", f"{entry.size:,} bytes ({size_words(entry.size)})"],
        ["modified", time_words(entry.mtime_ns / 1e9)],
        ["mode", mode_words(entry.kind, entry.mode)],
        ["version", str(entry.version)],
        ["etag", str(entry.etag)],
        ["survive", f"{entry.survive} ({entry.survive + 1} copies)"],
        *([f"meta {visible(key)}", visible(value)] for key, value in sorted(entry.meta.items())),
    ]
    for line in table(rows):
        invocation.data(line)
