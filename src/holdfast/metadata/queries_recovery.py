"""Queries for making a database whole again from what nodes hold. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, exists, func, select, update

from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import (
    PackState,
    devices,
    keep_packs,
    packs,
    placements,
    ref_history,
    reflog_places,
    reflogs,
    refs,
    vaults,
)

_KEPT = exists().where(keep_packs.c.pack == packs.c.number)
_HOLDING = (PackState.LEASED, PackState.LIVE, PackState.RELEASED)


def forget_reflogs(connection: Connection) -> None:
    """A new epoch begins a new chain."""
    connection.execute(delete(reflog_places))
    connection.execute(delete(reflogs))


def clear_places(connection: Connection, node: int) -> None:
    """Forgets what a node is on record with; its inventory follows."""
    connection.execute(delete(placements).where(placements.c.node == node))


def adopt_again(connection: Connection, digests: Iterable[bytes], lease_until: int) -> None:
    """Packs that are on nodes and that no name keeps, as far as is known here, wait for a device of their vault."""
    for some in portions(digests):
        connection.execute(
            update(packs)
            .where(packs.c.digest.in_(some), packs.c.state != PackState.LIVE)
            .values(state=PackState.LEASED, lease_until=lease_until, adopted=1)
        )


def keep_alive(connection: Connection) -> None:
    """Whatever a keep list names is live."""
    connection.execute(
        update(packs).where(_KEPT, packs.c.state != PackState.LIVE).values(state=PackState.LIVE, lease_until=None)
    )


def mark_known(connection: Connection, numbers: Iterable[int]) -> None:
    """Of ``numbers``, those that a keep list names bring nothing new."""
    for some in portions(numbers):
        connection.execute(update(packs).where(packs.c.number.in_(some), _KEPT).values(adopted=0))


def mark_recent(connection: Connection, since: float) -> None:
    """Packs of names that were committed after ``since`` (wall) may also bring refs that were committed later."""
    recent = select(keep_packs.c.pack).join(refs, refs.c.keep == keep_packs.c.keep).where(refs.c.committed >= since)
    connection.execute(update(packs).where(packs.c.number.in_(recent)).values(adopted=1))


def newest_commit(connection: Connection) -> float:
    """When the newest ref was committed (wall), 0 if there is none."""
    return float(connection.execute(select(func.coalesce(func.max(refs.c.committed), 0.0))).scalar_one())


def raise_targets(connection: Connection, targets: Mapping[int, int]) -> None:
    """Pack -> copies wanted at least."""
    for number, target in targets.items():
        connection.execute(update(packs).where(packs.c.number == number, packs.c.target < target).values(target=target))


def extend_history(connection: Connection, until: float) -> None:
    """Kept versions stay until then (slow) at least."""
    connection.execute(update(ref_history).where(ref_history.c.until < until).values(until=until))


def drop_hollow_history(connection: Connection) -> set[int]:
    """Deletes kept versions of whose packs one is on no node; the keep lists that they named."""
    nowhere = ~exists().where(placements.c.pack == keep_packs.c.pack)
    hollow = ref_history.c.keep.in_(select(keep_packs.c.keep).where(nowhere))
    keeps = set(connection.execute(select(ref_history.c.keep).where(hollow)).scalars())
    connection.execute(delete(ref_history).where(hollow))
    return keeps


def count_bytes(connection: Connection) -> None:
    """What counts against each vault's quota, anew."""
    used = (
        select(func.coalesce(func.sum(packs.c.size), 0))
        .where(packs.c.vault == vaults.c.number, packs.c.state.in_(_HOLDING))
        .scalar_subquery()
    )
    connection.execute(update(vaults).values(used=used))


def count_adopted(connection: Connection) -> int:
    """Packs that wait for a device of their vault."""
    found = select(func.count()).select_from(packs).where(packs.c.adopted == 1)
    return int(connection.execute(found).scalar_one())


def past_etags(connection: Connection) -> set[tuple[int, bytes, bytes]]:
    """(vault, tag, etag) of every kept version."""
    rows: Any = connection.execute(select(ref_history.c.vault, ref_history.c.tag, ref_history.c.etag))
    return {(row.vault, row.tag, row.etag) for row in rows}


def set_revoked(connection: Connection, serials: Iterable[int], told: int) -> None:
    """Certificates that are trusted no more."""
    for some in portions(serials):
        connection.execute(
            update(devices).where(devices.c.serial.in_(some), devices.c.revoked.is_(None)).values(revoked=told)
        )
