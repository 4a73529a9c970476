"""``holdfast key``: the key file of this home."""

from __future__ import annotations

import sys

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import VerbGroup
from holdfast.cli.words import table


@click.group("key", cls=VerbGroup)
def command() -> None:
    """Show, change or check the key file."""


@command.command("show")
@click.option("--words", is_flag=True, help="The 24 words too. Whoever sees them can read everything.")
@current
def show(invocation: Invocation, words: bool) -> None:
    """Show who this home is; the key itself only with --words."""
    from holdfast import assemble

    facts = assemble.key_facts(assemble.home_path(invocation.home))
    found: list[str] = []
    if words:
        invocation.confirm("Show the 24 words on this screen?")
        found = assemble.recovery_words(assemble.home_path(invocation.home), invocation.passphrase)
    if invocation.json:
        invocation.document({**facts, **({"words": found} if words else {})})
        return
    for line in table([[name.replace("_", " "), str(value)] for name, value in facts.items()]):
        invocation.data(line)
    if words:
        invocation.data(" ".join(found))


@command.command("change")
@click.option("--no-passphrase", is_flag=True, help="Leave the key file open to whoever can read it.")
@current
def change(invocation: Invocation, no_passphrase: bool) -> None:
    """Seal the key file with another passphrase. Older copies of the file still open with the old one."""
    from holdfast import assemble

    home = assemble.home_path(invocation.home)
    old = invocation.passphrase() if assemble.key_facts(home)["sealed"] else None
    assemble.change_passphrase(home, old, None if no_passphrase else invocation.new_passphrase())
    if invocation.json:
        invocation.document({"sealed": not no_passphrase})
    invocation.note("The key file has no passphrase now." if no_passphrase else "The key file has its new passphrase.")


@command.command("check")
@click.option("--words", is_flag=True, help="Read 24 words from stdin and compare them with the key.")
@current
def check(invocation: Invocation, words: bool) -> None:
    """Open the key file; exit 5 if the passphrase, or with --words the words, are not its own."""
    from holdfast import assemble

    given = None
    if words:
        given = click.prompt("The 24 words", err=True) if invocation.interactive else sys.stdin.readline()
    assemble.check_key(assemble.home_path(invocation.home), invocation.passphrase, given)
    if invocation.json:
        invocation.document({"ok": True})
    invocation.note("The key file opens." if given is None else "The words are those of this key file.")
