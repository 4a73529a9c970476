"""``holdfast init``: the keys of this home, and its place in a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.errors import UsageError

ASKED_BACK = 2
COLUMNS = 4


@click.command("init", cls=Verb)
@click.option("--join", metavar="INVITE", help="The invite line of the network to join; '-' reads it from stdin.")
@click.option("--recover", is_flag=True, help="Type the 24 words of a vault that exists, instead of making one.")
@click.option("--passphrase", is_flag=True, help="Seal the key file with a passphrase.")
@current
def command(invocation: Invocation, join: str | None, recover: bool, passphrase: bool) -> None:
    """Make your keys here and join a network.

    Shows 24 words once: they are the vault's key. Whoever has them can read everything, and without them and without a
    key file nobody can, so write them down. Without --join only the keys are made; join later with the same command.
    """
    if join == "-":
        join = sys.stdin.readline()
    words = _ask_words(invocation) if recover else None
    invocation.run(_run(invocation, join, words, passphrase))


def _ask_words(invocation: Invocation) -> str:
    if invocation.interactive:
        return str(click.prompt("The 24 words", hide_input=False, err=True))
    return sys.stdin.readline()


async def _run(invocation: Invocation, join: str | None, words: str | None, sealed: bool) -> None:
    from holdfast import assemble

    home = assemble.home_path(invocation.home)
    if assemble.has_keys(home):
        passphrase = invocation.passphrase() if assemble.is_sealed(home) else None
    else:
        passphrase = invocation.new_passphrase() if sealed else None
    made = await assemble.init_home(home, join=join, words=words, passphrase=passphrase)
    shown = made.new and words is None
    if invocation.json:
        document = {"home": str(home), "vault": str(made.vault), "device": str(made.device), "joined": made.joined}
        invocation.document({**document, **({"words": made.words} if shown else {})})
        return
    invocation.note(f"Keys are in {home}; the vault is {made.vault.short}, this device {made.device.short}.")
    if shown:
        _show(invocation, made.words)
    if made.joined:
        invocation.note("Joined. Try: holdfast put FILE")
    else:
        invocation.note("Not in a network yet: holdfast init --join INVITE")


def _show(invocation: Invocation, words: Sequence[str]) -> None:
    invocation.note("\nWrite these 24 words down, on paper. They are shown only now:\n")
    width = max(len(word) for word in words) + 4
    rows = len(words) // COLUMNS
    for row in range(rows):
        cells = [f"{place + 1:2}. {words[place]}".ljust(width + 2) for place in range(row, len(words), rows)]
        invocation.data("   " + "".join(cells).rstrip())
    invocation.note("\nWithout them and without this key file, what you store is lost for everybody.")
    if invocation.interactive and not invocation.yes:
        _ask_back(words)


def _ask_back(words: Sequence[str]) -> None:
    """Two of the words, so that they were written down and can be read."""
    from holdfast.clock import SystemRandomness, shuffled

    for place in sorted(shuffled(range(len(words)), SystemRandomness())[:ASKED_BACK]):
        for left in (2, 1, 0):
            if click.prompt(f"Word {place + 1}", err=True).strip().lower() == words[place]:
                break
            if not left:
                raise UsageError("These are not the words. The keys were made; see 'holdfast key show --words'.")
            click.echo("That is not it; look again.", err=True)
