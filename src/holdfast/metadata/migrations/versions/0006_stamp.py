"""The mark that each change leaves on a PostgreSQL: it tells whether a commit was made whose answer was lost."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("meta", sa.Column("stamp", sa.String(), nullable=False, server_default=""))
