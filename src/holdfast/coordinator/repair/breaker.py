"""Stops repair when too much vanishes at once: then it is more likely a switch than that many disks. Pure.

It opens when more than a quarter of the capacity and more nodes than the largest ``survive`` fell silent within one
``out_after``; it closes when they are back, by an operator's word, or after ``hold``, then at a limited rate
(docs/design.md, 6, Breaker).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

SHARE = 0.25


class Member(NamedTuple):
    """A registered node. ``silence``: seconds since it fell silent, None while it is there or its operator knows."""

    number: int
    capacity: int
    silence: float | None


@dataclass(frozen=True, slots=True)
class Breaker:
    """``limited``: the hold is over and repair goes slowly. ``gone``: nodes it opened for; ``since``: when.

    ``known``: silent nodes for which it does not open again: an operator spoke, or the hold is over.
    """

    state: Literal["closed", "open", "limited"] = "closed"
    since: float = 0.0
    gone: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()


def step(
    breaker: Breaker, members: Sequence[Member], now: float, *, window: float, hold: float, survive: int
) -> Breaker:
    """The breaker at ``now`` (seconds on any clock that never goes back); call it at least as often as nodes beat."""
    silent = {one.number: one for one in members if one.silence is not None}
    known = breaker.known.intersection(silent)
    gone = breaker.gone.intersection(silent)
    recent = (one.number for one in silent.values() if one.silence is not None and one.silence <= window)
    fresh = frozenset(recent) - known
    # nodes that were silent before the window are no part of what could vanish in it
    counted = fresh | (gone if breaker.state == "open" else frozenset())
    whole = sum(one.capacity for one in members if one.silence is None or one.number in counted)
    if breaker.state == "open":
        gone |= fresh
        if not _too_many(gone, silent, whole, survive):
            return Breaker(known=known)
        if now - breaker.since >= hold:
            return Breaker("limited", now, gone, known | gone)
        return replace(breaker, gone=gone, known=known)
    if _too_many(fresh, silent, whole, survive):
        return Breaker("open", now, fresh, known)
    if breaker.state == "limited" and gone:
        return replace(breaker, gone=gone, known=known)
    return Breaker(known=known)


def dismiss(breaker: Breaker, members: Sequence[Member]) -> Breaker:
    """An operator says that those who are silent now are gone for good: it closes, and they do not open it again."""
    return Breaker(known=breaker.known | {one.number for one in members if one.silence is not None})


def _too_many(gone: frozenset[int], silent: dict[int, Member], whole: int, survive: int) -> bool:
    lost = sum(silent[number].capacity for number in gone)
    return len(gone) > survive and lost > whole * SHARE
