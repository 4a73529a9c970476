"""What healing remembers: how far each inventory was read, until when maintenance lasts, whether repair is paused."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("read_sequence", NUMBER, nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("word_until", sa.Float(), nullable=False, server_default="0"))
    op.add_column("meta", sa.Column("repair", sa.String(), nullable=False, server_default=""))
