"""``holdfast nodes show|drain|remove|maintenance``: one node, and an operator's word about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import DURATION, Verb
from holdfast.cli.words import size_words, span_words, table, visible
from holdfast.errors import BadRequest, HoldfastError, NotFound

if TYPE_CHECKING:
    from holdfast.assemble import NetworkView
    from holdfast.wire.messages import NodeInfo, NodeSpace

MAINTENANCE_S = 24 * 3600.0


async def found_node(network: NetworkView, given: str) -> NodeInfo:
    """The node with that name, or whose id begins so; NotFound, or BadRequest if there are several."""
    nodes = await network.nodes()
    found = [node for node in nodes if given in (node.name, str(node.id))]
    found = found or [node for node in nodes if len(given) >= 4 and str(node.id).startswith(given)]
    if not found:
        raise NotFound(f"no node {given!r}: holdfast nodes shows those there are")
    if len(found) > 1:
        raise BadRequest(f"{len(found)} nodes are called {given!r}: say the beginning of the id")
    return found[0]


@click.command("show", cls=Verb)
@click.argument("node")
@current
def show(invocation: Invocation, node: str) -> None:
    """Everything that is known of one node."""
    invocation.run(_show(invocation, node))


async def _show(invocation: Invocation, given: str) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        node = await found_node(network, given)
        space, trouble = await _space(network, node)
    if invocation.json:
        fields = {name: getattr(node, name) for name in node.__struct_fields__}
        told = None if space is None else {name: getattr(space, name) for name in ("stored", *space.__struct_fields__)}
        invocation.document({**fields, "id": str(node.id), "store": node.store.hex(), "space": told})
        return
    seen = "never" if node.last_seen is None else f"{span_words(node.last_seen)} ago"
    rows = [
        ["name", visible(node.name)],
        ["id", str(node.id)],
        ["state", f"{node.state} {visible(node.reason)}".strip()],
        ["address", node.url or "none yet"],
        ["domain", visible(node.domain)],
        ["store", node.store.hex()],
        ["keeps", f"{node.packs:,} packs, {size_words(node.stored)}"],
        ["free", f"{size_words(node.free)} of {size_words(node.capacity)}"],
        ["on disk", f"the node cannot be asked: {visible(trouble)}" if space is None else _account(space)],
        ["always on", "yes" if node.always_on else "no"],
        ["seen", seen],
    ]
    for line in table(rows):
        invocation.data(line)


async def _space(network: NetworkView, node: NodeInfo) -> tuple[NodeSpace | None, str]:
    """The node's own account, or why there is none."""
    if not node.url:
        return None, "it has not run yet"
    try:
        return (await network.overview(node)).space, ""
    except HoldfastError as error:
        return None, error.detail


def _account(space: NodeSpace) -> str:
    parts = [f"{size_words(getattr(space, name))} {name}" for name in ("used", "cached", "trash", "reclaimable")]
    return f"{size_words(space.stored)} = {' + '.join(parts)}; {size_words(space.reserve)} reserve stay free"


@click.command("drain", cls=Verb)
@click.argument("node")
@click.option("--undo", is_flag=True, help="Take the word back.")
@current
def drain(invocation: Invocation, node: str, undo: bool) -> None:
    """Empty a node: its packs are copied elsewhere, then leave it. It may then be removed."""
    invocation.run(_drain(invocation, node, undo))


async def _drain(invocation: Invocation, given: str, undo: bool) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        node = await network.drain_node((await found_node(network, given)).id, drain=not undo)
    if invocation.json:
        invocation.document({"id": str(node.id), "state": node.state, "packs": node.packs})
        return
    if undo:
        invocation.note(f"{visible(node.name)} stays.")
    else:
        invocation.note(f"{node.packs:,} packs leave {visible(node.name)}; holdfast nodes shows how many are left.")


@click.command("remove", cls=Verb)
@click.argument("node")
@click.option("--force", is_flag=True, help="Also while packs have too few copies without it.")
@current
def remove(invocation: Invocation, node: str, force: bool) -> None:
    """Forget a node and what it holds."""
    invocation.run(_remove(invocation, node, force))


async def _remove(invocation: Invocation, given: str, force: bool) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        node = await found_node(network, given)
        if force:
            invocation.confirm(f"Forget {node.name} and its {node.packs:,} packs, though they may be the last copies?")
        await network.remove_node(node.id, force=force)
    if invocation.json:
        invocation.document({"id": str(node.id), "state": "removed"})
        return
    invocation.note(f"{visible(node.name)} is removed; its data directory may be deleted.")


@click.command("maintenance", cls=Verb)
@click.argument("node")
@click.option("--for", "span", type=DURATION, default=MAINTENANCE_S, help="How long it may be silent [default: 24h].")
@click.option("--end", is_flag=True, help="It is over.")
@current
def maintenance(invocation: Invocation, node: str, span: float, end: bool) -> None:
    """Say that a node's silence means nothing for a while (but for packs at their last copies)."""
    invocation.run(_maintenance(invocation, node, 0.0 if end else span))


async def _maintenance(invocation: Invocation, given: str, seconds: float) -> None:
    from holdfast import assemble

    async with await assemble.open_network(invocation.home) as network:
        node = await network.maintain_node((await found_node(network, given)).id, seconds)
    if invocation.json:
        invocation.document({"id": str(node.id), "state": node.state, "for": seconds})
        return
    if seconds:
        invocation.note(f"Nobody minds the silence of {visible(node.name)} for {span_words(seconds)}.")
    else:
        invocation.note(f"Maintenance of {visible(node.name)} is over.")


ORDERS = (show, drain, remove, maintenance)
"""Verbs of ``holdfast nodes``."""
