"""``holdfast up``: a network of its own on this machine, of real processes, until ^C."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words

if TYPE_CHECKING:
    from holdfast.cli.local_network import LocalNetwork, Member


@click.command("up", cls=Verb)
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where.")
@click.option("--nodes", type=click.IntRange(1, 64), help="How many nodes [default: 6].")
@click.option("--port", type=click.IntRange(1, 65000), metavar="BASE", help="The coordinator's port; nodes follow.")
@click.option("--survive", type=click.IntRange(0, 64), help="How many nodes may die [default: nodes - 2, at most 4].")
@current
def command(invocation: Invocation, directory: Path, nodes: int | None, port: int | None, survive: int | None) -> None:
    """Run a network on this machine until ^C.

    The same directory again is the same network with the same data. A process that dies is not started again.
    """
    invocation.run(_run(invocation, directory, nodes, port, survive))


async def _run(
    invocation: Invocation, directory: Path, nodes: int | None, port: int | None, survive: int | None
) -> None:
    from holdfast.cli.local_network import LocalNetwork

    def ended(member: Member) -> None:
        code = member.code or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if invocation.json:
            invocation.document({"event": "ended", **member.row(), "code": code})
        invocation.note(f"{member.name} (pid {member.pid}) {how}; it is not started again.")

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    network = LocalNetwork(directory, nodes=nodes, port=port, survive=survive, on_exit=ended)
    starting = asyncio.ensure_future(network.start())
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _tell(invocation, network)
            await stopped
            invocation.note("stopping")
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await network.stop()


def _tell(invocation: Invocation, network: LocalNetwork) -> None:
    members = [member.row() for member in network.members]
    if invocation.json:
        invocation.document({"event": "ready", "dir": str(network.directory), "members": members})
        return
    nodes = count_words(len(network.nodes), "node")
    invocation.note(f"A network of {nodes} runs in {network.directory}; ^C ends it. In another terminal:\n")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in network.variables.items())
    invocation.data(f"  export {variables}")
    invocation.data(
        "  holdfast put README.md\n  holdfast ls -l\n  holdfast status\n  holdfast get README.md -o copy.md"
    )
    invocation.data(f"  kill -9 {network.members[-1].pid}        # a node dies; everything stays readable")
