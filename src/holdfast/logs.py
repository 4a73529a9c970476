"""Log lines: event names with fields, on stderr; JSON unless a person is watching a terminal.

A program that uses holdfast as a library hears warnings only, until it calls ``configure``. No secret is ever an
argument of a log call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from holdfast.shown import visible

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "exception": 40, "critical": 50}
_LEVEL_OF_VERBOSITY = {-1: 40, 0: 30, 1: 20}

_level = _LEVELS["warning"]
_reader: Callable[[str, Mapping[str, Any]], object] | None = None


class _Stderr:
    """The stderr of the moment: tests and programs may replace it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _drop_below_level(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    if _reader is not None:
        _reader(method, event)
        raise structlog.DropEvent
    if _LEVELS[method] < _level:
        raise structlog.DropEvent
    return event


def _only_visible(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """What others wrote must not command the terminal of whoever watches."""
    return {key: visible(value) if isinstance(value, str) else value for key, value in event.items()}


def _chain(as_json: bool) -> list[Any]:
    common = [
        _drop_below_level,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        return [*common, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [*common, _only_visible, structlog.dev.ConsoleRenderer()]


_processors: list[Any] = _chain(as_json=True)


def configure(*, verbosity: int, json: bool | None = None) -> None:
    """``verbosity`` -1 errors only, 0 warnings, 1 info, 2 debug. ``json`` None: unless stderr is a terminal."""
    global _level
    _level = _LEVEL_OF_VERBOSITY.get(verbosity, _LEVELS["debug"])
    _processors[:] = _chain(not sys.stderr.isatty() if json is None else json)


@contextmanager
def read_by(reader: Callable[[str, Mapping[str, Any]], object]) -> Iterator[None]:
    """Until the end every line of any level goes to ``reader(level, fields)`` instead: a simulation looks for bugs."""
    global _reader
    before, _reader = _reader, reader
    try:
        yield
    finally:
        _reader = before


def get_logger(name: str) -> Any:
    """A logger of its own, whatever the program around has configured; ``name`` stands in each line as ``source``."""
    return structlog.wrap_logger(
        structlog.PrintLogger(_Stderr()),  # type: ignore[arg-type]
        processors=_processors,
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        source=name,
    )
