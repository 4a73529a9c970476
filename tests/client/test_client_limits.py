"""Sentences that stay short, and files that are too large before anything of them is sent."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.fleet import SMALL, Fleet

from holdfast.client.device import limits
from holdfast.client.device.reasons import reason_of, reasons_text
from holdfast.codec.pack import PACK_TARGET_BYTES_MAX
from holdfast.errors import Corrupt, TooLarge, Unavailable

MIB = 1 << 20
GIB = 1 << 30


def test_reasons_name_three_nodes_and_count_the_rest() -> None:
    assert reasons_text({}) == ""
    assert reasons_text({"attic": "connection refused"}) == "attic: connection refused"
    many = {f"node-{number}": "a very long story " * 20 for number in range(12)}
    text = reasons_text(many)
    assert text.count("node-") == 3
    assert text.endswith("; and 9 more")
    assert len(text) < 300
    assert reason_of("http://a:1: connection refused", "http://a:1") == "connection refused"
    assert reason_of("http://a:1 answered 500", "http://a:1") == "answered 500"
    assert reason_of("other", "http://a:1") == "other"


def test_the_limit_is_known() -> None:
    assert limits.file_bytes_max(4 * MIB, 16 * MIB) // GIB == 359
    assert limits.file_bytes_max(16 * MIB, 32 * MIB) // GIB == 719
    limits.check_size("name", 359 * GIB, 4 * MIB, 16 * MIB)
    with pytest.raises(TooLarge, match=r'name is too large.*at most 360 GiB.*pack_size = "32MiB"') as caught:
        limits.check_size("name", 361 * GIB, 4 * MIB, 16 * MIB)
    assert "--chunk-size" in caught.value.detail
    with pytest.raises(TooLarge, match="; split it"):
        limits.check_size("name", 1 << 50, 4 * MIB, PACK_TARGET_BYTES_MAX)


@given(
    st.integers(0, 1 << 45),
    st.integers(64 << 10, 16 * MIB),
    st.integers(256 << 10, PACK_TARGET_BYTES_MAX),
)
def test_what_the_limit_allows_needs_no_more_packs_than_a_keep_list_holds(size: int, chunk: int, pack: int) -> None:
    largest = limits.file_bytes_max(chunk, pack)
    assert limits.packs_needed(largest, chunk, pack) <= limits.KEEP_PACKS_MAX
    if size <= largest:
        limits.check_size("name", size, chunk, pack)


async def test_a_file_that_is_too_large_is_refused_before_it_is_read(small_fleet: Fleet, tmp_path: Path) -> None:
    vault = await small_fleet.vault()
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 1 << 40)  # takes no room
    with pytest.raises(TooLarge, match=r"huge.*too large"):
        await vault.put(huge, "huge")
    (tmp_path / "small").write_bytes(b"x")
    summary = await vault.put_tree([huge, tmp_path / "small"])
    assert [name for name, _ in summary.failed] == ["huge"]
    assert isinstance(summary.failed[0][1], TooLarge)
    assert await vault.read("small") == b"x"
    assert sum(len(small_fleet.blobs(number)) for number in range(4)) == 2  # the small one, twice


async def test_a_stream_that_grows_too_large_is_stopped(small_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEP_PACKS_MAX", 10)
    vault = await small_fleet.vault()
    with pytest.raises(TooLarge, match="too large"):
        await vault.put(bytes(64 << 10) * 100, "long")
    await vault.put(bytes(64 << 10) * 28, "short")


async def test_a_file_whose_known_parts_lie_in_too_many_packs(
    small_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = await small_fleet.vault()
    parts = [os.urandom(64 << 10) for _ in range(10)]
    for number, part in enumerate(parts):
        await vault.put(part, f"part {number}")
    monkeypatch.setattr(limits, "KEEP_BYTES_MAX", 32 * 8)
    with pytest.raises(TooLarge, match="--no-dedup"):
        await vault.put(b"".join(parts), "whole")
    await vault.put(b"".join(parts), "whole", dedup=False)
    assert await vault.read("whole") == b"".join(parts)


async def test_a_keep_list_that_fills_a_commit(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault(dataclasses.replace(SMALL, commit_bytes=1024))
    data = os.urandom(100 * SMALL.pack_bytes)
    await vault.put(data, "file")
    assert await vault.read("file") == data


async def test_what_fails_is_said_in_one_short_sentence(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    await vault.put(b"x" * 1000, "file")
    for node in small_fleet.nodes:
        await node.stop()
    for call in (vault.put(b"y" * 1000, "other"), vault.read("file")):
        with pytest.raises((Unavailable, Corrupt)) as caught:
            await call
        assert len(caught.value.detail) < 400, caught.value.detail
        for raw in ("Cannot connect", "ssl:", "Errno", "Connect call", "<", "http://"):
            assert raw not in caught.value.detail
        assert "node-" in caught.value.detail or "are up now" in caught.value.detail
    await small_fleet.stop_coordinator()
    with pytest.raises(Unavailable) as away:
        await vault.stat("never")
    assert away.value.detail == (
        f"the coordinator does not answer at {small_fleet.url} (connection refused); is it running and reachable?"
    )
