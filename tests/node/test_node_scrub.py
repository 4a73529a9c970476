"""Scrub: everything is read again, damage is quarantined and told, the place is kept, trash is emptied in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.house import VAULT, House, pack

from holdfast.blob import Digest
from holdfast.clock import SystemClock
from holdfast.files import OsFiles
from holdfast.node.scrub import Scrub
from holdfast.node.scrub_debt import debt
from holdfast.node.trash import TrashPurge
from holdfast.worker import Progress


def make(house: House, waits: list[float], busy: int = 0, period_s: float = 100.0) -> Scrub:
    return Scrub(
        house.running.keeper,
        house.path.parent,  # the node scrubs, too, and has a place of its own
        files=OsFiles(),
        pool=house.pool,
        clock=SystemClock(),
        slow_time=house.clock.monotonic,
        busy=lambda: busy,
        interval=waits.append,
        period_s=period_s,
    )


async def test_everything_is_read_once_in_a_pass_and_damage_is_found(house: House) -> None:
    blobs = [pack(VAULT.id, 5000, seed) for seed in range(5)]
    for data in blobs:
        await house.put(data)
    rotten = Digest.of(blobs[3])
    path = next(path for path in (house.path / "objects").rglob("*") if path.name == str(rotten))
    path.write_bytes(blobs[3][:-1] + b"\xff")
    waits: list[float] = []
    scrub = make(house, waits)
    for _ in range(5):
        assert await scrub.unit() is Progress.IDLE
    own = house.running.scrub.bad  # on a busy machine the node's own scrub may have come first
    assert (scrub.checked, scrub.bad + own) == (5, 1)
    assert scrub.age() is None
    await scrub.unit()
    assert scrub.age() is not None
    assert await house.running.keeper.find(rotten) is None
    assert all(0 < wait <= 100 / 4 for wait in waits[:5])
    await house.coordinator.heard(lambda beat: beat.count == 4)


async def test_the_place_is_kept(house: House) -> None:
    for seed in range(4):
        await house.put(pack(VAULT.id, 1000, seed))
    first = make(house, [])
    first._written = -1e9
    await first.unit()
    assert first._saved is not None
    first._save(first._saved)
    second = make(house, [])
    for _ in range(3):
        await second.unit()
    assert second.age() is None
    await second.unit()
    assert second.age() is not None
    assert second.checked == 3


NAIVE_BLOBS = 1000


@given(
    place=st.integers(0, NAIVE_BLOBS),
    length=st.integers(0, 300),
    reading=st.integers(0, 300),
    idle=st.integers(0, 300),
    period=st.integers(1, 400),
    first=st.booleans(),
)
def test_what_is_overdue_is_what_a_list_of_all_reads_says(
    place: int, length: int, reading: int, idle: int, period: int, first: bool
) -> None:
    began, last = 1000.0, 1000.0 + reading
    before, now = (began if first else began - length), last + idle
    reads = [began + (last - began) * number / max(place, 1) for number in range(place)]
    reads += [before + (began - before) * number / NAIVE_BLOBS for number in range(place, NAIVE_BLOBS)]
    found = debt(
        place / NAIVE_BLOBS,
        now=now,
        began=began,
        before=-1.0 if first else before,
        last=last,
        period_s=period,
        held=NAIVE_BLOBS,
    )
    assert found.oldest_s == pytest.approx(now - min(reads), abs=1)
    assert abs(found.overdue - sum(read < now - period for read in reads)) <= 2


async def test_others_go_first(house: House) -> None:
    await house.put(pack(VAULT.id, 1000))
    calm: list[float] = []
    polite: list[float] = []
    await make(house, calm, period_s=0.0).unit()
    await make(house, polite, busy=1, period_s=0.0).unit()
    assert calm[0] > 0
    assert polite[0] > 0


async def test_a_damaged_position_costs_one_pass(house: House) -> None:
    await house.put(pack(VAULT.id, 1000))
    (house.path.parent / "scrub.json").write_text("{nonsense")
    scrub = make(house, [])
    await scrub.unit()
    assert scrub.checked == 1


async def test_trash_is_emptied_on_the_slow_clock(house: House) -> None:
    data = pack(VAULT.id, 1000)
    receipt = await house.put(data)
    digest = Digest.of(data)
    node = house.running
    await node.keeper.delete(digest, VAULT.id, receipt.sequence, lambda size: None)
    since = node._slow_clock.read(house.clock)
    early = TrashPurge(node.keeper, slow_time=lambda: since + 50, keep_s=100.0)
    assert await early.unit() is Progress.IDLE
    assert node.store.space().trash == 1000
    late = TrashPurge(node.keeper, slow_time=lambda: since + 200, keep_s=100.0)
    await late.unit()
    assert node.store.space().trash == 0
