"""A coordinator's database is copied to the other kind and back: the same rows, or nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.metadata.postgres_server import PostgresServer
from tests.metadata.test_metadata_database import FACTS

from holdfast import assemble
from holdfast.errors import BadConfig, HoldfastError
from holdfast.metadata import copying, queries_members, queries_packs
from holdfast.metadata.database import Database
from holdfast.metadata.tables import PackState, packs
from holdfast.pool import InlinePool

pytestmark = pytest.mark.rig

PACKS = 10_000
NODE: dict[str, Any] = {
    "name": "n", "url": "", "reached_url": "", "store": b"s" * 16, "domain": "d", "capacity": 1 << 40, "free": 1,
    "always_on": False, "read_only": True, "state": "up", "word": "", "sequence": 0, "blobs": 0, "root": b"r" * 16,
    "seen": 0.1 + 0.2,
}  # fmt: skip


async def fill(path: Path, count: int) -> None:
    database = await Database.open(path, InlinePool())

    def rows(connection: Any) -> None:
        queries_members.create_network(connection, FACTS)
        vault = queries_members.add_vault(connection, b"v" * 32, None)
        nodes = [queries_members.add_node(connection, {**NODE, "id": bytes([n]) * 32}) for n in range(3)]
        made = queries_packs.add_packs(
            connection,
            [
                {"digest": b"%032d" % n, "vault": vault, "size": n << 33, "state": PackState.LIVE, "target": 2,
                 "lease_until": None if n % 2 else n}
                for n in range(count)
            ],
        )  # fmt: skip
        queries_packs.place(
            connection,
            [{"pack": made[b"%032d" % n], "node": nodes[n % 3], "sequence": n} for n in range(count)],
        )

    await database.run(rows)
    await database.close()


async def test_there_and_back_again(tmp_path: Path, postgres: PostgresServer) -> None:
    first, url, back = tmp_path / "coordinator.db", postgres.fresh(), tmp_path / "back.db"
    await fill(first, PACKS)
    there = await assemble.copy_coordinator(f"sqlite:{first}", url)
    assert {one.table: one.rows for one in there if one.rows} == {
        "meta": 1, "vaults": 1, "nodes": 3, "packs": PACKS, "placements": PACKS,
    }  # fmt: skip
    assert await assemble.copy_coordinator(url, f"sqlite:{back}") == there
    assert back.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.db", "coordinator.db", "lock"]
    database = await Database.connect(url, InlinePool())  # and it goes on from there
    new = await database.run(queries_members.add_vault, b"w" * 32, None)
    assert new == 2
    with pytest.raises(BadConfig, match="another coordinator works"):
        await assemble.copy_coordinator(url, f"sqlite:{tmp_path / 'third.db'}")
    await database.close()


async def test_what_is_not_empty_or_in_use_is_left_alone(tmp_path: Path, postgres: PostgresServer) -> None:
    first, url = tmp_path / "coordinator.db", postgres.fresh()
    await fill(first, 10)
    with pytest.raises(BadConfig, match="no network"):
        await assemble.copy_coordinator(url, f"sqlite:{tmp_path / 'other.db'}")
    await assemble.copy_coordinator(f"sqlite:{first}", url)
    with pytest.raises(BadConfig, match="holds a network already"):
        await assemble.copy_coordinator(f"sqlite:{first}", url)
    with pytest.raises(BadConfig, match="is there already"):
        await assemble.copy_coordinator(url, f"sqlite:{first}")
    with pytest.raises(BadConfig, match="no database"):
        await assemble.copy_coordinator(f"sqlite:{tmp_path / 'none.db'}", url)
    from holdfast.files import OsFiles

    with OsFiles().lock(tmp_path / "lock"), pytest.raises(BadConfig):  # as a coordinator does that runs there
        await assemble.copy_coordinator(f"sqlite:{first}", postgres.fresh())


async def test_a_copy_that_breaks_off_leaves_nothing_and_may_be_begun_again(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, url = tmp_path / "coordinator.db", postgres.fresh()
    await fill(first, 3000)
    real, left = copying._Sum.add, 5

    def add(self: Any, rows: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise HoldfastError("it broke off")
        real(self, rows)

    for target in (url, f"sqlite:{tmp_path / 'other.db'}"):
        left = 5
        with monkeypatch.context() as patch:
            patch.setattr(copying._Sum, "add", add)
            with pytest.raises(HoldfastError, match="broke off"):
                await assemble.copy_coordinator(f"sqlite:{first}", target)
        assert not (tmp_path / "other.db").exists()
        sums = await assemble.copy_coordinator(f"sqlite:{first}", target)
        assert sum(one.rows for one in sums) == 3000 * 2 + 5


async def test_a_difference_is_noticed(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, url = tmp_path / "coordinator.db", postgres.fresh()
    await fill(first, 10)
    real = copying._portions

    def one_is_lost(connection: Any, table: Any) -> Any:
        for rows in real(connection, table):
            lost = connection.dialect.name == "postgresql" and table is packs
            yield rows[1:] if lost else rows

    monkeypatch.setattr(copying, "_portions", one_is_lost)
    with pytest.raises(HoldfastError, match="table packs is not the same"):
        await assemble.copy_coordinator(f"sqlite:{first}", url)
    database = await Database.connect(url, InlinePool())
    assert await database.run(lambda c: c.execute(select(func.count()).select_from(packs)).scalar_one()) == 0
    await database.close()
