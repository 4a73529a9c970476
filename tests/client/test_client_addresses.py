"""Where the coordinator is reached: tried in order, and learnt anew from its signed answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.client.fleet import Fleet

from holdfast import assemble
from holdfast.client.device.home import read_membership
from holdfast.files import OsFiles


def urls_of(home: Path) -> tuple[str, ...]:
    return read_membership(OsFiles(), home).urls


def move(fleet: Fleet, *urls: str) -> None:
    """The coordinator says these from now on."""
    app: Any = fleet.coordinator.app  # type: ignore[union-attr]
    app.state.urls = list(urls)


async def test_a_put_writes_down_what_the_coordinator_signs(small_fleet: Fleet) -> None:
    home = (await small_fleet.home()).path
    before = (home / "network.toml").read_bytes()
    async with await assemble.open_vault(home, kind=assemble.OpenVault) as vault:
        await vault.put(b"x", "name")
    assert (home / "network.toml").read_bytes() == before  # nothing new was said
    move(small_fleet, "http://new.example:7430", "https://other.example")
    async with await assemble.open_vault(home, kind=assemble.OpenVault) as vault:
        await vault.put(b"y", "name")
        # The address that answered is kept: a coordinator may not know how it is reached from here.
        assert urls_of(home) == ("http://new.example:7430", "https://other.example", small_fleet.url)
        assert vault.coordinators.urls == [small_fleet.url, "http://new.example:7430", "https://other.example"]
        move(small_fleet, "http://third.example")
        await vault.put(b"z" * 100_000, "other")
        assert len(urls_of(home)) == 3  # once in a run
    assert (home / "network.toml").stat().st_mode & 0o777 == 0o600
    move(small_fleet, small_fleet.url)
    async with await assemble.open_network(home) as view:
        await view.status()
    assert urls_of(home) == (small_fleet.url,)


async def test_an_address_given_for_one_run_is_not_kept(small_fleet: Fleet) -> None:
    home = (await small_fleet.home()).path
    port = small_fleet.url.rpartition(":")[2]
    given = f"http://localhost:{port}"
    async with await assemble.open_vault(home, kind=assemble.OpenVault, coordinator=given) as vault:
        await vault.put(b"x", "name")
        assert vault.coordinators.urls[0] == given
    assert urls_of(home) == (small_fleet.url,)


async def test_what_is_no_address_is_left_alone(small_fleet: Fleet) -> None:
    home = (await small_fleet.home()).path
    before = (home / "network.toml").read_bytes()
    move(small_fleet, "ftp://x/", "http://good.example")
    async with await assemble.open_vault(home, kind=assemble.OpenVault) as vault:
        await vault.put(b"x", "name")
    assert (home / "network.toml").read_bytes() == before


async def test_a_home_that_cannot_be_written_is_no_error(small_fleet: Fleet) -> None:
    home = (await small_fleet.home()).path
    move(small_fleet, "http://new.example:7430")
    async with await assemble.open_vault(home, kind=assemble.OpenVault) as vault:
        temporary = home / f".network.toml.{os.getpid()}.new"
        temporary.mkdir()  # in the way, also of root
        await vault.put(b"x", "name")
        assert await vault.read("name") == b"x"
        temporary.rmdir()
    assert urls_of(home) == (small_fleet.url,)
