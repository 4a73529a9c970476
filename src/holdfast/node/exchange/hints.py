"""Tells peers that a manifest here has changed, through the node's outbox: moderate entries, one for a name and peer.

A peer that is busy for a moment hears of it a little later; one that is away hears nothing and looks when it is back.
"""

from __future__ import annotations

from typing import Literal, Protocol

from holdfast import logs
from holdfast.blob import Digest
from holdfast.errors import HoldfastError
from holdfast.outbox import http
from holdfast.outbox.entry import State
from holdfast.outbox.outbox import Outbox
from holdfast.peers.directory import Directory
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire import routes

PURPOSE: Literal["hint"] = "hint"

_log = logs.get_logger(__name__)


class Opens(Protocol):
    """Where the node's outbox is made when it is needed."""

    async def open(self) -> Outbox: ...


class Hints:
    """Use from one event loop."""

    def __init__(self, directory: Directory, door: Opens) -> None:
        self._directory = directory
        self._door = door
        self._changed: dict[str, Digest | None] = {}

    def changed(self, name: str, etag: Digest | None) -> None:
        """A manifest here is another one now, or gone (None). Bounded: a name counts once, however often it changes."""
        self._changed[name] = etag

    async def queue(self) -> None:
        """Puts what is to be told into the outbox. Whatever fails is forgotten: peers look by themselves, too."""
        changed, self._changed = self._changed, {}
        peers = [peer for peer in self._directory.all() if peer.healthy] if changed else []
        if not peers:
            return
        try:
            outbox = await self._door.open()
            for name, etag in changed.items():
                body = m.encode(x.Hint(etag=etag))
                for peer in peers:
                    url = peer.url + routes.HINT.path.format(ref=name)
                    if all(entry.claimed for entry in await outbox.waiting_for(url)):  # one that waits says it as well
                        await outbox.enqueue(
                            http.put(url, purpose=PURPOSE, content_type="application/json", node=peer.id), body
                        )
        except HoldfastError as error:
            _log.warning("hints_not_queued", names=len(changed), reason=error.detail)

    async def forget(self, outbox: Outbox) -> None:
        """Hints that were given up or refused are of no use to anybody: the log has said it."""
        async for entry in outbox.entries(states=(State.REJECTED, State.ABANDONED)):
            if entry.purpose == PURPOSE:
                await outbox.drop(entry.sequence)
