"""``holdfast peers``: a node's neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.exchange import client, through_node
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import size_words, span_words, table, visible

if TYPE_CHECKING:
    from holdfast.wire.exchange_messages import ExchangeStats, PeerList


@click.command("peers", cls=Verb)
@click.option("--stats", is_flag=True, help="Figures of the whole exchange too.")
@through_node
@current
def command(invocation: Invocation, stats: bool, node: str | None, data: Path | None) -> None:
    """List the peers of a node: who is healthy, how fast, and how often they have what is missed."""
    invocation.run(_run(invocation, stats, node, data))


async def _run(invocation: Invocation, stats: bool, node: str | None, data: Path | None) -> None:
    from holdfast.assemble import THIS_MACHINE

    async with client(invocation, node, data) as opened:
        peers = await opened.node.peers()
        figures = await opened.node.stats() if stats else None
    if invocation.json:
        invocation.document(_document(peers, figures))
        return
    now = THIS_MACHINE.clock.now()
    lines = [["NAME", "STATE", "LATENCY", "HITS", "SINCE", "ADDRESS", ""]]
    for peer in peers.peers:
        latency = "" if peer.latency is None else f"{peer.latency * 1000:.1f} ms"
        rate = f"{peer.hit_rate:.0%} of {peer.asked:,}" if peer.asked else ""
        lines.append(
            [
                *(visible(peer.name or peer.id.short), "healthy" if peer.healthy else "away", latency, rate),
                *(f"{span_words(max(now - peer.since, 0.0))}", peer.address, visible(peer.reason)),
            ]
        )
    lines += [["?", "away", "", "", "", url, "nobody has answered yet"] for url in peers.unknown]
    for line in table(lines, right=[2, 3]):
        invocation.data(line)
    if figures is not None:
        for text in _sentences(figures):
            invocation.data(text)


def _document(peers: PeerList, figures: ExchangeStats | None) -> dict[str, Any]:
    from msgspec import to_builtins

    document: dict[str, Any] = {"peers": to_builtins(peers.peers, enc_hook=str), "unknown": peers.unknown}
    for row, peer in zip(document["peers"], peers.peers, strict=True):
        row |= {"latency": peer.latency, "hit_rate": peer.hit_rate, "reason": peer.reason, "lies": peer.lies}
    if figures is not None:
        document["stats"] = to_builtins(figures, enc_hook=str)
    return document


def _sentences(figures: ExchangeStats) -> list[str]:
    hits = figures.hits
    lines = [
        "",
        f"{figures.nodes.healthy} of {figures.nodes.total} nodes are healthy; {figures.manifests.total:,} manifests, "
        f"{figures.manifests.unique:,} different ones.",
        f"Here: {figures.blobs:,} blobs that no vault owns ({size_words(figures.stored)}), "
        f"{size_words(figures.cached)} of it cache (at most {size_words(figures.cache_limit)}).",
        f"Served from here {hits.local:,}, pulled from peers {hits.peer:,}, from the origin {hits.origin:,}; "
        f"nobody had {hits.nobody:,}. {size_words(figures.saved)} did not come from the origin.",
    ]
    if figures.follows:
        lines.append(f"Follows {figures.follows:,} manifests; {figures.followed:,} versions taken since it started.")
    for name in figures.follow_conflicts:
        lines.append(f"{name} was changed in two places: choose with holdfast manifest sync {name} --from NODE")
    if figures.origin_reason:
        lines.append(f"The origin {figures.origin} fails: {visible(figures.origin_reason)}")
    return lines
