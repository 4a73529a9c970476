"""``holdfast doctor``: looks at this machine, its home and its nodes, and says what to do."""

from __future__ import annotations

import resource
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

import holdfast
from holdfast.cli.invocation import Invocation, current, sentence
from holdfast.cli.status import outbox_words
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, size_words
from holdfast.errors import HoldfastError, NotFound

if TYPE_CHECKING:
    from holdfast.wire.messages import NodeInfo

State: TypeAlias = Literal["ok", "warn", "fail"]

CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 300.0
OPEN_FILES_MIN = 1024
SYNC_ROUNDS = 32
SYNC_FAST_S = 50e-6  # no disk that keeps its word is faster; memory is
SYNC_SLOW_S = 0.1
HOME_FREE_BYTES_MIN = 1 << 30
OUTBOX_OLD_S = 86400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do unless it is ``ok``."""

    check: str
    state: State
    text: str
    advice: str = ""


@click.command("doctor", cls=Verb)
@click.option(
    "--data", multiple=True, type=click.Path(path_type=Path, file_okay=False), help="A node's directory to look at too."
)
@current
def command(invocation: Invocation, data: tuple[Path, ...]) -> None:
    """Check clock, network, disk, keys and limits; each line is ok, warn or fail, with what to do.

    Exit code 1 if a line says fail.
    """
    findings = invocation.run(_run(invocation, data))
    failed = sum(found.state == "fail" for found in findings)
    if invocation.json:
        rows = [
            {"check": found.check, "state": found.state, "text": found.text, "advice": found.advice}
            for found in findings
        ]
        invocation.document({"ok": not failed, "checks": rows})
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for found in findings:
            invocation.marked(f"{found.state:4}", colours[found.state], f"{found.check}: {found.text}")
            if found.state != "ok" and found.advice:
                invocation.data(f"      {found.advice}")
    if failed:
        click.get_current_context().exit(1)


async def _run(invocation: Invocation, data: tuple[Path, ...]) -> list[Finding]:
    found = [_software(), _open_files(), _guarded("settings", lambda: _settings(invocation))]
    found += [item async for item in _home(invocation)]
    for directory in data:
        found += [item async for item in _node(invocation, directory)]
    return found


def _guarded(check: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (HoldfastError, OSError) as error:
        return Finding(check, "fail", sentence(error))


def _software() -> Finding:
    import ssl

    import apsw

    text = f"holdfast {holdfast.__version__}, Python {sys.version.split()[0]}, SQLite {apsw.sqlite_lib_version()}"
    return Finding("versions", "ok", f"{text}, {ssl.OPENSSL_VERSION}")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES_MIN:
        return Finding("open files", "ok", f"at most {soft:,}")
    advice = f"Raise it to {min(4096, hard):,} or more: ulimit -n, or LimitNOFILE= in the unit."
    return Finding("open files", "warn", f"at most {soft:,}", advice)


def _settings(invocation: Invocation) -> Finding:
    config = invocation.config()
    if config.unknown_variables:
        name, near = config.unknown_variables[0]
        return Finding("settings", "warn", f"{name} in the environment is no setting{near}", "Unset or rename it.")
    return Finding("settings", "ok", str(config.path) if config.path.exists() else "all defaults")


async def _home(invocation: Invocation) -> AsyncIterator[Finding]:
    from holdfast import assemble

    home = assemble.home_path(invocation.home)
    if not assemble.has_keys(home):
        yield Finding("home", "warn", f"{home} holds no keys", "To store files from here: holdfast init --join INVITE")
        return
    try:
        facts = assemble.key_facts(home)
        how = "sealed by a passphrase" if facts["sealed"] else "not sealed, mode 0600"
        yield Finding("keys", "ok", f"{home}, {how}")
    except HoldfastError as error:
        yield Finding("keys", "fail", sentence(error), "Put this right first; nothing can be read without the keys.")
        return
    try:
        yield _outbox(await assemble.home_counts(invocation.home))
    except HoldfastError as error:
        yield Finding("outbox", "fail", sentence(error), "What is queued is still there; put the cause right first.")
    free = assemble.space(home).free
    low = free < HOME_FREE_BYTES_MIN
    yield Finding("home's disk", "warn" if low else "ok", f"{size_words(free)} free", "Make room on this disk.")
    try:
        async with await assemble.open_network(invocation.home) as network:
            status = await network.status()
            yield _clock(network.http.clock_offset)
            health = await network.http.health(network.member.urls[0])
            yield _versions(health.version)
            up, copies = status.nodes.get("up", 0), status.policy.survive + 1
            text = f"{count_words(up, 'node')} up, {count_words(copies, 'copy', 'copies')} of everything wanted"
            advice = "Bring nodes back, invite more (holdfast invite node), or lower it: holdfast policy survive N"
            yield Finding("nodes", "ok" if up >= copies else "warn", text, advice)
    except NotFound:
        yield Finding("network", "warn", "this home has joined none", "holdfast init --join INVITE")
    except HoldfastError as error:
        advice = "Is it running? Is its port open on the way from here? Is its address in network.toml right?"
        yield Finding("coordinator", "fail", sentence(error), advice)


def _outbox(counts: Mapping[str, Any]) -> Finding:
    if not counts["waiting"] and not counts["conflict"] and not counts["damaged"]:
        return Finding("outbox", "ok", "nothing waits")
    old = counts["oldest_s"] is not None and counts["oldest_s"] > OUTBOX_OLD_S
    text = outbox_words(counts)
    if counts["conflict"] or counts["damaged"] or old:
        return Finding("outbox", "warn", text, "holdfast outbox ls shows why; then flush, resolve or drop.")
    return Finding("outbox", "ok", text)


def _clock(offset_s: float) -> Finding:
    text = f"{abs(offset_s):.1f} s from the coordinator's" if offset_s else "as the coordinator's"
    state: State = "ok"
    if abs(offset_s) > CLOCK_WARN_S:
        state = "fail" if abs(offset_s) > CLOCK_FAIL_S else "warn"
    return Finding("clock", state, text, "Let the system keep its time: timedatectl set-ntp true")


def _versions(theirs: str) -> Finding:
    ours, other = holdfast.__version__.split("."), theirs.split(".")
    near = ours[0] == other[0] and other[1:2] and abs(int(ours[1]) - int(other[1])) <= 1
    text = f"the coordinator runs {theirs}, this is {holdfast.__version__}"
    return Finding(
        "coordinator", "ok" if near else "warn", text, "One minor version apart works; upgrade the older one."
    )


async def _node(invocation: Invocation, directory: Path) -> AsyncIterator[Finding]:
    from holdfast import assemble

    check = f"node {directory}"
    try:
        facts = assemble.node_facts(directory)
    except HoldfastError as error:
        yield Finding(check, "fail", sentence(error), "Is the right disk mounted?")
        return
    yield Finding(check, "ok", f"{facts.name} ({facts.id.short}), store {facts.store[:12]} is the one it served last")
    for disk in assemble.node_disks(directory):
        space = assemble.space(disk)
        reserve = assemble.reserve_bytes(space.total)
        enough = space.free > reserve
        text = f"{size_words(space.free)} free, {size_words(reserve)} of them are left to others"
        where = "" if disk == directory else f" in {disk}"
        yield Finding(f"space{where}", "ok" if enough else "warn", text, "It takes no more data until there is room.")
        yield _guarded(f"sync{where}", lambda disk=disk, where=where: sync_finding(disk, where))  # type: ignore[misc]
    try:
        async with await assemble.open_network(invocation.home) as network:
            mine = [node for node in await network.nodes() if node.id == facts.id]
            yield _reachable(mine[0] if mine else None)
    except HoldfastError:
        yield Finding(
            "reachable", "warn", "only a home in its network can ask", "holdfast --home HOME doctor --data DIR"
        )


def sync_finding(disk: Path, where: str = "") -> Finding:
    """Times syncs there, and says when they are too fast to be true."""
    from holdfast import assemble

    return _judged(assemble.time_syncs(disk, SYNC_ROUNDS), f"sync{where}")


def _judged(seconds: float, check: str) -> Finding:
    text = f"{seconds * 1000:.2f} ms for 4 KiB"
    if seconds < SYNC_FAST_S:
        advice = "That is memory, not a disk: after a power cut acknowledged data may be gone."
        return Finding(check, "warn", text, advice)
    slow = seconds > SYNC_SLOW_S
    return Finding(check, "warn" if slow else "ok", text, "Puts wait for this disk; is it busy or failing?")


def _reachable(node: NodeInfo | None) -> Finding:
    if node is None:
        return Finding("reachable", "fail", "the coordinator does not know this node", "Has it run yet?")
    if node.state in ("up", "draining", "maintenance", "read-only"):
        return Finding("reachable", "ok", f"{node.state} at {node.url}")
    text = f"{node.state} at {node.url or 'no address'}" + (f": {node.reason}" if node.reason else "")
    return Finding("reachable", "fail", text, "Run it; open its port; or tell others its address with --advertise URL.")
