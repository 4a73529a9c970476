"""Recovery's merge of the network and its members: facts of the reflog, and what the nodes say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from holdfast.auth.certificates import Countersigned, open_countersigned
from holdfast.auth.documents import read
from holdfast.auth.identity import Id
from holdfast.codec.reflog import Facts
from holdfast.coordinator.loss.survey import Survey
from holdfast.errors import BadConfig
from holdfast.metadata import queries_members, queries_recovery

SERIALS_SKIPPED = 1000
"""Certificates that the lost database may have countersigned since."""

BELIEVED_MAX = 1 << 48
"""No node can bring a count to where it has no next number."""


class Fallback(NamedTuple):
    """What the network is called and asks for when no reflog tells it."""

    name: str
    urls: Sequence[str]
    survive: int


def make_network(
    connection: Connection, facts: Facts | None, coordinator: Id, fallback: Fallback | None, slow: float, wall: float
) -> None:
    """The network's row, if the database is empty. BadConfig if neither a reflog nor ``fallback`` says what it is."""
    if queries_members.network_facts(connection) is not None:
        return
    if facts is None and (fallback is None or not fallback.urls):
        raise BadConfig(
            "no reflog is left on these nodes, so say where this coordinator is reached: --advertise http://HOST:PORT"
        )
    name, urls, survive, version = (
        (facts.name, facts.urls, facts.survive, facts.policy_version)
        if facts is not None
        else (fallback.name, tuple(fallback.urls), fallback.survive, 1)  # type: ignore[union-attr]
    )
    if fallback is not None and fallback.urls:
        urls = tuple(fallback.urls)
    queries_members.create_network(
        connection,
        {
            "coordinator": coordinator, "name": name, "urls": "\n".join(urls), "epoch": 0, "commit_number": 0,
            "heard_epoch": 0, "heard_commit": 0, "slow_elapsed": slow, "slow_wall": wall,
            "survive": survive, "policy_version": version, "revocations": 0,
        },
    )  # fmt: skip


def merge_vaults(connection: Connection, facts: Facts | None, survey: Survey) -> dict[Id, int]:
    """Id -> number of all vaults that are known, by the reflog or by a pack."""
    vaults = {Id(row.id): int(row.number) for row in queries_members.all_vaults(connection)}
    for vault in facts.vaults if facts is not None else ():
        if vault.id not in vaults:
            vaults[vault.id] = queries_members.add_vault(connection, vault.id, vault.quota)
    for id_ in sorted({e.vault for node in survey.nodes.values() for e in node.packs if e.vault is not None}):
        if id_ not in vaults:
            vaults[id_] = queries_members.add_vault(connection, id_, None)
    return vaults


def merge_devices(connection: Connection, facts: Facts | None, survey: Survey, coordinator: Id, meta: Any) -> None:
    """Devices as the reflog knows them, and every revocation that anybody has heard of."""
    known = {row.serial: row for row in queries_members.all_devices(connection)}
    numbers = {Id(row.id): row.number for row in queries_members.all_vaults(connection)}
    for device in facts.devices if facts is not None else ():
        certificate, serial = open_countersigned(device.countersigned, coordinator)
        inner = read(Countersigned, device.countersigned)[0].certificate
        if serial in known:
            continue
        queries_members.add_device(
            connection,
            {
                "serial": serial, "vault": numbers[certificate.vault], "device": certificate.device,
                "rights": certificate.rights, "not_after": certificate.not_after, "operator": device.operator,
                "certificate": inner, "countersigned": device.countersigned,
            },
        )  # fmt: skip
    told = 1 + max(
        [
            meta.revocations,
            facts.revocations if facts is not None else 0,
            *(node.overview.revocations for node in survey.nodes.values() if node.overview.revocations < BELIEVED_MAX),
        ]
    )
    revoked = {serial for node in survey.nodes.values() for serial in node.overview.revoked if serial < BELIEVED_MAX}
    for device in facts.devices if facts is not None else ():
        if device.revoked is not None:
            revoked.add(open_countersigned(device.countersigned, coordinator)[1])
    queries_recovery.set_revoked(connection, revoked, told)
    serials = [meta.serial_floor, *known, *revoked, queries_members.next_serial(connection) - 1]
    queries_members.change_network(connection, revocations=told, serial_floor=max(serials) + SERIALS_SKIPPED)


def merge_nodes(connection: Connection, facts: Facts | None, survey: Survey, wall: float) -> dict[Id, int]:
    """Id -> number of the nodes whose inventories are taken over."""
    known = {Id(row.id): row for row in queries_members.all_nodes(connection)}
    for node in facts.nodes if facts is not None else ():
        if node.id in known:
            continue
        queries_members.add_node(
            connection,
            {
                "id": node.id, "name": node.name, "url": node.url, "reached_url": "", "store": node.store,
                "domain": node.domain, "capacity": node.capacity, "free": 0, "always_on": node.always_on,
                "read_only": False, "state": "down", "word": node.word, "sequence": 0, "blobs": 0, "root": bytes(16),
                "seen": wall,
            },
        )  # fmt: skip
    known = {Id(row.id): row for row in queries_members.all_nodes(connection)}
    taken: dict[Id, int] = {}
    for id_, asked in survey.nodes.items():
        said = asked.overview
        row = known.get(id_)
        if row is not None and row.word == "removed":
            continue
        facts_now: dict[str, Any] = {
            "name": said.name, "url": asked.url, "reached_url": asked.url, "store": said.store, "free": said.space.free,
            "sequence": asked.sequence, "read_sequence": asked.sequence, "state": "up", "seen": wall,
        }  # fmt: skip
        if row is None:
            taken[id_] = queries_members.add_node(
                connection,
                {
                    **facts_now, "id": id_, "domain": said.domain or said.name, "capacity": said.capacity,
                    "always_on": said.always_on, "read_only": False, "word": "", "blobs": 0, "root": bytes(16),
                },
            )  # fmt: skip
        else:
            taken[id_] = row.number
            queries_members.change_nodes(connection, [{"number": row.number, **facts_now}])
    return taken
