"""What put, rm, mv and restore share when the network is away, and the line that says that something waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.invocation import Invocation, sentence
from holdfast.cli.words import count_words, time_words
from holdfast.errors import HoldfastError, Queued, UsageError

if TYPE_CHECKING:
    from holdfast.client.vault import Entry
    from holdfast.sdk import Vault

FLUSH = "holdfast outbox flush"


def offline_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--offline`` and ``--no-queue``."""
    command = click.option("--no-queue", is_flag=True, help="Fail rather than queue when the network is away.")(command)
    return click.option("--offline", is_flag=True, help="Into the outbox at once, without asking the network.")(command)


@dataclass(slots=True)
class Queueing:
    """How one command means it, and what became of it: ``on_queued`` hears of writes that went to the outbox."""

    offline: bool | None
    queued: bool = False
    reason: HoldfastError | None = None
    words: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, offline: bool, no_queue: bool) -> Queueing:
        """UsageError for flags that exclude each other."""
        if offline and no_queue:
            raise UsageError("--offline and --no-queue exclude each other.")
        made = cls(True if offline else False if no_queue else None)
        made.words = {"offline": made.offline, "on_queued": made._on_queued}
        return made

    def _on_queued(self, reason: HoldfastError | None) -> None:
        self.queued = True
        self.reason = self.reason or reason

    async def finish(self, invocation: Invocation, vault: Vault, what: str) -> None:
        """Delivers what waits if the network is there; Queued, with why, if ``what`` was queued."""
        if not self.queued:
            if self.offline is not False:
                await deliver(invocation, vault)
            return
        if self.offline:
            why = "as asked"
        elif self.reason is not None:
            why = f"because {sentence(self.reason).rstrip('.')}"
        else:
            why = "because earlier writes of the same name wait (holdfast outbox ls)"
        raise Queued(f"{what} queued in the outbox, {why}; {FLUSH} delivers it when the network answers.")


async def deliver(invocation: Invocation, vault: Vault) -> None:
    """Delivers what waits, in passing: the network was there just now. Trouble is only noted."""
    outbox = await vault.outbox()
    if outbox is None or not await outbox.waiting():
        return
    invocation.note(f"delivering {count_words(await outbox.waiting(), 'queued write')}")
    try:
        summary = await vault.flush()
    except HoldfastError as error:
        invocation.note(f"the outbox: {sentence(error)}")
        return
    if summary.conflicts:
        invocation.note(f"{count_words(summary.conflicts, 'conflict')}: holdfast outbox ls")


async def note_waiting(invocation: Invocation, vault: Vault) -> None:
    """One line, if something waits."""
    outbox = await vault.outbox()
    waiting = 0 if outbox is None else await outbox.waiting()
    if waiting:
        invocation.note(f"{count_words(waiting, 'write')} still to be delivered ({FLUSH})")


def mark_words(entry: Entry) -> str:
    """``queued``, ``conflict`` or when it was seen last; empty for what the network has just said."""
    if entry.conflict:
        return "queued, in conflict"
    if entry.queued:
        return "queued"
    return f"last seen {time_words(entry.seen)}" if entry.seen else ""
