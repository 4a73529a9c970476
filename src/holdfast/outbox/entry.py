"""What lies in an outbox: one write that must still reach a target, and the words for its state and its class.

``CLASSES`` is the one table that says what may be queued at all, and how long it is tried (docs/design.md, Outbox).
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.blob import Buffer, Digest
from holdfast.errors import BadRequest

KEYS_MAX = 1024
TEXT_BYTES_MAX = 8192
MODERATE_TRIES_MAX = 3


class State(enum.IntEnum):
    """Where an entry stands. Delivered entries are gone."""

    WAITING = 0  # not tried yet, or a person said: again
    DEFERRED = 1  # tried; next time at ``next_try``
    CONFLICT = 2  # somebody else was first: a person resolves it, and later entries of its keys wait with it
    REJECTED = 3  # the target refuses it as it is: a person retries or drops it
    ABANDONED = 4  # moderate, and tried enough
    DAMAGED = 5  # its bytes on this disk fail their check

    @property
    def label(self) -> str:
        """As people and ``--json`` see it."""
        return self.name.lower()


class DeliveryClass(enum.IntEnum):
    """How long an entry is tried."""

    CRITICAL = 0  # until it is delivered or a person decides
    MODERATE = 1  # ``MODERATE_TRIES_MAX`` tries that reached the target, and not over a restart

    @property
    def label(self) -> str:
        return self.name.lower()


CLASSES: Mapping[tuple[str, str], DeliveryClass] = {
    ("ref", "create"): DeliveryClass.CRITICAL,
    ("ref", "update"): DeliveryClass.CRITICAL,
    ("ref", "delete"): DeliveryClass.CRITICAL,
    ("ref", "move"): DeliveryClass.CRITICAL,
    ("http", "create"): DeliveryClass.CRITICAL,
    ("http", "update"): DeliveryClass.CRITICAL,
    ("http", "delete"): DeliveryClass.CRITICAL,
    ("http", "confirmation"): DeliveryClass.MODERATE,
    ("http", "configuration"): DeliveryClass.MODERATE,
    ("http", "hint"): DeliveryClass.MODERATE,
}
"""(kind, purpose) -> class. Reads and searches are not in it: they are never queued."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be queued.

    ``keys``: the names in whose order it stands, 1 to ``KEYS_MAX``. ``target``: what is down when it is down (a
    server's origin, a coordinator's id). ``payload``: the kind's own fields, CBOR values only. ``needs``: packs that
    must be sent before it, put there with ``Outbox.add_pack``.
    """

    kind: str
    purpose: str
    keys: tuple[str, ...]
    target: str
    payload: Mapping[str, Any]
    needs: tuple[Digest, ...] = ()

    def delivery_class(self) -> DeliveryClass:
        """From ``CLASSES``; BadRequest for what may not be queued, or has no proper keys or target."""
        found = CLASSES.get((self.kind, self.purpose))
        if found is None:
            raise BadRequest(f"the outbox takes no entry of kind {self.kind!r} for {self.purpose!r}")
        if not 1 <= len(self.keys) <= KEYS_MAX or len(set(self.keys)) != len(self.keys):
            raise BadRequest(f"an entry has 1 to {KEYS_MAX} different keys")
        for text in (*self.keys, self.target):
            if not 1 <= len(text.encode("utf-8", "surrogatepass")) <= TEXT_BYTES_MAX:
                raise BadRequest(f"a key or target has 1 to {TEXT_BYTES_MAX} bytes")
        return found


OpenBody = Callable[[], AsyncIterator[Buffer]]


@dataclass(frozen=True, slots=True)
class Theirs:
    """What the target held when a conflict was found. ``facts``: the kind's own (etag, time); ``size`` None: no body.

    ``absent``: the target holds nothing. ``open``: the bytes from the start; Corrupt if the disk changed them.
    """

    facts: Mapping[str, Any]
    absent: bool
    size: int | None = None
    digest: Digest | None = None
    open: OpenBody | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was read. Times are wall-clock seconds since 1970, sizes bytes.

    ``left``: what the delivery of the entry before in its key said of the target's state, to be taken instead of the
    payload's own precondition. ``reached``: tries that got an answer of the target. A damaged entry has no
    payload, keys or target. ``begun``: how often it was claimed, so that more than once means: perhaps it was sent
    already.
    """

    sequence: int
    id: bytes
    state: State
    delivery_class: DeliveryClass
    kind: str
    size: int
    tries: int
    reached: int
    next_try: float
    begun: int = 0
    claimed: bool = False
    purpose: str = ""
    keys: tuple[str, ...] = ()
    target: str = ""
    created: float = 0.0
    payload: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Digest, ...] = ()
    digest: Digest | None = None
    """Of the body; None without one."""
    reason: str = ""
    left: Any = None
    theirs: Theirs | None = None
    open: OpenBody | None = field(default=None, repr=False, compare=False)
    """The body from the start, in pieces of at most 1 MiB; Corrupt if the disk changed it. None without a body."""
