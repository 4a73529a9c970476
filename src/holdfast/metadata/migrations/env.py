"""Run by Alembic: migrates the connection that ``database.migrate`` hands over, inside its transaction."""

from alembic import context

from holdfast.metadata.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
