"""``holdfast store`` on stores of this machine, and what a check makes of a store that breaks its word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.stores.nats_servers import needs_nats, one_server, running

from holdfast.blob import Buffer, Digest
from holdfast.cli import main
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.files import OsFiles
from holdfast.pool import InlinePool
from holdfast.stores import check as checks
from holdfast.stores.check import Outcome, check
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.memory import MemoryStore
from holdfast.stores.protocol import Stored, get_bytes, put_bytes

RANDOM = SeededRandomness(15)


async def disk(path: Path) -> DiskStore:
    return await DiskStore.open(path, files=OsFiles(), pool=InlinePool(), clock=SystemClock())


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_directory_is_checked_and_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file").write_text("mine")
    assert main.run(["store", "check", f"file://{tmp_path}/disk"]) == 0
    output = capsys.readouterr()
    assert "ok    round trip" in output.out
    assert "passed" in output.err
    assert [entry.name for entry in (tmp_path / "disk").iterdir()] == ["file"]
    assert main.run(["store", "check", f"file://{tmp_path}/nowhere"]) == 78
    assert not (tmp_path / "nowhere").exists()


async def test_a_check_takes_away_what_it_brought_and_nothing_else() -> None:
    store = MemoryStore()
    for data in (b"", b"\0", b"e" * 1000, b"mine"):  # some of what the checks themselves put
        await put_bytes(store, data)
    before = await store.list(None, 100)
    report = await check(store, clock=SystemClock(), randomness=RANDOM)
    assert await store.list(None, 100) == before
    assert not report.left
    names = {outcome.name for outcome in report.outcomes if outcome.failure is not None}
    assert names <= {"endless source"}, "only a blob that was there before may disturb"


async def test_a_store_that_lies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_S", 1.0)

    class Liar(MemoryStore):
        async def put(self, digest: Digest, size: int, source: AsyncIterable[Buffer]) -> Stored:
            if size > 100_000:
                return Stored(digest, size, True)  # says so, and keeps nothing
            return await super().put(digest, size, source)

        async def delete(self, digests: Sequence[Digest]) -> None:
            await super().delete(digests[2:])  # forgets the first ones

    seen: list[Outcome] = []
    report = await check(Liar(), clock=SystemClock(), randomness=RANDOM, show=seen.append)
    failed = {outcome.name for outcome in report.outcomes if outcome.failure is not None}
    assert {"round trip", "large blob", "wrong length"} <= failed
    assert report.failed == len(failed)
    assert list(report.outcomes) == seen
    assert report.put_bytes_per_s is None
    assert report.left, "what could not be deleted is not told"


async def test_copies_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"file://{tmp_path}/{name}" for name in ("one", "two")]
    for url in urls:
        assert await _run(["store", "init", url]) == 0
    assert await _run(["store", "init", urls[0]]) == 78
    source = await disk(tmp_path / "one")
    blobs = [RANDOM.bytes(5000 + number) for number in range(12)]
    for data in blobs:
        await put_bytes(source, data)
    await source.close()
    capsys.readouterr()
    assert await _run(["store", "copy", *urls, "--json"]) == 0
    assert said(capsys)["summary"] == {
        "copied": 12, "bytes": sum(map(len, blobs)), "skipped": 0, "failed": 0, "failures": []
    }  # fmt: skip
    assert await _run(["store", "copy", *urls]) == 0
    assert "12 blobs were there already" in capsys.readouterr().err
    bad = next((tmp_path / "one").rglob(str(Digest.of(blobs[3]))))
    bad.chmod(0o600)
    bad.write_bytes(bytes(len(blobs[3])))
    (tmp_path / "three").mkdir()
    assert await _run(["store", "init", f"file://{tmp_path}/three"]) == 0
    assert await _run(["store", "copy", urls[0], f"file://{tmp_path}/three"]) == 3
    assert str(Digest.of(blobs[3])) in capsys.readouterr().out
    target = await disk(tmp_path / "three")
    assert await get_bytes(target, Digest.of(blobs[0])) == blobs[0]
    await target.close()
    assert await _run(["store", "copy", urls[0], urls[0]]) == 2


@pytest.mark.rig
@needs_nats
async def test_a_bucket_is_made_checked_and_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = one_server(tmp_path)
    url = f"nats://{server.address}/bucket"
    with running([server]):
        await server.wait_ready()
        assert await _run(["store", "check", url]) == 78
        assert "store init" in capsys.readouterr().err
        assert await _run(["store", "init", url, "--json"]) == 0
        assert len(said(capsys)["id"]) == 32
        assert await _run(["store", "check", url, "--json"]) == 0
        report = said(capsys)
        assert (report["ok"], report["left"], report["durable"]) == (True, [], False)
        assert await _run(["store", "scale", url, "--replicas", "1"]) == 0
        capsys.readouterr()
        assert await _run(["store", "scale", url, "--replicas", "3"]) == 78
        assert "3 copies" in capsys.readouterr().err


def test_urls_that_no_store_verb_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (["check", "http://node:7420"], 2, "node"),
        (["check", "nats://user:secret@host/b"], 2, "password"),
        (["check", "ftp://host"], 78, "known kind"),
        (["scale", "memory:", "--replicas", "3"], 2, "no replicas"),
    ):
        assert main.run(["store", *arguments]) == code
        output = capsys.readouterr().err
        assert words in output
        assert "secret" not in output


async def _run(arguments: list[str]) -> int:
    """In a thread: verbs run an event loop of their own."""
    return await asyncio.to_thread(main.run, arguments)
