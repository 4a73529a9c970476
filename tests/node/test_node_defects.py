"""A thousand planted defects of eight kinds: scrub lists each, a right copy from elsewhere heals it, none is spread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.node.house import VAULT, pack

from holdfast.blob import Digest, pieces
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.errors import HoldfastError
from holdfast.node.keeper import Keeper
from holdfast.node.ledger.ledger import Ledger
from holdfast.node.scrub import Scrub
from holdfast.pool import InlinePool
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.protocol import get_bytes
from holdfast.testing.grid import UnsyncedFiles

POOL, FILES = InlinePool(), UnsyncedFiles()
DEFECTS = 1000
SIZE = 900


def _flip(data: bytes) -> bytes:
    return data[:400] + bytes([data[400] ^ 1]) + data[401:]


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


KINDS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(_flip(path.read_bytes())),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "a page of zeros": lambda path: path.write_bytes(path.read_bytes()[:512].ljust(SIZE, b"\0")),
    "another blob": lambda path: path.write_bytes(pack(VAULT.id, SIZE, 1 << 40)),
    "gone": lambda path: path.unlink(),
    "a link": _link,
}


async def keeping(root: Path) -> Keeper:
    await DiskStore.init(root, files=FILES, pool=POOL, randomness=SystemRandomness())
    store = await DiskStore.open(root, files=FILES, pool=POOL, clock=SystemClock())
    ledger = await Ledger.open(root, files=FILES, writer=POOL, reader=POOL)
    keeper = Keeper(store=store, ledger=ledger, slow_time=lambda: 5.0, lost=lambda: None)
    keeper.reconciled = True
    return keeper


async def scrubbed(keeper: Keeper, root: Path) -> Scrub:
    """One whole pass."""
    scrub = Scrub(
        keeper, root, files=FILES, pool=POOL, clock=SystemClock(), slow_time=lambda: 5.0, busy=lambda: 0,
        interval=lambda seconds: None, period_s=100.0,
    )  # fmt: skip
    while scrub.age() is None:
        await scrub.unit()
    return scrub


async def test_scrub_lists_every_planted_defect_and_right_copies_heal(tmp_path: Path) -> None:
    here, there = await keeping(tmp_path / "here"), await keeping(tmp_path / "there")
    blobs = [pack(VAULT.id, SIZE, number) for number in range(DEFECTS + 100)]
    digests = [Digest.of(data) for data in blobs]
    for keeper in (here, there):
        for digest, data in zip(digests, blobs, strict=True):
            await keeper.put(digest, SIZE, VAULT.id, pieces(data))
    kinds = list(KINDS)

    def plant(root: Path, number: int) -> None:
        text = str(digests[number])
        KINDS[kinds[number % len(kinds)]](root / "objects" / text[:2] / text)

    for number in range(DEFECTS):
        plant(tmp_path / "here", number)
    for number in range(0, DEFECTS, 10):  # of these no good copy is left
        plant(tmp_path / "there", number)

    scrub = await scrubbed(here, tmp_path / "here")
    assert scrub.bad == DEFECTS
    found = await here.find_all(digests)
    assert [found[digest].here for digest in digests] == [False] * DEFECTS + [True] * 100, "what is lost is said so"

    healed = 0
    for digest in digests[:DEFECTS]:
        try:
            data = await get_bytes(there.store, digest)
            await here.put(digest, len(data), VAULT.id, pieces(data))
            healed += 1
        except HoldfastError:
            assert not await here.holds(digest, VAULT.id)
    assert healed == DEFECTS - DEFECTS // 10
    (tmp_path / "here" / "scrub.json").unlink()
    again = await scrubbed(here, tmp_path / "here")
    assert (again.bad, again.checked) == (0, healed + 100), "a defect was taken over"
    for keeper in (here, there):
        await keeper.ledger.close()
        await keeper.store.close()
