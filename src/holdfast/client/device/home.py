"""A home: the directory that holds a vault's keys and its membership of a network.

``vault.key`` and ``device.key`` (keyfile.py) and ``network.toml``: the coordinator's addresses, tried in order,
its pinned id and this device's countersigned certificate. Functions here block; call them in a pool.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.auth.certificates import Certificate, open_countersigned
from holdfast.auth.documents import from_text, to_text
from holdfast.auth.identity import Id, Identity
from holdfast.client.device import keyfile
from holdfast.errors import BadConfig, BadRequest, Denied, NotFound
from holdfast.files import Files, read_file, write_file
from holdfast.wire.http import checked_url

NETWORK_VERSION = 1
NETWORK_BYTES_MAX = 64 << 10

_NETWORK_HEAD = "# Which network this home belongs to. The coordinator's id is pinned: no other is believed.\n"


@dataclass(frozen=True, slots=True)
class Membership:
    """What ``network.toml`` holds. ``certificate``: the countersigned envelope; ``document`` what it says."""

    coordinator: Id
    urls: tuple[str, ...]
    certificate: bytes
    document: Certificate

    @property
    def vault(self) -> Id:
        return self.document.vault


@dataclass(frozen=True, slots=True)
class Home:
    """An opened home. ``root`` is secret."""

    path: Path
    root: bytes
    device: Identity
    membership: Membership

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r}, keys not shown)"

    @property
    def index_path(self) -> Path:
        return self.path / "vaults" / str(self.membership.vault) / "index.db"


def vault_key(home: Path) -> Path:
    return home / "vault.key"


def device_key(home: Path) -> Path:
    return home / "device.key"


def network_file(home: Path) -> Path:
    return home / "network.toml"


def write_membership(files: Files, home: Path, membership: Membership) -> None:
    """Replaces ``network.toml``, durable."""
    urls = ", ".join(_quoted(url) for url in membership.urls)
    text = (
        f"{_NETWORK_HEAD}version = {NETWORK_VERSION}\ncoordinator = {_quoted(str(membership.coordinator))}\n"
        f"urls = [{urls}]\ncertificate = {_quoted(to_text(membership.certificate))}\n"
    )
    write_file(files, network_file(home), text.encode())


def read_membership(files: Files, home: Path) -> Membership:
    """NotFound without one; BadConfig names the field that is wrong."""
    path = network_file(home)
    data = read_file(files, path, NETWORK_BYTES_MAX)
    if data is None:
        raise NotFound(f"no holdfast home at {home}; make one with: holdfast init --join INVITE")
    try:
        fields: dict[str, Any] = tomllib.loads(data.decode())
        if fields.get("version") != NETWORK_VERSION:
            raise BadConfig(f"{path}: version {fields.get('version')!r}; this holdfast reads {NETWORK_VERSION}")
        coordinator = Id.parse(fields["coordinator"])
        urls = tuple(checked_url(url) for url in fields["urls"])
        envelope = from_text(fields["certificate"])
        document, _ = open_countersigned(envelope, coordinator)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadConfig(f"{path}: {type(error).__name__}: {error}") from error
    except (BadRequest, Denied) as error:
        raise BadConfig(f"{path}: {error.detail}") from error
    if not urls:
        raise BadConfig(f"{path}: urls: at least one address of the coordinator is needed")
    return Membership(coordinator, urls, envelope, document)


def refresh_urls(files: Files, home: Path, urls: Sequence[str], answered: str) -> bool:
    """Writes the coordinator's addresses, as it has signed them, into ``network.toml``; was it another list?

    An address of the old list that has just answered is kept behind them: a coordinator may not know how it is reached.
    """
    member = read_membership(files, home)
    fresh = tuple(dict.fromkeys((*urls, *([answered] if answered in member.urls else []))))
    if not urls or fresh == member.urls:
        return False
    write_membership(files, home, replace(member, urls=fresh))
    return True


def load_home(files: Files, home: Path, passphrase: str | None = None) -> Home:
    """An existing home with its keys. NotFound, WrongPassphrase, or BadConfig when a file does not fit the others."""
    membership = read_membership(files, home)
    root = keyfile.read_root(files, vault_key(home), passphrase)
    device = keyfile.read_device(files, device_key(home))
    if membership.document.device != device.id:
        raise BadConfig(f"{network_file(home)} is the certificate of another device than {device_key(home)}")
    return Home(home, root, device, membership)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
