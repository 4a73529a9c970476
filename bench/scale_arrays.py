"""The same network as arrays: ten thousand nodes and ten million packs fit, and a loss is found in a second or two."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bench.scale import Network

COPIES = 5
RACK = 10
_SECONDS_A_PACK = 16 / 50


@dataclass(frozen=True)
class Whole:
    """``order``: packs that lack copies, the most endangered first; ``live``: copies that each has left."""

    order: npt.NDArray[Any]
    live: npt.NDArray[Any]
    copies: int
    found_s: float
    whole_s: float


@dataclass(frozen=True)
class Compared:
    """``same``: the order of packs and the live copies of each are what the code says, exactly.

    ``arrays_whole_s`` is a lower bound: in it nobody waits for the other side of a copy.
    """

    packs: int
    lost: int
    same: bool
    code_whole_s: float
    arrays_whole_s: float


class Arrays:
    """``places``: for each pack its nodes."""

    def __init__(self, nodes: int, places: npt.NDArray[Any]) -> None:
        self.nodes = nodes
        self.places = places
        self._chance = np.random.default_rng(3)

    @property
    def bytes(self) -> int:
        return int(self.places.nbytes)

    @classmethod
    def place(cls, nodes: int, packs: int, seed: int = 1) -> Arrays:
        """Each pack on ``COPIES`` nodes of distinct racks, all alike free: those with a rack twice are drawn again."""
        chance = np.random.default_rng(seed)
        places = chance.integers(0, nodes, (packs, COPIES), dtype=np.uint16)
        todo = np.arange(packs)
        while len(todo):
            racks = np.sort(places[todo] // RACK, axis=1)
            todo = todo[(racks[:, 1:] == racks[:, :-1]).any(axis=1)]
            places[todo] = chance.integers(0, nodes, (len(todo), COPIES), dtype=np.uint16)
        return cls(nodes, places)

    def heal(self, lost: int) -> Whole:
        """The first ``lost`` nodes are gone. A copy comes from a random live holder and goes to a random other rack."""
        began = time.perf_counter()
        here = self.places >= lost
        live = here.sum(axis=1, dtype=np.uint8)
        short = np.flatnonzero((live < COPIES) & (live > 0))
        short = short[np.argsort(live[short], kind="stable")]
        found_s = time.perf_counter() - began
        missing = COPIES - live[short].astype(np.int64)
        packs = np.repeat(short, missing)
        sources, targets = self._sources(packs, here), self._targets(packs, lost)
        gives = np.bincount(sources, minlength=self.nodes)
        takes = np.bincount(targets, minlength=self.nodes)
        # A lower bound: nobody ever waits for the other side, so whoever has most to do is done last.
        whole_s = float(max(gives.max(), takes.max())) * _SECONDS_A_PACK
        return Whole(short, live[short], len(packs), found_s, whole_s)

    def _sources(self, packs: npt.NDArray[Any], here: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of each pack a live holder by turns: the one that has been asked least is asked, as the code does."""
        weights = self._chance.random((len(packs), COPIES)) * here[packs]
        chosen: npt.NDArray[Any] = self.places[packs, weights.argmax(axis=1)]
        return chosen

    def _targets(self, packs: npt.NDArray[Any], lost: int) -> npt.NDArray[Any]:
        targets = self._chance.integers(lost, self.nodes, len(packs))
        todo = np.arange(len(packs))
        while len(todo):
            taken = (self.places[packs[todo]] // RACK == (targets[todo] // RACK)[:, None]).any(axis=1)
            todo = todo[taken]
            targets[todo] = self._chance.integers(lost, self.nodes, len(todo))
        return targets


def compare(network: Network) -> Compared:
    """Arrays and code on the same packs; AssertionError if they disagree on what lacks copies."""
    from bench.scale import LOST_SHARE, heal, needs_of

    lost = max(round(network.nodes * LOST_SHARE), 2)
    dead = frozenset(range(lost))
    arrays = Arrays(network.nodes, np.array([shape.places for shape in network.shapes], dtype=np.uint16))
    whole = arrays.heal(lost)
    needs = sorted(needs_of(network, dead, lambda shape: True))
    same = [need.pack for need in needs if need.live] == whole.order.tolist() and [
        need.live for need in needs if need.live
    ] == whole.live.tolist()
    assert same, "the arrays say something else than the code"
    return Compared(len(network.shapes), lost, same, heal(network, dead).whole_s, whole.whole_s)
