"""Settings: gathers the ``settings.py`` of each room from flags, environment and ``config.toml``.

Flag > environment ``HOLDFAST_<NAME>`` > ``HOME/config.toml`` (one table for each room) > default. Each room owns its
settings as a frozen dataclass: a ``float`` is a duration in seconds, ``bytes`` in a field's name makes it a size, and
the docstring below a field or the comment behind it is its help. The setting's name leaves a unit ``s`` out and says
``size`` for ``bytes``. Every value keeps where it came from.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import ipaddress
import itertools
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from holdfast.errors import BadConfig

Unit: TypeAlias = Literal["s", "bytes", ""]
T = TypeVar("T")

CONFIG_BYTES_MAX = 1 << 20
ENVIRONMENT_PREFIX = "HOLDFAST_"
OTHER_VARIABLES = frozenset(
    ENVIRONMENT_PREFIX + name
    for name in ("HOME", "COORDINATOR", "PASSPHRASE", "NEW_PASSPHRASE", "SURVIVE", "NODE", "ORIGIN_TOKEN")
)
"""Variables that are read elsewhere and are no settings."""

TABLES: dict[str, tuple[str, str]] = {
    "client": ("holdfast.client.device.settings", "ClientSettings"),
    "node": ("holdfast.node.settings", "NodeSettings"),
    "coordinator": ("holdfast.coordinator.settings", "CoordinatorSettings"),
    "outbox": ("holdfast.outbox.settings", "OutboxSettings"),
    "peers": ("holdfast.peers.settings", "PeersSettings"),
}
"""config.toml's tables, and the class whose fields each sets."""


RENAMED = {
    ("client", "coordinator_s"): "coordinator_timeout",  # HOLDFAST_COORDINATOR is an address
    ("client", "progress_s"): "progress_timeout",
    ("peers", "cache_bytes"): "cache",
    ("client", "bwlimit_bytes"): "bwlimit",  # of one second
    ("node", "bwlimit_bytes"): "bwlimit",
    ("outbox", "total_bytes_max"): "outbox_max",
    ("outbox", "body_bytes_max"): "body_max",
    ("outbox", "parallel"): "outbox_parallel",
    ("outbox", "targets_parallel"): "outbox_targets",
    ("outbox", "lease_s"): "outbox_lease",  # the coordinator has a lease of its own
}
"""Settings whose name is not their field's without the unit."""

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)", re.ASCII)
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,6})?)\s*([KMGTP]i?)?B?", re.ASCII | re.IGNORECASE)
_LISTEN = re.compile(r"(?:(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):)?(\d{1,5})", re.ASCII)


def parse_duration(text: str) -> float:
    """``250ms 30s 5m 1h 7d`` as seconds; BadConfig for anything else, also for a number without a unit but 0."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        if text.strip() == "0":
            return 0.0
        raise BadConfig(f"{text!r} is not a duration; write it like 250ms, 30s, 5m, 1h or 7d")
    return float(found[1]) * _DURATION_S[found[2]]


def parse_size(text: str) -> int:
    """``512``, ``64KiB`` (1024) or ``10GB`` (1000) as bytes; BadConfig for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BadConfig(f"{text!r} is not a size; write it like 512, 64KiB or 10GB")
    prefix = (found[2] or "").upper()
    base = 1024 if prefix.endswith("I") else 1000
    power = " KMGTP".index(prefix[0]) if prefix else 0
    return int(float(found[1]) * base**power) if "." in found[1] else int(found[1]) * base**power


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[::1]:PORT``, ``:PORT`` or ``PORT`` as (host, port); without a host it is loopback."""
    found = _LISTEN.fullmatch(text.strip())
    if found is None or int(found[2]) > 65535:
        raise BadConfig(f"{text!r} is not an address; write it like 127.0.0.1:7420 or 0.0.0.0:7420")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def duration_text(seconds: float) -> str:
    """The shortest form that ``parse_duration`` reads back."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _DURATION_S[unit] and seconds % _DURATION_S[unit] == 0:
            return f"{seconds / _DURATION_S[unit]:.0f}{unit}"
    number, unit = (seconds * 1000, "ms") if 0 < seconds < 1 else (seconds, "s")
    return f"{number:.6f}".rstrip("0").rstrip(".") + unit


