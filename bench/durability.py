"""How many nines a policy has: a Markov chain of a pack's live copies, checked against a simulation of nodes.

A pack with n copies loses one with each node that dies for good (rate ``DIES``), and several at once when something
that they share fails. While copies are missing, repair makes all of them after the time that ``repair.wait_for`` gives
and the time that copying takes. What is computed is the expected time until no copy is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.report import Figure
from holdfast.coordinator.repair.plan import Holder, Net, wait_for
from holdfast.coordinator.settings import CoordinatorSettings, floor_of

HOURS_A_YEAR = 24 * 365.25
DIES = 0.05
"""Deaths of a node for good, a year: 1 to 5 of 100 disks fail in one, and machines are given up, too."""


@dataclass(frozen=True)
class Shock:
    """Something that many nodes share: ``rate`` a year, and then each copy is gone with chance ``share``.

    ``apart``: what is shared is a domain, so a pack has one copy there at most.
    """

    name: str
    rate: float
    share: float
    apart: bool = False

    def takes(self, live: int, gone: int) -> float:
        """The chance that ``gone`` (at least 1) of ``live`` copies are gone."""
        if self.apart:
            return live * self.share if gone == 1 else 0.0
        return math.comb(live, gone) * self.share**gone * (1 - self.share) ** (live - gone)


RACK = Shock("a rack or switch burns: 1 node in 100", 0.02, 0.01)
POWER = Shock("a surge takes 1 disk in 10", 0.02, 0.1)
BATCH = Shock("a batch of disks, 1 in 20, dies at once", 0.05, 0.05)
OPERATOR = Shock("an operator of 1 node in 5 deletes all of his", 0.01, 0.2)
SHOCKS = (RACK, POWER, BATCH, OPERATOR)
APART = (replace(RACK, apart=True), POWER, BATCH, replace(OPERATOR, apart=True))
"""With ``--domain`` naming rack or operator, whichever is larger."""


def repair_hours(copies: int, live: int, copy_hours: float) -> float:
    """Until what is missing has been made: the real rule's wait, and copying."""
    settings = CoordinatorSettings()
    holder = Holder(1, bytes(16), "", live=False, out_after=settings.out_after)
    net = Net({}, settings.floor, (settings.offline_after + 2) * settings.heartbeat_interval)
    silent = (settings.offline_after + 0.5) * settings.heartbeat_interval
    at_floor = live <= floor_of(copies, settings.floor)
    wait = silent if at_floor else max(wait_for(copies - live, holder, net), silent)
    return wait / 3600 + copy_hours


def years_to_loss(copies: int, dies: float, copy_hours: float, shocks: Sequence[Shock] = ()) -> float:
    """Expected years until a pack has no copy left."""
    rates = np.zeros((copies + 1, copies + 1))  # from so many live copies to so many, a year
    for live in range(1, copies + 1):
        rates[live, live - 1] += live * dies
        for shock in shocks:
            for gone in range(1, live + 1):
                rates[live, live - gone] += shock.rate * shock.takes(live, gone)
        if live < copies:
            rates[live, copies] += HOURS_A_YEAR / repair_hours(copies, live, copy_hours)
    return _absorbed(rates, copies)


def _absorbed(rates: npt.NDArray[np.float64], copies: int) -> float:
    """By elimination of states without a subtraction, which stays exact where the times are of many orders."""
    moves = {
        live: {to: rates[live, to] for to in range(copies + 1) if rates[live, to] > 0} for live in range(1, copies + 1)
    }
    stay = dict.fromkeys(moves, 1.0)  # expected time is stay / sum(moves)
    for gone in range(1, copies):  # every state but the full one
        out = moves.pop(gone)
        total = sum(out.values())
        for live, to in moves.items():
            through = to.pop(gone, 0.0)
            if not through:
                continue
            stay[live] += through * stay[gone] / total
            for target, rate in out.items():
                if target != live:
                    to[target] = to.get(target, 0.0) + through * rate / total
    return float(stay[copies] / moves[copies][0])


def nines(years: float) -> float:
    """Of the chance that a pack is still there after a year."""
    return -math.log10(-math.expm1(-1.0 / years))


def simulated_years(
    copies: int, dies: float, copy_hours: float, shocks: Sequence[Shock], losses: int, seed: int = 1
) -> float:
    """The same by chance: years of all packs together for each loss, on nodes that die and are repaired.

    Nodes are simulated, not chains: ``copies`` nodes hold a pack, a shock strikes each of them by itself, and repair
    ends a time after it began that is random with the mean of ``repair_hours``. Only rates at which losses are seen
    within seconds can be checked so.
    """
    chance = np.random.default_rng(seed)
    packs = max(
        losses // 40, 1
    )  # each is lost many times over: a pack that has just become whole is lost later than others
    alive = np.ones((packs, copies), dtype=bool)
    years, lost = 0.0, 0
    step = 0.02 / (
        copies * dies + sum(shock.rate for shock in shocks) + HOURS_A_YEAR / repair_hours(copies, 1, copy_hours)
    )
    hours = np.array([0.0, *(repair_hours(copies, live, copy_hours) for live in range(1, copies)), math.inf])
    mend = 1 - np.exp(-step * HOURS_A_YEAR / np.maximum(hours, 1e-9))
    while lost < losses:
        alive &= chance.random(alive.shape) >= 1 - math.exp(-step * dies)
        for shock in shocks:
            struck = chance.random(packs) < 1 - math.exp(-step * shock.rate)
            if struck.any():
                alive[struck] &= chance.random((int(struck.sum()), copies)) >= shock.share
        live = alive.sum(axis=1)
        gone = live == 0
        lost += int(gone.sum())
        mended = gone | (chance.random(packs) < mend[live])
        alive[mended] = True
        years += packs * step
    return years / lost


def check() -> float:
    """The largest error of the chain beside the simulation, at rates a thousand times too high, all policies."""
    worst = 0.0
    shock = Shock("many at once", 2.0, 0.4)
    for survive in (1, 2, 3, 4):
        for shocks in ((), (shock,)):
            chain = years_to_loss(survive + 1, 30.0, 200.0, shocks)
            worst = max(worst, abs(simulated_years(survive + 1, 30.0, 200.0, shocks, 20_000) / chain - 1))
    return worst


def run(whole_s: float) -> list[Figure]:
    """``whole_s``: how long copying takes after the loss of one node in a hundred."""
    hours = max(whole_s / 3600, 0.1)
    found = [Figure("durability: error of the chain beside the simulation", 100 * check(), "%")]
    for survive in (1, 2, 3, 4):
        name = f"survive {survive}: nines a year"
        alone = nines(years_to_loss(survive + 1, DIES, hours))
        found.append(Figure(f"{name}, nodes die one by one", alone, ""))
        for shock in SHOCKS:
            found.append(
                Figure(f"{name}, and {shock.name}", nines(years_to_loss(survive + 1, DIES, hours, (shock,))), "")
            )
        found.append(Figure(f"{name}, and all of these", nines(years_to_loss(survive + 1, DIES, hours, SHOCKS)), ""))
        apart = nines(years_to_loss(survive + 1, DIES, hours, APART))
        found.append(Figure(f"{name}, all of these, racks and operators as domains", apart, ""))
    return found
