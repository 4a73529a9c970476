"""``holdfast restore``: bring back what was deleted or replaced, while the history keeps it."""

from __future__ import annotations

import click

from holdfast.cli.entries import entry_document
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.offline import Queueing, offline_flags
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, visible
from holdfast.errors import UsageError


@click.command("restore", cls=Verb)
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--as", "new", metavar="NEW", help="Under this name instead of its own.")
@click.option("--no-clobber", is_flag=True, help="Fail if there is something under the name.")
@click.option("--allow-degraded", is_flag=True, help="Go on with fewer copies than asked; repair makes the rest.")
@offline_flags
@current
def command(
    invocation: Invocation,
    name: str,
    new: str | None,
    no_clobber: bool,
    allow_degraded: bool,
    offline: bool,
    no_queue: bool,
) -> None:
    """Bring back a deleted NAME, or version VERSION of one that is there. Nothing is sent again.

    A directory comes back with all that was deleted in it. 'ls --trash' and 'log' show what can be restored; it is
    kept for 7 days. Offline only what this device still knows comes back: what it has deleted itself without a network.
    """
    queueing = Queueing.of(offline, no_queue)
    path, version = split_version(name)
    if not path.strip("/"):
        raise UsageError("Which NAME? 'holdfast ls --trash -R' lists them.")
    new = None if new is None else new.rstrip("/")
    invocation.run(_run(invocation, path.rstrip("/"), version, new, no_clobber, allow_degraded, queueing))


def split_version(name: str) -> tuple[str, int | None]:
    """``NAME@3`` -> (``NAME``, 3); a NAME that ends in ``@`` and digits itself is written ``NAME@3@1``."""
    path, sign, digits = name.rpartition("@")
    if sign and digits.isascii() and digits.isdigit():
        return path, int(digits)
    return name, None


async def _run(
    invocation: Invocation,
    name: str,
    version: int | None,
    new: str | None,
    no_clobber: bool,
    allow_degraded: bool,
    queueing: Queueing,
) -> None:
    from holdfast.cli.progress import progress

    async with await invocation.vault() as vault:
        with progress(invocation, "restore") as show:
            done = await vault.restore(
                name, version=version, new=new, no_clobber=no_clobber, allow_degraded=allow_degraded, **queueing.words,
                progress=show,
            )  # fmt: skip
        what, entry = visible(done.entry.name), done.entry
        if invocation.json:
            invocation.document({"event": "summary", "names": done.names, **entry_document(entry)})
        elif done.names and not queueing.queued:
            said = f"version {entry.version}" if done.names == 1 else f"{count_words(done.names, 'name')} brought back"
            invocation.note(f"{what}: {said}")
        elif not done.names:
            invocation.note(f"{what}: nothing was missing")
        await queueing.finish(invocation, vault, f"the restore of {what} is")
