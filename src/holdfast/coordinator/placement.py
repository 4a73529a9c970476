"""Which nodes shall take a pack. Pure: nodes and randomness in, candidates out.

A weighted random choice by free space, on distinct nodes and stores, on distinct domains where there are enough. The
weighted order is that of exponential clocks (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
2006): the smallest of ``-log(u) / weight`` comes first. Among many nodes the first of that order are drawn one by one,
those drawn before passed over, which is the same order and looks at few of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from holdfast.clock import Randomness


@dataclass(frozen=True, slots=True)
class Site:
    """A node that may take new packs. ``free``: bytes, less what is planned; ``domain``: what fails together."""

    number: int
    store: bytes
    domain: str
    free: int


FEW = 64
"""Up to so many sites are put in order at once."""

DRAWS_MAX = 64
"""Draws before what is left is put in order, too: most were of sites that may not take the pack."""


class Sites:
    """The nodes of many choices: their weights are summed once."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.all = sites
        self._ends = list(accumulate(max(site.free, 1) for site in sites)) if len(sites) > FEW else []

    def in_order(self, randomness: Randomness) -> Iterator[Site]:
        """All of them, in a random order in which more free space comes earlier."""
        drawn: set[int] = set()
        for _ in range(DRAWS_MAX if self._ends else 0):
            at = bisect_right(self._ends, randomness.below(self._ends[-1]))
            if at not in drawn:
                drawn.add(at)
                yield self.all[at]
        clocks = [
            (-math.log(1.0 - randomness.random()) / max(site.free, 1), at)
            for at, site in enumerate(self.all)
            if at not in drawn
        ]
        for _, at in sorted(clocks):
            yield self.all[at]


def choose(
    sites: Sites,
    copies: int,
    more: int,
    randomness: Randomness,
    fits: Callable[[Site], bool],
    last: Callable[[Site], bool] = lambda site: False,
) -> list[Site]:
    """Up to ``copies + more`` sites for one pack, of those that it ``fits``, best first.

    The first ``copies`` lie in distinct domains if there are as many. Those for which ``last`` holds come behind all
    others. Fewer than ``copies`` sites come back when there are not more stores that fit.
    """
    wanted = copies + more
    chosen: list[Site] = []
    passed_over: list[Site] = []
    late: list[Site] = []
    stores: set[bytes] = set()
    domains: set[str] = set()

    def take(site: Site) -> None:
        if site.store in stores:
            return
        stores.add(site.store)
        if site.domain in domains:
            passed_over.append(site)
        else:
            domains.add(site.domain)
            chosen.append(site)

    for site in sites.in_order(randomness):
        if not fits(site):
            continue
        if last(site):
            late.append(site)
            continue
        take(site)
        if len(chosen) == wanted:
            return chosen
    for site in late:
        take(site)
    return sorted(chosen + passed_over, key=last)[:wanted]
