"""The reflog: what is kept on nodes so that this database can be made again, and what waits for a device's look."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("meta", sa.Column("reflog_number", NUMBER, nullable=False, server_default="0"))
    op.add_column("meta", sa.Column("serial_floor", NUMBER, nullable=False, server_default="0"))
    op.add_column("meta", sa.Column("hold_until", sa.Float(), nullable=False, server_default="0"))
    op.create_index("ix_refs_commit_number", "refs", ["commit_number"], unique=False)
    op.add_column("ref_history", sa.Column("commit_number", NUMBER, nullable=False, server_default="0"))
    op.create_index("ix_ref_history_commit_number", "ref_history", ["commit_number"], unique=False)
    op.add_column("packs", sa.Column("adopted", sa.SmallInteger(), nullable=False, server_default="0"))
    op.create_index(
        "ix_packs_adopted",
        "packs",
        ["vault", "digest"],
        unique=False,
        sqlite_where=sa.text("adopted = 1"),
        postgresql_where=sa.text("adopted = 1"),
    )
    op.create_table(
        "reflogs",
        sa.Column("number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("chain", NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("epoch", NUMBER, nullable=False),
        sa.Column("last", NUMBER, nullable=False),
        sa.Column("facts", sa.LargeBinary(length=32), nullable=False),
        sa.Column("made", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_reflogs")),
        sa.UniqueConstraint("digest", name=op.f("uq_reflogs_digest")),
    )
    op.create_table(
        "reflog_places",
        sa.Column("reflog", NUMBER, nullable=False),
        sa.Column("node", NUMBER, nullable=False),
        sa.Column("sequence", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.number"], name=op.f("fk_reflog_places_node")),
        sa.ForeignKeyConstraint(["reflog"], ["reflogs.number"], name=op.f("fk_reflog_places_reflog")),
        sa.PrimaryKeyConstraint("reflog", "node", name=op.f("pk_reflog_places")),
        sqlite_with_rowid=False,
    )
