"""The disk under a node refuses: what a client hears is an error, or it is so, also when it asks again."""

from __future__ import annotations

import errno

import pytest
from tests.node.house import VAULT, House, pack

from holdfast.blob import Digest
from holdfast.errors import HoldfastError, NotFound, StorePoisoned
from holdfast.files import OsFiles
from holdfast.testing.faults import SHORT_WRITE, Fault, FaultyFiles
from holdfast.wire import routes


@pytest.fixture
async def faulty(unmade_house: House) -> tuple[House, FaultyFiles]:
    files = FaultyFiles(OsFiles())
    unmade_house.files = files
    await unmade_house.make()
    await unmade_house.start()
    return unmade_house, files


async def delete(house: House, digest: Digest, sequence: int) -> None:
    grant = house.grant("delete", digests=(digest,), sequence=sequence)
    await house.client().call(house.target, routes.BLOB_DELETE, path={"digest": str(digest)}, grant=grant)


@pytest.mark.parametrize("method", ["link", "sync_directory", "unlink"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_a_delete_that_failed_is_not_acknowledged_when_it_is_asked_again(
    faulty: tuple[House, FaultyFiles], method: str, error: int
) -> None:
    """Its row says "gone" already then, and a client that heard an error asks again."""
    house, files = faulty
    data = pack(VAULT.id, 4096)
    receipt = await house.put(data)
    fault = files.set(Fault(method, error, below=house.store_path))
    for _ in range(3):
        try:
            await delete(house, receipt.digest, receipt.sequence)
        except HoldfastError:
            continue
        assert house.running.store.poisoned is None, "a store that only reads has acknowledged a delete"
        assert not house.blob_path(receipt.digest).exists()
        assert list((house.store_path / "trash").glob(f"*-{receipt.digest}")), "the blob is nowhere"
    assert fault.hit == 1


async def test_a_delete_of_what_a_failed_sync_left_in_doubt_is_refused(faulty: tuple[House, FaultyFiles]) -> None:
    """It has no row, but it may be there after the next start."""
    house, files = faulty
    data = pack(VAULT.id, 4096)
    files.set(Fault("sync_directory", below=house.store_path / "objects"))
    with pytest.raises(StorePoisoned):
        await house.put(data)
    with pytest.raises(StorePoisoned):
        await delete(house, Digest.of(data), 1 << 40)
    await house.crash()
    await house.start()
    assert await house.get(Digest.of(data)) == data


@pytest.mark.parametrize("method", ["create", "write", "sync", "close", "link", "sync_directory"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, SHORT_WRITE])
@pytest.mark.parametrize("size", [4096, 200_000], ids=["small", "large"])
async def test_a_put_that_failed_is_kept_or_refused_when_it_is_sent_again(
    faulty: tuple[House, FaultyFiles], method: str, error: int, size: int
) -> None:
    house, files = faulty
    if error == SHORT_WRITE and method != "write":
        return
    data = pack(VAULT.id, size)
    digest = Digest.of(data)
    fault = files.set(Fault(method, error, below=house.store_path))
    for _ in range(3):
        try:
            receipt = await house.put(data)
        except HoldfastError:
            assert await house.running.ledger.find(digest) is None, "the ledger claims what is not durable"
            continue
        assert house.running.store.poisoned is None, "a store that only reads has given a receipt"
        assert (await house.get(digest), receipt.size) == (data, len(data))
    assert fault.hit == 1
    if house.running.store.poisoned is not None:
        await house.crash()
        await house.start()  # the disk was seen to: what was not acknowledged is there whole, or not at all
    try:
        assert await house.get(digest) == data
    except NotFound:
        assert house.kept() == []
