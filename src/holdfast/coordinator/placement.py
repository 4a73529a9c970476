"""Which nodes shall take a pack. Pure: nodes and randomness in, candidates out.

A weighted random choice by free space, on distinct nodes and stores, on distinct domains where there are enough. The
weighted order is that of exponential clocks (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
2006): the smallest of ``-log(u) / weight`` comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.clock import Randomness


@dataclass(frozen=True, slots=True)
class Site:
    """A node that may take new packs. ``free``: bytes, less what is planned; ``domain``: what fails together."""

    number: int
    store: bytes
    domain: str
    free: int


def choose(
    sites: Sequence[Site], size: int, copies: int, more: int, randomness: Randomness, last: frozenset[int] = frozenset()
) -> list[Site]:
    """Up to ``copies + more`` sites for one pack of ``size`` bytes, best first.

    The first ``copies`` lie in distinct domains if there are as many. Nodes in ``last`` come behind all others.
    Fewer than ``copies`` sites come back when there are not more stores with room.
    """
    roomy = [site for site in sites if site.free >= size]
    clocks = {
        site.number: (site.number in last, -math.log(1.0 - randomness.random()) / max(site.free, 1)) for site in roomy
    }
    ordered = sorted(roomy, key=lambda site: clocks[site.number])
    chosen: list[Site] = []
    passed_over: list[Site] = []
    stores: set[bytes] = set()
    domains: set[str] = set()
    for site in ordered:
        if site.store in stores:
            continue
        stores.add(site.store)
        if site.domain in domains:
            passed_over.append(site)
        else:
            domains.add(site.domain)
            chosen.append(site)
    return sorted(chosen + passed_over, key=lambda site: site.number in last)[: copies + more]
