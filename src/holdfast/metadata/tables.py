"""The coordinator's tables. Small integers stand for packs, nodes, vaults and keep lists wherever rows are many.

The schema in force is made by ``migrations``; a test compares both. Digests, ids and tags are 32 raw bytes. ``slow``
columns are seconds of the slow clock (docs/design.md, Time), ``wall`` columns seconds since 1970, for people only.
"""

from __future__ import annotations

import enum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

Number = BigInteger().with_variant(Integer(), "sqlite")
"""A row's number; on SQLite it must be INTEGER to be the row id itself."""


NEVER_READ = -1
"""``nodes.read_sequence`` of a node that may hold what was put in another life of the network."""


class PackState(enum.IntEnum):
    """The life of a pack (docs/design.md, 6), in the order it is lived; released packs may become live again."""

    LEASED = 1
    LIVE = 2
    RELEASED = 3
    TRASHED = 4
    GONE = 5


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: one row
    Column("coordinator", LargeBinary(32), nullable=False),
    Column("name", String, nullable=False),
    Column("urls", String, nullable=False),  # one per line
    Column("epoch", Number, nullable=False),
    Column("commit_number", Number, nullable=False),
    Column("heard_epoch", Number, nullable=False),  # the highest that a node told
    Column("heard_commit", Number, nullable=False),
    Column("slow_elapsed", Float, nullable=False),
    Column("slow_wall", Float, nullable=False),
    Column("survive", Integer, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("revocations", Integer, nullable=False),  # rises with every revoked certificate
    Column("repair", String, nullable=False, server_default=""),  # an operator's word: "" | paused
    Column("reflog_number", Number, nullable=False, server_default="0"),  # the last that a reflog blob got
    Column("serial_floor", Number, nullable=False, server_default="0"),  # serials up to here may have been used
    Column("hold_until", Float, nullable=False, server_default="0"),  # slow: nothing is let go of before
    Column("stamp", String, nullable=False, server_default=""),  # on PostgreSQL: of the last change
)

