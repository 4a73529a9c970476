"""``holdfast status``: how safe everything is, first in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli import repair
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, size_words, span_words, table, visible
from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.wire.messages import Status

ALWAYS_SHOWN = ("up", "suspect", "down", "out")


@click.command("status", cls=Verb)
@current
def command(invocation: Invocation) -> None:
    """Say how safe everything is."""
    invocation.run(_run(invocation))


async def _run(invocation: Invocation) -> None:
    from holdfast import assemble

    counts = await assemble.home_counts(invocation.home)
    async with await assemble.open_network(invocation.home) as network:
        try:
            status = await network.status()
        except HoldfastError:
            if counts["waiting"]:
                invocation.note(outbox_words(counts))
            raise
    if invocation.json:
        invocation.document(document(status, counts))
        return
    queued = outbox_words(counts)
    invocation.data(f"{words(status)}; {queued}" if queued else words(status))
    for alarm in status.repair.alarms:
        invocation.data(f"! {alarm}")
    packs, nodes = status.packs, {**dict.fromkeys(ALWAYS_SHOWN, 0), **status.nodes}
    rows = [
        ["packs", f"{packs.healthy:,} healthy, {packs.degraded:,} degraded, {packs.lost:,} lost"],
        ["", f"{packs.total:,} in all, {size_words(packs.stored)}"],
        ["nodes", ", ".join(f"{count} {state}" for state, count in nodes.items() if count or state == "up")],
        ["tasks", ", ".join(f"{getattr(status.tasks, state)} {state}" for state in ("pending", "running", "failed"))],
        ["names", _names(status)],
        ["scrub", scrub_words(status)],
        ["policy", f"survive {status.policy.survive} ({status.policy.survive + 1} copies)"],
    ]
    for line in table(rows):
        invocation.data(line)


def document(status: Status, counts: Mapping[str, Any]) -> dict[str, Any]:
    """The document of ``--json``. ``counts``: of this home's outbox."""
    packs, tasks, policy = status.packs, status.tasks, status.policy
    return {
        "summary": words(status),
        "packs": {
            "total": packs.total,
            "healthy": packs.healthy,
            "degraded": packs.degraded,
            "lost": packs.lost,
            "floor": packs.floor,
            "stored": packs.stored,
        },
        "nodes": {**dict.fromkeys(ALWAYS_SHOWN, 0), **status.nodes},
        "tasks": {"pending": tasks.pending, "running": tasks.running, "failed": tasks.failed},
        "repair": repair.document(status.repair),
        "outbox": dict(counts),
        "policy": {"survive": policy.survive, "floor": policy.floor, "version": policy.version},
        "machines": status.machines,
        "disks": disks(status),
        "may_die": status.may_die,
        "machines_may_die": status.machines_may_die,
        "vaults": status.vaults,
        "epoch": status.epoch,
        "commit": status.commit,
        "scrub": {
            "oldest_s": status.scrub.oldest,
            "node": status.scrub.node,
            "overdue": status.scrub.overdue,
            "nodes": status.scrub.nodes,
        },
        "reflog": {"lag_s": status.reflog_lag, "commits": status.reflog_commits},
    }


def outbox_words(counts: Mapping[str, Any]) -> str:
    """``3 writes wait, the first for 5 min; 1 conflict``; empty when there is nothing to say."""
    parts = []
    if counts["waiting"]:
        since = "" if counts["oldest_s"] is None else f", the first for {span_words(counts['oldest_s'])}"
        parts.append(
            f"{count_words(counts['waiting'], 'write')} {'waits' if counts['waiting'] == 1 else 'wait'}{since}"
        )
    for state, one in (("conflict", "conflict"), ("rejected", "rejected write"), ("damaged", "damaged entry")):
        if counts[state]:
            many = "damaged entries" if state == "damaged" else None
            parts.append(f"{count_words(counts[state], one, many)} in the outbox")
    return "; ".join(parts)


def disks(status: Status) -> int:
    """Distinct disks, as far as is known: stores on one machine may well share one."""
    return min(status.disks, status.machines)


def words(status: Status) -> str:
    """What a person wants to know, in one line."""
    packs, copies = status.packs, status.policy.survive + 1
    living = sum(status.nodes.get(state, 0) for state in ("up", "suspect"))
    where = f"{count_words(living, 'node')} on {count_words(status.machines, 'machine')}"
    if status.machines == 1 and living > 1:
        where = f"{living} nodes that share one machine and, as far as is known, one disk"
    if not packs.total:
        return f"Nothing is stored yet; {where} would keep {count_words(copies, 'copy', 'copies')} of everything."
    parts = [f"{count_words(copies, 'copy', 'copies')} on {where}: {_may_die(status)}"]
    if packs.lost:
        parts.append(f"{count_words(packs.lost, 'pack')} cannot be read: no node that holds a copy is up")
    if packs.degraded:
        waiting = f"{count_words(packs.degraded, 'pack')} with fewer copies wait for repair"
        parts.append(status.repair.summary or waiting)
    return "; ".join(parts)


def _names(status: Status) -> str:
    """Whether the nodes could tell a new coordinator all that this one knows."""
    if not status.reflog_lag:
        return "known to the nodes, too"
    if not status.reflog_commits:
        return f"known to the nodes, too, but members not as they are since {span_words(status.reflog_lag)}"
    commits = count_words(status.reflog_commits, "commit")
    return f"known to the nodes, too, but for {commits} of the last {span_words(status.reflog_lag)}"


def scrub_words(status: Status) -> str:
    """How long ago the disks were last believed only after a look."""
    scrub = status.scrub
    if scrub.oldest is None:
        return "no node has said yet when it last read again what it keeps"
    if not scrub.overdue:
        return f"everything was read again within the last {span_words(scrub.oldest)}"
    where = f"on {count_words(scrub.nodes, 'node')}"
    return (
        f"{size_words(scrub.overdue)} {where} not read again in time, "
        f"the oldest for {span_words(scrub.oldest)} on {visible(scrub.node)}"
    )


def _may_die(status: Status) -> str:
    count, machines = status.may_die, status.machines_may_die
    if count is None or status.packs.lost:
        return "not everything can be read now"
    if count <= 0:
        return "no node may die now"
    nodes = f"{_any(count)} of the nodes may die now"
    if machines is None or machines == count or status.machines == 1:
        return nodes
    return f"{nodes}, but {f'{_any(machines)} of the machines' if machines else 'no whole machine'}"


def _any(count: int) -> str:
    return "any one" if count == 1 else f"any {count}"
