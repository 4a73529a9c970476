"""What the command line refuses, how it says so, and what it costs to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast import errors
from holdfast.cli import main
from holdfast.cli.invocation import Invocation, error_document, sentence


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["version"]) == 0
    assert capsys.readouterr().out == f"holdfast {holdfast.__version__}\n"
    assert main.run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": holdfast.__version__}


def test_version_loads_nothing_heavy() -> None:
    script = (
        "import sys; from holdfast.cli.main import run; assert run(['version']) == 0;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        *("aiohttp", "asyncio", "cryptography", "rich", "structlog", "sqlalchemy", "msgspec", "apsw", "cbor2"),
        *("prometheus_client", "alembic", "mnemonic", "platformdirs", "ssl", "multiprocessing"),
    }
    assert not loaded & heavy


def test_every_verb_has_help_and_takes_the_global_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in main.VERBS:
        assert main.run(["--json", "-v", verb, "--help"]) == 0, verb
        assert main.run([verb, "--json", "--no-input", "-q", "--home", "x", "--help"]) == 0, verb
    assert "Usage: holdfast put" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["pt"],
        ["put"],
        ["put", "-"],
        ["put", "x", "--no-clobber", "--if-match", "0" * 64],
        ["put", "x", "--meta", "novalue"],
        ["put", "x", "--chunk-size", "huge"],
        ["--timeout", "soon", "status"],
        ["policy", "survive", "many"],
        ["invite", "king"],
        ["invite", "user", "--uses", "2"],
        ["invite", "node", "--quota", "1GB"],
        ["up"],
        ["node", "run"],
        ["coordinator", "init", "--data", "x"],
        ["rm", "a", "b", "--if-match", "0" * 64],
        ["get", ""],
        ["init", "--join", "http://user:secret@host"],
        ["coordinator", "run", "--data", "d", "--database=postgresql://me:secret@host/db"],
    ],
)
def test_usage_is_exit_2_and_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("holdfast: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert "secret" not in said.err
    assert main.run(["--json", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    error = json.loads(said.err)["error"]
    assert (error["type"], error["exit"]) == ("usage", 2)
    assert error["detail"]


def test_a_verb_that_nearly_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["statsu"]) == 2
    assert "Did you mean 'status'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [["status"], ["nodes"], ["policy"], ["key", "show"], ["key", "check"], ["ls"], ["cat", "x"]]
)
def test_without_a_home_the_next_step_is_named(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(verb) == 4
    said = capsys.readouterr()
    assert "holdfast init" in said.err
    assert said.out == ""


def test_a_wrong_config_is_78(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[client]\npak_size = 1\n")
    assert main.run(["config", "show"]) == 78
    assert "did you mean 'pack_size'?" in capsys.readouterr().err
    assert main.run(["config", "show", "--json"]) == 78
    assert json.loads(capsys.readouterr().err)["error"]["type"] == "bad-config"


def test_config_show_says_where_values_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_LINGER", "7ms")
    assert main.run(["config", "show", "--origin", "--json"]) == 0
    rows = {(row["table"], row["name"]): row for row in json.loads(capsys.readouterr().out)["settings"]}
    assert rows["client", "linger"]["value"] == pytest.approx(0.007)
    assert rows["client", "linger"]["origin"] == "environment HOLDFAST_LINGER"
    assert rows["client", "pack_size"]["origin"] == "default"


@pytest.mark.parametrize("kind", list(errors.MEANINGS))
def test_every_error_has_its_exit_code(
    kind: type[errors.HoldfastError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Invocation, text: str) -> None:
        raise kind("this went\nwrong", where="there")

    monkeypatch.setattr(Invocation, "data", fail)
    assert main.run(["version"]) == errors.MEANINGS[kind].exit
    assert capsys.readouterr().err == "holdfast: this went wrong\n"
    assert error_document(kind("no"))["error"]["exit"] == errors.MEANINGS[kind].exit


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (ZeroDivisionError("x"), 1), (OSError(28, "full", "f"), 1)]
)
def test_nothing_ends_in_a_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Invocation, text: str) -> None:
        raise error

    monkeypatch.setattr(Invocation, "data", fail)
    assert main.run(["version"]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 130:
        assert "what was done is kept; run the same command to go on" in said
    else:
        assert main.run(["-vv", "version"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_drama() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in (0, 1)


def test_sentences_are_one_line() -> None:
    assert sentence(errors.NotFound("no\n  such thing")) == "no such thing"
    assert sentence(FileNotFoundError(2, "No such file or directory", "f")) == "f: No such file or directory"
    assert "ValueError" in sentence(ValueError("x"))
