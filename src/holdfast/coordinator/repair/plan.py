"""What is to be copied, from whom, to whom, in what order. Pure: state, time and randomness in, actions out.

The rules are those of docs/design.md, 6, States. With m copies of a pack missing, a silent node is waited for
``out_after / 4^(m-1)``; at the floor nobody is. A copy whose node may still come back in time is not made anew; at the
floor it is. Copies that are known to be gone (quarantined, a removed or replaced disk) have nobody to be waited for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.clock import Randomness
from holdfast.coordinator.placement import Site, Sites, choose
from holdfast.coordinator.settings import floor_of

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Holder:
    """A registered node as repair sees it.

    ``live``: its copies count; ``leaving``: they must be made elsewhere as well; ``excused``: its operator said that it
    comes back, so it is waited for; ``silence``: seconds since it was last known to be right, 0 while it is live, NEVER
    if nobody waits for it any more.
    """

    number: int
    store: bytes
    domain: str
    live: bool
    leaving: bool = False
    excused: bool = False
    silence: float = 0.0
    out_after: float = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Net:
    """The network at one moment.

    ``least_wait``: seconds that every silent node gets, so that nodes which vanish together are all known to be silent
    before anything is copied (but at the floor). ``held``: the breaker is open, so packs only leave the floor.
    """

    holders: Mapping[int, Holder]
    floor: int
    least_wait: float
    held: bool = False

    def affected(self) -> list[int]:
        """Nodes whose packs may need something: those that are not live, and those that are being emptied."""
        return sorted(one.number for one in self.holders.values() if not one.live or one.leaving)


class Shape(NamedTuple):
    """A pack as repair sees it: ``places`` are node numbers."""

    pack: int
    target: int
    size: int
    places: tuple[int, ...]


class Need(NamedTuple):
    """What one pack needs; sorted ascending, the most endangered comes first.

    ``live``: disks with a live copy, 0 for a lost pack; ``spare``: copies less the target, so negative when some are
    missing; ``copies``: to be made now; ``due_in``: seconds until more is due.
    """

    live: int
    spare: int
    pack: int
    size: int
    copies: int
    due_in: float


def wait_for(missing: int, holder: Holder, net: Net) -> float:
    """Seconds of silence after which ``holder`` is no longer waited for, with ``missing`` copies of a pack missing."""
    return max(holder.out_after / 4.0 ** (max(missing, 1) - 1), net.least_wait)


def assess(shape: Shape, net: Net) -> Need | None:
    """What ``shape`` needs, None if nothing now nor by mere waiting."""
    holders = [net.holders[number] for number in shape.places if number in net.holders]
    live = {one.store for one in holders if one.live}
    staying = {one.store for one in holders if one.live and not one.leaving}
    wanted = shape.target - len(staying)
    if wanted <= 0:
        return None
    missing = shape.target - len(live)
    if not live:
        return Need(0, -missing, shape.pack, shape.size, 0, NEVER)
    expected: dict[bytes, float] = {}
    for one in holders:
        if one.store in live or one.leaving:
            continue
        left = NEVER if one.excused else wait_for(missing, one, net) - one.silence
        if left > 0:
            expected[one.store] = max(left, expected.get(one.store, 0.0))
    if len(live) <= floor_of(shape.target, net.floor):
        copies = min(wanted, floor_of(shape.target, net.floor) + 1 - len(live)) if net.held else wanted
    elif net.held:
        copies = 0
    else:
        copies = max(wanted - len(expected), 0)
    due_in = 0.0 if copies else min(expected.values(), default=NEVER)
    return Need(len(live), -missing, shape.pack, shape.size, copies, due_in)


@dataclass(slots=True)
class Debt:
    """What is to be made, over all packs: ``by_live`` counts packs with something due or waiting by live copies.

    ``endangered``: packs that are not lost, with no more live copies than their floor.
    """

    due_packs: int = 0
    due_bytes: int = 0
    waiting_packs: int = 0
    waiting_bytes: int = 0
    lost: int = 0
    endangered: int = 0
    next_in: float = NEVER
    by_live: Counter[int] | None = None

    def add(self, need: Need, floor: int) -> None:
        if self.by_live is None:
            self.by_live = Counter()
        self.by_live[need.live] += 1
        if 0 < need.live <= floor_of(need.live - need.spare, floor):
            self.endangered += 1
        if need.live == 0:
            self.lost += 1
        elif need.copies:
            self.due_packs += 1
            self.due_bytes += need.copies * need.size
        else:
            self.waiting_packs += 1
            self.waiting_bytes += max(-need.spare, 1) * need.size
            self.next_in = min(self.next_in, need.due_in)


def order(shapes: Iterable[Shape], net: Net, limit: int) -> tuple[list[Need], Debt]:
    """The needs with something due, most endangered first, at most ``limit``; and what there is to do in all."""
    debt = Debt()
    due: list[Need] = []
    for shape in shapes:
        need = assess(shape, net)
        if need is None:
            continue
        debt.add(need, net.floor)
        if need.copies:
            due.append(need)
    due.sort()
    return due[:limit], debt


class Copy(NamedTuple):
    """``target`` shall fetch the pack from one of ``sources``, the best first; all are node numbers."""

    pack: int
    target: int
    sources: tuple[int, ...]


def plan(
    needs: Sequence[tuple[Shape, Need]],
    net: Net,
    sites: Sequence[Site],
    room: Mapping[int, int],
    randomness: Randomness,
) -> list[Copy]:
    """Copies for ``needs``, in their order. ``room``: how many more each node may be asked for.

    Never to a disk that holds the pack, or two to one disk; in domains of their own where there are enough. A pack for
    which there is no room gets fewer copies, or none, and stays in need.
    """
    weighted = Sites(sites)
    free = {site.number: site.free for site in sites}
    left = {number: room.get(number, 0) for number in free}
    asked: Counter[int] = Counter()
    copies: list[Copy] = []
    for shape, need in needs:
        holders = [net.holders[number] for number in shape.places if number in net.holders]
        sources = [one for one in holders if one.live]
        taken = {one.store for one in holders}
        domains = {one.domain for one in holders if one.live and not one.leaving}

        def fits(site: Site, shape: Shape = shape, taken: set[bytes] = taken) -> bool:
            return site.store not in taken and left[site.number] > 0 and free[site.number] >= shape.size

        def crowded(site: Site, domains: set[str] = domains) -> bool:
            return site.domain in domains

        for site in choose(weighted, need.copies, 0, randomness, fits, crowded):
            ordered = sorted(sources, key=lambda one: (asked[one.number], one.number))
            asked[ordered[0].number] += 1
            left[site.number] -= 1
            free[site.number] -= shape.size
            copies.append(Copy(shape.pack, site.number, tuple(one.number for one in ordered)))
    return copies


def surplus(shape: Shape, net: Net) -> list[int]:
    """Nodes whose copy of the pack may go, the first to go first; empty unless every copy counts and enough stay.

    Copies on nodes that are being emptied go first, then those that share a domain with another one. Only live copies
    go, and only while ``target`` live ones on other disks stay on nodes that stay.
    """
    holders = [net.holders[number] for number in shape.places if number in net.holders]
    live = [one for one in holders if one.live]
    staying = [one for one in live if not one.leaving]
    leaving = [one for one in live if one.leaving]
    kept = len({one.store for one in staying})
    if kept < shape.target:
        return []
    going = [one.number for one in leaving]
    domains = Counter(one.domain for one in staying)
    stores = Counter(one.store for one in staying)
    for one in sorted(staying, key=lambda one: (-domains[one.domain], one.number)):
        if kept <= shape.target:
            break
        if stores[one.store] > 1:
            continue  # two nodes that name one disk: what goes from one may go from both
        domains[one.domain] -= 1
        kept -= 1
        going.append(one.number)
    return going
