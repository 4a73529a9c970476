"""``holdfast coordinator``: make or run the registry of a network."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.serving import listen_address, listening, serve, tls_context
from holdfast.cli.verb import VerbGroup

COORDINATOR_PORT = 7430


@click.group("coordinator", cls=VerbGroup)
def command() -> None:
    """Make or run a coordinator: it knows where everything lies, and holds no keys."""


@command.command("init")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its directory.")
@click.option("--advertise", metavar="URL", required=True, help="Where others reach it; stands in every invite.")
@click.option(
    "--survive", type=click.IntRange(0, 64), envvar="HOLDFAST_SURVIVE", help="How many machines may die [default: 4]."
)
@click.option("--name", help="What it is called [default: the host's name].")
@current
def init(invocation: Invocation, data: Path, advertise: str, survive: int | None, name: str | None) -> None:
    """Make a coordinator in DIR and print the invites to begin with.

    The line for nodes is good for 10 machines and a day. The line for you makes your home's device the operator,
    who may invite others and change the policy.
    """
    invocation.run(_init(invocation, data, advertise, survive, name))


async def _init(invocation: Invocation, data: Path, advertise: str, survive: int | None, name: str | None) -> None:
    from holdfast import assemble

    made = await assemble.init_coordinator(data, advertise=advertise, survive=survive, name=name)
    if invocation.json:
        document = {"id": str(made.id), "name": made.name, "url": made.url, "data": str(data)}
        invocation.document({**document, "survive": made.survive, "invites": made.invites})
        return
    invocation.note(f"Coordinator {made.name} ({made.id.short}) is in {data}; survive {made.survive}. Now run it:\n")
    invocation.note(f"  holdfast coordinator run --data {data} --listen 0.0.0.0:{COORDINATOR_PORT}\n")
    invocation.note("On each machine that lends disk (10 machines, one day):\n")
    invocation.data(f"  holdfast node init --data DIR --join {made.invites['node']}\n")
    invocation.note("On your own machine (once, one day; it becomes the operator's):\n")
    invocation.data(f"  holdfast init --join {made.invites['operator']}")


@command.command("run")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its directory.")
@click.option("--survive", type=click.IntRange(0, 64), help="Change the policy before the start.")
@listening
@current
def run(
    invocation: Invocation,
    data: Path,
    survive: int | None,
    listen: tuple[str, int] | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    metrics: int | None,
    with_parent: bool,
) -> None:
    """Run the coordinator until SIGTERM or ^C; what is under way may finish within 30 s."""
    address = listen_address(listen, COORDINATOR_PORT)
    tls = tls_context(tls_cert, tls_key)

    async def work() -> None:
        from holdfast import assemble

        config = invocation.config()
        server = await assemble.make_coordinator(data, config, listen=address, tls=tls, survive=survive)
        await serve(invocation, server, role="coordinator", metrics=metrics, with_parent=with_parent, public=address[0])

    invocation.run(work())
