"""``holdfast policy``: how many machines may die."""

from __future__ import annotations

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.errors import UsageError


@click.command("policy", cls=Verb)
@click.argument("change", nargs=-1, metavar="[survive N]")
@current
def command(invocation: Invocation, change: tuple[str, ...]) -> None:
    """Show the network's policy; an operator changes it with 'policy survive N'."""
    survive = None
    if change:
        if len(change) != 2 or change[0] != "survive" or not change[1].isdecimal() or int(change[1]) > 64:
            raise UsageError("The policy is changed with: holdfast policy survive N (0 to 64).")
        survive = int(change[1])
    invocation.run(_run(invocation, survive))


async def _run(invocation: Invocation, survive: int | None) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        policy = await (network.policy() if survive is None else network.set_policy(survive))
    if invocation.json:
        invocation.document({"survive": policy.survive, "floor": policy.floor, "version": policy.version})
        return
    invocation.data(f"survive {policy.survive}")
    invocation.note(
        f"Everything is kept {policy.survive + 1} times; at {policy.floor} or fewer copies repair starts at once."
    )
