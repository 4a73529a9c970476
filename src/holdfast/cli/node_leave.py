"""``holdfast node leave``: a machine takes its disk back; what it keeps is copied elsewhere first."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, visible
from holdfast.errors import UsageError


@click.command("leave", cls=Verb)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where it keeps data.")
@click.option("--now", is_flag=True, help="Do not wait; refused if something has no other copy.")
@click.option("--undo", is_flag=True, help="The node stays after all.")
@current
def command(invocation: Invocation, data: Path, now: bool, undo: bool) -> None:
    """Leave the network: wait until others have copies of everything in DIR, then be forgotten.

    Let the node run meanwhile. ^C changes nothing: it goes on being emptied, and the same command waits again.
    """
    if now and undo:
        raise UsageError("--now and --undo exclude each other.")
    invocation.run(_run(invocation, data, now, undo))


async def _run(invocation: Invocation, data: Path, now: bool, undo: bool) -> None:
    from holdfast import assemble

    if undo:
        name = await assemble.stay(data)
        if invocation.json:
            invocation.document({"event": "summary", "name": name, "left": False})
        else:
            invocation.note(f"{visible(name)} stays.")
        return
    last: int | None = -1

    def told(packs: int | None) -> None:
        nonlocal last
        if packs == last:
            return
        last = packs
        if invocation.json:
            invocation.document({"event": "progress", "packs": packs})
        elif packs is None:
            invocation.note("The coordinator does not answer; trying again.")
        else:
            invocation.note(f"{count_words(packs, 'pack')} still to be copied elsewhere")

    name = await assemble.leave(data, now=now, told=told)
    if invocation.json:
        invocation.document({"event": "summary", "name": name, "left": True})
    else:
        invocation.note(f"{visible(name)} has left. Stop it; {data} may be deleted.")
