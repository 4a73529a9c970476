"""Ways of finding peers: a list of addresses, the coordinator's registry, the local network (mDNS)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.errors import BadConfig, BadRequest, HoldfastError, Unavailable
from holdfast.peers.directory import Address
from holdfast.peers.neighbours import Find
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target, checked_url

SERVICE = "_holdfast._tcp.local."
GONE_STATES = frozenset({"out", "draining"})

_log = logs.get_logger(__name__)


def parse_peer(text: str) -> Address:
    """``http://HOST:PORT``, or ``ID@http://HOST:PORT`` to accept nobody else there; BadConfig."""
    id_text, _, url = text.rpartition("@")
    try:
        return Address(checked_url(url), Id.parse(id_text) if id_text else None)
    except BadRequest as error:
        raise BadConfig(f"the peer {text!r}: {error.detail}") from error


def listed(peers: Sequence[str]) -> Find:
    """The peers of a setting; BadConfig for a text that names none."""
    addresses = [parse_peer(text) for text in peers]

    async def find() -> Sequence[Address]:
        return addresses

    return find


def registry(http: HttpClient, coordinators: Callable[[], Sequence[Target]]) -> Find:
    """The members that the coordinator knows; the last list is used while it does not answer."""

    async def find() -> Sequence[Address]:
        error: HoldfastError = Unavailable("no address of the coordinator is known")
        for target in coordinators():
            try:
                answer = await http.call(target, routes.NODES, tries=1)
            except HoldfastError as caught:
                error = caught
                continue
            return [
                Address(checked_url(node.url), node.id, node.name)
                for node in answer.nodes
                if node.url and node.state not in GONE_STATES
            ]
        raise Unavailable(f"the coordinator's list of nodes: {error.detail}") from error

    return find


class Mdns:
    """Shows this node on the local network and finds others there. Needs zeroconf, the extra ``mdns``.

    Anybody on the network may show anything: what is found is asked who it is, and its blobs are checked.
    """

    def __init__(self, me: Id, name: str, url: str, *, found: Callable[[], None] = lambda: None) -> None:
        """``url``: where others reach this node. ``found`` is called when somebody has shown itself."""
        self._tell = found
        self._me = me
        self._name = name
        self._url = url
        self._zeroconf: Any = None
        self._browser: Any = None
        self._found: dict[str, Address] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """BadConfig without zeroconf; Unavailable if the network does not allow it."""
        try:
            from zeroconf import ServiceStateChange  # type: ignore[import-not-found,unused-ignore]
            from zeroconf.asyncio import (  # type: ignore[import-not-found,unused-ignore]
                AsyncServiceBrowser,
                AsyncServiceInfo,
                AsyncZeroconf,
            )
        except ImportError as error:
            raise BadConfig("finding peers by mDNS needs zeroconf: pip install 'holdfast[mdns]'") from error
        parts = urlsplit(self._url)
        try:
            address = ipaddress.ip_address(parts.hostname or "")
        except ValueError as error:
            raise BadConfig(f"mDNS needs an address, not a name, in the advertised {self._url}") from error
        info = AsyncServiceInfo(
            SERVICE,
            f"holdfast-{self._me.short}.{SERVICE}",
            addresses=[address.packed],
            port=parts.port or 80,
            properties={"id": str(self._me), "scheme": parts.scheme, "name": self._name},
        )

        def changed(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
            if state_change is ServiceStateChange.Removed:
                self._found.pop(name, None)
                return
            task = asyncio.get_running_loop().create_task(self._look(zeroconf, service_type, name, AsyncServiceInfo))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        try:
            self._zeroconf = AsyncZeroconf()
            await self._zeroconf.async_register_service(info)
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[changed])
        except OSError as error:
            raise Unavailable(f"mDNS does not work here: {error.strerror or error}") from error

    async def find(self) -> Sequence[Address]:
        """What shows itself now."""
        return list(self._found.values())

    async def close(self) -> None:
        """May be called twice, and before ``start``."""
        for task in list(self._tasks):
            task.cancel()
        if self._zeroconf is not None:
            zeroconf, self._zeroconf = self._zeroconf, None
            if self._browser is not None:
                await self._browser.async_cancel()
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()

    async def _look(self, zeroconf: Any, service_type: str, name: str, kind: Any) -> None:
        info = kind(service_type, name)
        if await info.async_request(zeroconf, 3000):
            address = address_of(info.properties, info.parsed_addresses(), info.port)
            if address is not None and address.id != self._me:
                self._found[name] = address
                _log.info("peer_shown", id=str(address.id), url=address.url)
                self._tell()


def address_of(properties: dict[bytes, bytes | None], addresses: Sequence[str], port: int) -> Address | None:
    """The peer that an mDNS record shows; None for a record that is not right."""
    fields = {
        key.decode("ascii", "replace"): (value or b"").decode("utf-8", "replace") for key, value in properties.items()
    }
    scheme = fields.get("scheme", "http")
    try:
        id_ = Id.parse(fields.get("id", ""))
        host = str(ipaddress.ip_address(addresses[0].partition("%")[0]))
        url = checked_url(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    except (BadRequest, BadConfig, ValueError, IndexError):
        return None
    return Address(url, id_, "".join(char for char in fields.get("name", "") if char.isprintable())[:128])
