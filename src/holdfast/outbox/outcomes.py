"""What an answer means for an entry: the table of docs/design.md, section 8, in one place. Pure.

``verdict`` says what a status means, ``verdict_of_error`` the same for an error of ours; ``compared`` decides between
delivered and conflict once the present state was read. A delivery function returns one of the outcomes.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from holdfast import errors
from holdfast.blob import Buffer

RETRY_AFTER_S_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it. ``left``: what the next entry of the same key takes as its precondition, None for nothing."""

    left: Any = None


@dataclass(frozen=True, slots=True)
class Conflicted:
    """Somebody else was first. ``facts``: the target's present state in the kind's own fields.

    ``absent``: it holds nothing. ``content`` gives its bytes and is read once, at once; None if there are none to keep.
    """

    reason: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    absent: bool = False
    content: Callable[[], AsyncIterator[Buffer]] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The target will never take it as it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Later. ``reached``: an answer of the target came. ``target``: the target is in trouble, not this one entry.

    ``retry_after_s``: the target asked for so long a rest, at most ``RETRY_AFTER_S_MAX``.
    """

    reason: str
    reached: bool = True
    target: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Damaged:
    """Our own copy of it fails its check."""

    reason: str


Outcome: TypeAlias = Delivered | Conflicted | Rejected | Deferred | Damaged


class Next(enum.Enum):
    """What is still to be done before an answer is an outcome."""

    SHOW = "show"  # delivered only once the target shows it
    COMPARE = "compare"  # read the present state, then ``compared``


ABSENT = frozenset({404, 410})
CHANGED = frozenset({409, 412})
LATER_ENTRY = frozenset({403, 423, 424, 425})
LATER_TARGET = frozenset({401, 407, 408, 429})


def verdict(
    status: int, *, method: str, holdfast: bool, signed: bool = True, retry_after_s: float | None = None
) -> Outcome | Next:
    """The table. ``holdfast``: the other side is one of ours, so that only what it has ``signed`` counts."""
    rest = None if retry_after_s is None else min(max(retry_after_s, 0.0), RETRY_AFTER_S_MAX)
    if holdfast and not signed:
        return Deferred(f"an unsigned answer ({status}): something else answered", reached=False, target=True)
    if 200 <= status < 300:
        return Delivered() if holdfast else Next.SHOW
    if status in CHANGED:
        return Next.COMPARE
    if status in ABSENT and method == "DELETE":
        return Delivered()
    if status in LATER_ENTRY:
        return Deferred(f"the target answered {status}", retry_after_s=rest)
    if status in LATER_TARGET:
        return Deferred(f"the target answered {status}", target=True, retry_after_s=rest)
    if 400 <= status < 500:
        return Rejected(f"the target answered {status}")
    return Deferred(f"the target answered {status}", target=True, retry_after_s=rest)


def verdict_of_error(error: errors.HoldfastError, *, method: str = "PUT") -> Outcome | Next:
    """What an error of the signed client means: refusals were signed, all else is Unavailable."""
    if isinstance(error, errors.Unavailable):
        wait = error.extra.get("retry_after")
        rest = float(wait) if isinstance(wait, int | float) and not isinstance(wait, bool) else None
        reached = isinstance(error, errors.TooManyRequests | errors.StorePoisoned)
        rest = None if rest is None else min(max(rest, 0.0), RETRY_AFTER_S_MAX)
        return Deferred(error.detail, reached=reached, target=True, retry_after_s=rest)
    if isinstance(error, errors.TooFewNodes | errors.StaleEpoch):
        return Deferred(error.detail, target=True)  # 409 for a caller who waits, nobody else's change
    if isinstance(error, errors.PacksGone):
        return Deferred(error.detail)
    if isinstance(error, errors.BadConfig | errors.Interrupted):
        return Deferred(error.detail, reached=False, target=True)
    found = verdict(errors.meaning(error).status, method=method, holdfast=True)
    if isinstance(found, Rejected):
        return Rejected(error.detail)
    if isinstance(found, Deferred):
        return Deferred(error.detail, target=found.target)
    return found


def compared(*, ours: bool, left: Any, conflict: Conflicted) -> Outcome:
    """After the present state was read. ``ours``: equal bytes, our etag, or our etag in its history."""
    return Delivered(left) if ours else conflict
