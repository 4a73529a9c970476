"""Queries about the network itself: its facts, nodes, invites, vaults and devices. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from holdfast.metadata.prepared import among
from holdfast.metadata.tables import NEVER_READ, devices, invite_uses, invites, meta, nodes, vaults
from holdfast.metadata.together import Question, ask, post

_BYTES_USED = select(vaults.c.number, vaults.c.used).where(among(vaults.c.number))
_REACH_COMMIT = update(meta).values(commit_number=bindparam("commit_"))
_CHANGE_BYTES_USED = update(vaults).where(vaults.c.number == bindparam("number_")).values(used=bindparam("used_"))

# --- the one row of facts ---------------------------------------------------------------------------------------------


def network_facts(connection: Connection) -> Row[Any] | None:
    """The row of ``meta``, None in a database that was never initialised."""
    return connection.execute(select(meta)).first()


def create_network(connection: Connection, facts: Mapping[str, Any]) -> None:
    """Writes the row of ``meta``; once."""
    connection.execute(insert(meta), {"id": 1, **facts})


def change_network(connection: Connection, **facts: Any) -> None:
    connection.execute(update(meta), facts)


def raise_epoch(connection: Connection) -> None:
    """Whoever acted before now acts for an epoch that is over."""
    connection.execute(update(meta).values(epoch=meta.c.epoch + 1))


# --- nodes ------------------------------------------------------------------------------------------------------------


def all_nodes(connection: Connection) -> Sequence[Any]:
    return connection.execute(select(nodes).order_by(nodes.c.number)).all()


def add_node(connection: Connection, facts: Mapping[str, Any]) -> int:
    """The new node's number."""
    row = {"read_sequence": NEVER_READ, **facts}
    return int(connection.execute(insert(nodes).returning(nodes.c.number), row).scalar_one())


def change_nodes(connection: Connection, changes: Iterable[Mapping[str, Any]]) -> None:
    """Each change names a ``number`` and the same columns."""
    rows = [{f"{name}_": value for name, value in change.items()} for change in changes]
    if rows:
        columns: dict[str, Any] = {name[:-1]: bindparam(name) for name in rows[0] if name != "number_"}
        connection.execute(update(nodes).where(nodes.c.number == bindparam("number_")).values(columns), rows)


# --- invites ----------------------------------------------------------------------------------------------------------


def invite(connection: Connection, id_: bytes) -> Row[Any] | None:
    return connection.execute(select(invites).where(invites.c.id == id_)).first()


def invite_asked(connection: Connection, asked_by: bytes, sealing_key: bytes) -> Row[Any] | None:
    """The invite that this question has made already."""
    return connection.execute(
        select(invites).where(invites.c.asked_by == asked_by, invites.c.sealing_key == sealing_key)
    ).first()


def add_invite(connection: Connection, facts: Mapping[str, Any]) -> None:
    connection.execute(insert(invites), {"used": 0, "revoked": False, **facts})


def was_used(connection: Connection, id_: bytes, newcomer: bytes) -> bool:
    found = select(invite_uses.c.newcomer).where(invite_uses.c.invite == id_, invite_uses.c.newcomer == newcomer)
    return connection.execute(found).first() is not None


def use_invite(connection: Connection, id_: bytes, newcomer: bytes) -> bool:
    """Counts one use; False when all are used up."""
    counted = connection.execute(
        update(invites).where(invites.c.id == id_, invites.c.used < invites.c.uses).values(used=invites.c.used + 1)
    )
    if counted.rowcount != 1:
        return False
    connection.execute(insert(invite_uses), {"invite": id_, "newcomer": newcomer})
    return True


def revoke_invite(connection: Connection, id_: bytes) -> bool:
    """False if there is none."""
    return connection.execute(update(invites).where(invites.c.id == id_).values(revoked=True)).rowcount == 1


# --- vaults and devices -----------------------------------------------------------------------------------------------


def all_vaults(connection: Connection) -> Sequence[Any]:
    return connection.execute(select(vaults)).all()


def add_vault(connection: Connection, id_: bytes, quota: int | None) -> int:
    """The new vault's number."""
    row = {"id": id_, "quota": quota, "used": 0}
    return int(connection.execute(insert(vaults).returning(vaults.c.number), row).scalar_one())


def bytes_used(connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Bytes of packs that count against each vault's quota."""
    return {row.number: row.used for row in ask(connection, [(_BYTES_USED, {"some": list(numbers)})])[0]}


def question_of_bytes_used(numbers: Sequence[int]) -> Question:
    """Rows number, used."""
    return _BYTES_USED, {"some": numbers}


def reach_commit(connection: Connection, number: int) -> None:
    """The last commit is now ``number``."""
    post(connection, _REACH_COMMIT, [{"commit_": number}])


def change_bytes_used(connection: Connection, used: Mapping[int, int]) -> None:
    post(connection, _CHANGE_BYTES_USED, [{"number_": number, "used_": value} for number, value in used.items()])


def all_devices(connection: Connection) -> Sequence[Any]:
    return connection.execute(select(devices).order_by(devices.c.serial)).all()


def next_serial(connection: Connection) -> int:
    """Serials rise from 1 and are never used twice: devices are never deleted, and a database that was made again
    begins above what the lost one may have used."""
    highest = select(func.coalesce(func.max(devices.c.serial), 0)).scalar_subquery()
    used, floor = connection.execute(select(highest, meta.c.serial_floor)).one()
    return max(int(used), int(floor)) + 1


def add_device(connection: Connection, facts: Mapping[str, Any]) -> None:
    connection.execute(insert(devices), {"revoked": None, **facts})


def revoke_devices(connection: Connection, serials: Sequence[int]) -> int:
    """Revokes certificates; the new revocation serial."""
    connection.execute(update(meta).values(revocations=meta.c.revocations + 1))
    serial = int(connection.execute(select(meta.c.revocations)).scalar_one())
    connection.execute(
        update(devices).where(devices.c.serial.in_(serials), devices.c.revoked.is_(None)).values(revoked=serial)
    )
    return serial