def size_text(size: int) -> str:
    """The shortest form that ``parse_size`` reads back."""
    for power, prefix in ((5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{prefix}B"
    return str(size)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one room's settings. ``kind`` is its type without None; ``unit`` how its text is read."""

    table: str
    field: str
    name: str
    kind: Any
    optional: bool
    unit: Unit
    default: Any

    def parse(self, value: Any, where: str) -> Any:
        """``value``, text or a TOML value, as the field's type; BadConfig names ``where``."""
        try:
            return self._parsed(value)
        except BadConfig as error:
            raise BadConfig(f"{where}: {error.detail}") from error

    def _parsed(self, value: Any) -> Any:
        if self.optional and isinstance(value, str) and value.lower() in ("", "none"):
            return None
        if self.unit == "s":
            return parse_duration(value) if isinstance(value, str) else _number(value)
        if self.unit == "bytes":
            return parse_size(value) if isinstance(value, str) else int(_number(value))
        if self.kind is bool:
            return _boolean(value)
        if self.kind is int:
            return _integer(value)
        if typing.get_origin(self.kind) in (tuple, list):
            items = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
            if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
                raise BadConfig("a list of words is needed")
            return tuple(items)
        if typing.get_origin(self.kind) is Literal:
            if value not in typing.get_args(self.kind):
                raise BadConfig(f"{value!r} is none of {', '.join(map(str, typing.get_args(self.kind)))}")
            return value
        if not isinstance(value, str):
            raise BadConfig(f"a text is needed, not {value!r}")
        return Path(value) if self.kind is Path else value

    def toml(self, value: Any) -> str:
        """``value`` as it is written in config.toml."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return json.dumps(list(value), ensure_ascii=False)
        if value is None:
            return '"none"'
        if self.unit:
            return f'"{duration_text(value) if self.unit == "s" else size_text(value)}"'
        return str(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadConfig(f"a number of at least 0, or one with a unit, is needed, not {value!r}")
    return float(value)


def _boolean(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise BadConfig(f"{value!r} is neither true nor false")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value))
    except ValueError as error:
        raise BadConfig(f"{value!r} is not a whole number") from error


def settings_of(table: str, kind: type[Any]) -> list[Setting]:
    """The settings of a frozen dataclass."""
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        parts = [part for part in _alternatives(hints[field.name]) if part is not types.NoneType]
        words = field.name.split("_")
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(
            Setting(
                table=table,
                field=field.name,
                name=RENAMED.get((table, field.name))
                or "_".join("size" if word == "bytes" else word for word in words if word != "s"),
                kind=parts[0],
                optional=types.NoneType in _alternatives(hints[field.name]),
                unit="s" if parts[0] is float else "bytes" if "bytes" in words else "",
                default=default,
            )
        )
    return found


def help_of(table: str) -> dict[str, str]:
    """The docstring below each field of a table's class, or the comment behind it; for people only."""
    source = inspect.getsource(_settings_class(table))
    lines = source.splitlines()
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    found = {}
    for field, below in itertools.zip_longest(body, body[1:]):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        text = lines[field.lineno - 1].partition("  # ")[2]
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = str(below.value.value)
        found[field.target.id] = " ".join(text.split())
    return found


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@dataclass(frozen=True, slots=True)
class Found:
    """A setting's value and where it came from: ``flag``, an environment variable, a file or ``default``."""

    setting: Setting
    value: Any
    origin: str


def default_home(environment: Mapping[str, str]) -> Path:
    """HOLDFAST_HOME, else the place for data of the user that the system names."""
    given = environment.get("HOLDFAST_HOME")
    if given:
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("holdfast", appauthor=False))


class Config:
    """All settings of one run. Made by ``load``; never changes."""

    def __init__(
        self,
        home: Path,
        path: Path,
        found: Mapping[tuple[str, str], Found],
        unknown_variables: list[tuple[str, str]],
    ) -> None:
        self.home = home
        self.path = path
        self.unknown_variables = unknown_variables
        """HOLDFAST_ variables that set nothing, each with a hint at the nearest."""
        self._found = found

    @classmethod
    def load(
        cls,
        home: Path | None = None,
        *,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Config:
        """Reads everything. ``flags`` are by setting name, already typed, None for not given.

        BadConfig for an unknown key in config.toml (naming the nearest) and for a value of the wrong kind. An unknown
        HOLDFAST_ variable is no error: others set such names too (Kubernetes for a service called holdfast).
        """
        environment = os.environ if environment is None else environment
        path = (home or default_home(environment)) / "config.toml"
        return cls.parse(path, _read(path), flags=flags, environment=environment)

    @classmethod
    def parse(
        cls,
        path: Path,
        data: bytes,
        *,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str],
    ) -> Config:
        """As ``load``, of the bytes of a file; ``path`` is only its name."""
        home = path.parent
        settings = _all_settings()
        written = _tables(data, path)
        _refuse_unknown(written, settings, path)
        found = {}
        for setting in settings:
            variable = ENVIRONMENT_PREFIX + setting.name.upper()
            if flags and flags.get(setting.name) is not None:
                value, origin = flags[setting.name], "flag"
            elif environment.get(variable):
                value, origin = setting.parse(environment[variable], variable), f"environment {variable}"
            elif setting.name in written.get(setting.table, {}):
                where = f"{path}: {setting.table}.{setting.name}"
                value, origin = setting.parse(written[setting.table][setting.name], where), str(path)
            else:
                value, origin = setting.default, "default"
            found[setting.table, setting.field] = Found(setting, value, origin)
        known = {ENVIRONMENT_PREFIX + setting.name.upper() for setting in settings} | OTHER_VARIABLES
        stray = [name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known]
        return cls(home, path, found, [(name, _nearest(name, known)) for name in sorted(stray)])

    def section(self, kind: type[T]) -> T:
        """The settings of one room, by their class."""
        for table in TABLES:
            if _settings_class(table) is kind:
                values = {row.setting.field: row.value for row in self.all() if row.setting.table == table}
                try:
                    return kind(**values)
                except ValueError as error:
                    raise BadConfig(f"[{table}]: {error}") from error
        raise AssertionError(f"{kind.__name__} is not in TABLES")

    def all(self) -> Iterable[Found]:
        """Every setting, table by table."""
        return self._found.values()


@functools.cache
def _all_settings() -> list[Setting]:
    return [setting for table in TABLES for setting in settings_of(table, _settings_class(table))]


def _settings_class(table: str) -> type[Any]:
    module, name = TABLES[table]
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error


def _tables(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also for numbers of more digits than Python reads
        raise BadConfig(f"{path}: {error}") from error


def _refuse_unknown(written: Mapping[str, Any], settings: Iterable[Setting], path: Path) -> None:
    known: dict[str, set[str]] = {table: set() for table in TABLES}
    for setting in settings:
        known[setting.table].add(setting.name)
    for table, values in written.items():
        if table not in known:
            every = [*known, *(name for names in known.values() for name in names)]
            near = _nearest(table, every)
            raise BadConfig(f"{path}: unknown {'table' if isinstance(values, dict) else 'key'} {table!r}{near}")
        if not isinstance(values, dict):
            raise BadConfig(f"{path}: {table} is a table; write [{table}] and the settings below it")
        for name in values:
            if name not in known[table]:
                raise BadConfig(f"{path}: unknown key {table}.{name}{_nearest(name, known[table])}")


def _nearest(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
