"""Who becomes a member: invites, joining, further devices, revocations."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from sqlalchemy import Connection

from holdfast.auth.certificates import Certificate, Countersigned, open_certificate
from holdfast.auth.documents import sign
from holdfast.auth.grants import STORE_ID_BYTES
from holdfast.auth.identity import Id
from holdfast.auth.invites import INVITE_ID_BYTES, SECRET_BYTES, check_proof, proof, seal_secret
from holdfast.blob import Buffer
from holdfast.coordinator.access import ANY_RIGHT, DeviceRow, VaultRow
from holdfast.coordinator.nodes import node_url
from holdfast.coordinator.registry import node_of
from holdfast.coordinator.state import State
from holdfast.errors import BadRequest, Denied, NotFound, Unauthorized
from holdfast.metadata import queries_members
from holdfast.wire import messages as m
from holdfast.wire.serve import Call

SEALING_KEY_BYTES = 32


class Admitted(NamedTuple):
    """What a transaction has written of a newcomer."""

    secret: bytes
    node: Any = None
    vault: VaultRow | None = None
    device: DeviceRow | None = None


class Join:
    """Handlers; each change is one transaction, and memory follows it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._one_at_a_time = asyncio.Lock()  # memory is read inside and changed after the transaction

    # --- invites ---

    async def invite(self, call: Call, request: m.InviteRequest) -> m.InviteAnswer:
        """An operator asks for an invite. The same question (by its one-time key) gets the same invite again."""
        state = self._state
        caller = state.access.require_operator(call.caller)
        _exactly(request.sealing_key, SEALING_KEY_BYTES, "sealing_key")
        if request.role != "node" and request.uses != 1:
            raise BadRequest("an invite for people has one use")
        if request.quota is not None and request.role == "node":
            raise BadRequest("a quota is for a user's invite")
        fresh = {
            "id": state.randomness.bytes(INVITE_ID_BYTES),
            "role": request.role,
            "operator": request.role == "operator",
            "secret": state.randomness.bytes(SECRET_BYTES),
            "uses": request.uses,
            "expires": int(state.clock.now()) + request.expires,
            "quota": request.quota,
            "asked_by": caller,
            "sealing_key": request.sealing_key,
        }
        found = await state.database.run(_invite_once, fresh)
        return m.InviteAnswer(
            id=found.id,
            urls=state.urls,
            sealed_secret=seal_secret(found.secret, request.sealing_key, state.randomness),
            expires=found.expires,
        )

    # --- joining ---

    async def join(self, call: Call, request: m.Join) -> m.Joined:
        """A newcomer with an invite. The same newcomer may ask again, also when the invite is used up by then."""
        state = self._state
        caller = call.caller
        if caller is None:
            raise Denied("a newcomer signs with its own key")
        if caller == state.identity.id:
            raise Denied("the coordinator does not join itself")
        async with self._one_at_a_time:
            join = self._join_node if request.role == "node" else self._join_device
            admitted = await join(caller, request)
        state.changed(True)
        settings = state.wire_settings()
        return m.Joined(
            proof=proof(admitted.secret, "accept", caller, state.identity.id, request.role),
            name=state.name,
            urls=state.urls,
            settings=settings,
            epoch=state.position.epoch,
            commit=state.position.commit,
            certificate=None if admitted.device is None else admitted.device.countersigned,
        )

    async def _join_node(self, caller: Id, request: m.Join) -> Admitted:
        state = self._state
        facts = request.node
        if facts is None or request.certificate is not None:
            raise BadRequest("a node joins with its facts and without a certificate")
        _exactly(facts.store, STORE_ID_BYTES, "store")
        url = node_url(facts.url)
        now = state.clock.now()

        def admit(connection: Connection) -> Admitted:
            invite = _use(connection, request, caller, state.identity.id, now)
            row = next((row for row in queries_members.all_nodes(connection) if row.id == caller), None)
            if row is not None and row.store != facts.store and row.word != "removed":
                raise Denied("this node is registered with another store; make a new node for a new disk")
            columns: dict[str, Any] = {
                "name": facts.name, "url": url, "domain": facts.domain, "capacity": facts.capacity,
                "always_on": facts.always_on, "word": "",
            }  # fmt: skip
            if row is None:
                number = queries_members.add_node(
                    connection,
                    {
                        **columns, "id": caller, "store": facts.store, "reached_url": "", "free": 0, "read_only": False,
                        "state": "down", "sequence": 0, "blobs": 0, "root": bytes(16), "seen": now,
                    },
                )  # fmt: skip
            else:
                number = row.number
                queries_members.change_nodes(connection, [{"number": number, "store": facts.store, **columns}])
            joined = next(row for row in queries_members.all_nodes(connection) if row.number == number)
            return Admitted(invite.secret, node=joined)

        admitted = await state.database.run(admit)
        known = state.registry.get(caller)
        if known is None:
            state.registry.add(node_of(admitted.node))
        else:
            known.name, known.domain, known.capacity = facts.name, facts.domain, facts.capacity
            known.always_on, known.url = facts.always_on, url or known.url
        return admitted

    async def _join_device(self, caller: Id, request: m.Join) -> Admitted:
        state = self._state
        if request.certificate is None or request.node is not None:
            raise BadRequest("a user joins with the certificate of its device")
        certificate = self._certificate(request.certificate)
        if certificate.device != caller:
            raise Denied("the certificate is for another device than the one that joins")
        now = state.clock.now()

        def admit(connection: Connection) -> Admitted:
            invite = _use(connection, request, caller, state.identity.id, now)
            vault = state.access.vault(certificate.vault)
            if vault is None:
                number = queries_members.add_vault(connection, certificate.vault, invite.quota)
                vault = VaultRow(number, certificate.vault, invite.quota)
            device = self._register(connection, certificate, request.certificate or b"", vault, bool(invite.operator))
            return Admitted(invite.secret, vault=vault, device=device)

        admitted = await state.database.run(admit)
        if admitted.vault is not None and state.access.vault(admitted.vault.id) is None:
            state.access.add_vault(admitted.vault)
        if admitted.device is not None:
            state.access.add_device(admitted.device)
        return admitted

    # --- devices ---

    async def device(self, call: Call, request: m.DeviceRequest) -> m.DeviceAnswer:
        """Another device, or a new certificate, of a vault; asked by a device that is registered there."""
        state = self._state
        certificate = self._certificate(request.certificate)
        vault = state.access.require(call.caller, certificate.vault, ANY_RIGHT)
        async with self._one_at_a_time:
            row = await state.database.run(
                lambda connection: self._register(connection, certificate, request.certificate, vault, False)
            )
            state.access.add_device(row)
        state.changed(True)
        return m.DeviceAnswer(certificate=row.countersigned, serial=row.serial)

    def _certificate(self, envelope: bytes) -> Certificate:
        certificate = open_certificate(envelope)
        if certificate.not_after < self._state.clock.now():
            raise Denied("this certificate has expired")
        return certificate

    def _register(
        self, connection: Connection, certificate: Certificate, envelope: bytes, vault: VaultRow, operator: bool
    ) -> DeviceRow:
        """The device's row: the one it has for exactly this certificate, or a new one with the next serial."""
        rows = [row for row in self._state.access.certificates(certificate.device) if row.vault == vault.id]
        if any(row.revoked is not None for row in rows):
            raise Denied("this device has been revoked; make a new device key")
        for row in rows:
            if row.certificate == envelope and (row.operator or not operator):
                return row
        serial = queries_members.next_serial(connection)
        countersigned = sign(Countersigned(certificate=envelope, serial=serial), self._state.identity)
        made = DeviceRow(
            serial, vault.id, certificate.device, certificate.rights, certificate.not_after,
            operator or any(row.operator for row in rows), envelope, countersigned, None,
        )  # fmt: skip
        queries_members.add_device(
            connection,
            {
                "serial": serial, "vault": vault.number, "device": made.device, "rights": made.rights,
                "not_after": made.not_after, "operator": made.operator, "certificate": envelope,
                "countersigned": countersigned,
            },
        )  # fmt: skip
        return made

    # --- revocations ---

    async def revoke(self, call: Call, request: m.RevocationRequest) -> m.Empty:
        """A device of the caller's vault, or by an operator any device or invite, is trusted no longer."""
        state = self._state
        if (request.device is None) == (request.invite is None):
            raise BadRequest("name a device or an invite")
        if request.invite is not None:
            state.access.require_operator(call.caller)
            if not await state.database.run(queries_members.revoke_invite, request.invite):
                raise NotFound("no such invite")
            return m.Empty()
        assert request.device is not None
        rows = state.access.certificates(request.device)
        if not state.access.is_operator(call.caller):
            mine = {row.vault for row in rows if self._belongs(call.caller, row.vault)}
            rows = [row for row in rows if row.vault in mine]
            if not rows:
                raise Denied("only an operator, or a device of the same vault, may revoke a device")
        if not rows:
            raise NotFound("no such device")
        fresh = [row.serial for row in rows if row.revoked is None]
        if fresh:
            async with self._one_at_a_time:
                serial = await state.database.run(queries_members.revoke_devices, fresh)
                state.access.revoke(fresh, serial)
            state.changed(True)
        return m.Empty()

    def _belongs(self, caller: Id | None, vault: Id) -> bool:
        try:
            self._state.access.require(caller, vault, ANY_RIGHT)
        except (Denied, Unauthorized):
            return False
        return True


