"""What the verbs of the exchange between nodes have in common: which node they talk to, and as whom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.invocation import Invocation

if TYPE_CHECKING:
    from holdfast.assemble import ExchangeClient


def through_node(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--node`` and ``--data``."""
    for option in (
        click.option(
            "--data", type=click.Path(path_type=Path, file_okay=False), help="Ask as the node whose directory this is."
        ),
        click.option(
            "--node", metavar="URL", help="Through this node [env: HOLDFAST_NODE; default: the one on this machine]."
        ),
    ):
        command = option(command)
    return command


def client(invocation: Invocation, node: str | None, data: Path | None) -> AbstractAsyncContextManager[ExchangeClient]:
    """The node, as this run's home or the node itself asks it."""
    from holdfast import assemble

    return assemble.open_exchange(invocation.home, node=node, data=data)
