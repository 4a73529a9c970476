"""``holdfast log``: the versions of a name that are still kept."""

from __future__ import annotations

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import size_words, span_words, table, time_words


@click.command("log", cls=Verb)
@click.argument("name")
@current
def command(invocation: Invocation, name: str) -> None:
    """List the versions of NAME, newest first; 'get --version N' brings one back."""
    invocation.run(_run(invocation, name))


async def _run(invocation: Invocation, name: str) -> None:
    async with await invocation.vault() as vault:
        versions = await vault.log(name)
    if invocation.json:
        rows = [
            {
                "version": found.version,
                "kind": found.kind or "deleted",
                "size": found.size,
                "etag": str(found.etag),
                "committed": found.committed,
                "until_s": found.until_s,
            }
            for found in versions
        ]
        invocation.document({"name": name, "versions": rows})
        return
    lines = [
        [
            f"v{found.version}",
            time_words(found.committed),
            "deleted" if found.kind is None else size_words(found.size),
            "present" if found.until_s is None else f"kept for {span_words(found.until_s)}",
            str(found.etag)[:12],
        ]
        for found in versions
    ]
    for line in table(lines, right=[0, 2]):
        invocation.data(line)
