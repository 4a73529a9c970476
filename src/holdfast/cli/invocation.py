"""One run of the command line: the flags that every verb takes, and how the run speaks.

Data goes to stdout, everything else to stderr. With ``--json`` both are JSON, one document a line; an error document
goes to stderr too, so that it never mixes with a file that is written to stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from holdfast.errors import HoldfastError, TimedOut, UsageError, meaning
from holdfast.shown import visible, visible_json, visible_lines

if TYPE_CHECKING:
    from holdfast.config import Config
    from holdfast.sdk import Vault

T = TypeVar("T")


@dataclass(slots=True)
class Invocation:
    """The global flags. ``verbosity``: 0, 1 (``-v``) or 2 (``-vv``); ``timeout_s``: for the whole command."""

    json: bool = False
    quiet: bool = False
    verbosity: int = 0
    home: Path | None = None
    timeout_s: float | None = None
    yes: bool = False
    no_input: bool = False

    @property
    def interactive(self) -> bool:
        """May a question be asked?"""
        return not self.no_input and not self.json and sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def watched(self) -> bool:
        """Is somebody looking at a terminal that may be drawn on?"""
        return not self.quiet and not self.json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def data(self, text: str) -> None:
        """A line of what was asked for; whoever wrote what is in it, nothing of it commands the terminal."""
        click.echo(visible_lines(text))

    def marked(self, mark: str, colour: str, text: str) -> None:
        """A line of what was asked for, behind a coloured word of ours."""
        click.echo(f"{click.style(mark, fg=colour)}  {visible_lines(text)}")

    def document(self, value: Any) -> None:
        """A JSON document on a line of its own: the answer of the command, or one of its events."""
        click.echo(json_line(value))

    def note(self, text: str) -> None:
        """A remark for a person; left out with ``-q``."""
        if not self.quiet:
            click.echo(json_line({"note": text}) if self.json else visible_lines(text), err=True)

    def confirm(self, question: str) -> None:
        """Goes on only after a yes; UsageError where nobody can be asked."""
        if self.yes:
            return
        if not self.interactive:
            raise UsageError(f"{question} Say so with --yes.")
        if not click.confirm(question, err=True):
            raise UsageError("Nothing was done.")

    def passphrase(self) -> str | None:
        """For a sealed key file: HOLDFAST_PASSPHRASE, else asked for on a terminal, else None."""
        given = os.environ.get("HOLDFAST_PASSPHRASE")
        if given:
            return given
        return str(click.prompt("Passphrase", hide_input=True, err=True)) if self.interactive else None

    def new_passphrase(self) -> str:
        """One for a key file that is made or changed, asked for twice."""
        given = os.environ.get("HOLDFAST_NEW_PASSPHRASE") or os.environ.get("HOLDFAST_PASSPHRASE")
        if given:
            return given
        if not self.interactive:
            raise UsageError("A passphrase is needed: run this on a terminal, or set HOLDFAST_NEW_PASSPHRASE.")
        return str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))

    def config(self, flags: dict[str, Any] | None = None) -> Config:
        """The settings of this run; ``flags`` (by setting name, None for not given) win."""
        from holdfast.config import Config

        return Config.load(self.home, flags=flags or {})

    async def vault(self, **settings: Any) -> Vault:
        """The vault of this run's home, open; the caller closes it. ``settings`` by name, None for not given."""
        from holdfast import assemble
        from holdfast.config import Config
        from holdfast.sdk import Vault

        config = Config.load(self.home, flags=settings)
        return await assemble.open_vault(self.home, kind=Vault, ask=self.passphrase, config=config)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the async part of a verb in an event loop of its own, within ``--timeout``."""
        import asyncio

        from holdfast import logs

        logs.configure(verbosity=-1 if self.quiet else self.verbosity)
        return asyncio.run(self._within(work))

    async def _within(self, work: Coroutine[Any, Any, T]) -> T:
        import asyncio

        if self.timeout_s is None:
            return await work
        deadline = asyncio.timeout(self.timeout_s)
        try:
            async with deadline:
                return await work
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimedOut(f"Not done within --timeout {self.timeout_s:g}s; what was done is kept.") from error


def json_line(value: Any) -> str:
    """Compact JSON; ids, digests and paths as text."""
    import json

    return visible_json(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


def error_document(error: BaseException) -> dict[str, Any]:
    """What ``--json`` shows of an error."""
    row = meaning(error)
    fields: dict[str, Any] = {"type": row.type, "title": title_of(row.type), "detail": sentence(error)}
    fields["exit"] = row.exit
    if isinstance(error, HoldfastError) and error.extra:
        fields["extra"] = error.extra
    return {"error": fields}


def title_of(type_: str) -> str:
    """A problem type as words."""
    return type_.replace("-", " ").capitalize()


def sentence(error: BaseException) -> str:
    """One sentence for a person."""
    if isinstance(error, HoldfastError):
        text = error.detail
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = f"internal error ({type(error).__name__}: {error}); -vv shows where"
    return visible(" ".join(text.split()))


current = click.make_pass_decorator(Invocation, ensure=True)
"""Hands the invocation to a verb as its first argument."""
