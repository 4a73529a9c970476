"""Settings: four sources in order, units, and sentences for what is wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import config
from holdfast.client.device.settings import ClientSettings
from holdfast.config import Config, duration_text, parse_duration, parse_listen, parse_size, size_text
from holdfast.errors import BadConfig
from holdfast.node.settings import NodeSettings


def written(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def value(loaded: Config, table: str, name: str) -> tuple[object, str]:
    found = next(row for row in loaded.all() if (row.setting.table, row.setting.name) == (table, name))
    return found.value, found.origin


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    home = written(tmp_path, '[client]\npack_size = "8MiB"\n')
    environment = {"HOLDFAST_PACK_SIZE": "4MiB"}
    path = str(home / "config.toml")
    assert value(Config.load(tmp_path / "none", environment={}), "client", "pack_size") == (16 << 20, "default")
    assert value(Config.load(home, environment={}), "client", "pack_size") == (8 << 20, path)
    found = value(Config.load(home, environment=environment), "client", "pack_size")
    assert found == (4 << 20, "environment HOLDFAST_PACK_SIZE")
    found = value(Config.load(home, environment=environment, flags={"pack_size": 1}), "client", "pack_size")
    assert found == (1, "flag")
    assert Config.load(home, environment={}, flags={"pack_size": None}).section(ClientSettings).pack_bytes == 8 << 20


def test_sections_are_the_rooms_own_classes(tmp_path: Path) -> None:
    loaded = Config.load(
        written(tmp_path, "[node]\nread_only = true\n[client]\nlinger = 0.5\nexcludes = ['*.o']\n"), environment={}
    )
    assert loaded.section(NodeSettings).read_only
    assert loaded.section(ClientSettings).linger_s == 0.5
    assert loaded.section(ClientSettings).excludes == ("*.o",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[client]\npak_size = 1\n", "unknown key client.pak_size; did you mean 'pack_size'?"),
        ("[clint]\npack_size = 1\n", "unknown table 'clint'; did you mean 'client'?"),
        ("pack_size = 1\n", "unknown key 'pack_size'; did you mean 'pack_size'?"),
        ("client = 1\n", "client is a table"),
        ('[client]\npack_size = "many"\n', "client.pack_size: 'many' is not a size"),
        ("[client]\npack_size = -1\n", "client.pack_size: a number of at least 0"),
        ("[client]\nlinger = true\n", "client.linger: a number of at least 0"),
        ("[node]\nread_only = 7\n", "node.read_only: 7 is neither true nor false"),
        ("[client\n", "config.toml"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig) as caught:
        Config.load(written(tmp_path, text), environment={})
    assert words in caught.value.detail


def test_a_bad_variable_is_named_and_a_stray_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="HOLDFAST_LINGER: 'soon' is not a duration"):
        Config.load(tmp_path, environment={"HOLDFAST_LINGER": "soon"})
    loaded = Config.load(tmp_path, environment={"HOLDFAST_LINGR": "1s", "HOLDFAST_HOME": "x", "OTHER": "y"})
    assert loaded.unknown_variables == [("HOLDFAST_LINGR", "; did you mean 'HOLDFAST_LINGER'?")]


def test_what_is_shown_can_be_read_back(tmp_path: Path) -> None:
    loaded = Config.load(tmp_path, environment={})
    lines: list[str] = []
    for found in loaded.all():
        heading = f"[{found.setting.table}]"
        lines += [] if heading in lines else [heading]
        lines.append(f"{found.setting.name} = {found.setting.toml(found.value)}")
    tomllib.loads("\n".join(lines))
    again = Config.load(written(tmp_path, "\n".join(lines)), environment={})
    assert [row.value for row in again.all()] == [row.value for row in loaded.all()]


def test_every_setting_says_what_it_is_for() -> None:
    for table in ("client", "node"):
        about = config.help_of(table)
        settings = config.settings_of(table, config._settings_class(table))
        assert settings
        assert [row.name for row in settings if not about[row.field]] == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h", 3600), ("7d", 604800), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 fortnights", "-1s", "1e3s", "٣s", "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadConfig, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("64KiB", 65536), ("10GB", 10**10), ("1.5MiB", 3 << 19), ("2 tib", 2 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1XB", "1e9", "0x10"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadConfig, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 10**9))
def test_durations_come_back(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 2**62))
def test_sizes_come_back(size: int) -> None:
    assert parse_size(size_text(size)) == size


def test_addresses() -> None:
    assert parse_listen("0.0.0.0:7420") == ("0.0.0.0", 7420)
    assert parse_listen("7420") == parse_listen(":7420") == ("127.0.0.1", 7420)
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_listen("host.example:1") == ("host.example", 1)
    for text in ("", "host", "host:", "host:99999", "::1:80", "a b:1x"):
        with pytest.raises(BadConfig):
            parse_listen(text)
