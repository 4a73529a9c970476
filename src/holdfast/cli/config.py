"""``holdfast config``: the settings and where they come from."""

from __future__ import annotations

import re
from typing import Any

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import VerbGroup
from holdfast.cli.words import table

_PASSWORD = re.compile(r"(?<=://)([^/@\s]*?):[^/\s]*@")


def _shown(value: Any) -> Any:
    """Without the password of a URL."""
    return _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value


@click.group("config", cls=VerbGroup)
def command() -> None:
    """Show the settings and where they come from."""


@command.command("show")
@click.option("--origin", is_flag=True, help="Where each value comes from, and what it is for.")
@current
def show(invocation: Invocation, origin: bool) -> None:
    """Print every setting as it would stand in config.toml.

    A flag wins over the environment (HOLDFAST_ and the name in capitals), that over config.toml, that over the default.
    """
    from holdfast.config import TABLES, help_of

    config = invocation.config()
    about = {table: help_of(table) for table in TABLES}
    if invocation.json:
        rows = [
            {
                "table": found.setting.table,
                "name": found.setting.name,
                "value": _shown(found.value),
                "origin": found.origin,
                "help": about[found.setting.table].get(found.setting.field, ""),
            }
            for found in config.all()
        ]
        invocation.document({"path": str(config.path), "settings": rows})
        return
    invocation.data(f"# {config.path}")
    heading = ""
    lines: list[list[str]] = []
    for found in config.all():
        if found.setting.table != heading:
            heading = found.setting.table
            lines.append([f"[{heading}]", "", ""])
        line = f"{found.setting.name} = {found.setting.toml(_shown(found.value))}"
        lines.append(
            [line, f"# {found.origin}" if origin else "", about[heading].get(found.setting.field, "") if origin else ""]
        )
    for text in table(lines):
        invocation.data(text)
    for variable, near in config.unknown_variables:
        invocation.note(f"{variable} in the environment is no setting{near}")
