"""The schema of a new SQLite database without Alembic, which takes as long to make it as a whole test may.

The statements are those that Alembic's migrations have made once, so they are the same schema.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, create_engine, text

from holdfast.metadata import database

by_alembic = database.migrate


def quick_migrate() -> Callable[[Connection], None]:
    """In place of ``database.migrate``."""
    with create_engine("sqlite://").begin() as connection:
        by_alembic(connection)
        made = list(connection.scalars(text("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")))
    made.append(f"INSERT INTO alembic_version VALUES ('{database.NEWEST}')")

    def migrate(connection: Connection) -> None:
        if connection.dialect.name != "sqlite" or connection.scalar(text("SELECT count(*) FROM sqlite_schema")):
            by_alembic(connection)
            return
        for statement in made:
            connection.exec_driver_sql(statement)

    return migrate
