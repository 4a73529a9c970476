"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "invites",
        sa.Column("id", sa.LargeBinary(length=8), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.LargeBinary(length=16), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("expires", NUMBER, nullable=False),
        sa.Column("quota", NUMBER, nullable=True),
        sa.Column("asked_by", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sealing_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invites")),
        sa.UniqueConstraint("asked_by", "sealing_key", name=op.f("uq_invites_asked_by_sealing_key")),
    )
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("coordinator", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("urls", sa.String(), nullable=False),
        sa.Column("epoch", NUMBER, nullable=False),
        sa.Column("commit_number", NUMBER, nullable=False),
        sa.Column("heard_epoch", NUMBER, nullable=False),
        sa.Column("heard_commit", NUMBER, nullable=False),
        sa.Column("slow_elapsed", sa.Float(), nullable=False),
        sa.Column("slow_wall", sa.Float(), nullable=False),
        sa.Column("survive", sa.Integer(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("revocations", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meta")),
    )
    op.create_table(
        "nodes",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("reached_url", sa.String(), nullable=False),
        sa.Column("store", sa.LargeBinary(length=16), nullable=False),
        sa.Column("domain", sa.String(), nullable=False),
        sa.Column("capacity", NUMBER, nullable=False),
        sa.Column("free", NUMBER, nullable=False),
        sa.Column("always_on", sa.Boolean(), nullable=False),
        sa.Column("read_only", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("word", sa.String(), nullable=False),
        sa.Column("sequence", NUMBER, nullable=False),
        sa.Column("blobs", NUMBER, nullable=False),
        sa.Column("root", sa.LargeBinary(length=16), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_nodes")),
        sa.UniqueConstraint("id", name=op.f("uq_nodes_id")),
    )
    op.create_table(
        "vaults",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("quota", NUMBER, nullable=True),
        sa.Column("used", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_vaults")),
        sa.UniqueConstraint("id", name=op.f("uq_vaults_id")),
    )
    op.create_table(
        "devices",
        sa.Column("serial", NUMBER, nullable=False),
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("device", sa.LargeBinary(length=32), nullable=False),
        sa.Column("rights", sa.Integer(), nullable=False),
        sa.Column("not_after", NUMBER, nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("countersigned", sa.LargeBinary(), nullable=False),
        sa.Column("revoked", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_devices_vault")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_devices")),
    )
    op.create_index("ix_devices_device", "devices", ["device"], unique=False)
    op.create_table(
        "invite_uses",
        sa.Column("invite", sa.LargeBinary(length=8), nullable=False),
        sa.Column("newcomer", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["invite"], ["invites.id"], name=op.f("fk_invite_uses_invite")),
        sa.PrimaryKeyConstraint("invite", "newcomer", name=op.f("pk_invite_uses")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "keep_lists",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_keep_lists_vault")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_keep_lists")),
        sa.UniqueConstraint("vault", "digest", name=op.f("uq_keep_lists_vault_digest")),
    )
    op.create_table(
        "packs",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("size", NUMBER, nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("target", sa.SmallInteger(), nullable=False),
        sa.Column("lease_until", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_packs_vault")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_packs")),
        sa.UniqueConstraint("digest", name=op.f("uq_packs_digest")),
    )
    op.create_index(
        "ix_packs_lease_until",
        "packs",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.create_index(
        "ix_packs_state",
        "packs",
        ["state"],
        unique=False,
        sqlite_where=sa.text("state > 2"),
        postgresql_where=sa.text("state > 2"),
    )
    op.create_table(
        "keep_packs",
        sa.Column("keep", NUMBER, nullable=False),
        sa.Column("pack", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["keep"], ["keep_lists.number"], name=op.f("fk_keep_packs_keep")),
        sa.ForeignKeyConstraint(["pack"], ["packs.number"], name=op.f("fk_keep_packs_pack")),
        sa.PrimaryKeyConstraint("keep", "pack", name=op.f("pk_keep_packs")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_keep_packs_pack", "keep_packs", ["pack"], unique=False)
    op.create_table(
        "placements",
        sa.Column("pack", NUMBER, nullable=False),
        sa.Column("node", NUMBER, nullable=False),
        sa.Column("sequence", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.number"], name=op.f("fk_placements_node")),
        sa.ForeignKeyConstraint(["pack"], ["packs.number"], name=op.f("fk_placements_pack")),
        sa.PrimaryKeyConstraint("pack", "node", name=op.f("pk_placements")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_placements_node", "placements", ["node"], unique=False)
    op.create_table(
        "ref_history",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("tag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("version", NUMBER, nullable=False),
        sa.Column("etag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("keep", NUMBER, nullable=False),
        sa.Column("committed", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["keep"], ["keep_lists.number"], name=op.f("fk_ref_history_keep")),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_ref_history_vault")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ref_history")),
        sa.UniqueConstraint("vault", "tag", "version", name=op.f("uq_ref_history_vault_tag_version")),
    )
    op.create_index("ix_ref_history_keep", "ref_history", ["keep"], unique=False)
    op.create_index("ix_ref_history_until", "ref_history", ["until"], unique=False)
    op.create_table(
        "refs",
        sa.Column("number", NUMBER, nullable=False),
        sa.Column("vault", NUMBER, nullable=False),
        sa.Column("tag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("parent", sa.LargeBinary(length=32), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("version", NUMBER, nullable=False),
        sa.Column("etag", sa.LargeBinary(length=32), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("keep", NUMBER, nullable=False),
        sa.Column("commit_number", NUMBER, nullable=False),
        sa.Column("committed", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["keep"], ["keep_lists.number"], name=op.f("fk_refs_keep")),
        sa.ForeignKeyConstraint(["vault"], ["vaults.number"], name=op.f("fk_refs_vault")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_refs")),
        sa.UniqueConstraint("vault", "tag", name=op.f("uq_refs_vault_tag")),
    )
    op.create_index("ix_refs_keep", "refs", ["keep"], unique=False)
    op.create_index("ix_refs_vault_parent_tag", "refs", ["vault", "parent", "tag"], unique=False)
