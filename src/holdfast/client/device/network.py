"""Joining a network and asking about it: what ``init``, ``status``, ``nodes``, ``policy`` and ``invite`` need.

A home is made in an order that leaves nothing half: keys first (they cost nothing if the join fails and are used again
when it is tried again), ``network.toml`` last. What exists is never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.auth import invites
from holdfast.auth.certificates import ALL_RIGHTS, Certificate, open_countersigned
from holdfast.auth.documents import sign
from holdfast.auth.identity import Id, Identity
from holdfast.client.device import keyfile
from holdfast.client.device.coordinators import Coordinators
from holdfast.client.device.home import (
    Home,
    Membership,
    device_key,
    load_home,
    network_file,
    vault_key,
    write_membership,
)
from holdfast.clock import Clock, Randomness
from holdfast.codec.keys import VaultKeys
from holdfast.errors import BadRequest, Denied, Exists, NotFound
from holdfast.files import Files
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient
from holdfast.wire.network import Network

CERTIFICATE_LIFE_S = 10 * 366 * 86400
INVITE_EXPIRES_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Seams:
    """What a home needs from outside."""

    files: Files
    clock: Clock
    randomness: Randomness
    pool: Pool
    network: Network


async def init_home(
    home: Path,
    invite: str,
    seams: Seams,
    *,
    words: str | None = None,
    root: bytes | None = None,
    passphrase: str | None = None,
    urls: Sequence[str] = (),
) -> Home:
    """Makes a home of ``home``: keys, certificate, membership.

    A new vault, unless ``words`` or ``root`` give the one that exists: then this is another device of it. A home whose
    keys were made but which never joined is continued. ``urls`` are tried before those of the invite. Exists if the
    home has a network already; BadRequest for an invite that is none, Denied for one that does not count any more.
    """
    found = invites.from_line(invite)
    if found.role == "node":
        raise BadRequest("this invite is for a node (holdfast node init); ask for one with: holdfast invite user")
    given = keyfile.from_words(words) if words is not None else root
    files, randomness = seams.files, seams.randomness

    def make_keys() -> tuple[bytes, Identity]:
        if files.size(network_file(home)) is not None:
            raise Exists(f"{home} belongs to a network already; use another --home for another one")
        files.make_directory(home)
        try:
            secret = keyfile.read_root(files, vault_key(home), passphrase)
            if given is not None and given != secret:
                raise Exists(f"{vault_key(home)} is the key of another vault; it is never overwritten")
        except NotFound:
            secret = given if given is not None else randomness.bytes(keyfile.ROOT_BYTES)
            keyfile.write_root(files, vault_key(home), secret, passphrase, randomness)
        try:
            device = keyfile.read_device(files, device_key(home))
        except NotFound:
            device = Identity.generate(randomness)
            keyfile.write_device(files, device_key(home), device)
        return secret, device

    secret, device = await seams.pool.run(make_keys)
    http = HttpClient(identity=device, network=seams.network, clock=seams.clock)
    try:
        coordinators = Coordinators(http, found.coordinator, [*urls, *found.urls])
        joined = await coordinators.ask(
            routes.JOIN,
            m.Join(
                invite=found.id,
                role=found.role,
                proof=invites.proof(found.secret, "join", device.id, found.coordinator, found.role),
                certificate=certify(VaultKeys(secret), device.id, seams.clock.now()),
            ),
        )
    finally:
        await http.close()
    invites.check_proof(joined.proof, found.secret, "accept", device.id, found.coordinator, found.role)
    membership = _membership(found.coordinator, joined.urls or [*urls, *found.urls], joined.certificate, device.id)

    def keep() -> Home:
        write_membership(files, home, membership)
        return load_home(files, home, passphrase)

    return await seams.pool.run(keep)


def certify(keys: VaultKeys, device: Id, now: float, rights: int = ALL_RIGHTS) -> bytes:
    """A certificate for ``device``, signed by the vault; the coordinator has yet to countersign it."""
    document = Certificate(vault=keys.vault, device=device, rights=rights, not_after=int(now) + CERTIFICATE_LIFE_S)
    return sign(document, keys.identity)


class NetworkCalls:
    """What a member may ask about its network. Stateless; calls may run at once."""

    def __init__(self, coordinators: Coordinators, randomness: Randomness) -> None:
        self._coordinators = coordinators
        self._randomness = randomness

    async def status(self) -> m.Status:
        return await self._coordinators.ask(routes.STATUS)

    async def nodes(self) -> list[m.NodeInfo]:
        return (await self._coordinators.ask(routes.NODES)).nodes

    async def order_repair(self, order: Literal["now", "pause", "resume"]) -> m.RepairState:
        """Operators only."""
        return await self._coordinators.ask(routes.REPAIR, m.RepairOrder(order=order))

    async def drain_node(self, id_: Id, drain: bool = True) -> m.NodeInfo:
        """Operators and the node itself: its packs are copied elsewhere, then leave it."""
        return await self._coordinators.ask(routes.NODE_DRAIN, m.DrainOrder(drain=drain), path={"id": str(id_)})

    async def maintain_node(self, id_: Id, seconds: float) -> m.NodeInfo:
        """Operators only: its silence means nothing for that long; 0 ends it."""
        order = m.MaintenanceOrder(seconds=seconds)
        return await self._coordinators.ask(routes.NODE_MAINTENANCE, order, path={"id": str(id_)})

    async def remove_node(self, id_: Id, force: bool = False, now: bool = False) -> None:
        """Operators and, but for ``force``, the node itself. Conflict while packs have too few copies without it.

        ``now``: only while something would be lost.
        """
        await self._coordinators.ask(routes.NODE_REMOVE, m.RemoveOrder(force=force, now=now), path={"id": str(id_)})

    async def policy(self) -> m.Policy:
        return await self._coordinators.ask(routes.POLICY)

    async def set_policy(self, survive: int) -> m.Policy:
        """Operators only; Conflict if somebody else changed it meanwhile."""
        version = (await self.policy()).version
        return await self._coordinators.ask(routes.POLICY_CHANGE, m.PolicyChange(survive=survive, version=version))

    async def invite(
        self, role: invites.Role, *, uses: int = 1, expires_s: float = INVITE_EXPIRES_S, quota: int | None = None
    ) -> str:
        """One invite line; operators only. The secret comes sealed to a key made for this call."""
        secret_request = invites.SecretRequest(self._randomness)
        answer = await self._coordinators.ask(
            routes.INVITES,
            m.InviteRequest(
                role=role, uses=uses, expires=int(expires_s), quota=quota, sealing_key=secret_request.public
            ),
        )
        return invites.to_line(
            invites.Invite(
                id=answer.id,
                coordinator=self._coordinators.id,
                urls=tuple(answer.urls),
                role=role,
                secret=secret_request.open(answer.sealed_secret),
                uses=uses,
                expires=answer.expires,
            )
        )

    async def revoke(self, *, device: Id | None = None, invite: bytes | None = None) -> None:
        """A device or a node invite counts no more. The vault's keys are not taken back by this."""
        await self._coordinators.ask(routes.REVOCATIONS, m.RevocationRequest(device=device, invite=invite))


def _membership(coordinator: Id, urls: Sequence[str], envelope: bytes | None, device: Id) -> Membership:
    if envelope is None:
        raise Denied("the coordinator did not give this device a certificate")
    document, _ = open_countersigned(envelope, coordinator)
    if document.device != device:
        raise Denied("the coordinator gave a certificate of another device")
    return Membership(coordinator, tuple(dict.fromkeys(urls)), envelope, document)
