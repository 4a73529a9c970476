"""A vault's packs in order: a page of a small vault's does not read the packs of all others."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_packs_vault_digest", "packs", ["vault", "digest"], unique=False)
