"""How ``coordinator run`` and ``node run`` live: start, say so, wait for a signal, finish what is under way, exit 0."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from holdfast.cli.invocation import Invocation
from holdfast.cli.verb import LISTEN
from holdfast.errors import BadConfig

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from holdfast.auth.identity import Id
    from holdfast.wire.network import Listener


DESCRIPTORS = 16_384


class Server(Protocol):
    """What a run verb runs; ``assemble`` makes it. ``secure``: it has TLS."""

    id: Id
    name: str
    secure: bool

    @property
    def url(self) -> str:
        """Where others reach it; known once it has started."""
        ...

    async def start(self) -> Listener: ...

    async def start_metrics(self, port: int) -> Listener:
        """Serves /metrics on loopback."""
        ...

    async def stop(self) -> None:
        """Finishes what is under way within 30 s, says goodbye and closes everything. May be called twice."""
        ...


def listening(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of every verb that serves."""
    for option in (
        click.option("--listen", type=LISTEN, metavar="HOST:PORT", help="Where to serve [default: loopback]."),
        click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM); with --tls-key."),
        click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM)."),
        click.option("--metrics", type=click.IntRange(0, 65535), metavar="PORT", help="Serve /metrics on loopback."),
        click.option("--with-parent", is_flag=True, hidden=True, help="Stop when stdin is closed."),
    ):
        command = option(command)
    return command


def listen_address(given: tuple[str, int] | None, port_default: int) -> tuple[str, int]:
    """``--listen``, else loopback with the environment's PORT, else with the role's own port."""
    if given is not None:
        return given
    port = os.environ.get("PORT", "")
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise BadConfig(f"PORT={port!r} in the environment is not a port")
    return "127.0.0.1", int(port) if port else port_default


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """From ``--tls-cert`` and ``--tls-key``, which go together; None without them."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadConfig("--tls-cert and --tls-key are needed together")
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"{certificate}, {key}: {error.strerror or error}") from error
    return context


async def serve(
    invocation: Invocation,
    server: Server,
    *,
    role: str,
    public: str,
    metrics: int | None,
    with_parent: bool,
) -> None:
    """Runs ``server`` until SIGTERM, SIGINT or, with ``with_parent``, the end of stdin; a second signal ends at once.

    ``public``: the host that it listens on.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if with_parent:
        await loop.connect_read_pipe(lambda: _ParentWatch(stopping), sys.stdin)
    from holdfast.config import is_loopback

    if not server.secure and not is_loopback(public):
        invocation.note(f"{public} is served without TLS: what passes is signed, but readable on the way.")
    allow_descriptors()
    try:
        listener = await server.start()
        if metrics is not None:
            found = await server.start_metrics(metrics)
            invocation.note(f"metrics on http://{found.host}:{found.port}/metrics")
        _settle_memory()
        announce(invocation, role, server, listener)
        await stopping.wait()
        invocation.note("stopping: what is under way may finish")
    finally:
        await server.stop()


def allow_descriptors() -> None:
    """As many descriptors as the system lets this process have, within reason: the usual 1,024 are for programs that
    use select(), and a thousand slow clients would use them up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _settle_memory() -> None:
    """What is loaded by now lives as long as the process: the collector need not look at it again and again.

    With Python's own thresholds a tenth of a small request's time went into that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def announce(invocation: Invocation, role: str, server: Server, listener: Listener) -> None:
    """Says that the server is ready; a program that started it reads this line from stdout."""
    if invocation.json:
        ready = {"event": "ready", "role": role, "id": str(server.id), "name": server.name, "url": server.url}
        invocation.document({**ready, "host": listener.host, "port": listener.port, "pid": os.getpid()})
        sys.stdout.flush()
    else:
        invocation.note(f"{role} {server.name} ({server.id.short}) serves on {listener.host}:{listener.port}")


class _ParentWatch(asyncio.Protocol):
    """Sees the end of stdin: the process that started this one is gone, however it went."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    def connection_lost(self, exc: Exception | None) -> None:
        self._stopping.set()
