"""``--database``: what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli import main


def test_a_password_in_the_databases_url_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE", "postgresql://me:sec:ret@host/db")
    for more in ([], ["--json"]):
        assert main.run(["--home", str(tmp_path), *more, "config", "show", "--origin"]) == 0
        said = capsys.readouterr()
        assert "postgresql://me:***@host/db" in said.out
        assert "ret@" not in said.out + said.err


@pytest.mark.parametrize("verb", ["init", "run"])
@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite:///x", "nonsense"])
def test_another_database_is_bad_configuration(
    verb: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path / "c")]
    init = ["coordinator", "init", *data, "--advertise", "http://127.0.0.1:1"]
    if verb == "init":
        assert main.run([*init, "--database", url]) == 78
    else:
        assert main.run(init) == 0
        assert main.run(["coordinator", "run", *data, "--listen", "127.0.0.1:0", "--database", url]) == 78
    assert "postgresql://USER@HOST/NAME" in capsys.readouterr().err


def test_a_backup_of_a_postgresql_is_pg_dumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_DATABASE", "postgresql://host/db")
    assert main.run(["coordinator", "backup", "--data", str(tmp_path), "-o", str(tmp_path / "b")]) == 78
    said = capsys.readouterr().err
    assert "pg_dump" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "b").exists()
