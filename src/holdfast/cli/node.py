"""``holdfast node``: lend disk to a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.node_leave import command as leave
from holdfast.cli.serving import listen_address, listening, serve, tls_context
from holdfast.cli.verb import SIZE, VerbGroup
from holdfast.errors import UsageError

NODE_PORT = 7420


@click.group("node", cls=VerbGroup)
def command() -> None:
    """Lend disk to a network: make a node here, and run it."""


command.add_command(leave)


@command.command("init")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where it keeps data.")
@click.option("--join", metavar="INVITE", help="The network's invite for nodes; '-' reads it from stdin.")
@click.option("--alone", is_flag=True, help="Belong to no network: authorized_keys says who may use this node.")
@click.option("--store", metavar="URL", help="Where blobs are kept: file:///DIR, nats://, s3:// [default: in DIR].")
@click.option("--capacity", type=SIZE, help="Use no more than this [default: what the disk has, less a reserve].")
@click.option("--domain", help="Nodes of one domain may fail together [default: this host].")
@click.option("--always-on", is_flag=True, help="This machine is meant to run all the time: repair waits less for it.")
@click.option("--name", help="What it is called [default: the host's name].")
@current
def init(
    invocation: Invocation,
    data: Path,
    join: str | None,
    alone: bool,
    store: str | None,
    capacity: int | None,
    domain: str | None,
    always_on: bool,
    name: str | None,
) -> None:
    """Make a node in DIR and join the network of the invite, or belong to none with --alone."""
    if (join is None) != alone:
        raise UsageError("Give either --join INVITE or --alone.")
    if join == "-":
        join = sys.stdin.readline()
    invocation.run(_init(invocation, data, join, store, capacity, domain, always_on, name))


async def _init(
    invocation: Invocation,
    data: Path,
    join: str | None,
    store: str | None,
    capacity: int | None,
    domain: str | None,
    always_on: bool,
    name: str | None,
) -> None:
    from holdfast import assemble

    made = await assemble.init_node(
        data, join=join, store=store, name=name, capacity=capacity, domain=domain, always_on=always_on
    )
    if invocation.json:
        document = {"id": str(made.id), "name": made.name, "store": made.store, "domain": made.domain}
        invocation.document({**document, "data": str(data), "coordinator": str(made.coordinator)})
        return
    if join is None:
        invocation.note(f"Node {made.name} is in {data} and belongs to no network. Its id is {made.id}.")
        invocation.note(f"Who may use it stands in {data / 'authorized_keys'}. Run it:")
        invocation.note(f"\n  holdfast node run --data {data} --listen 0.0.0.0:{NODE_PORT}")
        return
    invocation.note(f"Node {made.name} ({made.id.short}) is in {data} and has joined {made.coordinator.short}. Run it:")
    invocation.note(f"\n  holdfast node run --data {data} --listen 0.0.0.0:{NODE_PORT}")


@command.command("run")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where it keeps data.")
@click.option("--advertise", metavar="URL", help="Where others reach it [default: this host's address and the port].")
@click.option("--peer", multiple=True, metavar="URL", help="A peer, [ID@]http://HOST:PORT; may be given again.")
@click.option("--follow", multiple=True, metavar="NAME", help="Keep this manifest here as it is at the peers.")
@click.option("--origin", metavar="TEMPLATE", help="Where to pull what nobody has: a URL with {digest}, or s3://...")
@click.option("--open-read", is_flag=True, default=None, help="Give what no vault owns to everybody.")
@click.option("--mdns", is_flag=True, default=None, help="Find peers on the local network.")
@click.option("--cache", type=SIZE, help="Keep this much of what others asked for [default: 10 % of the capacity].")
@click.option("--build-cache", is_flag=True, default=None, help="Serve Bazel's remote cache over HTTP (and ccache).")
@click.option("--bwlimit", type=SIZE, metavar="RATE", help="Repair takes at most so many bytes a second each way.")
@listening
@current
def run(
    invocation: Invocation,
    data: Path,
    advertise: str | None,
    peer: tuple[str, ...],
    follow: tuple[str, ...],
    origin: str | None,
    open_read: bool | None,
    mdns: bool | None,
    cache: int | None,
    build_cache: bool | None,
    bwlimit: int | None,
    listen: tuple[str, int] | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    metrics: int | None,
    with_parent: bool,
) -> None:
    """Run the node until SIGTERM or ^C; what is under way may finish within 30 s."""
    address = listen_address(listen, NODE_PORT)
    tls = tls_context(tls_cert, tls_key)

    async def work() -> None:
        from holdfast import assemble

        flags: dict[str, Any] = {"advertise": advertise, "peer": peer or None, "follow": follow or None}
        flags["origin"] = origin
        flags |= {"open_read": open_read, "mdns": mdns, "cache": cache, "build_cache": build_cache, "bwlimit": bwlimit}
        config = invocation.config(flags)
        server = await assemble.make_node(data, config, listen=address, tls=tls)
        await serve(invocation, server, role="node", metrics=metrics, with_parent=with_parent, public=address[0])

    invocation.run(work())
