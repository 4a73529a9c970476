"""What people and nodes ask goes by indexes: no statement reads a whole big table, but for those with a reason."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Connection, event
from tests.coordinator.hall import Hall, digest_of

from holdfast.coordinator import collect
from holdfast.metadata import queries_members, queries_packs, queries_refs

BIG = ("packs", "placements", "refs", "ref_history", "keep_packs", "keep_lists", "tombstones")

WHOLE = ("WHERE tombstones.due IS NULL",)
"""Once a week a new chain of the reflog tells of all names that have ended, which are most of the table."""


async def ask_much(hall: Hall) -> None:
    """What commits, reads, listings and collection ask."""
    owner = hall.owner
    first = owner.write("name", [digest_of("one")])
    assert await owner.states([first], packs=[hall.pack("one")]) == [["committed"]]
    second = owner.write("name", [digest_of("two")], over=first.record)
    assert await owner.states([second], packs=[hall.pack("two")]) == [["committed"]]
    await owner.ref("name")

    def more(connection: Connection) -> None:
        tag = b"t" * 32
        queries_refs.ref_page(connection, 1, None, tag, 10, 4)
        queries_refs.ref_page(connection, 1, tag, tag, 10, 4)
        queries_refs.history(connection, 1, tag)
        queries_refs.shrunk(connection, 1, [tag])
        queries_refs.past_etags(connection, 1, [tag])
        queries_refs.shrink_tombstones(connection, 0.0, 10, 4)
        queries_packs.packs_by_number(connection, [1])
        queries_packs.packs_kept(connection, [1])
        queries_packs.vault_packs(connection, 1, tag, 10)
        queries_packs.vault_packs(connection, 1, tag, 10, unread=True)
        queries_packs.unplace(connection, [(1, 1)])
        queries_packs.drop_unused_keep_lists(connection, [1])
        queries_packs.lapsed_leases(connection, 0, 10)
        queries_packs.end_leases(connection, [1])
        queries_members.bytes_used(connection, [1])

    await hall.run(more)
    await hall.run(collect.release, 1e9)
    await hall.run(collect.trash)
    await hall.run(collect.forget)


@pytest.fixture
def database_url() -> str:
    return ""  # SQLite tells its plan without looking at how many rows there are


async def test_no_statement_of_a_commit_a_listing_or_collection_reads_a_whole_table(hall: Hall) -> None:
    asked: dict[str, Any] = {}

    def statement(connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        if text.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            asked.setdefault(text, parameters[0] if many else parameters)

    engine = hall.coordinator.state.database._below._engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", statement)
    await ask_much(hall)
    event.remove(engine, "before_cursor_execute", statement)

    def plans(connection: Connection) -> list[str]:
        scans = re.compile(rf"SCAN ({'|'.join(BIG)})\b")
        found = []
        for text, parameters in asked.items():
            cursor: Any = connection.connection.cursor()
            for row in cursor.execute(f"EXPLAIN QUERY PLAN {text}", parameters):
                # a partial index holds only what waits: reading all of it is what was asked for
                partial = "ix_packs_" in row[3] or "ix_tombstones_due" in row[3]
                if scans.search(row[3]) and not partial and not any(part in text for part in WHOLE):
                    found.append(f"{row[3]}: {' '.join(text.split())[:200]}")
        return found

    assert len(asked) > 30
    assert await hall.run(plans) == []


async def test_a_page_of_a_vaults_packs_reads_no_others(hall: Hall) -> None:
    def plan(connection: Connection) -> str:
        asked: list[Any] = []
        event.listen(connection, "before_cursor_execute", lambda _, cursor, *query: asked.append(query[:2]))
        queries_packs.vault_packs(connection, 1, b"", 10)
        [(text, parameters)] = asked
        return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters).all())

    assert "(vault=? AND digest>?)" in await hall.run(plan)
