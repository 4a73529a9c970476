"""Tombstones that shrink: when each is due, and what is left of it for ever."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("tag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("version", NUMBER, nullable=False),
        sa.Column("etag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("due", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_tombstones_vault")),
        sa.PrimaryKeyConstraint("vault", "tag", name=op.f("pk_tombstones")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_tombstones_due",
        "tombstones",
        ["due"],
        unique=False,
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.execute(
        "INSERT INTO tombstones (vault, tag, version, etag, due) SELECT vault, tag, version, etag, "
        "(SELECT slow_elapsed FROM meta) + 7776000 FROM refs WHERE kind = 4"  # 90 days; tombstones
    )
