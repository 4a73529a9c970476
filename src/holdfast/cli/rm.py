"""``holdfast rm``: delete names. Their versions stay in the history for a while."""

from __future__ import annotations

import click

from holdfast.cli.invocation import Invocation, current, sentence
from holdfast.cli.offline import Queueing, offline_flags
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, visible
from holdfast.errors import HoldfastError, PartlyDone, UsageError


@click.command("rm", cls=Verb)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-r", "--recursive", is_flag=True, help="Directories with everything below.")
@click.option("--if-match", metavar="ETAG", help="Only if the name still has this etag.")
@offline_flags
@current
def command(
    invocation: Invocation,
    names: tuple[str, ...],
    recursive: bool,
    if_match: str | None,
    offline: bool,
    no_queue: bool,
) -> None:
    """Delete names. What they held stays in the history for 7 days (see 'holdfast log')."""
    if if_match is not None and len(names) != 1:
        raise UsageError("--if-match goes with one NAME.")
    invocation.run(_run(invocation, names, recursive, if_match, Queueing.of(offline, no_queue)))


async def _run(
    invocation: Invocation, names: tuple[str, ...], recursive: bool, if_match: str | None, queueing: Queueing
) -> None:
    from holdfast.blob import Digest

    etag = Digest.parse(if_match) if if_match is not None else None
    deleted, failed = 0, 0
    async with await invocation.vault() as vault:
        for name in names:
            try:
                deleted += await vault.delete(name.rstrip("/"), recursive=recursive, if_match=etag, **queueing.words)
            except HoldfastError as error:
                if len(names) == 1:
                    raise
                failed += 1
                if invocation.json:
                    invocation.document({"event": "failed", "name": name, "detail": sentence(error)})
                else:
                    click.echo(f"{visible(name)}: {sentence(error)}", err=True)
        if invocation.json:
            invocation.document({"event": "summary", "deleted": deleted, "failed": failed, "queued": queueing.queued})
        elif not queueing.queued:
            invocation.note(f"{count_words(deleted, 'name')} deleted")
        if failed:
            raise PartlyDone(f"{count_words(failed, 'name')} could not be deleted.")
        what = "the deletion" if deleted == 1 else f"{deleted:,} deletions"
        await queueing.finish(invocation, vault, f"{what} {'is' if deleted == 1 else 'are'}")
