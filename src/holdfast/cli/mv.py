"""``holdfast mv``: give a name, and all below it, another name."""

from __future__ import annotations

import click

from holdfast.cli.entries import entry_document
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.offline import Queueing, offline_flags
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, visible
from holdfast.errors import UsageError


@click.command("mv", cls=Verb)
@click.argument("old")
@click.argument("new")
@click.option("--no-clobber", is_flag=True, help="Fail if NEW exists.")
@click.option("--if-match", metavar="ETAG", help="Only if the present NEW has this etag.")
@click.option("--allow-degraded", is_flag=True, help="Go on with fewer copies than asked; repair makes the rest.")
@offline_flags
@current
def command(
    invocation: Invocation,
    old: str,
    new: str,
    no_clobber: bool,
    if_match: str | None,
    allow_degraded: bool,
    offline: bool,
    no_queue: bool,
) -> None:
    """Rename OLD to NEW. Nothing is sent again; what NEW was stays in its history, as OLD does.

    A directory moves name by name into NEW, beside what is there; run it again after an interruption: it goes on.
    """
    if no_clobber and if_match is not None:
        raise UsageError("--no-clobber and --if-match exclude each other.")
    queueing = Queueing.of(offline, no_queue)
    invocation.run(_run(invocation, old.rstrip("/"), new.rstrip("/"), no_clobber, if_match, allow_degraded, queueing))


async def _run(
    invocation: Invocation,
    old: str,
    new: str,
    no_clobber: bool,
    if_match: str | None,
    allow_degraded: bool,
    queueing: Queueing,
) -> None:
    from holdfast.blob import Digest
    from holdfast.cli.progress import progress

    etag = Digest.parse(if_match) if if_match is not None else None
    async with await invocation.vault() as vault:
        with progress(invocation, "mv") as show:
            done = await vault.move(
                old, new, no_clobber=no_clobber, if_match=etag, allow_degraded=allow_degraded, **queueing.words,
                progress=show,
            )  # fmt: skip
        if invocation.json:
            invocation.document({"event": "summary", "names": done.names, **entry_document(done.entry)})
        elif not queueing.queued:
            invocation.note(f"{visible(done.entry.name)}: {count_words(done.names, 'name')} moved")
        await queueing.finish(invocation, vault, f"the move to {visible(done.entry.name)} is")