nodes = Table(
    "nodes",
    metadata,
    Column("number", Number, primary_key=True),
    Column("id", LargeBinary(32), nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("url", String, nullable=False),
    Column("reached_url", String, nullable=False),  # the URL at which the coordinator has found this node
    Column("store", LargeBinary(16), nullable=False),
    Column("domain", String, nullable=False),
    Column("capacity", Number, nullable=False),
    Column("free", Number, nullable=False),
    Column("always_on", Boolean, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("state", String, nullable=False),  # up | suspect | down | out when last written
    Column("word", String, nullable=False),  # an operator's word: "" | draining | maintenance | removed
    Column("sequence", Number, nullable=False),
    Column("blobs", Number, nullable=False),
    Column("root", LargeBinary(16), nullable=False),
    Column("seen", Float, nullable=False),  # wall
    Column("read_sequence", Number, nullable=False, server_default="0"),  # known up to here; NEVER_READ
    Column("word_until", Float, nullable=False, server_default="0"),  # slow: when maintenance ends
)

invites = Table(
    "invites",
    metadata,
    Column("id", LargeBinary(8), primary_key=True),
    Column("role", String, nullable=False),
    Column("operator", Boolean, nullable=False),  # who joins by it becomes an operator
    Column("secret", LargeBinary(16), nullable=False),
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("expires", Number, nullable=False),  # wall
    Column("quota", Number),
    Column("asked_by", LargeBinary(32), nullable=False),
    Column("sealing_key", LargeBinary(32), nullable=False),
    Column("revoked", Boolean, nullable=False),
    UniqueConstraint("asked_by", "sealing_key"),
)

invite_uses = Table(
    "invite_uses",
    metadata,
    Column("invite", LargeBinary(8), ForeignKey("invites.id"), nullable=False),
    Column("newcomer", LargeBinary(32), nullable=False),
    PrimaryKeyConstraint("invite", "newcomer"),
    sqlite_with_rowid=False,
)

vaults = Table(
    "vaults",
    metadata,
    Column("number", Number, primary_key=True),
    Column("id", LargeBinary(32), nullable=False, unique=True),
    Column("quota", Number),  # bytes of packs, each counted once; None is no limit
    Column("used", Number, nullable=False),  # bytes of packs leased, live and released
)

devices = Table(
    "devices",
    metadata,
    Column("serial", Number, primary_key=True),
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("device", LargeBinary(32), nullable=False),
    Column("rights", Integer, nullable=False),
    Column("not_after", Number, nullable=False),  # wall
    Column("operator", Boolean, nullable=False),
    Column("certificate", LargeBinary, nullable=False),  # as the vault signed it
    Column("countersigned", LargeBinary, nullable=False),
    Column("revoked", Integer),  # the revocation serial that told it, None while trusted
)
Index("ix_devices_device", devices.c.device)

refs = Table(
    "refs",
    metadata,
    Column("number", Number, primary_key=True),
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("tag", LargeBinary(32), nullable=False),
    Column("parent", LargeBinary(32), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("version", Number, nullable=False),
    Column("etag", LargeBinary(32), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("keep", Number, ForeignKey("keep_lists.number"), nullable=False),
    Column("commit_number", Number, nullable=False),
    Column("committed", Float, nullable=False),  # wall
    UniqueConstraint("vault", "tag"),
)
Index("ix_refs_vault_parent_tag", refs.c.vault, refs.c.parent, refs.c.tag)
Index("ix_refs_keep", refs.c.keep)
Index("ix_refs_commit_number", refs.c.commit_number)

ref_history = Table(
    "ref_history",
    metadata,
    Column("number", Number, primary_key=True),
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("tag", LargeBinary(32), nullable=False),
    Column("version", Number, nullable=False),
    Column("etag", LargeBinary(32), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("keep", Number, ForeignKey("keep_lists.number"), nullable=False),
    Column("committed", Float, nullable=False),  # wall
    Column("until", Float, nullable=False),  # slow
    Column("commit_number", Number, nullable=False, server_default="0"),  # the commit that replaced it
    UniqueConstraint("vault", "tag", "version"),
)
Index("ix_ref_history_commit_number", ref_history.c.commit_number)
Index("ix_ref_history_until", ref_history.c.until)
Index("ix_ref_history_keep", ref_history.c.keep)

tombstones = Table(
    "tombstones",
    metadata,
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("tag", LargeBinary(32), nullable=False),
    Column("version", Number, nullable=False),
    Column("etag", LargeBinary(32), nullable=False),
    Column("due", Float),  # slow: when its ref goes and only this row is left; None once that is so
    PrimaryKeyConstraint("vault", "tag"),
    sqlite_with_rowid=False,
)
Index("ix_tombstones_due", tombstones.c.due, sqlite_where=tombstones.c.due.is_not(None),
      postgresql_where=tombstones.c.due.is_not(None))  # fmt: skip

keep_lists = Table(
    "keep_lists",
    metadata,
    Column("number", Number, primary_key=True),
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    UniqueConstraint("vault", "digest"),
)

keep_packs = Table(
    "keep_packs",
    metadata,
    Column("keep", Number, ForeignKey("keep_lists.number"), nullable=False),
    Column("pack", Number, ForeignKey("packs.number"), nullable=False),
    PrimaryKeyConstraint("keep", "pack"),
    sqlite_with_rowid=False,
)
Index("ix_keep_packs_pack", keep_packs.c.pack)

packs = Table(
    "packs",
    metadata,
    Column("number", Number, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("vault", Number, ForeignKey("vaults.number"), nullable=False),
    Column("size", Number, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("target", SmallInteger, nullable=False),  # copies wanted
    Column("lease_until", Integer),  # slow
    Column("adopted", SmallInteger, nullable=False, server_default="0"),  # 1: no device has read what refs it brings
)
Index("ix_packs_lease_until", packs.c.lease_until, sqlite_where=packs.c.lease_until.is_not(None),
      postgresql_where=packs.c.lease_until.is_not(None))  # fmt: skip
Index("ix_packs_adopted", packs.c.vault, packs.c.digest, sqlite_where=packs.c.adopted == 1,
      postgresql_where=packs.c.adopted == 1)  # fmt: skip
Index("ix_packs_vault_digest", packs.c.vault, packs.c.digest)
Index("ix_packs_state", packs.c.state, sqlite_where=packs.c.state > 2, postgresql_where=packs.c.state > 2)

placements = Table(
    "placements",
    metadata,
    Column("pack", Number, ForeignKey("packs.number"), nullable=False),
    Column("node", Number, ForeignKey("nodes.number"), nullable=False),
    Column("sequence", Number, nullable=False),  # the copy's write sequence on its node
    PrimaryKeyConstraint("pack", "node"),
    sqlite_with_rowid=False,
)
Index("ix_placements_node_pack", placements.c.node, placements.c.pack)

beliefs = Table(  # what each node is believed to hold, as a clean stop left it; empty while a coordinator runs
    "beliefs",
    metadata,
    Column("node", Number, ForeignKey("nodes.number"), primary_key=True, autoincrement=False),
    Column("sums", LargeBinary, nullable=False),
)

reflogs = Table(
    "reflogs",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=False),
    Column("chain", Number, nullable=False),  # the number of the chain's first one
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("size", Number, nullable=False),
    Column("epoch", Number, nullable=False),
    Column("last", Number, nullable=False),  # the commit number that it goes up to
    Column("facts", LargeBinary(32), nullable=False),  # SHA-256 of the facts that hold with it
    Column("made", Float, nullable=False),  # slow
)

reflog_places = Table(
    "reflog_places",
    metadata,
    Column("reflog", Number, ForeignKey("reflogs.number"), nullable=False),
    Column("node", Number, ForeignKey("nodes.number"), nullable=False),
    Column("sequence", Number, nullable=False),
    PrimaryKeyConstraint("reflog", "node"),
    sqlite_with_rowid=False,
)
