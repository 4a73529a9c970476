"""What all verbs have in common: the global flags, taken before and after the verb, and parameter types with units."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from holdfast.cli.invocation import Invocation
from holdfast.errors import BadConfig


class Duration(click.ParamType[float]):
    """``250ms 30s 5m 1h 7d`` -> seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from holdfast.config import parse_duration

        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except BadConfig as error:
            self.fail(error.detail, param, ctx)


class Size(click.ParamType[int]):
    """``64KiB 10GB`` -> bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from holdfast.config import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except BadConfig as error:
            self.fail(error.detail, param, ctx)


class Listen(click.ParamType[tuple[str, int]]):
    """``HOST:PORT``, ``[::1]:PORT``, ``:PORT`` or ``PORT`` -> (host, port); without a host it is loopback."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        from holdfast.config import parse_listen

        if isinstance(value, tuple):
            return value
        try:
            return parse_listen(value)
        except BadConfig as error:
            self.fail(error.detail, param, ctx)


DURATION = Duration()
SIZE = Size()
LISTEN = Listen()


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    invocation = ctx.ensure_object(Invocation)
    if value is not None and value is not False and value != 0:
        setattr(invocation, str(param.name), Path(value) if param.name == "home" else value)


def global_flags(*, hidden: bool) -> list[click.Parameter]:
    """The flags of every verb; shown in the help of ``holdfast`` itself only."""
    common: dict[str, Any] = {"expose_value": False, "callback": _store, "is_eager": True, "hidden": hidden}
    return [
        click.Option(["--json"], is_flag=True, help="JSON on stdout, errors as JSON on stderr.", **common),
        click.Option(["-q", "--quiet"], is_flag=True, help="Only data and errors.", **common),
        click.Option(["-v", "--verbose", "verbosity"], count=True, help="More about what happens; -vv most.", **common),
        click.Option(["--home"], metavar="DIR", help="Keys, settings and caches [env: HOLDFAST_HOME].", **common),
        click.Option(["--timeout", "timeout_s"], type=DURATION, help="Give up after this time.", **common),
        click.Option(["--yes"], is_flag=True, help="Answer yes to every question.", **common),
        click.Option(["--no-input"], is_flag=True, help="Never ask.", **common),
    ]


class Verb(click.Command):
    """A command that takes the global flags too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_flags(hidden=True)


class VerbGroup(click.Group):
    """A verb with verbs of its own, such as ``node init``."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_flags(hidden=True)


class ListingGroup(VerbGroup):
    """A group that does its ``ls``, without options, when no verb of it is named."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, invoke_without_command=True, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        done = super().invoke(ctx)
        return ctx.invoke(self.commands["ls"]) if ctx.invoked_subcommand is None else done


class LazyGroup(click.Group):
    """Verbs are imported when they are used; ``verbs`` maps each to its module and its line in the help."""

    def __init__(self, *args: Any, verbs: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module = importlib.import_module(self._verbs[cmd_name][0])
        found: click.Command = module.command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._verbs:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self._verbs, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No verb {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: Sequence[tuple[str, str]] = [(name, line) for name, (_, line) in self._verbs.items()]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)
