"""``holdfast outbox ls|show``: what waits to be delivered, and both sides of a conflict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.outbox_orders import ORDERS
from holdfast.cli.verb import ListingGroup
from holdfast.cli.words import count_words, size_words, span_words, table, time_words, visible
from holdfast.errors import NotFound, UsageError

if TYPE_CHECKING:
    from holdfast.outbox import Entry

STATES = ("waiting", "deferred", "conflict", "rejected", "abandoned", "damaged")
ROWS_MAX = 1000
"""Lines of ``ls`` for a person; ``--json`` lists all."""


@click.group("outbox", cls=ListingGroup)
def command() -> None:
    """Writes that wait for the network, conflicts, and what was refused."""


for order in ORDERS:
    command.add_command(order)


@command.command("ls")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Of the node in DIR.")
@current
def ls(invocation: Invocation, states: tuple[str, ...] = (), data: Path | None = None) -> None:
    """List what is queued: number, state, age, tries, next try, and why it is still here."""
    invocation.run(_ls(invocation, states, data))


async def _ls(invocation: Invocation, states: Sequence[str], data: Path | None) -> None:
    from holdfast import assemble
    from holdfast.outbox import State

    wanted = [State[name.upper()] for name in states] or None
    rows = [["ID", "STATE", "AGE", "TRIES", "NEXT", "WHAT", ""]]
    count = 0
    opened = await assemble.open_outbox(invocation.home, data=data)
    if opened is not None:
        async with opened as outbox:
            now = assemble.THIS_MACHINE.clock.now()
            async for entry in outbox.entries(states=wanted):
                count += 1
                if invocation.json:
                    invocation.document({"event": "entry", **entry_document(entry, now)})
                elif count <= ROWS_MAX:
                    rows.append(_row(entry, now))
    if invocation.json:
        invocation.document({"event": "summary", "entries": count})
    elif not count:
        invocation.note("Nothing waits.")
    else:
        for line in table(rows, right=[0, 3]):
            invocation.data(line)
        if count > ROWS_MAX:
            invocation.note(f"and {count - ROWS_MAX:,} more (--json lists all)")


@command.command("show")
@click.argument("number", type=int, metavar="ID")
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write both sides there.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Of the node in DIR.")
@current
def show(invocation: Invocation, number: int, save: Path | None, data: Path | None) -> None:
    """Everything that is known of one entry; of a conflict both sides."""
    if save is not None and data is not None:
        raise UsageError("--save is for what this home has queued.")
    invocation.run(_show(invocation, number, save, data))


async def _show(invocation: Invocation, number: int, save: Path | None, data: Path | None) -> None:
    from holdfast import assemble
    from holdfast.client.offline.resolve import sides

    opened = await assemble.open_outbox(invocation.home, data=data)
    if opened is None:
        raise NotFound(f"the outbox has no entry {number}")
    async with opened as outbox:
        entry = await outbox.queue.find(number)
    saved: list[Path] = []
    if save is not None:
        async with await invocation.vault() as vault:
            saved = await (await vault.resolver()).save(number, save)
    mine, theirs = sides(entry)
    now = assemble.THIS_MACHINE.clock.now()
    if invocation.json:
        found = {**entry_document(entry, now), "mine": mine, "theirs": theirs}
        if save is not None:
            found["saved"] = [str(path) for path in saved]
        invocation.document(found)
        return
    rows = [
        ["entry", f"{entry.sequence}, {entry.kind} {entry.purpose}"],
        ["state", entry.state.label],
        *([["reason", visible(entry.reason)]] if entry.reason else []),
        ["queued", f"{time_words(entry.created)}, {span_words(max(now - entry.created, 0))} ago"],
        ["tries", f"{entry.tries}, {entry.reached} of them got an answer"],
        ["size", size_words(entry.size) if entry.size else count_words(len(entry.needs), "pack")],
        *(["mine", _side(side)] for side in mine),
        *([["theirs", _side(theirs)]] if theirs is not None else []),
        *(["saved", str(path)] for path in saved),
    ]
    for line in table(rows):
        invocation.data(line)
    if theirs is not None:
        invocation.note(f"Decide: holdfast outbox resolve {number} --keep mine|theirs|both")


def entry_document(entry: Entry, now: float) -> dict[str, Any]:
    """The fields of ``--json``; times in seconds since 1970."""
    return {
        "id": entry.sequence,
        "state": entry.state.label,
        "class": entry.delivery_class.label,
        "kind": entry.kind,
        "purpose": entry.purpose,
        "names": list(entry.keys),
        "target": entry.target,
        "size": entry.size,
        "packs": len(entry.needs),
        "created": entry.created,
        "age_s": max(now - entry.created, 0.0),
        "tries": entry.tries,
        "reached": entry.reached,
        "next_try": entry.next_try,
        "reason": entry.reason,
    }


def _row(entry: Entry, now: float) -> list[str]:
    names = visible(entry.keys[0]) if entry.keys else "?"
    if len(entry.keys) > 1:
        names += f" and {len(entry.keys) - 1} more"
    waits = entry.state.label in ("waiting", "deferred")
    soon = entry.next_try <= now
    return [
        str(entry.sequence),
        entry.state.label,
        span_words(max(now - entry.created, 0)),
        str(entry.tries),
        "-" if not waits else "now" if soon else f"in {span_words(entry.next_try - now)}",
        f"{entry.purpose} {names}".strip(),
        visible(entry.reason),
    ]


def _side(side: dict[str, Any]) -> str:
    """One side of an entry in words."""
    if side.get("absent"):
        return "deleted by somebody else"
    parts = [str(side.get("kind") or ""), size_words(side["size"]) if side.get("size") is not None else ""]
    if side.get("mtime_ns"):
        parts.append(f"of {time_words(side['mtime_ns'] / 1e9)}")
    if side.get("version"):
        parts.append(f"version {side['version']}")
    if side.get("author"):
        parts.append(f"by device {side['author'][:10]}")
    if side.get("etag") and not side.get("version"):
        parts.append(f"etag {side['etag']}")
    return " ".join([visible(str(side.get("name") or "")), *filter(None, parts)]).strip()
