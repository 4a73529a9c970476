"""``holdfast invite``: one line that lets a newcomer join."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import DURATION, SIZE, Verb
from holdfast.cli.words import count_words, span_words
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.auth.invites import Role


@click.command("invite", cls=Verb)
@click.argument("role", type=click.Choice(["node", "user", "operator"]))
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, help="For how many newcomers.")
@click.option("--expires", type=DURATION, default="24h", show_default=True, help="How long it is good.")
@click.option("--quota", type=SIZE, help="How much a user may store.")
@current
def command(invocation: Invocation, role: Role, uses: int, expires: float, quota: int | None) -> None:
    """Print one line that lets a newcomer join as a node, a user or an operator."""
    if quota is not None and role != "user":
        raise UsageError("--quota is for users.")
    if uses > 1 and role != "node":
        raise UsageError("Only an invite for nodes may have more than one use.")
    invocation.run(_run(invocation, role, uses, expires, quota))


async def _run(invocation: Invocation, role: Role, uses: int, expires: float, quota: int | None) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        line = await network.invite(role, uses=uses, expires_s=expires, quota=quota)
    if invocation.json:
        invocation.document({"role": role, "invite": line, "uses": uses, "expires_s": expires, "quota": quota})
        return
    invocation.data(line)
    invocation.note(f"Good for {count_words(uses, 'newcomer')} and {span_words(expires)}; {HOW[role]}")


HOW = {
    "node": "there: holdfast node init --data DIR --join LINE",
    "user": "there: holdfast init --join LINE",
    "operator": "there: holdfast init --join LINE",
}