def _exactly(value: Buffer, size: int, what: str) -> None:
    if len(value) != size:
        raise BadRequest(f"{what}: {size} bytes are needed, not {len(value)}")


def _invite_once(connection: Connection, fresh: dict[str, Any]) -> Any:
    found = queries_members.invite_asked(connection, fresh["asked_by"], fresh["sealing_key"])
    if found is None:
        queries_members.add_invite(connection, fresh)
        found = queries_members.invite(connection, fresh["id"])
    elif found.role != fresh["role"]:
        raise BadRequest("a sealing key serves one invite only")
    assert found is not None
    return found


def _use(connection: Connection, request: m.Join, newcomer: Id, coordinator: Id, now: float) -> Any:
    """The invite's row, its use counted; Denied with the reason if it does not count (any more)."""
    invite = queries_members.invite(connection, request.invite)
    if invite is None:
        raise Denied("this network does not know that invite; ask its operator for a new one")
    check_proof(request.proof, invite.secret, "join", newcomer, coordinator, request.role)
    if invite.role != request.role:
        raise Denied(f"this invite is for a {invite.role}")
    if invite.revoked:
        raise Denied("this invite was revoked; ask for a new one")
    if queries_members.was_used(connection, invite.id, newcomer):
        return invite
    if invite.expires <= now:
        raise Denied("this invite has expired; ask for a new one: holdfast invite")
    if not queries_members.use_invite(connection, invite.id, newcomer):
        raise Denied("this invite is used up; ask for a new one: holdfast invite")
    return invite
