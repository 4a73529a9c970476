"""``holdfast get``: a file, or a directory with everything below it."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.entries import entry_document
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.offline import mark_words, note_waiting
from holdfast.cli.verb import Verb
from holdfast.cli.words import size_words, visible
from holdfast.errors import UsageError


@click.command("get", cls=Verb)
@click.argument("name")
@click.option("-o", "--output", metavar="PATH", help="Where to; '-' is stdout [default: the base name, here].")
@click.option("--version", "version", type=click.IntRange(1), help="This version instead of the present one.")
@click.option("--force", is_flag=True, help="Replace what is at PATH.")
@click.option("--fresh", is_flag=True, help="Ask the coordinator instead of trusting what was seen before.")
@current
def command(
    invocation: Invocation, name: str, output: str | None, version: int | None, force: bool, fresh: bool
) -> None:
    """Fetch NAME; a directory with everything below it.

    The file appears at its place only when it is whole and checked. Run it again after an interruption: it goes on.
    """
    if output == "-":
        from holdfast.cli.cat import write_to_stdout

        invocation.run(write_to_stdout(invocation, [name], version=version, fresh=fresh))
        return
    invocation.run(_run(invocation, name, output, version, force, fresh))


async def _run(
    invocation: Invocation, name: str, output: str | None, version: int | None, force: bool, fresh: bool
) -> None:
    from holdfast.cli.progress import progress

    target = _target(name, output)
    async with await invocation.vault() as vault:
        with progress(invocation, "get") as show:
            entry = await vault.get(name, target, version=version, force=force, fresh=fresh, progress=show)
        await note_waiting(invocation, vault)
    if invocation.json:
        invocation.document({"event": "summary", "path": str(target), **entry_document(entry)})
        return
    mark = mark_words(entry)
    what = f"{size_words(entry.size)}, version {entry.version}"
    if entry.kind != "file":
        what = f"the {entry.kind} {visible(entry.name)}"
    invocation.note(f"{target}: {what}{', ' if mark else ''}{mark}")


def _target(name: str, output: str | None) -> Path:
    """Like cp: an existing directory, or a PATH that ends in '/', takes the base name."""
    base = name.rstrip("/").rpartition("/")[2]
    if output is None:
        if not base:
            raise UsageError("The whole vault needs a place to go: -o DIRECTORY.")
        return Path(base)
    if base and (output.endswith("/") or Path(output).is_dir()):
        return Path(output) / base
    return Path(output)
