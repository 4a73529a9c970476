"""Starts that read no placements, and a node's placements page by page."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "beliefs",
        sa.Column("node", NUMBER, autoincrement=False, nullable=False),
        sa.Column("sums", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.number"], name=op.f("fk_beliefs_node")),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_beliefs")),
    )
    op.drop_index("ix_placements_node", "placements")
    op.create_index("ix_placements_node_pack", "placements", ["node", "pack"], unique=False)
