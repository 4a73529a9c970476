"""One life of a simulated process, cut short before any of its steps.

A step is whatever stays or is seen by others: a file is changed, a statement changes a database, a transaction that
changed something is committed, a message goes out, a piece of blocking work has ended. From the moment of its death
nothing that the process does is seen any more: its files refuse, its transactions are undone, its connections are gone.
So code that tidies up after an exception, which a SIGKILL does not run, changes nothing either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
from sqlalchemy import Engine, event

_CHANGES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")


class Killed(asyncio.CancelledError):
    """The process is dead: what it was about to do does not happen."""


class Life:
    """From the start of a process to its end."""

    def __init__(self, watch: Callable[[], object] = lambda: None) -> None:
        """``watch`` is called before each step but messages, and sees what the one before has left."""
        self.over = False
        self._watch = watch
        self._left = 0
        self._die: Callable[[], object] | None = None
        self._changed = False
        """Has its transaction changed anything? There is one at a time: blocking work runs whole."""

    def end_in(self, steps: int, die: Callable[[], object]) -> None:
        """``die`` is called instead of its ``steps``-th step from now."""
        self._left, self._die = steps, die

    def call_off(self, die: Callable[[], object]) -> None:
        """Undoes ``end_in``, unless it was given another end since. May be called twice."""
        if self._die is die:
            self._left, self._die = 0, None

    def step(self) -> None:
        """Called before a change. Killed once the life is over."""
        if not self.over:
            self._watch()
            self._count()
        if self.over:
            raise Killed

    def ended(self) -> None:
        """A piece of blocking work has ended, and its caller has not heard of it."""
        self._changed = False
        if not self.over:
            self._watch()
            self._count()

    def sends(self) -> None:
        """A message is about to go out."""
        if not self.over:
            self._count()

    def _count(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left and self._die is not None:
                self.over = True
                self._die()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What databases are asked inside is this process's doing."""
        global _at_work
        before, _at_work = _at_work, self
        try:
            yield
        finally:
            _at_work = before

    def _statement(self, text: str) -> None:
        verb = text.lstrip()[:6].upper()
        if verb.startswith(_CHANGES):
            self._changed = True
            self.step()
        elif verb == "COMMIT" and self._changed:
            self._changed = False
            self.step()


_at_work: Life | None = None
"""Whose blocking work runs now."""


@contextmanager
def databases_watched() -> Iterator[None]:
    """Inside, statements of both SQLite libraries and of PostgreSQL are steps of whoever is at work."""

    def statement(connection: Any, cursor: Any, text: str, *_: object) -> None:
        if _at_work is not None:
            _at_work._statement(text)

    def commit(connection: Any) -> None:
        if _at_work is not None:
            _at_work._statement("COMMIT")

    def traced(cursor: apsw.Cursor, text: str, bindings: object) -> bool:
        if _at_work is not None:
            _at_work._statement(text)
        return True

    def opened(connection: apsw.Connection) -> None:
        connection.exec_trace = traced

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    apsw.connection_hooks.append(opened)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(opened)
        event.remove(Engine, "commit", commit)
        event.remove(Engine, "before_cursor_execute", statement)
