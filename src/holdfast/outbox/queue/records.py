"""From rows to entries: opens what is sealed in them, and seals what is learned of them.

Everything here but the openers of bodies runs in the queue's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from holdfast.blob import Buffer, Digest
from holdfast.errors import BadRequest, Corrupt, NotFound
from holdfast.outbox.entry import DeliveryClass, Entry, NewEntry, OpenBody, State, Theirs
from holdfast.outbox.queue.bodies import Bodies
from holdfast.outbox.queue.file import QueueFile
from holdfast.outbox.queue.rows import Row, clear
from holdfast.outbox.queue.sealing import Seals


class _Record(msgspec.Struct, frozen=True):
    """What is sealed as ``record``."""

    purpose: str
    keys: tuple[str, ...]
    target: str
    created: float
    payload: dict[str, Any]
    digest: bytes | None


class _Held(msgspec.Struct, frozen=True):
    """What the other side held in a conflict."""

    facts: dict[str, Any]
    absent: bool
    size: int | None
    digest: bytes | None


Ask = Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]]


class Records:
    """Reads and writes the sealed columns of one queue."""

    def __init__(self, file: QueueFile, seals: Seals, bodies: Bodies, ask: Ask) -> None:
        """``ask`` runs a question in the queue's thread."""
        self._file = file
        self._seals = seals
        self._bodies = bodies
        self._ask = ask

    def sealed_record(
        self, id_: bytes, new: NewEntry, *, delivery_class: int, size: int, created: float, digest: Digest | None
    ) -> bytes:
        """What of a new entry stands sealed in its row."""
        record = {
            "purpose": new.purpose,
            "keys": list(new.keys),
            "target": new.target,
            "created": created,
            "payload": dict(new.payload),
            "digest": None if digest is None else bytes(digest),
        }
        return self._seals.seal(id_, "record", record, clear(new.kind, delivery_class, size), canonical=False)

    def notes(self, row: Row) -> dict[str, Any]:
        """What was learned of an entry since it was queued; nothing if that is damaged, which is always safe."""
        if row.progress is None:
            return {}
        try:
            found = self._seals.open(row.id, "progress", row.progress, row.clear())
        except Corrupt:
            return {}
        return found if isinstance(found, dict) else {}

    def sealed_notes(self, row: Row, notes: dict[str, Any]) -> bytes:
        return self._seals.seal(row.id, "progress", notes, row.clear())

    def entry(self, row: Row, inline: bytes | None = None) -> Entry:
        """The row with what is sealed in it; ``inline``: its body, if that was read with it. Corrupt."""
        record = self._seals.open(row.id, "record", row.sealed, row.clear())
        try:
            return self._entry(row, msgspec.convert(record, _Record), inline)
        except (msgspec.ValidationError, BadRequest) as error:
            raise Corrupt(f"an entry of the outbox has fields that this version does not know: {error}") from error

    def _entry(self, row: Row, record: _Record, inline: bytes | None) -> Entry:
        if self._seals.target_tag(record.target) != row.target:
            raise Corrupt("an entry of the outbox fails its check: its target is another one")
        notes = self.notes(row)
        return replace(
            _in_clear(row),
            purpose=record.purpose,
            keys=record.keys,
            target=record.target,
            created=record.created,
            payload=record.payload,
            needs=self._file.packs.needed_by(row.sequence),
            digest=None if record.digest is None else Digest(record.digest),
            reason=str(notes.get("reason", "")),
            left=notes.get("left"),
            theirs=self._theirs(row, notes.get("theirs")),
            open=None if record.digest is None else self._opener(row, inline),
        )

    def entry_or_damaged(self, row: Row) -> Entry:
        """As ``entry``; of one that cannot be opened what stands in clear, and the reason."""
        try:
            return self.entry(row)
        except Corrupt as error:
            return replace(_in_clear(row), reason=error.detail)

    def _theirs(self, row: Row, found: Any) -> Theirs | None:
        if found is None or row.state != State.CONFLICT:
            return None
        held = msgspec.convert(found, _Held)
        size = held.size
        open_: OpenBody | None = None
        if row.theirs and size is not None:

            def open_() -> AsyncIterator[Buffer]:
                cipher = self._seals.cipher(row.id, "theirs")
                return self._bodies.read(row.theirs_name(), row.id, cipher, size, None)

        return Theirs(
            facts=held.facts,
            absent=held.absent,
            size=size,
            digest=None if held.digest is None else Digest(held.digest),
            open=open_,
        )

    def _opener(self, row: Row, inline: bytes | None) -> OpenBody:
        async def read() -> AsyncIterator[Buffer]:
            held = inline
            if held is None and not row.filed:
                held = await self._ask(lambda: self._file.entries.body(row.sequence))
                if held is None:
                    raise NotFound(f"the outbox has no entry {row.sequence} any more")
            cipher = self._seals.cipher(row.id, "body")
            async for piece in self._bodies.read(row.file_name(), row.id, cipher, row.size, held):
                yield piece

        return read


def _in_clear(row: Row) -> Entry:
    return Entry(
        sequence=row.sequence,
        id=row.id,
        state=State(row.state),
        delivery_class=DeliveryClass(row.delivery_class),
        kind=row.kind,
        size=row.size,
        tries=row.tries,
        reached=row.reached,
        next_try=row.next_try,
        begun=row.begun,
        claimed=row.claim is not None,
    )
