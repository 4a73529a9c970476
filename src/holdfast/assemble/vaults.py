"""Vaults: the client over a home, with what it needs to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from holdfast.assemble.homes import coordinator_urls, home_path, is_sealed, keep_urls
from holdfast.assemble.machine import THIS_MACHINE, Machine
from holdfast.assemble.outboxes import outbox_door
from holdfast.client.device import home as homes
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.settings import ClientSettings
from holdfast.client.names.index import Index
from holdfast.client.vault import Vault
from holdfast.codec.keys import VaultKeys
from holdfast.config import Config
from holdfast.errors import BadConfig
from holdfast.pool import Pool
from holdfast.wire.http import HttpClient, checked_url
from holdfast.wire.throttle import Throttle

BWLIMIT_BYTES_MIN = 32 << 10
"""Three packs with ten copies each, all sent at once, still come as fast as nodes ask (``SHARED_BYTES_PER_S_MIN``)."""


class OpenVault(Vault):
    """A vault that also closes the threads that were made for it, whatever happens on the way."""

    _pool: Pool

    async def __aenter__(self) -> Self:
        return self

    async def close(self) -> None:
        """Ends what is under way and writes the index. May be called twice."""
        try:
            await super().close()
        finally:
            await self._http.close()
            self._pool.close()


V = TypeVar("V", bound=OpenVault)


async def open_vault(
    home: Path | None = None,
    *,
    kind: type[V],
    ask: Callable[[], str | None] = lambda: None,
    coordinator: str | None = None,
    config: Config | None = None,
    outbox: bool = True,
    machine: Machine = THIS_MACHINE,
) -> V:
    """The vault of a home; ``ask`` is asked for the passphrase of a sealed key file. Nothing is sent yet.

    ``coordinator``: an address that is tried first. ``outbox``: writes that the network does not take are queued in the
    home. NotFound without a home, WrongPassphrase, BadConfig.
    """
    path = home_path(home)
    config = config or Config.load(path)
    settings = config.section(ClientSettings)
    passphrase = ask() if is_sealed(path) else None
    pool = machine.pool(None, "vault")
    try:
        found = await pool.run(homes.load_home, machine.files, path, passphrase)
        await pool.run(machine.files.make_directory, found.index_path.parent)
    except BaseException:
        pool.close()
        raise
    limit = settings.bwlimit_bytes
    if limit and limit < BWLIMIT_BYTES_MIN:
        raise BadConfig(f"bwlimit: {limit} bytes a second is too little; at least 32 KiB are needed")
    upload = Throttle(machine.clock, limit) if limit else None
    http = HttpClient(identity=found.device, network=machine.network, clock=machine.clock, upload=upload)
    member = found.membership
    urls = coordinator_urls([*([checked_url(coordinator)] if coordinator else []), *member.urls])
    return kind(
        keys=VaultKeys(found.root),
        device=found.device,
        certificate=member.certificate,
        http=http,
        coordinators=Coordinators(
            http, member.coordinator, urls, timeout_s=settings.coordinator_s, keep=keep_urls(path, machine)
        ),
        index=Index(found.index_path, machine.files, machine.pool(1, "index"), machine.clock.now),
        pool=pool,
        clock=machine.clock,
        randomness=machine.randomness,
        files=machine.files,
        settings=settings,
        outbox=outbox_door(path, found.device, http, config, pool, machine) if outbox else None,
    )
