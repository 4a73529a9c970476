"""``holdfast version``."""

from __future__ import annotations

import click

import holdfast
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb


@click.command("version", cls=Verb)
@current
def command(invocation: Invocation) -> None:
    """Which holdfast this is."""
    if invocation.json:
        invocation.document({"version": holdfast.__version__})
    else:
        invocation.data(f"holdfast {holdfast.__version__}")
