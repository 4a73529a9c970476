"""``holdfast coordinator``: make or run the registry of a network, and bring it back when it was lost."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.serving import listen_address, listening, serve, tls_context
from holdfast.cli.verb import VerbGroup
from holdfast.errors import BadConfig

if TYPE_CHECKING:
    from holdfast.assemble import CoordinatorRebuilt
    from holdfast.config import Config
    from holdfast.coordinator.loss.backup import BackupFacts
    from holdfast.coordinator.loss.recovery import Recovered

COORDINATOR_PORT = 7430


DATABASE = click.option(
    "--database", metavar="URL", help="postgresql://USER@HOST/NAME, without password [default: SQLite in --data]."
)


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
@click.option(
    "--standby-of",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="A second home of the coordinator in DIR (or a copy of its identity.key there), on the same PostgreSQL.",
)
@DATABASE
@current
def init(
    invocation: Invocation,
    data: Path,
    advertise: str,
    survive: int | None,
    name: str | None,
    standby_of: Path | None,
    database: str | None,
) -> None:
    """Make a coordinator in DIR and print the invites to begin with.

    The line for nodes is good for 10 machines and a day. The line for you makes your home's device the operator,
    who may invite others and change the policy.
    """
    if standby_of is not None:
        invocation.run(_init_standby(invocation, data, standby_of, advertise, database))
    else:
        invocation.run(_init(invocation, data, advertise, survive, name, database))


async def _init_standby(invocation: Invocation, data: Path, source: Path, advertise: str, database: str | None) -> None:
    from holdfast import assemble

    below = _database(invocation, database)
    if not below:
        raise BadConfig("a standby shares its PostgreSQL with the coordinator that works: name it with --database")
    urls = await assemble.init_standby(data, source, advertise=advertise, database=below)
    if invocation.json:
        invocation.document({"data": str(data), "urls": urls})
        return
    invocation.note(f"A standby is in {data}. The network hears by itself of all addresses: {', '.join(urls)}.")
    invocation.note("Now run it:\n")
    more = f" --database {shlex.quote(database)}" if database else ""
    invocation.data(f"  holdfast coordinator run --data {data} --listen 0.0.0.0:{COORDINATOR_PORT}{more}")


async def _init(
    invocation: Invocation, data: Path, advertise: str, survive: int | None, name: str | None, database: str | None
) -> None:
    from holdfast import assemble

    made = await assemble.init_coordinator(
        data, advertise=advertise, survive=survive, name=name, database=_database(invocation, database)
    )
    if invocation.json:
        document = {"id": str(made.id), "name": made.name, "url": made.url, "data": str(data)}
        invocation.document({**document, "survive": made.survive, "invites": made.invites})
        return
    invocation.note(f"Coordinator {made.name} ({made.id.short}) is in {data}; survive {made.survive}. Now run it:\n")
    more = f" --database {shlex.quote(database)}" if database else ""
    invocation.note(f"  holdfast coordinator run --data {data} --listen 0.0.0.0:{COORDINATOR_PORT}{more}\n")
    invocation.note("On each machine that lends disk (10 machines, one day):\n")
    invocation.data(f"  holdfast node init --data DIR --join {made.invites['node']}\n")
    invocation.note("On your own machine (once, one day; it becomes the operator's):\n")
    invocation.data(f"  holdfast init --join {made.invites['operator']}")


@command.command("run")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its directory.")
@click.option("--survive", type=click.IntRange(0, 64), help="Change the policy before the start.")
@DATABASE
@listening
@current
def run(
    invocation: Invocation,
    data: Path,
    survive: int | None,
    database: str | None,
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

        config = invocation.config({"database": database})
        server = await assemble.make_coordinator_server(data, config, listen=address, tls=tls, survive=survive)
        await serve(invocation, server, role="coordinator", metrics=metrics, with_parent=with_parent, public=address[0])

    invocation.run(work())


DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its directory.")
FORCE = click.option("--force", is_flag=True, help="With fewer nodes than it takes to be sure that nothing is lost.")


@command.command("backup")
@DATA
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to make."
)
@current
def backup(invocation: Invocation, data: Path, output: Path) -> None:
    """Write the coordinator in DIR, running or not, into one file: its database and its key.

    Whoever has the file can be this coordinator, so keep it as you keep a key.
    """
    invocation.run(_backup(invocation, data, output))


async def _backup(invocation: Invocation, data: Path, output: Path) -> None:
    from holdfast import assemble

    if _database(invocation, None):
        raise BadConfig("this coordinator's database is a PostgreSQL: use pg_dump, and keep identity.key too")
    made = await assemble.backup_coordinator(data, output)
    if invocation.json:
        invocation.document({"file": str(output), **_facts(made)})
        return
    invocation.note(f"{output}: {made.size:,} bytes, coordinator {made.coordinator.short} as of {_moment(made)}.")


@command.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@DATA
@current
def restore(invocation: Invocation, file: Path, data: Path) -> None:
    """Make the coordinator of a backup again in DIR.

    If the network has gone on since the backup was made, follow with: holdfast coordinator recover.
    """
    invocation.run(_restore(invocation, file, data))


async def _restore(invocation: Invocation, file: Path, data: Path) -> None:
    from holdfast import assemble

    made = await assemble.restore_coordinator(file, data)
    if invocation.json:
        invocation.document({"data": str(data), **_facts(made)})
        return
    invocation.note(f"Coordinator {made.coordinator.short} is in {data}, as of {_moment(made)}.")
    invocation.note("What nodes have seen since then comes back with the next command, before it runs again:\n")
    invocation.data(f"  holdfast coordinator recover --data {data}")


@command.command("copy")
@click.option("--from", "source", metavar="URL", required=True, help="sqlite:PATH or postgresql://USER@HOST/NAME.")
@click.option("--to", "target", metavar="URL", required=True, help="The same; it must be empty.")
@current
def copy(invocation: Invocation, source: str, target: str) -> None:
    """Copy a coordinator's database to another kind, and compare both: counts and digests of all rows.

    No coordinator may run on either. Afterwards run the coordinator on the copy, and never again on what was copied.
    """
    invocation.run(_copy(invocation, source, target))


async def _copy(invocation: Invocation, source: str, target: str) -> None:
    from holdfast import assemble

    sums = await assemble.copy_coordinator(source, target)
    if invocation.json:
        invocation.document({"tables": [{"table": one.table, "rows": one.rows, "digest": one.digest} for one in sums]})
        return
    for one in sums:
        invocation.data(f"{one.table:<16} {one.rows:>12,} {one.digest}")
    invocation.note("Both databases hold the same. From now on, run the coordinator on the copy only.")


@command.command("recover")
@DATA
@click.option("--nodes", metavar="URL,...", default="", help="Further addresses of nodes, if they have moved.")
@DATABASE
@FORCE
@current
def recover(invocation: Invocation, data: Path, nodes: str, database: str | None, force: bool) -> None:
    """Bring an old copy of a coordinator up to date with its nodes, so that it may act again.

    The coordinator must be stopped and the nodes must run. Nothing is deleted; for a week nothing is let go of.
    """
    invocation.run(_recover(invocation, data, nodes, database, force))


async def _recover(invocation: Invocation, data: Path, nodes: str, database: str | None, force: bool) -> None:
    from holdfast import assemble

    config = invocation.config({"database": database})
    done = await assemble.recover_coordinator(data, config, nodes=_urls(nodes), force=force)
    if invocation.json:
        invocation.document({"data": str(data), **_recovered(done)})
        return
    if not done.changed:
        invocation.note("No node has heard of more than this coordinator knows: there is nothing to recover.")
        return
    _say(invocation, done, data)


@command.command("rebuild")
@DATA
@click.option("--nodes", metavar="URL,...", required=True, help="Addresses of nodes; the others are found by them.")
@click.option("--advertise", metavar="URL", help="Where this coordinator is reached, if that has changed.")
@click.option("--survive", type=click.IntRange(0, 64), help="The policy [default: as it was, or 4].")
@DATABASE
@FORCE
@current
def rebuild(
    invocation: Invocation,
    data: Path,
    nodes: str,
    advertise: str | None,
    survive: int | None,
    database: str | None,
    force: bool,
) -> None:
    """Make a lost database again from what the nodes hold.

    DIR must hold the coordinator's identity.key, because nodes and devices believe no other. Names come back up to the
    last minute; what is newer, each vault's devices bring back from its packs by themselves.
    """
    config = invocation.config({"database": database})
    invocation.run(_rebuild(invocation, config, data, nodes, advertise, survive, force))


async def _rebuild(
    invocation: Invocation,
    config: Config,
    data: Path,
    nodes: str,
    advertise: str | None,
    survive: int | None,
    force: bool,
) -> None:
    from holdfast import assemble

    made = await assemble.rebuild_coordinator(
        data, config, nodes=_urls(nodes), advertise=advertise, survive=survive, force=force
    )
    if invocation.json:
        invocation.document(
            {
                "data": str(data),
                "name": made.name,
                "url": made.url,
                **_recovered(made.recovered),
                "invites": made.invites,
            }
        )
        return
    _say(invocation, made.recovered, data)
    _invites(invocation, made)


def _database(invocation: Invocation, flag: str | None) -> str:
    from holdfast.coordinator.settings import CoordinatorSettings

    return invocation.config({"database": flag}).section(CoordinatorSettings).database


def _urls(text: str) -> list[str]:
    return [url for part in text.split(",") if (url := part.strip())]


def _facts(made: BackupFacts) -> dict[str, object]:
    return {
        "id": str(made.coordinator), "made": made.made, "epoch": made.epoch, "commit": made.commit, "size": made.size,
    }  # fmt: skip


def _moment(made: BackupFacts) -> str:
    return datetime.fromtimestamp(made.made, UTC).isoformat(sep=" ", timespec="seconds")


def _recovered(done: Recovered) -> dict[str, object]:
    return {
        "changed": done.changed, "epoch": done.epoch, "commit": done.commit, "known_to": done.known_to,
        "nodes": done.nodes, "silent": dict(done.silent), "vaults": done.vaults, "refs": done.refs,
        "packs": done.packs, "adopted": done.adopted,
    }  # fmt: skip


def _say(invocation: Invocation, done: Recovered, data: Path) -> None:
    invocation.note(
        f"{done.nodes} nodes hold {done.packs:,} packs; their reflog tells {done.refs:,} names of {done.vaults} vaults "
        f"up to commit {done.known_to:,}. Epoch {done.epoch} begins."
    )
    for url, why in done.silent.items():
        invocation.note(f"silent: {url}: {why}")
    if done.adopted:
        invocation.note(
            f"{done.adopted:,} packs may bring names that are newer: the next device of each vault looks, by itself."
        )
    invocation.note(f"Nothing is let go of for a week. Now run it:\n\n  holdfast coordinator run --data {data}\n")


def _invites(invocation: Invocation, made: CoordinatorRebuilt) -> None:
    invocation.note("Invites of the lost database are void. For nodes (10 machines, one day), and for you (once):\n")
    invocation.data(f"  holdfast node init --data DIR --join {made.invites['node']}\n")
    invocation.data(f"  holdfast init --join {made.invites['operator']}")
