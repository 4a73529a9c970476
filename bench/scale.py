"""A network of a thousand nodes and a million packs: what repair decides, how long it thinks, when all is whole again.

The decisions are those of the coordinator (``placement.choose``, ``repair.order``, ``repair.plan``) with its limits on
tasks; bytes move by a simple rule: a node takes and gives one pack at a time, each at its bandwidth. ``scale_arrays``
does the same with arrays for ten times as many nodes and packs, and is compared with this on a small case;
``durability`` says what the times mean.
"""

from __future__ import annotations

import heapq
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import durability, scale_arrays
from bench.measure import MIB, Scale
from bench.report import Figure, at_most
from holdfast.clock import SeededRandomness
from holdfast.coordinator.placement import Site, Sites, choose
from holdfast.coordinator.repair.dispatch import OUTSTANDING_MAX
from holdfast.coordinator.repair.loop import PER_NODE_MAX, PORTION, QUEUE_MAX
from holdfast.coordinator.repair.plan import Holder, Need, Net, Shape, assess, order, plan

COPIES = 5
PACK_BYTES = 16 * MIB
NODE_BYTES_S = 50 * MIB
"""A node's bandwidth for repair, each way."""

RACK = 10
"""Nodes in a domain."""

LOST_SHARE = 0.01
_FREE = 1 << 44


@dataclass
class Network:
    """``nodes`` nodes in racks, and who holds which pack."""

    nodes: int
    shapes: list[Shape]

    def sites(self, dead: frozenset[int] = frozenset()) -> list[Site]:
        return [
            Site(number, number.to_bytes(16, "big"), f"rack {number // RACK}", _FREE)
            for number in range(self.nodes)
            if number not in dead
        ]

    def net(self, dead: frozenset[int]) -> Net:
        """``dead``: gone for so long that nobody waits for them."""
        holders = {
            site.number: Holder(
                site.number, site.store, site.domain, live=site.number not in dead,
                silence=1e9 if site.number in dead else 0.0,
            )
            for site in self.sites()
        }  # fmt: skip
        return Net(holders, floor=2, least_wait=150.0)


def place(nodes: int, packs: int, seed: int = 1) -> Network:
    """Each pack where the coordinator's placement puts it."""
    network = Network(nodes, [])
    sites, randomness = Sites(network.sites()), SeededRandomness(seed)
    known: dict[int, int] = {
        number: number for number in range(nodes)
    }  # one integer for each node, not one for each copy
    for pack in range(packs):
        chosen = choose(sites, COPIES, 0, randomness, lambda site: site.free >= PACK_BYTES)
        network.shapes.append(Shape(pack, COPIES, PACK_BYTES, tuple(sorted(known[site.number] for site in chosen))))
    return network


@dataclass
class Healed:
    """``order_s``, ``plan_s``: seconds of thinking; ``whole_s``: seconds until the last copy was made."""

    copies: int
    order_s: float
    plan_s: float
    whole_s: float


def heal(network: Network, dead: frozenset[int], seed: int = 2) -> Healed:
    """From the loss of ``dead`` on; portion by portion, with as many tasks as the coordinator gives out."""
    net, randomness = network.net(dead), SeededRandomness(seed)
    affected = [shape for shape in network.shapes if not dead.isdisjoint(shape.places)]
    began = time.perf_counter()
    waiting, debt = order(affected, net, len(affected))
    order_s = time.perf_counter() - began
    plan_s, made, at, now = 0.0, 0, 0, 0.0
    sites = network.sites(dead)
    outstanding: Counter[int] = Counter()
    running: list[tuple[float, int]] = []  # (end, target)
    gives, takes = dict.fromkeys(range(network.nodes), 0.0), dict.fromkeys(range(network.nodes), 0.0)
    while at < len(waiting) or running:
        room = min(PORTION, OUTSTANDING_MAX - len(running))
        portion = waiting[at : at + room]
        at += len(portion)
        began = time.perf_counter()
        needs = [(network.shapes[need.pack], need) for need in portion]
        left = {site.number: PER_NODE_MAX - outstanding[site.number] for site in sites}
        copies = plan(needs, net, sites, left, randomness)
        plan_s += time.perf_counter() - began
        for copy in copies:
            source = min(copy.sources, key=lambda number: gives[number])
            start = max(now, gives[source], takes[copy.target])
            gives[source] = takes[copy.target] = start + PACK_BYTES / NODE_BYTES_S
            outstanding[copy.target] += 1
            heapq.heappush(running, (gives[source], copy.target))
        made += len(copies)
        if running and (at >= len(waiting) or len(running) >= OUTSTANDING_MAX):
            until = running[min(len(running), PORTION) - 1][0] if at < len(waiting) else running[0][0]
            while running and running[0][0] <= until:
                now, target = heapq.heappop(running)
                outstanding[target] -= 1
    assert made == sum(need.copies for need in waiting), "there is room for every copy"
    assert debt.lost == 0
    return Healed(made, order_s, plan_s, now)


def run(scale: Scale, directory: Path) -> list[Figure]:
    """``scale.packs`` times ten packs on as many nodes as make a thousand packs a node: by default 10^6 on 10^3."""
    packs = scale.packs * 10
    nodes = max(packs // 1000, 100)
    small = scale_arrays.compare(place(100, max(packs // 100, 1000)))
    print(f"scale: arrays and code on {small.packs:,} packs: {small}", file=sys.stderr, flush=True)
    tracemalloc.start()
    sample = place(nodes, packs // 20)
    memory = tracemalloc.get_traced_memory()[0] / len(sample.shapes)
    tracemalloc.stop()
    began = time.perf_counter()
    network = place(nodes, packs)
    placed_s = time.perf_counter() - began
    dead = frozenset(range(max(round(nodes * LOST_SHARE), 1)))
    healed = heal(network, dead)
    many = f"{nodes:,} nodes, {packs:,} packs"
    lost = f"{many}, {len(dead)} nodes lost"
    found = [
        Figure(f"placement, {many}", 1e6 * placed_s / packs, "us a pack"),
        Figure(f"packs in memory as repair sees them, {many}", memory, "bytes a pack"),
        Figure(f"{lost}: the ordered list of {healed.copies:,} copies", healed.order_s, "s", goal=at_most(2.0)),
        Figure(f"{lost}: planned", 1e6 * healed.plan_s / healed.copies, "us a copy"),
        Figure(f"{lost}: whole again after", healed.whole_s, "s"),
    ]
    del network
    large = scale_arrays.Arrays.place(nodes * 10, packs * 10)
    whole = large.heal(max(round(nodes * 10 * LOST_SHARE), 1))
    many = f"{nodes * 10:,} nodes, {packs * 10:,} packs as arrays"
    found += [
        Figure(f"{many}: bytes", large.bytes / (packs * 10), "bytes a pack"),
        Figure(f"{many}: what lacks copies is found", whole.found_s, "s"),
        Figure(f"{many}: whole again after", whole.whole_s, "s"),
    ]
    return found + durability.run(whole_s=healed.whole_s)


def needs_of(network: Network, dead: frozenset[int], held: Callable[[Shape], bool]) -> Sequence[Need]:
    """What the real code says of every pack for which ``held``, in the packs' order."""
    net = network.net(dead)
    return [need for shape in network.shapes if held(shape) and (need := assess(shape, net)) is not None]


__all__ = ["QUEUE_MAX", "Healed", "Network", "heal", "needs_of", "place", "run"]
