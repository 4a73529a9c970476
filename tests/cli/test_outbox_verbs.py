"""The outbox on the command line without a network: what waits, what a person may say, and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from holdfast import assemble
from holdfast.cli import main
from holdfast.client.device.keyfile import read_device
from holdfast.files import OsFiles
from holdfast.outbox import Outbox, http

Lines = list[dict[str, Any]]


def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def queued(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A home whose outbox holds two writes for a server that does not exist."""
    assert main.run(["init"]) == 0
    seed = read_device(OsFiles(), home / "device.key").seed()

    async def fill() -> None:
        async with await Outbox.open(home / "outbox", seed=seed) as outbox:
            await outbox.enqueue(http.put("http://127.0.0.1:9/a", if_absent=True), b"first")
            await outbox.enqueue(http.delete("http://127.0.0.1:9/b"))

    asyncio.run(fill())
    capsys.readouterr()
    return home


def test_a_home_that_never_queued_anything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init"]) == 0
    capsys.readouterr()
    assert main.run(["outbox"]) == 0
    assert "Nothing waits." in capsys.readouterr().err
    assert main.run(["outbox", "ls", "--json"]) == 0
    assert lines(capsys) == [{"event": "summary", "entries": 0}]
    for words in (["show", "1"], ["retry", "1"], ["drop", "1", "--yes"]):
        assert main.run(["outbox", *words]) == 4
    assert not (home / "outbox").exists()


def test_what_waits_is_listed_and_shown(queued: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["outbox", "ls", "--json"]) == 0
    first, second, summary = lines(capsys)
    assert (first["id"], first["state"], first["names"]) == (1, "waiting", ["http://127.0.0.1:9/a"])
    assert (second["purpose"], second["class"]) == ("delete", "critical")
    assert summary["entries"] == 2
    assert main.run(["outbox", "ls", "--state", "conflict", "--json"]) == 0
    assert lines(capsys)[-1]["entries"] == 0
    assert main.run(["outbox"]) == 0
    assert "http://127.0.0.1:9/a" in capsys.readouterr().out
    assert main.run(["outbox", "show", "1", "--json"]) == 0
    (shown,) = lines(capsys)
    assert shown["mine"] == [{"name": "http://127.0.0.1:9/a", "kind": "PUT", "size": 5}]
    assert shown["theirs"] is None


def test_only_a_yes_gives_an_entry_up(queued: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["outbox", "drop", "1", "--no-input"]) == 2
    assert main.run(["outbox", "drop", "1", "--yes"]) == 0
    assert main.run(["outbox", "show", "1"]) == 4
    assert main.run(["outbox", "retry", "2"]) == 0
    capsys.readouterr()
    assert main.run(["outbox", "ls", "--json"]) == 0
    assert [line["id"] for line in lines(capsys) if line["event"] == "entry"] == [2]


@pytest.mark.parametrize(
    "words",
    [
        ["outbox", "resolve", "--keep", "mine"],
        ["outbox", "resolve", "1", "--all", "--keep", "mine"],
        ["outbox", "resolve", "1"],
        ["outbox", "flush", "--metrics", "1"],
        ["put", "x", "--offline", "--no-queue"],
        ["rm", "x", "--offline", "--no-queue"],
        ["mv", "x", "y", "--offline", "--no-queue"],
    ],
)
def test_flags_that_make_no_sense(queued: Path, words: list[str]) -> None:
    assert main.run(words) == 2


def test_another_device_cannot_look_into_it(queued: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (queued / "device.key").unlink()
    (queued / "vault.key").unlink()
    assert main.run(["init"]) == 0
    assert main.run(["outbox"]) == 5
    assert (queued / "outbox/queue.db").exists()


async def test_depth_and_age_are_counted(queued: Path) -> None:
    counts = await assemble.home_counts(queued)
    assert (counts["waiting"], counts["conflict"], counts["rejected"]) == (2, 0, 0)
    assert 0 <= counts["oldest_s"] < 60
    outbox = await assemble.open_outbox(queued)
    assert outbox is not None
    async with outbox, assemble.outbox_metrics(outbox, 0) as listener:
        async with asyncio.timeout(20):
            text = b""
            while b'holdfast_outbox_entries{state="waiting"} 2.0' not in text:
                reader, writer = await asyncio.open_connection(listener.host, listener.port)
                writer.write(b"GET /metrics HTTP/1.0\r\nhost: x\r\n\r\n")
                text = await reader.read()
                writer.close()
        assert b"holdfast_outbox_oldest_seconds" in text
