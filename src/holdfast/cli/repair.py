"""``holdfast repair``: what is being made whole, and an operator's word about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, size_words, table
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.wire.messages import RepairState


@click.command("repair", cls=Verb)
@click.option("--now", is_flag=True, help="Wait for no silent node any longer, and close the breaker.")
@click.option("--pause", is_flag=True, help="Copy and tidy nothing until --resume.")
@click.option("--resume", is_flag=True, help="Go on.")
@current
def command(invocation: Invocation, now: bool, pause: bool, resume: bool) -> None:
    """Show what is being repaired; an operator hurries, pauses or resumes it."""
    if now + pause + resume > 1:
        raise UsageError("One of --now, --pause and --resume at a time.")
    order: Literal["now", "pause", "resume"] | None = (
        "now" if now else "pause" if pause else "resume" if resume else None
    )
    invocation.run(_run(invocation, order))


async def _run(invocation: Invocation, order: Literal["now", "pause", "resume"] | None) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        repair = (await network.status()).repair if order is None else await network.order_repair(order)
    if invocation.json:
        invocation.document(document(repair))
        return
    invocation.data(repair.summary or "Every pack has its copies.")
    rows = [
        ["due", f"{count_words(repair.due_packs, 'pack')}, {size_words(repair.due_bytes)} to copy"],
        ["waiting", f"{count_words(repair.waiting_packs, 'pack')}, {size_words(repair.waiting_bytes)}"],
        ["too many", count_words(repair.surplus_packs, "pack")],
    ]
    for line in table(rows):
        invocation.data(line)
    for alarm in repair.alarms:
        invocation.data(f"! {alarm}")


def document(repair: RepairState) -> dict[str, Any]:
    """The document of ``--json``."""
    return {
        "state": repair.word,
        "due": {"packs": repair.due_packs, "bytes": repair.due_bytes},
        "waiting": {"packs": repair.waiting_packs, "bytes": repair.waiting_bytes},
        "surplus": {"packs": repair.surplus_packs},
        "eta": repair.eta,
        "next": repair.next,
        "limited": repair.limited,
        "alarms": repair.alarms,
        "summary": repair.summary,
    }
