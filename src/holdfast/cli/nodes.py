"""``holdfast nodes``: the machines that keep data."""

from __future__ import annotations

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.nodes_orders import ORDERS
from holdfast.cli.verb import ListingGroup
from holdfast.cli.words import size_words, span_words, table, visible


@click.group("nodes", cls=ListingGroup)
def command() -> None:
    """The machines that keep data."""


for order in ORDERS:
    command.add_command(order)


@command.command("ls")
@current
def ls(invocation: Invocation) -> None:
    """List all nodes with their state."""
    invocation.run(_run(invocation))


async def _run(invocation: Invocation) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        nodes = sorted(await network.nodes(), key=lambda node: node.name)
    if invocation.json:
        rows = [
            {
                "id": str(node.id),
                "name": node.name,
                "state": node.state,
                "reason": node.reason,
                "url": node.url,
                "domain": node.domain,
                "store": node.store.hex(),
                "always_on": node.always_on,
                "capacity": node.capacity,
                "free": node.free,
                "packs": node.packs,
                "stored": node.stored,
                "last_seen": node.last_seen,
                "unread_s": node.unread,
                "overdue": node.overdue,
            }
            for node in nodes
        ]
        invocation.document({"nodes": rows})
        return
    lines = [["NAME", "STATE", "PACKS", "KEEPS", "FREE", "SEEN", "ADDRESS", ""]]
    for node in nodes:
        seen = "never" if node.last_seen is None else f"{span_words(node.last_seen)} ago"
        lines.append(
            [
                *(visible(node.name), node.state, f"{node.packs:,}", size_words(node.stored), size_words(node.free)),
                *(seen, node.url, visible(node.reason)),
            ]
        )
    for line in table(lines, right=[2, 3, 4]):
        invocation.data(line)
