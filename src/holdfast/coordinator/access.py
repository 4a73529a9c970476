"""Who may do what: vaults, devices and their rights, kept in memory and in the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.auth.certificates import DELETE, READ, WRITE
from holdfast.auth.identity import Id
from holdfast.errors import Denied, Unauthorized

ANY_RIGHT = READ | WRITE | DELETE

_WORDS = {READ: "read", WRITE: "write", DELETE: "delete"}


@dataclass(frozen=True, slots=True)
class VaultRow:
    """``quota``: bytes, None for no limit."""

    number: int
    id: Id
    quota: int | None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One countersigned certificate. ``revoked``: the revocation serial that told it."""

    serial: int
    vault: Id
    device: Id
    rights: int
    not_after: int
    operator: bool
    certificate: bytes
    countersigned: bytes
    revoked: int | None


class Access:
    """What is asked on every request, so without the database; whoever changes the tables changes this after it."""

    def __init__(self, coordinator: Id, now: Callable[[], float]) -> None:
        self._coordinator = coordinator
        self._now = now
        self._vaults: dict[Id, VaultRow] = {}
        self._devices: dict[Id, list[DeviceRow]] = {}
        self.revocations = 0

    def add_vault(self, row: VaultRow) -> None:
        self._vaults[row.id] = row

    def add_device(self, row: DeviceRow) -> None:
        """Adds a certificate, or replaces the one with its serial."""
        rows = self._devices.setdefault(row.device, [])
        rows[:] = [other for other in rows if other.serial != row.serial]
        rows.append(row)

    def vault(self, id_: Id) -> VaultRow | None:
        return self._vaults.get(id_)

    def certificates(self, device: Id) -> list[DeviceRow]:
        """All that were ever registered for ``device``, ascending by serial."""
        return sorted(self._devices.get(device, ()), key=lambda row: row.serial)

    def all_vaults(self) -> list[VaultRow]:
        """Every vault."""
        return list(self._vaults.values())

    @property
    def vaults(self) -> int:
        """How many."""
        return len(self._vaults)

    def revoked_serials(self) -> list[int]:
        """Every revoked certificate, ascending."""
        return sorted(row.serial for rows in self._devices.values() for row in rows if row.revoked is not None)

    def revoke(self, serials: list[int], serial: int) -> None:
        """What ``queries_members.revoke_devices`` has written."""
        self.revocations = serial
        for rows in self._devices.values():
            rows[:] = [replace(row, revoked=serial) if row.serial in serials else row for row in rows]

    def _valid(self, device: Id) -> list[DeviceRow]:
        now = self._now()
        return [row for row in self._devices.get(device, ()) if row.revoked is None and now <= row.not_after]

    def knows(self, caller: Id | None) -> bool:
        """Is this the coordinator itself or a device with a valid certificate?"""
        return caller is not None and (caller == self._coordinator or bool(self._valid(caller)))

    def is_operator(self, caller: Id | None) -> bool:
        return caller is not None and (caller == self._coordinator or any(row.operator for row in self._valid(caller)))

    def require_operator(self, caller: Id | None) -> Id:
        """Denied unless ``caller`` may run the network; the coordinator's own key always may."""
        if caller is None or not self.is_operator(caller):
            raise Denied("only an operator of this network may do this")
        return caller

    def require(self, caller: Id | None, vault: Id, right: int) -> VaultRow:
        """The vault, if a valid certificate gives ``caller`` one of the rights in ``right``; Unauthorized, Denied."""
        if caller is None or caller not in self._devices:
            raise Unauthorized("this device is not known here: join with an invite (holdfast init --join)")
        rows = [row for row in self._devices[caller] if row.vault == vault]
        if not rows:
            raise Denied("this device does not belong to that vault")
        if all(row.revoked is not None for row in rows):
            raise Denied("this device has been revoked")
        valid = [row for row in self._valid(caller) if row.vault == vault]
        if not valid:
            raise Denied("this device's certificate has expired: register a new one")
        if not any(row.rights & right for row in valid):
            asked = " or ".join(word for bit, word in _WORDS.items() if right & bit)
            raise Denied(f"this device may not {asked} in that vault")
        return self._vaults[vault]
