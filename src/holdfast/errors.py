"""Every error that may leave a room, and the one table that says what each means to a caller.

The table gives, for each class, the HTTP status, the problem type (RFC 9457), the exit code and whether trying the
same call again can help. Foreign exceptions are translated where they arise, with the cause kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class HoldfastError(Exception):
    """The root. ``detail`` is one sentence for a person; ``extra`` holds fields for the problem document.

    ``extra`` values must be JSON values; they travel to the other side and come back in its exception.
    """

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class BadRequest(HoldfastError):
    """What was asked is malformed; asking again unchanged never helps."""


class UsageError(BadRequest):
    """A command line that makes no sense."""


class DigestMismatch(BadRequest):
    """A body that is not the bytes its name promises; nothing of it was kept."""


class LengthRequired(BadRequest):
    """A body without the length that the route needs."""


class TooLarge(BadRequest):
    """A body, list or header over its limit."""


class RangeInvalid(BadRequest):
    """A range outside of the blob."""


class Unauthorized(HoldfastError):
    """Not signed, or signed in any other way than the one profile; or signed by nobody we know."""


class Denied(HoldfastError):
    """Known, but not allowed."""


class WrongPassphrase(Denied):
    """The key file does not open with this passphrase."""


class NotFound(HoldfastError, LookupError):
    """No such blob, name, node or route."""


class Conflict(HoldfastError):
    """A precondition did not hold: somebody else changed it first."""


class Exists(Conflict, FileExistsError):
    """The target is there already and was not to be replaced."""

    def __str__(self) -> str:
        return self.detail


class PacksGone(HoldfastError):
    """A commit needs packs that are no longer there (``extra["packs"]``); they must be sent again."""


class Corrupt(HoldfastError):
    """Bytes that fail their check, with no right copy left to ask."""


class Unavailable(HoldfastError, ConnectionError):
    """Nobody answered, or not usefully; trying again later can help."""


class TimedOut(Unavailable, TimeoutError):
    """An answer did not come within its deadline."""


class TooManyRequests(Unavailable):
    """A limit of rate or connections was reached; ``extra["retry_after"]`` may hold seconds."""


class StorePoisoned(Unavailable):
    """A sync failed on this store: it is read-only until its operator has looked at the disk."""


class Standby(Unavailable):
    """This coordinator waits while another one works, or has just lost its place: another address may answer."""


class NoSpace(HoldfastError):
    """The store's capacity less its reserve is used up."""


class QuotaExceeded(NoSpace):
    """The vault's quota is used up."""


class TooFewNodes(HoldfastError):
    """Fewer nodes are registered than copies are asked; waiting does not help."""


class StaleEpoch(HoldfastError):
    """The other side follows a newer coordinator epoch than this one."""


class Queued(HoldfastError):
    """The network did not take a write; it is durable in the outbox of this home, which delivers it later."""


class BadConfig(HoldfastError):
    """A setting, data directory or mount that must be put right before anything can run."""


class PartlyDone(HoldfastError):
    """Some items failed, the others are done; each was reported."""


class Interrupted(HoldfastError):
    """Stopped by the user; what was done can be resumed."""


class Meaning(NamedTuple):
    """What one error class means outside the process."""

    status: int  # HTTP status
    type: str  # problem type, the last part of its URI reference
    exit: int  # exit code of the command line
    retry: bool  # may the same call succeed later


MEANINGS: dict[type[HoldfastError], Meaning] = {
    HoldfastError: Meaning(500, "internal", 1, True),
    BadRequest: Meaning(400, "bad-request", 1, False),
    UsageError: Meaning(400, "usage", 2, False),
    DigestMismatch: Meaning(400, "digest-mismatch", 6, False),
    LengthRequired: Meaning(411, "length-required", 1, False),
    TooLarge: Meaning(413, "too-large", 1, False),
    RangeInvalid: Meaning(416, "range-invalid", 1, False),
    Unauthorized: Meaning(401, "unauthorized", 5, False),
    Denied: Meaning(403, "denied", 5, False),
    WrongPassphrase: Meaning(403, "wrong-passphrase", 5, False),
    NotFound: Meaning(404, "not-found", 4, False),
    Conflict: Meaning(412, "conflict", 8, False),
    Exists: Meaning(409, "exists", 8, False),
    PacksGone: Meaning(424, "packs-gone", 1, True),
    Corrupt: Meaning(502, "corrupt", 6, False),
    Unavailable: Meaning(503, "unavailable", 1, True),
    TimedOut: Meaning(504, "timed-out", 1, True),
    TooManyRequests: Meaning(429, "too-many-requests", 1, True),
    StorePoisoned: Meaning(503, "store-poisoned", 1, True),
    Standby: Meaning(503, "standby", 1, True),
    NoSpace: Meaning(507, "no-space", 1, True),
    QuotaExceeded: Meaning(507, "quota-exceeded", 1, False),
    TooFewNodes: Meaning(409, "too-few-nodes", 7, False),
    StaleEpoch: Meaning(409, "stale-epoch", 1, False),
    Queued: Meaning(202, "queued", 75, False),
    BadConfig: Meaning(500, "bad-config", 78, False),
    PartlyDone: Meaning(500, "partly-done", 3, True),
    Interrupted: Meaning(500, "interrupted", 130, True),
}

_BY_TYPE = {meaning.type: kind for kind, meaning in MEANINGS.items()}


def meaning(error: BaseException) -> Meaning:
    """The table row of ``error``'s class, or of its nearest base; what is not ours is ``internal``."""
    for kind in type(error).__mro__:
        if kind in MEANINGS:
            return MEANINGS[kind]
    return MEANINGS[HoldfastError]


def from_problem(status: int, type_: str, detail: str, extra: dict[str, Any]) -> HoldfastError:
    """The exception for a problem document; an unknown type falls back on its status."""
    kind = _BY_TYPE.get(type_)
    if kind is None:
        by_status = {row.status: found for found, row in reversed(MEANINGS.items())}
        kind = by_status.get(status, Unavailable if status >= 500 else BadRequest)
    error = kind(detail)
    error.extra = extra
    return error
