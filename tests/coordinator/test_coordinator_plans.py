"""What people and nodes ask goes by indexes on a PostgreSQL too, as it plans with ten thousand packs in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, event, text
from tests.coordinator.hall import Hall
from tests.coordinator.test_coordinator_indexes import BIG, ask_much
from tests.metadata.postgres_server import PostgresServer

from holdfast.metadata import journey
from holdfast.metadata.journey import Sent
from holdfast.metadata.prepared import Prepared

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

pytestmark = pytest.mark.rig

# A tenth of all is in the vault that is asked about.
FILL = (
    "INSERT INTO vaults (id, used) VALUES (sha256('another'), 0)",
    "INSERT INTO packs (digest, vault, size, state, target, lease_until) SELECT sha256(n::text::bytea), "
    "(SELECT CASE WHEN n % 10 = 0 THEN min(number) ELSE max(number) END FROM vaults), 4096, 2, 5, NULL "
    "FROM generate_series(1, 10000) n",
    "INSERT INTO placements SELECT p.number, n.number, 1 FROM packs p, nodes n",
    "INSERT INTO keep_lists (vault, digest) SELECT vault, sha256(digest) FROM packs",
    "INSERT INTO keep_packs SELECT k.number, p.number FROM packs p JOIN keep_lists k ON k.digest = sha256(p.digest)",
    "INSERT INTO refs (vault, tag, parent, kind, version, etag, record, keep, commit_number, committed) "
    "SELECT vault, digest, sha256((number % 100)::text::bytea), 1, 2, digest, digest || digest, number, 1, 1.0 "
    "FROM keep_lists",
    "INSERT INTO ref_history (vault, tag, version, etag, record, keep, committed, until) "
    "SELECT vault, tag, 1, tag, record, keep, 1.0, 1e12 FROM refs",
    "INSERT INTO tombstones SELECT vault, tag, 2, etag, 1e12 FROM refs",
    "ANALYZE",
)


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    return postgres.fresh()


async def test_no_statement_of_a_commit_a_listing_or_collection_reads_a_whole_table_there(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(connection: Connection) -> None:
        for statement in FILL:
            connection.execute(text(statement))

    await hall.run(fill)
    sent: dict[str, Sent] = {}
    asked: dict[str, Any] = {}
    real = journey._queue

    def queue(server: PGconn, names: dict[str, bytes], one: Sent) -> list[bool]:
        sent.setdefault(one.prepared.text, one)
        return real(server, names, one)

    def statement(connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        asked.setdefault(text, parameters[0] if many else parameters)

    engine = hall.coordinator.state.database._below._engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", statement)
    monkeypatch.setattr(journey, "_queue", queue)
    await ask_much(hall)
    monkeypatch.undo()
    event.remove(engine, "before_cursor_execute", statement)

    def plans(connection: Connection) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for query, one in sent.items():
            if query.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                explained = Prepared(f"EXPLAIN (FORMAT JSON) {query}", tuple, one.prepared.names)
                found[query] = journey.journey(connection, [Sent(explained, one.parameters)])[0].rows[0][0]
        for query, parameters in asked.items():
            if query.startswith(("SELECT", "UPDATE", "DELETE")):
                found[query] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {query}", parameters).scalar_one()
        return found

    planned = await hall.run(plans)
    whole = {" ".join(query.split()) for query, plan in planned.items() if set(_read_whole(plan[0]["Plan"])) & {*BIG}}
    assert len(planned) > 30
    assert whole == set()


def _read_whole(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for below in plan.get("Plans", ()):
        yield from _read_whole(below)
