"""``holdfast outbox flush|resolve|retry|drop``: delivering what waits, and a person's word about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from holdfast.cli.invocation import Invocation, current, sentence
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, visible
from holdfast.errors import Conflict, HoldfastError, NotFound, PartlyDone, Queued, UsageError

if TYPE_CHECKING:
    from holdfast.outbox import Done, Keep, Outbox, Summary
    from holdfast.sdk import Vault


@click.command("flush", cls=Verb)
@click.option("--watch", is_flag=True, help="Go on delivering until ^C or SIGTERM.")
@click.option(
    "--metrics", type=click.IntRange(0, 65535), metavar="PORT", help="With --watch: serve /metrics on loopback."
)
@current
def flush(invocation: Invocation, watch: bool, metrics: int | None) -> None:
    """Deliver what waits now; exit code 0 when nothing is left, 8 with conflicts, 75 when something still waits."""
    if metrics is not None and not watch:
        raise UsageError("--metrics goes with --watch.")
    invocation.run(_watch(invocation, metrics) if watch else _flush(invocation))


async def _flush(invocation: Invocation) -> None:
    async with await invocation.vault() as vault:
        summary = await vault.flush(lambda done: _tell(invocation, done))
        counts = await _counts(vault)
    _sum(invocation, summary, counts)
    if counts["conflict"]:
        raise Conflict(f"{count_words(counts['conflict'], 'conflict')} to be decided: holdfast outbox ls")
    if summary.waiting:
        why = f": {summary.reasons[0]}" if summary.reasons else ""
        raise Queued(f"{count_words(summary.waiting, 'write')} still to be delivered{why}")


async def _watch(invocation: Invocation, metrics: int | None) -> None:
    from holdfast import assemble

    task = asyncio.current_task()
    assert task is not None
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        async with await invocation.vault() as vault, contextlib.AsyncExitStack() as opened:
            invocation.note("delivering what is queued in this home; ^C ends it")
            if metrics is not None:
                serving = assemble.outbox_metrics(await vault.open_outbox(), metrics)
                listener = await opened.enter_async_context(serving)
                invocation.note(f"metrics on http://{listener.host}:{listener.port}/metrics")
            await vault.watch(lambda done: _tell(invocation, done))
    except asyncio.CancelledError:
        if not ended:
            raise


def _tell(invocation: Invocation, done: Done) -> None:
    entry, state = done.entry, _WORDS[done.change.value]
    if invocation.json:
        invocation.document(
            {"event": state, "id": entry.sequence, "names": list(entry.keys), "reason": done.reason or None}
        )
        return
    name = visible(entry.keys[0]) if entry.keys else f"entry {entry.sequence}"
    invocation.note(f"{state}: {name}" + (f" ({visible(done.reason)})" if done.reason else ""))


_WORDS = {
    "remove": "delivered", "defer": "deferred", "conflict": "conflict", "reject": "rejected", "abandon": "abandoned",
    "damage": "damaged",
}  # fmt: skip


async def _counts(vault: Vault) -> dict[str, Any]:
    from holdfast import assemble

    outbox = await vault.outbox()
    return await assemble.outbox_counts(outbox)


def _sum(invocation: Invocation, summary: Summary, counts: dict[str, Any]) -> None:
    if invocation.json:
        invocation.document(
            {
                "event": "summary",
                "delivered": summary.delivered,
                "waiting": summary.waiting,
                "conflict": counts["conflict"],
                "rejected": counts["rejected"],
            }
        )
        return
    invocation.note(f"{count_words(summary.delivered, 'write')} delivered")


@click.command("resolve", cls=Verb)
@click.argument("number", type=int, required=False, metavar="[ID]")
@click.option("--all", "every", is_flag=True, help="All conflicts.")
@click.option("--keep", type=click.Choice(["mine", "theirs", "both"]), required=True, help="Which side stays.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Of the node in DIR.")
@current
def resolve(invocation: Invocation, number: int | None, every: bool, keep: str, data: Path | None) -> None:
    """End a conflict. 'mine' goes out over what is there, 'theirs' drops what was queued, 'both' stores what was
    queued as 'NAME (conflict DATE HOST)' beside what is there."""
    if every == (number is not None):
        raise UsageError("Say one ID, or --all.")
    invocation.run(_resolve(invocation, number, cast("Keep", keep), data))


async def _resolve(invocation: Invocation, number: int | None, keep: Keep, data: Path | None) -> None:
    from holdfast import assemble
    from holdfast.client.offline.resolve import resolve_http

    host = os.uname().nodename.partition(".")[0] or "here"
    if data is not None:
        opened = await assemble.open_outbox(data=data)
        if opened is None:
            raise NotFound(f"the node in {data} has no outbox")
        async with opened as outbox:  # its process delivers it
            await _resolve_all(invocation, outbox, number, keep, lambda one: resolve_http(outbox, one, keep, host))
        return
    async with await invocation.vault() as vault:
        resolver = await vault.resolver()
        found = await vault.outbox()
        assert found is not None, "a resolver has one"
        try:
            await _resolve_all(invocation, found, number, keep, lambda one: resolver.resolve(one, keep, host))
        finally:
            if keep != "theirs":
                with contextlib.suppress(HoldfastError):  # it waits in the queue else, and says why
                    await vault.flush(lambda said: _tell(invocation, said))


async def _resolve_all(
    invocation: Invocation,
    outbox: Outbox,
    number: int | None,
    keep: Keep,
    one_by_one: Callable[[int], Awaitable[dict[str, str]]],
) -> None:
    from holdfast.outbox import State

    numbers = [number] if number is not None else []
    if number is None:
        numbers = [entry.sequence async for entry in outbox.entries(states=[State.CONFLICT])]
    failed = done = 0
    for one in numbers:
        try:
            renamed = await one_by_one(one)
        except HoldfastError as error:
            if number is not None:
                raise
            failed += 1
            click.echo(f"{one}: {sentence(error)}", err=True)
            continue
        done += 1
        if invocation.json:
            invocation.document({"event": "resolved", "id": one, "keep": keep, "renamed": renamed})
        for old, new in renamed.items():
            invocation.note(f"{visible(old)}: mine goes out as {visible(new)}")
    if invocation.json:
        invocation.document({"event": "summary", "resolved": done, "failed": failed})
    else:
        invocation.note(f"{count_words(done, 'conflict')} resolved")
    if failed:
        raise PartlyDone(f"{count_words(failed, 'conflict')} could not be resolved.")


@click.command("retry", cls=Verb)
@click.argument("number", type=int, metavar="ID")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Of the node in DIR.")
@current
def retry(invocation: Invocation, number: int, data: Path | None) -> None:
    """Try an entry again that was deferred, rejected or abandoned; the next flush takes it at once."""
    invocation.run(_order(invocation, number, lambda outbox: outbox.retry(number), "will be tried again", data))


@click.command("drop", cls=Verb)
@click.argument("number", type=int, metavar="ID")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Of the node in DIR.")
@current
def drop(invocation: Invocation, number: int, data: Path | None) -> None:
    """Give an entry up for good: what was written is lost."""
    invocation.confirm(f"Entry {number} is deleted and never delivered.")
    invocation.run(_order(invocation, number, lambda outbox: outbox.drop(number), "is gone", data))


async def _order(
    invocation: Invocation, number: int, order: Callable[[Outbox], Awaitable[None]], did: str, data: Path | None
) -> None:
    from holdfast import assemble

    opened = await assemble.open_outbox(invocation.home, data=data)
    if opened is None:
        raise NotFound(f"the outbox has no entry {number}")
    async with opened as outbox:
        await order(outbox)
    if invocation.json:
        invocation.document({"id": number})
    else:
        invocation.note(f"entry {number} {did}")


ORDERS = (flush, resolve, retry, drop)
