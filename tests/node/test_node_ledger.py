"""What the ledger promises: rows are durable, sequences rise for ever, the summary is that of the rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.node.house import VAULT, identity

from holdfast.blob import Digest
from holdfast.errors import BadConfig, StorePoisoned
from holdfast.files import OsFiles
from holdfast.inventory import Roots, inner_roots
from holdfast.node.ledger import file as ledger_file
from holdfast.node.ledger.file import SEQUENCE_BLOCK
from holdfast.node.ledger.ledger import Ledger
from holdfast.pool import InlinePool, ThreadPool

DIGESTS = [Digest.of(bytes([number])) for number in range(12)]


@contextlib.asynccontextmanager
async def opened(path: Path, *, clean: bool = True) -> AsyncIterator[Ledger]:
    writer, reader = ThreadPool(1), ThreadPool(1)
    ledger = await Ledger.open(path, files=OsFiles(), writer=writer, reader=reader)
    try:
        yield ledger
    finally:
        await ledger.close(clean=clean)
        writer.close()
        reader.close()


async def test_rows_survive(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record(DIGESTS[0], 10, VAULT.id)
        second = await ledger.record(DIGESTS[1], 20, None, "unknown")
        removed = await ledger.remove(DIGESTS[0], trashed=5.5)
        assert removed is not None
        assert first < second < removed.sequence
    async with opened(tmp_path) as ledger:
        gone, kept = await ledger.find(DIGESTS[0]), await ledger.find(DIGESTS[1])
        assert gone is not None
        assert (gone.here, gone.trashed, gone.vault, gone.size) == (False, 5, VAULT.id, 10)
        assert kept is not None
        assert (kept.here, kept.kept, kept.sequence) == (True, "unknown", second)
        assert ledger.roots.root == Roots([DIGESTS[1]]).root
        assert (ledger.held_bytes, ledger.sequence) == (20, removed.sequence)
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


async def test_a_row_is_in_the_file_when_record_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        sequence = await ledger.record(DIGESTS[0], 10, VAULT.id)
        other = apsw.Connection(str(tmp_path / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
        assert other.execute("SELECT digest, sequence FROM blobs").fetchall() == [(bytes(DIGESTS[0]), sequence)]
        other.close()


@contextlib.contextmanager
def somebody_writes(ledger: Ledger) -> Iterator[None]:
    with ledger._file._turn:
        yield


@pytest.mark.parametrize("busy", [False, True], ids=["free", "busy"])
async def test_a_row_is_written_by_whoever_made_the_blob_durable(tmp_path: Path, busy: bool) -> None:
    other = ThreadPool(1)
    async with opened(tmp_path) as ledger:

        async def work(write: Callable[[], None]) -> str:
            with somebody_writes(ledger) if busy else contextlib.nullcontext():
                await other.run(write)
            row = ledger._file.find(DIGESTS[0])
            assert (row is None) == busy
            return "kept"

        result, sequence = await ledger.record_with(DIGESTS[0], 10, VAULT.id, "vault", work)
        row = ledger._file.find(DIGESTS[0])
        assert row is not None
        assert (result, sequence) == ("kept", row.sequence)
        assert (ledger.sequence, ledger.held_bytes, ledger.roots.count) == (sequence, 10, 1)
    other.close()


async def test_rows_show_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        later: list[asyncio.Task[int]] = []

        async def work(write: Callable[[], None]) -> None:
            write()
            later.append(asyncio.create_task(ledger.record(DIGESTS[1], 1, VAULT.id)))
            await asyncio.sleep(0)
            assert ledger._flush is not None
            await asyncio.wait([ledger._flush])
            assert ledger._file.find(DIGESTS[1]) is not None
            assert (ledger.sequence, ledger.roots.count) == (0, 0), "the sums lack what the sequence says"

        _, first = await ledger.record_with(DIGESTS[0], 1, VAULT.id, "vault", work)
        assert (first, await later[0]) == (1, 2)
        assert (ledger.sequence, ledger.roots.count) == (2, 2)


async def test_a_row_of_a_cancelled_caller_shows(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:

        async def work(write: Callable[[], None]) -> None:
            write()
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await ledger.record_with(DIGESTS[0], 1, VAULT.id, "vault", work)
        assert (ledger.sequence, ledger.roots.count) == (1, 1)
        assert await ledger.record(DIGESTS[1], 1, VAULT.id) == 2


async def test_sequences_rise_over_restarts_losses_and_old_copies(tmp_path: Path) -> None:
    highest = 0
    backup = b""
    for round_ in range(6):
        async with opened(tmp_path, clean=round_ % 2 == 0) as ledger:
            for digest in DIGESTS[:3]:
                sequence = await ledger.record(digest, 1, VAULT.id)
                assert sequence > highest
                highest = sequence
        if round_ == 1:
            backup = (tmp_path / "ledger.db").read_bytes()
        if round_ == 3:
            (tmp_path / "ledger.db").unlink()
        if round_ == 4:
            (tmp_path / "ledger.db").write_bytes(backup)


async def test_sequences_rise_when_a_block_is_used_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        ledger._file._next = ledger._file._limit - 1
        last = await ledger.record(DIGESTS[0], 1, VAULT.id)
        first = await ledger.record(DIGESTS[0], 1, VAULT.id)
        assert first == last + 1
        assert int((tmp_path / "sequence").read_text()) >= first + SEQUENCE_BLOCK - 1


@pytest.mark.parametrize("threads", [True, False])
async def test_many_rows_are_counted_while_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    """After an unclean stop; the sums are those of a ledger that was counted before anything changed."""
    monkeypatch.setattr(ledger_file, "COUNT_AT_START", 10)
    digests = [Digest.of(number.to_bytes(2, "big")) for number in range(1500)]
    async with opened(tmp_path, clean=False) as ledger:
        await asyncio.gather(*(ledger.record(digest, 3, VAULT.id) for digest in digests[:1000]))
        await asyncio.gather(*(ledger.record(digest, 5, None, "cache") for digest in digests[1000:1200]))
    pools = [ThreadPool(1), ThreadPool(1)] if threads else [InlinePool(), InlinePool()]
    ledger = await Ledger.open(tmp_path, files=OsFiles(), writer=pools[0], reader=pools[1])
    assert ledger.roots.count < 1000
    await asyncio.gather(
        *(ledger.remove(digest) for digest in digests[100:400]),
        *(ledger.record(digest, 3, VAULT.id) for digest in digests[1200:]),
        *(ledger.record(digest, 3, VAULT.id) for digest in digests[1100:1200]),
    )
    await ledger.counted()
    held = digests[:100] + digests[400:1000] + digests[1100:]
    assert ledger.roots.root == Roots(held).root
    assert (ledger.roots.count, ledger.held_bytes) == (len(held), 3 * len(held) + 5 * 100)
    assert ledger.shared["cache"] == (100, 500)
    await ledger.close()
    monkeypatch.setattr(ledger_file.LedgerFile, "count", None)  # nothing is counted after a clean stop
    async with opened(tmp_path) as ledger:
        assert (ledger.roots.root, ledger.held_bytes) == (Roots(held).root, 3 * len(held) + 500)
        assert ledger.shared["cache"] == (100, 500)
    for pool in pools:
        pool.close()


async def test_puts_side_by_side_share_transactions(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        digests = [Digest.of(number.to_bytes(2, "big")) for number in range(300)]
        sequences = await asyncio.gather(*(ledger.record(digest, 1, VAULT.id) for digest in digests))
        assert len(set(sequences)) == 300
        assert ledger._commits < 10
        assert ledger.roots.root == Roots(digests).root


async def test_a_cancelled_caller_harms_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        tasks = [asyncio.ensure_future(ledger.record(digest, 1, VAULT.id)) for digest in DIGESTS]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(isinstance(result, int) for result in results[1:])
        assert ledger.roots.count == len(DIGESTS)


async def test_clean_is_only_what_was_closed_cleanly(tmp_path: Path) -> None:
    for clean_before, clean in ((False, True), (True, False), (False, True)):
        async with opened(tmp_path, clean=clean) as ledger:
            assert ledger.clean == clean_before


async def test_a_broken_ledger_is_set_aside(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        before = await ledger.record(DIGESTS[0], 10, VAULT.id)
    (tmp_path / "ledger.db").write_bytes(b"this is not a database" * 1000)
    async with opened(tmp_path) as ledger:
        assert await ledger.find(DIGESTS[0]) is None
        assert not ledger.clean
        assert await ledger.record(DIGESTS[0], 10, VAULT.id) > before
    assert (tmp_path / "ledger.broken").exists()


async def test_a_ledger_of_the_future_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    connection = apsw.Connection(str(tmp_path / "ledger.db"))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(BadConfig, match="newer"):
        await Ledger.open(tmp_path, files=OsFiles(), writer=InlinePool(), reader=InlinePool())


async def test_a_damaged_sequence_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sequence").write_text("many\n")
    with pytest.raises(BadConfig, match="sequence"):
        await Ledger.open(tmp_path, files=OsFiles(), writer=InlinePool(), reader=InlinePool())


async def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.record(DIGESTS[0], 1, VAULT.id)

        def fails(*_: object) -> None:
            raise apsw.IOError("disk I/O error")

        good, ledger._file._write = ledger._file._write, fails  # type: ignore[method-assign,assignment]

        async def work(write: Callable[[], None]) -> None:
            write()

        with pytest.raises(StorePoisoned):
            await ledger.record_with(DIGESTS[1], 1, VAULT.id, "vault", work)
        ledger._file._write = good  # type: ignore[method-assign]
        with pytest.raises(StorePoisoned):
            await ledger.record(DIGESTS[1], 1, VAULT.id)
        assert await ledger.find(DIGESTS[0]) is not None
    async with opened(tmp_path) as ledger:
        assert not ledger.clean
        assert ledger.roots.count == 1


operations = st.lists(
    st.tuples(st.sampled_from(["record", "other", "remove", "trash", "scrub", "reopen"]), st.sampled_from(DIGESTS[:5])),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
def test_any_history_is_what_a_dictionary_says(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Digest]]
) -> None:
    path = tmp_path_factory.mktemp("ledger")

    async def run() -> None:
        model: dict[Digest, int] = {}
        highest = 0
        ledger = await Ledger.open(path, files=OsFiles(), writer=InlinePool(), reader=InlinePool())
        for action, digest in history:
            if action in ("record", "other"):
                vault = VAULT.id if action == "record" else identity(9).id
                highest = model[digest] = await ledger.record(digest, 7, vault)
            elif action in ("remove", "trash"):
                await ledger.remove(digest, trashed=3 if action == "trash" else None)
                model.pop(digest, None)
            elif action == "scrub":
                await ledger.scrubbed(digest, 5)
            else:
                await ledger.close(clean=True)
                ledger = await Ledger.open(path, files=OsFiles(), writer=InlinePool(), reader=InlinePool())
            assert ledger.roots.root == Roots(model).root
            assert ledger.held_bytes == 7 * len(model)
            assert ledger.sequence >= highest
        rows = await ledger.changes(0, 1000)
        assert {row.digest: row.sequence for row in rows if row.here} == model
        assert [row.sequence for row in rows] == sorted({row.sequence for row in rows})
        assert await ledger.span(None, None) == sorted(model)
        firsts = sorted({digest[:1] for digest in model})
        under = await ledger.under(firsts, None, 1000)
        assert {row.digest: row.sequence for row in under} == model
        assert [row.digest for row in under] == sorted(model)
        for first in firsts:
            inside = [digest for digest in model if digest[:1] == first]
            assert await ledger.inner_roots(first[0]) == inner_roots(inside)
        await ledger.close()

    asyncio.run(run())
