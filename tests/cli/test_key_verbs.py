"""A home's keys without a network: made once, shown once, sealed, checked, recovered."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def type_in(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_init_makes_keys_and_shows_the_words_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init", "--json"]) == 0
    made = said(capsys)
    assert len(made["words"]) == 24
    assert made["joined"] is False
    for name in ("vault.key", "device.key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert main.run(["init"]) == 8
    assert "never overwritten" in capsys.readouterr().err
    assert main.run(["key", "show", "--json"]) == 0
    shown = said(capsys)
    assert shown["device"] == made["device"]
    assert "words" not in shown
    assert main.run(["key", "show", "--words", "--json"]) == 2
    capsys.readouterr()
    assert main.run(["--yes", "key", "show", "--words", "--json"]) == 0
    assert said(capsys)["words"] == made["words"]


def test_words_for_people_are_numbered_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init"]) == 0
    output = capsys.readouterr()
    assert " 1. " in output.out
    assert "24. " in output.out
    assert len(output.out.split()) == 48
    assert "on paper" in output.err


def test_words_bring_a_vault_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["init", "--json"]) == 0
    made = said(capsys)
    words = " ".join(made["words"])
    type_in(words.upper() + "\n", monkeypatch)
    assert main.run(["--home", str(tmp_path / "other"), "init", "--recover", "--json"]) == 0
    other = said(capsys)
    assert other["vault"] == made["vault"]
    assert other["device"] != made["device"]
    assert "words" not in other
    type_in(words + "\n", monkeypatch)
    assert main.run(["key", "check", "--words"]) == 0
    type_in(words.replace(made["words"][0], "zzz", 1) + "\n", monkeypatch)
    assert main.run(["key", "check", "--words"]) == 1
    assert "is not in the list" in capsys.readouterr().err


def test_a_passphrase_seals_and_can_be_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["init", "--passphrase"]) == 2  # nobody to ask
    monkeypatch.setenv("HOLDFAST_PASSPHRASE", "first")
    assert main.run(["init", "--passphrase", "--json"]) == 0
    capsys.readouterr()
    assert main.run(["key", "check"]) == 0
    monkeypatch.setenv("HOLDFAST_NEW_PASSPHRASE", "second")
    assert main.run(["key", "change"]) == 0
    capsys.readouterr()
    assert main.run(["--json", "key", "check"]) == 5
    assert json.loads(capsys.readouterr().err)["error"]["type"] == "wrong-passphrase"
    monkeypatch.setenv("HOLDFAST_PASSPHRASE", "second")
    assert main.run(["key", "change", "--no-passphrase"]) == 0
    monkeypatch.delenv("HOLDFAST_PASSPHRASE")
    assert main.run(["key", "check"]) == 0


def test_a_key_that_others_can_read_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init", "-q"]) == 0
    (home / "vault.key").chmod(0o644)
    capsys.readouterr()
    assert main.run(["key", "check"]) == 78
    assert "chmod 600" in capsys.readouterr().err
    assert main.run(["doctor", "--json"]) == 1
    checks = {row["check"]: row for row in said(capsys)["checks"]}
    assert checks["keys"]["state"] == "fail"


@pytest.mark.parametrize("line", ["", "hello", "hf1-aaaa", "hf1-" + "a" * 5000])
def test_what_is_no_invite(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["node", "init", "--data", str(tmp_path / "node"), "--join", line]) == 1
    assert main.run(["init", "--join", line]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "node").exists()


def test_nothing_runs_without_its_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["node", "run", "--data", str(tmp_path)]) == 78
    assert "holdfast node init" in capsys.readouterr().err
    assert main.run(["coordinator", "run", "--data", str(tmp_path)]) == 78
    assert "holdfast coordinator init" in capsys.readouterr().err
