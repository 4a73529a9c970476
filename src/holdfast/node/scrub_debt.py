"""How long ago the blobs of a node were last read again, from the place of the pass alone: nothing is looked up.

Passes go through the digests in order and at an even pace. So what lies behind the place was read in this pass, and
what lies before it in the pass before, the nearest first.
"""

from __future__ import annotations

from typing import NamedTuple


class Debt(NamedTuple):
    """``oldest_s``: since the longest unread blob was read. ``overdue``: bytes of those unread for over a period."""

    oldest_s: float
    overdue: int


def debt(place: float, *, now: float, began: float, before: float, last: float, period_s: float, held: int) -> Debt:
    """At ``place`` (the share read, 0 to 1) of a pass that ``began`` then and read its ``last`` blob then.

    ``before``: when the pass before began, below 0 if there was none: then all counts as read when this one began.
    ``held``: bytes in all.
    """
    before, last = began if before < 0 else min(before, began), max(last, began)
    deadline = now - period_s
    share = max(_passed(deadline, before, began) - place, 0.0) + place * _passed(deadline, began, last)
    return Debt(max(now - before - place * (began - before), 0.0), int(share * held))


def _passed(moment: float, begin: float, end: float) -> float:
    """How much of the time from ``begin`` to ``end`` lies before ``moment``, 0 to 1."""
    if end <= begin:
        return float(begin < moment)
    return min(max((moment - begin) / (end - begin), 0.0), 1.0)
