"""Homes: keys, membership, and questions to the network that need no vault."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.auth.identity import Id, Identity
from holdfast.client.device import home as homes
from holdfast.client.device import keyfile
from holdfast.client.device import network as membership
from holdfast.client.device.coordinators import Coordinators, KeepUrls
from holdfast.client.device.network import NetworkCalls, Seams
from holdfast.clock import Randomness
from holdfast.codec.keys import VaultKeys
from holdfast.config import default_home
from holdfast.errors import BadConfig, NotFound, WrongPassphrase
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target, checked_url

_files = THIS_MACHINE.files


def home_path(given: Path | None) -> Path:
    """``--home``, HOLDFAST_HOME or the system's place for a user's data."""
    return given or default_home(os.environ)


def has_keys(home: Path) -> bool:
    """Were keys made in this home?"""
    return _files.size(homes.vault_key(home)) is not None


def is_sealed(home: Path) -> bool:
    """Does its key file ask for a passphrase? False without one."""
    return has_keys(home) and keyfile.is_sealed(_files, homes.vault_key(home))


def key_facts(home: Path) -> dict[str, Any]:
    """What may be shown of a home's keys without opening them; NotFound without a key file."""
    facts: dict[str, Any] = {"home": str(home), "sealed": keyfile.is_sealed(_files, homes.vault_key(home))}
    facts["device"] = str(keyfile.read_device(_files, homes.device_key(home)).id)
    with contextlib.suppress(NotFound):
        found = homes.read_membership(_files, home)
        facts |= {"vault": str(found.vault), "coordinator": str(found.coordinator), "urls": " ".join(found.urls)}
    return facts


def _root(home: Path, ask: Callable[[], str | None]) -> bytes:
    return keyfile.read_root(_files, homes.vault_key(home), ask() if is_sealed(home) else None)


def recovery_words(home: Path, ask: Callable[[], str | None]) -> list[str]:
    """The 24 words; ``ask`` is asked for the passphrase of a sealed key file."""
    return keyfile.to_words(_root(home, ask))


def change_passphrase(home: Path, old: str | None, new: str | None) -> None:
    """Seals the key file anew; without ``new`` it is left open. WrongPassphrase."""
    keyfile.change_passphrase(_files, homes.vault_key(home), old, new, THIS_MACHINE.randomness)


def check_key(home: Path, ask: Callable[[], str | None], words: str | None) -> None:
    """WrongPassphrase unless the key file opens and, if given, ``words`` are its own."""
    root = _root(home, ask)
    keyfile.read_device(_files, homes.device_key(home))
    if words is not None and keyfile.from_words(words) != root:
        raise WrongPassphrase("These words belong to another vault than this key file.")


@dataclass(frozen=True, slots=True)
class HomeMade:
    """A home's ids. ``new``: its keys were made now; ``words`` are then those of a new vault."""

    vault: Id
    device: Id
    new: bool
    joined: bool
    words: list[str]


async def init_home(
    home: Path,
    *,
    join: str | None,
    words: str | None = None,
    passphrase: str | None = None,
    again: bool = False,
    machine: Machine = THIS_MACHINE,
) -> HomeMade:
    """Makes keys in ``home`` and joins the network of the invite, if there is one.

    ``words`` recover a vault. ``again``: a home that has joined already is left as it is, instead of Exists.
    """
    new = not has_keys(home)
    if again and machine.files.size(homes.network_file(home)) is not None:
        found = homes.load_home(machine.files, home, passphrase)
        return HomeMade(found.membership.vault, found.device.id, False, True, [])
    if join is None:
        device, root = _make_keys(home, words, passphrase, machine)
        return HomeMade(VaultKeys(root).vault, device, new, False, keyfile.to_words(root) if new else [])
    pool = machine.pool(2, "init")
    try:
        seams = Seams(machine.files, machine.clock, machine.randomness, pool, machine.network)
        made = await membership.init_home(home, join, seams, words=words, passphrase=passphrase)
        return HomeMade(made.membership.vault, made.device.id, new, True, keyfile.to_words(made.root) if new else [])
    finally:
        pool.close()


def _make_keys(home: Path, words: str | None, passphrase: str | None, machine: Machine) -> tuple[Id, bytes]:
    machine.files.make_directory(home)
    root = keyfile.from_words(words) if words is not None else machine.randomness.bytes(keyfile.ROOT_BYTES)
    keyfile.write_root(machine.files, homes.vault_key(home), root, passphrase, machine.randomness)
    try:
        device = keyfile.read_device(machine.files, homes.device_key(home))
    except NotFound:
        device = Identity.generate(machine.randomness)
        keyfile.write_device(machine.files, homes.device_key(home), device)
    return device.id, root


class NetworkView(NetworkCalls):
    """A member's questions to its network. ``async with`` closes it."""

    def __init__(
        self, coordinators: Coordinators, http: HttpClient, member: homes.Membership, randomness: Randomness
    ) -> None:
        super().__init__(coordinators, randomness)
        self.http = http
        self.member = member

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def overview(self, node: m.NodeInfo) -> m.NodeOverview:
        """What ``node`` says of itself now; Unavailable if it does not answer."""
        return await self.http.call(Target(node.id, node.url), routes.INFO, grant=self.member.certificate, tries=1)


async def open_network(home: Path | None = None, *, machine: Machine = THIS_MACHINE) -> NetworkView:
    """The network of a home, seen with its device key; no passphrase is needed. NotFound without a home."""
    path = home_path(home)
    member = homes.read_membership(machine.files, path)
    device = keyfile.read_device(machine.files, homes.device_key(path))
    http = HttpClient(identity=device, network=machine.network, clock=machine.clock)
    urls = coordinator_urls(member.urls)
    coordinators = Coordinators(http, member.coordinator, urls, keep=keep_urls(path, machine))
    return NetworkView(coordinators, http, member, machine.randomness)


def keep_urls(home: Path, machine: Machine) -> KeepUrls:
    """Writes the coordinator's new addresses into the home's ``network.toml``."""

    async def keep(urls: Sequence[str], answered: str) -> None:
        pool = machine.pool(1, "network")
        try:
            await pool.run(homes.refresh_urls, machine.files, home, urls, answered)
        except OSError as error:
            raise BadConfig(f"{homes.network_file(home)}: {error.strerror or error}") from error
        finally:
            pool.close()

    return keep


def coordinator_urls(urls: Sequence[str]) -> list[str]:
    """HOLDFAST_COORDINATOR is tried before what the home knows."""
    given = os.environ.get("HOLDFAST_COORDINATOR")
    return list(dict.fromkeys([*([checked_url(given)] if given else []), *urls]))
